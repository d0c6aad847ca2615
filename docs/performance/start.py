"""Measures starts and memory: how long until a server is ready, how soon a killed worker is back, what workers take.

    python docs/performance/start.py --workers 1 2 4 -precision int8

Other options are those of ``bert-serving-start``. Each server is started twice, so that the second finds the converted
model in the cache, and then asked for vectors by two clients a worker for ``--seconds``. Memory is what Linux says in
/proc/PID/smaps_rollup: resident, proportional (what several share is divided among them) and the process's own.
"""
from __future__ import annotations

import argparse
import os
import re
import signal
import subprocess
import sys
import threading
import time

from bert_serving.client import BertClient
from bert_serving.server.benchmark.load import Crowd, Load
from bert_serving.server.benchmark.sentences import WORDS, num_texts, random_sentences, shares

KINDS = {"Rss": "resident", "Pss": "proportional", "Private_Dirty": "own"}


class Server:
    """``bert-serving-start`` on free ports, and its log."""

    def __init__(self, *options: str) -> None:
        began = time.monotonic()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "bert_serving.server.cli", "-port", "0", "-port_out", "0", *options],
            stderr=subprocess.PIPE, text=True)
        self.log = ""
        port, port_out = self.wait_for(r"ready: port=(\d+) port_out=(\d+)").groups()
        self.seconds = time.monotonic() - began
        self.address = {"ip": "127.0.0.1", "port": int(port), "port_out": int(port_out)}

    def wait_for(self, pattern: str) -> re.Match[str]:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.log += line
            if match := re.search(pattern, line):
                return match
        raise SystemExit(self.log)

    def workers(self) -> list[int]:
        return [int(pid) for pid in re.findall(r"process (\d+)$", self.log, re.MULTILINE)]

    def stop(self) -> None:
        self.process.terminate()
        self.process.communicate()


def memory(pid: int) -> dict[str, int]:
    """Kind -> megabytes."""
    with open(f"/proc/{pid}/smaps_rollup") as file:
        words = [line.split() for line in file]
    return {KINDS[word[0][:-1]]: round(int(word[1]) * 1024 / 1e6) for word in words if word[0][:-1] in KINDS}


def shown(server: Server) -> str:
    found = [memory(pid) for pid in server.workers()]
    total = sum(one["proportional"] for one in found)
    return f"all {total} MB; each " + ", ".join(
        f"{kind} {min(one[kind] for one in found)}-{max(one[kind] for one in found)}" for kind in KINDS.values())


def back_after(server: Server) -> float:
    """Seconds from the kill of a worker to an answer that needed all of the workers again."""
    pid = server.workers()[0]
    with BertClient(**server.address, timeout=60_000, check_length=False) as client:
        client.encode(["warm up"])
        began = time.monotonic()
        os.kill(pid, signal.SIGKILL)
        back = threading.Thread(target=server.wait_for, args=(r"worker \d+ is ready and listening",))
        back.start()
        client.encode(["is anybody there?"])
        answered = time.monotonic() - began
        back.join()
        return max(answered, time.monotonic() - began)


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure starts and memory.", allow_abbrev=False)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--seconds", type=float, default=3.0)
    args, options = parser.parse_known_args()
    for number in args.workers:
        words = [*options, "-num_worker", str(number)]
        first = Server(*words)
        first.stop()
        server = Server(*words)
        print(f"{number} workers: ready after {first.seconds:.2f} s, and once more after {server.seconds:.2f} s")
        print(f"  after the start: {shown(server)}")
        with Crowd() as crowd:
            texts = random_sentences(WORDS, 25, 2 * number * num_texts(256))
            crowd.measure(server.address, Load(size=256, seconds=args.seconds), shares(texts, 2 * number, 256))
            print(f"  under load:      {shown(server)}")
        print(f"  a killed worker computes again after {sorted(back_after(server) for _ in range(1))[0]:.2f} s")
        server.stop()


if __name__ == "__main__":
    main()
