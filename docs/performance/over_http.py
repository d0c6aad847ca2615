"""Measures HTTP beside ZeroMQ, on the same server, taking turns, so that what else the machine does hits both alike.

    python docs/performance/over_http.py sentences.txt
    python docs/performance/over_http.py sentences.txt -engine echo

``sentences.txt`` has a sentence a line; options after it are the server's. Prints milliseconds for one sentence
(median), sentences per second at 64 sentences a request from several callers at once, each as a multiple of the ZeroMQ
client's, and what 256 connections at once are answered.
"""
from __future__ import annotations

import http.client
import json
import statistics
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from server import serving

from bert_serving.client import BertClient, ConcurrentBertClient

SIZE, CALLERS, ROUNDS, SECONDS, ALONE, CROWD = 64, 4, 5, 2.0, 300, 256

Call = Callable[[list[str]], object]


class Connection(threading.local):
    """Each thread's own kept-alive connection."""

    def __init__(self, port: int) -> None:
        self.http = http.client.HTTPConnection("127.0.0.1", port)

    def post(self, path: str, body: object) -> tuple[int, bytes]:
        self.http.request("POST", path, json.dumps(body).encode(), {"Content-Type": "application/json"})
        response = self.http.getresponse()
        return response.status, response.read()


def calls(zmq_client: ConcurrentBertClient, port: int) -> dict[str, Call]:
    """What is compared; each checks what it is answered."""
    connection = Connection(port)

    def post(path: str, body: object) -> object:
        status, answer = connection.post(path, body)
        assert status == 200, answer[:200]
        return answer

    return {"BertClient": zmq_client.encode,
            "/encode": lambda texts: post("/encode", {"id": 1, "texts": texts}),
            "/v1/embeddings": lambda texts: post("/v1/embeddings", {"input": texts, "model": "any"}),
            "/v1/embeddings, base64": lambda texts: post("/v1/embeddings", {
                "input": texts, "model": "any", "encoding_format": "base64"})}


def rate(call: Call, batches: list[list[str]]) -> float:
    """Sentences per second of several callers that ask for SECONDS."""
    end = time.perf_counter() + SECONDS

    def ask(caller: int) -> int:
        done = 0
        while time.perf_counter() < end:
            call(batches[(caller + CALLERS * done) % len(batches)])
            done += 1
        return done

    start = time.perf_counter()
    with ThreadPoolExecutor(CALLERS) as pool:
        done = sum(pool.map(ask, range(CALLERS)))
    return done * SIZE / (time.perf_counter() - start)


def crowd(port: int, text: str) -> Counter[int]:
    """The status codes of CROWD connections that ask at once."""
    together = threading.Barrier(CROWD)

    def ask(_: int) -> int:
        connection = Connection(port)
        connection.http.connect()
        together.wait()
        status, _ = connection.post("/encode", {"id": 1, "texts": [text]})
        connection.http.close()
        return status

    with ThreadPoolExecutor(CROWD) as pool:
        return Counter(pool.map(ask, range(CROWD)))


def main() -> None:
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    with open(sys.argv[1], encoding="utf-8") as file:
        texts = [line.strip() for line in file if line.strip()][:SIZE * 64]
    batches = [texts[start:start + SIZE] for start in range(0, len(texts) - SIZE + 1, SIZE)]
    with serving("-http_port", "0", *sys.argv[2:]) as server:
        with BertClient(port=server.port, port_out=server.port_out) as client:
            port = client.server_config["http_port"]
        with ConcurrentBertClient(max_concurrency=CALLERS, port=server.port, port_out=server.port_out) as zmq_client:
            ways = calls(zmq_client, port)
            alone: dict[str, list[float]] = {name: [] for name in ways}
            for number in range(ALONE):
                for name, call in ways.items():
                    start = time.perf_counter()
                    call(texts[number % len(texts):][:1])
                    alone[name].append(time.perf_counter() - start)
            rates: dict[str, list[float]] = {name: [] for name in ways}
            for _ in range(ROUNDS):
                for name, call in ways.items():
                    rates[name].append(rate(call, batches))
        statuses = crowd(port, texts[0])
    base = statistics.median(alone["BertClient"])
    print(f"| way | one sentence, ms | more than BertClient, ms | sentences/s, {SIZE} a request | × BertClient, "
          "least / median / most |\n|---|---|---|---|---|")
    for name in ways:
        ratios = sorted(ours / other for ours, other in zip(rates[name], rates["BertClient"]))
        took = statistics.median(alone[name])
        print(f"| {name} | {took * 1e3:.2f} | {(took - base) * 1e3:.2f} | {statistics.median(rates[name]):.0f} | "
              f"{ratios[0]:.2f} / {statistics.median(ratios):.2f} / {ratios[-1]:.2f} |")
    print(f"{CROWD} connections at once: " + ", ".join(f"{count} × {status}" for status, count in statuses.items()))


if __name__ == "__main__":
    main()
