"""Clients in processes: what they send, when they begin, and what becomes of the answers."""
import itertools
import os
import signal
from types import SimpleNamespace

import pytest
from bert_serving.server.benchmark import load
from bert_serving.server.benchmark.embeddings import EmbeddingsClient
from bert_serving.server.benchmark.load import BenchmarkError, Crowd, Load, LoadOrders, Requests, ask
from bert_serving.server.orders import NoOrders

TEXTS = [[f"sentence {number} of client {client}" for number in range(8)] for client in range(3)]


# ---- requests --------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("size, expected", [
    (1, ["a", "b", "c", "a"]), (2, ["ab", "ca", "bc", "ab"]), (3, ["abc", "abc", "abc", "abc"]),
    (5, ["abcab", "cabca", "bcabc", "abcab"])])
def test_requests_go_round(size, expected):
    requests = Requests(["a", "b", "c"], size)
    assert ["".join(next(requests)) for _ in range(4)] == expected


@pytest.mark.parametrize("num, until, expected", [
    (3, 0, [1, 1, 1]),                  # so many, however long it takes
    (None, 2.5, [1, 1, 1]),             # the third is sent before the end
    (None, 0, [1])])                    # one at least
def test_ask(num, until, expected):
    asked = []
    begin, end, seconds = ask(asked.append, Requests(["a"], 1), num, until, itertools.count().__next__)
    assert asked == [["a"]] * len(expected)
    assert (begin, end, seconds) == (0, sum(expected), expected)


def test_a_url_is_asked_over_http():
    with load.connect({"url": "http://127.0.0.1:1/v1/embeddings"}, 100) as client:
        assert isinstance(client, EmbeddingsClient)


# ---- a measurement ---------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("order, before, after", [
    ({"num_repeat": None, "seconds": 0, "size": 20, "texts": tuple(TEXTS[0])}, [8], [20]),
    ({"num_repeat": 5, "seconds": 9, "size": 2, "texts": tuple(TEXTS[0])}, [2, 2], [2, 2, 2])])
def test_what_warms_up_is_done_before_all_begin(monkeypatch, order, before, after):
    events = []

    class Client:
        def __init__(self, **options):
            assert options["ip"] == "there"

        def __enter__(self):
            return self

        def __exit__(self, *error):
            pass

        def encode(self, texts):
            events.append(len(texts))

    monkeypatch.setattr(load, "BertClient", Client)
    said = []

    def say(message):
        said.append(message)
        events.append("say")

    load.measure(LoadOrders(address={"ip": "there"}, patience_ms=50, **order), say, lambda: events.append("wait"))
    assert events == [*before, "say", "wait", *after, "say"]
    assert said[0] == {"ready": True} and len(said[1]["seconds"]) == len(after)


def test_all_clients_are_told_to_begin_when_all_are_ready(monkeypatch):
    events = []
    monkeypatch.setattr(load, "Child", lambda *arguments, **options: SimpleNamespace(tell=events.append))

    def hear(clients, key, check):
        events.append((key, len(clients)))
        return [{"start": 10 - place, "end": 20 + place, "seconds": [4, 4]} for place in range(len(clients))]

    monkeypatch.setattr(load, "_hear", hear)
    crowd = Crowd()
    for texts, new in ((TEXTS[:2], 2), (TEXTS, 1), (TEXTS[:1], 0)):
        run = crowd.measure({}, Load(size=3), texts)
        orders = [LoadOrders(size=3, address={}, texts=tuple(its), patience_ms=load.PATIENCE_MS) for its in texts]
        assert events == [("up", new), *orders, ("ready", len(texts)), *[NoOrders()] * len(texts),
                          ("seconds", len(texts))]
        events.clear()
    assert (run.sentences, run.seconds, run.client_speeds) == (6, 10, [0.6])
    run = crowd.measure({}, Load(size=3), TEXTS)
    assert (run.sentences, run.seconds, len(run.latencies)) == (18, 22 - 8, 6)


def test_clients_ask_a_server(address):
    with Crowd() as crowd:
        run = crowd.measure(address, Load(size=3, num_repeat=6), TEXTS)
        assert run.sentences == 3 * 4 * 3 and len(run.latencies) == 12 and len(run.client_speeds) == 3
        assert run.speed == run.sentences / run.seconds
        assert run.latency(0) <= run.latency(50) <= run.latency(100) <= run.seconds
        run = crowd.measure(address, Load(size=8, seconds=0), TEXTS[:1])
        assert run.sentences == 8


# ---- what goes wrong -------------------------------------------------------------------------------------------------

def test_an_error_from_the_server_is_told(address):
    with Crowd() as crowd:
        with pytest.raises(BenchmarkError, match=r"client 1 got no vectors: .*__raise__"):
            crowd.measure(address, Load(size=1, seconds=5), [["good"], ["bad __raise__"]])


def test_no_server_is_told(monkeypatch, address):
    monkeypatch.setattr(load, "PATIENCE_MS", 50)
    with Crowd() as crowd:
        with pytest.raises(BenchmarkError, match="client 0 got no vectors: "):
            crowd.measure({**address, "port": 1}, Load(size=1), [["a"]])


def test_a_client_that_is_killed_is_told(address):
    with Crowd() as crowd:
        crowd.measure(address, Load(size=1, seconds=0), TEXTS)

        def check():
            os.kill(crowd._clients[1].pid, signal.SIGKILL)

        with pytest.raises(BenchmarkError, match="client 1 ended in the middle"):
            crowd.measure(address, Load(size=1, seconds=50), TEXTS, check)
        assert crowd.measure(address, Load(size=1, seconds=0), TEXTS).sentences == 3, "it can be used again"


def test_who_checks_may_end_it(address):
    def check():
        raise BenchmarkError("enough")

    with Crowd() as crowd, pytest.raises(BenchmarkError, match="enough"):
        crowd.measure(address, Load(size=1, seconds=50), TEXTS, check)


def test_no_client_stays_behind(address):
    with Crowd() as crowd:
        crowd.measure(address, Load(size=1, seconds=0), TEXTS)
        pids = [client.pid for client in crowd._clients]
    assert len(pids) == 3
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
