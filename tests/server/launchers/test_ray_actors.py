"""Places on a cluster, with a Ray that is made of lists: asked for, given back, replaced, given up."""
import socket
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest
from bert_serving.server.errors import ConfigError, StartError, WorkerStartError
from bert_serving.server.launchers import ray_actors as module
from bert_serving.server.launchers.ray_actors import (LEAVE_SECONDS, MAX_FAILED, STAYED_SECONDS, Cluster, ClusterOrders,
                                                      HostOrders)
from bert_serving.server.process import ExitStatus

ORDERS = ClusterOrders(connect="127.0.0.1:7000", workers=2, cpus=4, cpu=False, arguments=("-verbose",), curve=None,
                       verbose=False)


class RayError(Exception):
    pass


class Method:
    def __init__(self, actor, name):
        self.actor, self.name = actor, name

    def remote(self):
        self.actor.deeds.append(self.name)
        return self.actor  # stands for what the call will give


class Actor:
    def __init__(self, arguments, orders):
        self.arguments, self.orders, self.deeds, self.how = arguments, orders, [], None
        self.wait, self.leave = Method(self, "wait"), Method(self, "leave")


class FakeRay:
    """As much of Ray as is used."""

    exceptions = SimpleNamespace(RayError=RayError)

    def __init__(self):
        self.actors, self.killed, self.needs, self.shut = [], [], None, False
        self.addresses, self.resources, self.trouble = ["10.0.0.1"], {"CPU": 2.0}, None
        self.util = SimpleNamespace(get_node_ip_address=lambda: "10.0.0.1")

    def init(self, **_):
        if self.trouble:
            raise self.trouble

    def nodes(self):
        return [{"NodeManagerAddress": address, "Alive": True, "Resources": {"CPU": 2.0}}
                for address in self.addresses]

    def cluster_resources(self):
        return self.resources

    def remote(self, **needs):
        self.needs = needs
        return lambda place: SimpleNamespace(remote=self._start)

    def _start(self, *arguments):
        self.actors.append(Actor(*arguments))
        return self.actors[-1]

    def wait(self, endings, num_returns, timeout):
        return [actor for actor in endings if actor.how is not None][:num_returns], []

    def get(self, actor):
        if isinstance(actor.how, Exception):
            raise actor.how
        return actor.how

    def kill(self, actor):
        self.killed.append(actor)

    def shutdown(self):
        self.shut = True


@pytest.fixture
def ray(monkeypatch):
    fake = FakeRay()
    monkeypatch.setitem(sys.modules, "ray", fake)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(module.time, "sleep", lambda seconds: None)
    return fake


def test_each_place_is_a_worker_host_that_connects_to_the_server(ray):
    cluster = Cluster(ORDERS)
    cluster.adjust(2, 0.0)
    assert ray.needs["num_cpus"] == 2, "no more than the largest node has"
    for actor in ray.actors:
        assert actor.arguments == ["-connect", "127.0.0.1:7000", "-num_worker", "1", "-num_threads", "2", "-verbose"]
        assert actor.orders == HostOrders(None) and actor.deeds == ["wait"]
    assert len(ray.actors) == 2


@pytest.mark.parametrize("cpu, needs", [(False, {"num_gpus": 1, "num_cpus": 1}), (True, {"num_cpus": 2})])
def test_a_gpu_each_where_there_are_gpus(ray, cpu, needs):
    ray.resources = {"CPU": 8.0, "GPU": 2.0}
    Cluster(replace(ORDERS, cpu=cpu))
    assert needs.items() <= ray.needs.items() and ("num_gpus" in ray.needs) == ("num_gpus" in needs)


def test_a_server_bound_to_every_address_is_found_at_this_node_s(ray):
    ray.addresses = ["10.0.0.1", "10.0.0.2"]
    assert Cluster(replace(ORDERS, connect=":7000")).arguments[1] == "10.0.0.1:7000"


def test_a_server_on_the_loopback_cannot_be_reached_from_other_nodes(ray):
    ray.addresses = ["10.0.0.1", "10.0.0.2"]
    with pytest.raises(ConfigError, match="-host is 127.0.0.1, which other nodes .*10.0.0.2.* give -host 10.0.0.1"):
        Cluster(ORDERS)


def test_no_ray_and_no_cluster_are_said_in_one_line(ray, monkeypatch):
    ray.trouble = ConnectionError("no such cluster\nand much more")
    with pytest.raises(StartError, match="^Ray cannot be reached: no such cluster; RAY_ADDRESS names a cluster$"):
        Cluster(ORDERS)
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"pip install './server\[ray\]'"):
        Cluster(ORDERS)


def test_an_address_where_nobody_is_is_noticed_at_once(ray, monkeypatch):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    for named in (address, f"ray://{address}"):
        monkeypatch.setenv("RAY_ADDRESS", named)
        with pytest.raises(StartError, match=f"no Ray cluster at {named}, which RAY_ADDRESS names"):
            Cluster(ORDERS)
    for named in ("auto", "local"):
        monkeypatch.setenv("RAY_ADDRESS", named)
        Cluster(ORDERS)


def test_the_newest_is_asked_to_leave_and_ended_when_it_has(ray):
    cluster = Cluster(ORDERS)
    cluster.adjust(2, 0.0)
    cluster.adjust(1, 0.0)
    old, new = ray.actors
    assert new.deeds == ["wait", "leave"] and old.deeds == ["wait"] and not ray.killed
    new.how = ExitStatus(0)
    cluster.look(0)
    cluster.adjust(1, 0.0)
    assert ray.killed == [new] and len(ray.actors) == 2


def test_one_that_does_not_leave_in_time_is_ended(ray, monkeypatch):
    cluster = Cluster(ORDERS)
    monkeypatch.setattr(module.time, "monotonic", lambda: LEAVE_SECONDS + 1)
    cluster.adjust(1, 0.0)
    cluster.adjust(0, 0.0)
    cluster.look(0)
    assert ray.killed == ray.actors and not cluster.leaving


def test_what_ray_loses_is_replaced_however_often(ray, caplog):
    cluster = Cluster(ORDERS)
    for number in range(2 * MAX_FAILED):
        cluster.adjust(1, 0.0)
        ray.actors[-1].how = RayError("the node is gone")
        cluster.look(0)
    cluster.adjust(1, 0.0)
    assert len(ray.actors) == 2 * MAX_FAILED + 1 and "Ray has lost a worker (RayError)" in caplog.text


def test_workers_that_end_again_and_again_are_given_up(ray, monkeypatch):
    cluster = Cluster(ORDERS)
    with pytest.raises(WorkerStartError, match=f"{MAX_FAILED} workers on Ray ended one after the other "
                                               r"\(the last one ended with exit code 3\)"):
        for number in range(MAX_FAILED):
            assert number < MAX_FAILED
            cluster.adjust(1, module.time.monotonic())
            ray.actors[-1].how = ExitStatus(3)
            cluster.look(0)
    assert len(ray.actors) == MAX_FAILED


def test_workers_that_have_stayed_are_not(ray, caplog):
    cluster = Cluster(ORDERS)
    for _ in range(2 * MAX_FAILED):
        cluster.adjust(1, module.time.monotonic() - STAYED_SECONDS - 1)
        ray.actors[-1].how = ExitStatus(None, 9)
        cluster.look(0)
    assert "a worker on Ray was killed by SIGKILL; another one takes its place" in caplog.messages
    assert len(ray.actors) == 2 * MAX_FAILED


def test_everything_is_given_back_at_the_end(ray):
    cluster = Cluster(ORDERS)
    cluster.adjust(2, 0.0)
    cluster.adjust(1, 0.0)
    cluster.close()
    assert set(map(id, ray.killed)) == set(map(id, ray.actors)) and ray.shut
