"""Servers in turns: a real one of ours with the echo engine, and fakes."""
from pathlib import Path

import numpy as np
import pytest
from bert_serving.server.benchmark.load import BenchmarkError, LoadRun
from tools.peers import server_rounds
from tools.peers.catalogue import SERVERS
from tools.peers.environments import PeerError
from tools.peers.server_rounds import TRAFFIC, alone, compare_servers


class Fake:
    """A server, or an engine, that answers as fast as it is said to."""

    def __init__(self, name):
        self.name, self.address, self.about, self.is_closed = name, {"port": name}, "a fake", False
        self.precision = "fp32"

    def check(self):
        pass

    def load(self, workload, folder):
        assert folder.is_dir()

    def seconds(self, workload):
        return 0.5 * len(workload.sequences)

    def close(self):
        self.is_closed = True

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.close()


@pytest.fixture
def asked():
    return []


@pytest.fixture
def compare(monkeypatch, tmp_path, make_workload, asked):
    """Compares fakes; infinity cannot be installed, and the server over HTTP loses clients."""
    made = []

    def make(name):
        made.append(Fake(name))
        return made[-1]

    class Crowd:
        def __enter__(self):
            return self

        def __exit__(self, *exception):
            pass

        def measure(self, address, load, texts, check):
            check()
            asked.append((address, load.size, texts))
            if "HTTP" in address["port"]:
                raise BenchmarkError("client 3 ended in the middle")
            return LoadRun(seconds=2.0, sentences=8, client_speeds=[4.0], latencies=np.array([0.1, 0.2, 0.9]))

    def prepare(environment, folder, say):
        if environment.name == "infinity":
            raise PeerError("ERROR: no matching distribution found")
        return Path("/python")

    class Forms:
        directory, spec = Path("/model"), None

        def path(self, form):
            return Path("/forms") / form

    monkeypatch.setattr(server_rounds, "Crowd", Crowd)
    monkeypatch.setattr(server_rounds, "prepare", prepare)
    monkeypatch.setattr(server_rounds, "here", lambda peer, spec: peer)
    monkeypatch.setattr(server_rounds, "start", lambda peer, *rest: make(peer.name))
    monkeypatch.setattr(server_rounds, "original", lambda python, model_dir, *rest: make(f"original {model_dir}"))
    monkeypatch.setattr(server_rounds, "own", lambda model_dir, max_seq_len, precision, is_http, folder:
                        make(f"{precision} over HTTP" if is_http else precision))
    texts, one = make_workload(*[[number] for number in range(128)]), make_workload([1], name="one")

    def compare(*names):
        rows, absent = compare_servers(names, texts, one, Forms(), tmp_path, 2, 3, lambda line: None)
        assert all(fake.is_closed for fake in made)
        return rows, absent, [fake.name for fake in made]

    return compare


def test_servers_and_engines_have_their_figures(compare):
    rows, absent, made = compare("original", "own-fp32", "own-int8")
    assert not absent and made == ["original /forms/tensorflow/model", "fp32", "own-fp32", "int8", "own-int8"]
    assert rows["original"].seconds == {"bulk": [0.25] * 3, "one": [0.2] * 3, "32": [0.25] * 3, "64": [0.25] * 3}
    assert rows[alone("own-int8")].seconds == {"bulk": [0.5] * 3, "one": [0.5] * 3}
    assert list(rows)[0] == "original"


def test_no_two_clients_send_the_same(compare, asked):
    compare("original")
    assert {len(texts) for _, _, texts in asked} == {traffic.num_client for traffic in TRAFFIC.values()}
    for _, _, parts in asked:
        sent = [text for part in parts for text in part]
        assert all(parts) and len(sent) == len(set(sent))


def test_who_is_not_there_is_named_with_the_reason(compare):
    rows, absent, _ = compare("infinity", "own-http", "own-fp32")
    assert absent == {SERVERS["infinity"].title: "ERROR: no matching distribution found",
                      SERVERS["own-http"].title: "client 3 ended in the middle"}
    assert set(rows) == {"own-fp32", alone("own-fp32")}


def test_one_engine_serves_two_rows(compare):
    _, _, made = compare("own-fp32", "own-http")
    assert made.count("own-fp32") == 1
