"""Workers on a Ray cluster of several nodes, all on this host: there are more when there is much to do, nodes die, and
nobody loses an answer."""
from __future__ import annotations

import os
import re
import signal
import time

import pytest

from .conftest import eventually
from .test_remote import Traffic

ray = pytest.importorskip("ray", reason="Ray is not installed: pip install './server[ray]'")

pytestmark = pytest.mark.filterwarnings("ignore")  # Ray's own


@pytest.fixture(scope="module")
def cluster():
    from ray.cluster_utils import Cluster
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    yield made
    made.shutdown()


@pytest.mark.timeout(180)
def test_workers_come_and_go_and_a_node_that_is_killed_loses_nothing(serve, cluster):
    nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
    server = serve("-engine", "echo", "-launcher", "ray", "-num_worker", "1-2", "-num_threads", "1",
                   "-scale_backlog", "0.001", "-scale_idle", "1",
                   environ={"RAY_ADDRESS": cluster.address, "FORCE_COLOR": "1"}).ready(90)
    assert re.search(r"I \S+ \x1b\[\d+mRAY *\x1b\[0m on Ray: \d+ nodes", server.log), server.log
    traffic = Traffic(server, clients=6)
    server.wait_for("wanted: 2 workers")
    server.wait_for(r"worker 1, on .* is ready")
    assert traffic.goes_on()
    answered, traffic.longest, killed = sum(traffic.answered), 0.0, time.monotonic()
    cluster.remove_node(nodes[0], allow_graceful=False)
    server.wait_for("what they held is given again", 30)
    noticed = time.monotonic() - killed
    assert traffic.goes_on(), server.log
    print(f"\na node killed under load: noticed after {noticed:.2f} s; the slowest of "
          f"{sum(traffic.answered) - answered} requests took {traffic.longest:.2f} s; none was lost")
    cluster.add_node(num_cpus=1)
    server.wait_for(r"worker \d, on .* is ready", 90)
    traffic.end()
    server.wait_for("wanted: 1 worker,", 30)
    server.wait_for("has left", 30)
    with server.client() as client:
        assert eventually(lambda: len(client.server_status["workers"]) == 1)
        server.worker_port = client.server_status["worker_port"]
        # The other one says that it leaves, and then ends.
        assert eventually(lambda: len(hosts(server)) == 1), hosts(server)
        assert client.encode(["still there"]).shape == (1, 768)
    assert server.stop(signal.SIGTERM) == 0, server.log
    assert "Logging error" not in server.log
    # Nothing of ours goes on running there.
    assert eventually(lambda: not hosts(server)), hosts(server)


def test_a_cluster_that_is_not_there_is_said_in_one_line(serve):
    server = serve("-engine", "echo", "-launcher", "ray", environ={"RAY_ADDRESS": "127.0.0.1:1"})
    server.wait_for("no Ray cluster at 127.0.0.1:1, which RAY_ADDRESS names: Connection refused")
    assert server.process.wait(30) == 1


def hosts(server) -> list[str]:
    """Processes that host workers for that server."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/cmdline") as file:
                if f"127.0.0.1:{server.worker_port}" in file.read().split("\0"):
                    found.append(pid)
        except OSError:
            pass
    return found
