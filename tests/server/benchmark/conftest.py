"""What the benchmark's tests share: runs that nobody had to make, and where the echo server listens."""
import numpy as np
import pytest
from bert_serving.server.benchmark.load import LoadRun
from bert_serving.server.benchmark.report import Point, BenchmarkResult
from bert_serving.server.benchmark.sweeps import Setting


@pytest.fixture
def address(echo_server):
    return {"ip": "127.0.0.1", "port": echo_server.port, "port_out": echo_server.port_out}


@pytest.fixture
def make_run():
    """A run of one second with a request of 10 sentences a client for each latency, in milliseconds."""
    def make_run(*latencies, clients=1):
        sentences = 10 * len(latencies) * clients
        return LoadRun(seconds=1.0, sentences=sentences, client_speeds=[sentences / clients] * clients,
                       latencies=np.array(latencies * clients) / 1000)
    return make_run


@pytest.fixture
def result(make_run):
    """A sweep of num_client with two points, and one that was left out."""
    points = [Point(Setting(value, num_client=value, size=10),
                    [make_run(*[4] * count, clients=value) for count in counts])
              for value, counts in ((1, (10, 30, 20)), (4, (11, 12, 13)), (9, ()))]
    return BenchmarkResult("num_client", points, {9: "too many of them"},
                           {"num_worker": 2, "max_seq_len": None, "max_batch_size": 256, "pooling_layer": [-2, -1]})
