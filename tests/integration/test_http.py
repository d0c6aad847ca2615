"""HTTP as its users see it: the document holds under fuzzing, metrics are right, OpenAI's clients work, crowds too."""
from __future__ import annotations

import http.client
import importlib.util
import json
import os
import socket
import subprocess
import sys
import threading
import urllib.request
import venv
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import schemathesis
from bert_serving.server import golden
from bert_serving.server.core.features import build_features
from bert_serving.server.core.tokenization import WordHashTokenizer
from bert_serving.server.proxy.pages import OPENAPI
from hypothesis import HealthCheck, Phase, settings
from prometheus_client.parser import text_string_to_metric_families
from schemathesis.specs.openapi.checks import positive_data_acceptance

CLIENT = Path(__file__).with_name("openai_client.py")


def ask(server, path, body=None, **headers):
    """(status, headers, JSON or text)"""
    connection = http.client.HTTPConnection("127.0.0.1", server.http_port, timeout=50)
    try:
        connection.request("GET" if body is None else "POST", path, None if body is None else json.dumps(body),
                           {"Content-Type": "application/json", **headers})
        response = connection.getresponse()
        data = response.read()
        is_json = response.headers["Content-Type"].startswith("application/json")
        return response.status, response.headers, json.loads(data) if is_json else data.decode()
    finally:
        connection.close()


# ---- the document ----------------------------------------------------------------------------------------------------

SCHEMA = schemathesis.openapi.from_path(OPENAPI)


@SCHEMA.parametrize()
@settings(max_examples=25, deadline=None, derandomize=True, phases=(Phase.explicit, Phase.generate),
          suppress_health_check=list(HealthCheck))
@pytest.mark.timeout(120)
def test_the_document_holds(case, echo_server):
    """Whatever fits the document is answered as it says, whatever does not is refused as it says."""
    # A document cannot say how many dimensions there are, nor which token ids; echo has none.
    body = case.body if isinstance(case.body, dict) else {}
    depends = "dimensions" in body or not isinstance(body.get("input"), str)
    case.call_and_validate(base_url=f"http://127.0.0.1:{echo_server.http_port}", timeout=30,
                           excluded_checks=[positive_data_acceptance] if depends and "input" in body else [])


# ---- /metrics --------------------------------------------------------------------------------------------------------

def scrape(server):
    """(name, labels) -> value"""
    with urllib.request.urlopen(f"http://127.0.0.1:{server.http_port}/metrics", timeout=20) as response:
        page = response.read().decode()
    return {(sample.name, *sorted(sample.labels.items())): sample.value
            for family in text_string_to_metric_families(page) for sample in family.samples}


def test_metrics_count_what_happened(serve_echo):
    server = serve_echo("-http_port", "0", "-max_batch_size", "8")
    before = scrape(server)
    assert before["bert_serving_up",] == before["bert_serving_ready",] == 1
    assert ask(server, "/encode", {"id": 1, "texts": ["a b", "c", "c"] * 4})[0] == 200
    assert ask(server, "/v1/embeddings", {"input": "d e f"})[0] == 200
    assert ask(server, "/encode", {"id": 1, "texts": ["__raise__"]})[0] == 422
    after = scrape(server)

    def grown(name, *labels):
        return after[(name, *labels)] - before.get((name, *labels), 0)

    # With the golden sentences by which the first scrape saw that it is ready.
    tokens = sum(map(len, build_features(golden.TEXTS, WordHashTokenizer(), max_length=25)))
    assert grown("bert_serving_requests_total", ("outcome", "ok")) == 2 + 1
    assert grown("bert_serving_sentences_total", ("outcome", "ok")) == 13 + len(golden.TEXTS)
    assert grown("bert_serving_tokens_total", ("outcome", "ok")) == 4 * (4 + 3 + 3) + 5 + tokens
    assert grown("bert_serving_requests_total", ("outcome", "unprocessable")) == 1
    batches = grown("bert_serving_batch_sentences_count")
    assert batches >= 3 and grown("bert_serving_batch_sentences_sum") == 13 + len(golden.TEXTS)
    for stage in ("tokenizing", "computing", "waiting", "publishing"):
        assert grown(f"bert_serving_{stage}_seconds_count") >= batches
        assert 0 < grown(f"bert_serving_{stage}_seconds_sum") < 20
    assert grown("bert_serving_repeats_saved_tokens_total") > 0
    assert grown("bert_serving_packing_saved_tokens_total") > 0
    assert after["bert_serving_workers", ("state", "ready")] == 1
    assert after["bert_serving_queue_sentences",] == after["bert_serving_held_bytes",] == 0


def test_metrics_of_a_lost_worker(serve_echo):
    server = serve_echo("-http_port", "0")
    ask(server, "/encode", {"id": 1, "texts": ["fine"] * 3 + ["__die__"]})
    values = scrape(server)
    assert values["bert_serving_worker_restarts_total", ("worker", "0")] >= 1
    assert values["bert_serving_redispatched_total",] >= 1


# ---- /readyz ---------------------------------------------------------------------------------------------------------

def test_readyz_sees_what_livez_does_not(serve_echo):
    # A limit that does not end what hangs while it is looked at.
    server = serve_echo("-http_port", "0", "-job_timeout", "30")
    assert ask(server, "/readyz")[0] == 200
    worker, = server.workers()
    os.kill(worker, 19)  # SIGSTOP: everything is there, and nothing is answered
    try:
        threads = [threading.Thread(target=ask, args=(server, "/readyz"), daemon=True) for _ in range(10)]
        for thread in threads:
            thread.start()
        assert ask(server, "/livez")[0] == 200
        threading.Event().wait(1.1)  # the last good answer is of the past by then
        status, headers, body = ask(server, "/readyz")
        assert (status, headers["Retry-After"]) == (503, "1")
        assert "golden sentences" in body["description"]
        values = scrape(server)
        assert (values["bert_serving_up",], values["bert_serving_ready",]) == (1, 0)
    finally:
        os.kill(worker, 18)
    for thread in threads:
        thread.join(20)


# ---- tokens ----------------------------------------------------------------------------------------------------------

def test_tokens_over_http_and_over_zeromq_for_who_asks(echo_server):
    _, _, body = ask(echo_server, "/tokenize", {"texts": ["hello world", "a ||| b"]})
    tokens = [["[CLS]", "hello", "world", "[SEP]"], ["[CLS]", "a", "[SEP]", "b", "[SEP]"]]
    assert body == {"tokens": tokens, "ids": None, "status": 200}
    with echo_server.client() as client:
        assert client.encode(["hello world", "a ||| b"], show_tokens=True)[1] == tokens
        assert isinstance(client.encode(["hello world"]), np.ndarray)


def test_vectors_over_http_are_those_over_zeromq(echo_server):
    texts = [f"sentence number {number}" for number in range(64)]
    with echo_server.client() as client:
        vectors = client.encode(texts)
    _, _, body = ask(echo_server, "/encode", {"id": 1, "texts": texts})
    np.testing.assert_array_equal(np.array(body["result"], np.float32), vectors)
    _, _, body = ask(echo_server, "/v1/embeddings", {"input": texts})
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    np.testing.assert_allclose([one["embedding"] for one in body["data"]], unit, atol=1e-6)


def test_bars_make_a_pair_where_the_original_had_them_and_nowhere_else(echo_server):
    pair, breaks = "hello world ||| good day", ("hello\nworld", "good ||| day")
    with echo_server.client() as client:
        vectors = client.encode([pair])
        np.testing.assert_array_equal(client.encode([("hello world", "good day")]), vectors)
        literal, tokens = client.encode([pair], input="texts", show_tokens=True)
        assert tokens == [["[CLS]", "hello", "world", "|||", "good", "day", "[SEP]"]]
        assert not np.array_equal(literal, vectors)
        assert client.encode([breaks], show_tokens=True)[1] \
            == [["[CLS]", "hello", "world", "[SEP]", "good", "|||", "day", "[SEP]"]]
        assert client.encode([(["a"], ["|||", "b"])], is_tokenized=True, show_tokens=True)[1] \
            == [["[CLS]", "a", "[SEP]", "|||", "b", "[SEP]"]]
    _, _, body = ask(echo_server, "/encode", {"id": 1, "texts": [pair]})
    np.testing.assert_array_equal(np.array(body["result"], np.float32), vectors)
    _, _, body = ask(echo_server, "/v1/embeddings", {"input": pair})
    np.testing.assert_allclose(body["data"][0]["embedding"], literal[0] / np.linalg.norm(literal[0]), atol=1e-6)


# ---- crowds, and callers that behave badly ---------------------------------------------------------------------------

def test_256_connections_are_all_answered(echo_server):
    ready = threading.Barrier(256)

    def call(number):
        connection = http.client.HTTPConnection("127.0.0.1", echo_server.http_port, timeout=50)
        try:
            connection.connect()
            ready.wait(30)
            for _ in range(2):
                connection.request("POST", "/encode", json.dumps({"id": number, "texts": [f"text {number}"]}),
                                   {"Content-Type": "application/json"})
                response = connection.getresponse()
                body = json.loads(response.read())
                assert response.status == 429 or (response.status == 200 and body["id"] == number)
            return response.status
        finally:
            connection.close()

    with ThreadPoolExecutor(256) as pool:
        statuses = list(pool.map(call, range(256)))
    assert len(statuses) == 256 and 200 in statuses


def test_callers_that_dawdle_or_vanish_cost_nobody_else(serve_echo):
    server = serve_echo("-http_port", "0", "-http_max_connect", "2")
    body = json.dumps({"id": 1, "texts": ["a"] * 300}).encode()
    head = (b"POST /encode HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
            % len(body))
    callers = []
    for sent in [head[:20]] * 20 + [head + body[:-1]] * 20 + [(head + body) * 2] * 20:
        caller = socket.create_connection(("127.0.0.1", server.http_port))
        caller.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        caller.sendall(sent)  # half a head, half a body, and two whole requests whose answers are not read
        callers.append(caller)
    for caller in callers[::2]:
        caller.close()
    try:
        assert ask(server, "/livez")[0] == 200
        status, _, answer = ask(server, "/encode", {"id": 2, "texts": ["b"]})
        assert (status, answer["id"]) == (200, 2)
    finally:
        for caller in callers:
            caller.close()


@pytest.mark.parametrize("sent, status", [
    (b"GET /livez\x00 HTTP/1.1\r\n\r\n", None), (b"what is this\r\n\r\n", 400), (b"get / HTTP/1.1\r\n\r\n", 400),
    (b"POST /encode HTTP/1.1\r\nContent-Length: minus\r\n\r\n", 400),
    (b"POST /encode HTTP/1.1\r\nTransfer-Encoding: gzip\r\n\r\n", 501),
    (b"GET / HTTP/1.1\r\nX: " + b"x" * 300_000 + b"\r\n\r\n", 431)])
def test_what_is_no_http_is_answered_in_json(echo_server, sent, status):
    with socket.create_connection(("127.0.0.1", echo_server.http_port), 20) as caller:
        caller.sendall(sent)
        response = http.client.HTTPResponse(caller)
        response.begin()
        body = json.loads(response.read())
        assert response.status == status if status else 400 <= response.status < 500
        assert body["status"] == response.status and body["description"]


def test_a_body_that_is_too_large_is_answered_though_it_is_sent_to_its_end(serve_echo):
    server = serve_echo("-http_port", "0", "-max_message_mb", "1")
    for path in ("/encode", "/v1/embeddings"):
        status, _, body = ask(server, path, {"id": 1, "input": "a", "texts": ["a" * 20_000_000]})
        assert status == 413
        assert "the body is larger than 1 MB" in json.dumps(body)
    assert ask(server, "/encode", {"id": 1, "texts": ["a"]})[0] == 200


def test_curl_is_told_before_it_sends_what_is_too_large(serve_echo, tmp_path):
    server = serve_echo("-http_port", "0", "-max_message_mb", "1")
    with socket.create_connection(("127.0.0.1", server.http_port), 20) as caller:
        caller.sendall(b"POST /encode HTTP/1.1\r\nContent-Length: 5000000\r\nExpect: 100-continue\r\n\r\n")
        assert caller.recv(1000).startswith(b"HTTP/1.1 413 ")


# ---- OpenAI's clients ------------------------------------------------------------------------------------------------

EXPECTED = {
    "openai": {
        "shape": [3, 768], "base64_equals_float": True, "lengths": [1.0] * 4, "dimensions": 5, "usage": [17, 17],
        "models": ["echo"], "error": [400, "invalid_request_error", "input", "bad_request"],
        "ids_error": "bad_request"},
    "langchain-openai": {"shape": [3, 768], "the_same_alone": True, "different": True},
    "llama-index-embeddings-openai": {"shape": [3, 768], "the_same_alone": True, "different": True},
}
MODULES = {"openai": "openai", "langchain-openai": "langchain_openai",
           "llama-index-embeddings-openai": "llama_index.embeddings.openai"}


@pytest.fixture(scope="module")
def interpreter(tmp_path_factory):
    """A Python that has the package: this one, or one made for it if BERT_SERVING_TEST_INSTALL says so."""
    def find(package):
        try:
            if importlib.util.find_spec(MODULES[package]) is not None:
                return sys.executable
        except ModuleNotFoundError:
            pass
        if not os.environ.get("BERT_SERVING_TEST_INSTALL"):
            pytest.skip(f"{package} is not installed; BERT_SERVING_TEST_INSTALL=1 installs it for this test")
        directory = tmp_path_factory.mktemp(package)
        venv.create(directory, with_pip=True)
        python = directory / "bin" / "python"
        installed = subprocess.run([python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", package],
                                   capture_output=True, text=True)
        if installed.returncode:
            pytest.skip(f"{package} cannot be installed: {installed.stderr[-500:]}")
        return python

    return find


@pytest.mark.timeout(300)
@pytest.mark.parametrize("package", EXPECTED)
def test_openai_s_clients(interpreter, echo_server, package):
    environ = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    done = subprocess.run([interpreter(package), CLIENT, package, f"http://127.0.0.1:{echo_server.http_port}/v1"],
                          capture_output=True, text=True, timeout=120, env=environ)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == EXPECTED[package]
