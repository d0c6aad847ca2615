"""The supervisor, with children made of pipes: phases of the start, restarts, giving up, hanging, stopping."""
import os
import select
import signal
from dataclasses import replace
from types import SimpleNamespace

import pytest
from bert_serving.server import supervisor as module
from bert_serving.server.core.batching import Backlog
from bert_serving.server.core.messages import Fault, Ready, Stop, decode_to_worker
from bert_serving.server.core.scheduler import Scheduler, WorkerState
from bert_serving.server.core.scaling import Scaler
from bert_serving.server.engine.artefact import ArtefactOrders
from bert_serving.server.engine.base import EngineSettings
from bert_serving.server.errors import EngineError, ModelError, PortError, StartError, WorkerStartError
from bert_serving.server.launchers.ray_actors import ClusterOrders, Wanted
from bert_serving.server.process import ExitStatus
from bert_serving.server.proxy.orders import HttpOptions, ServedModel, ProxyOrders
from bert_serving.server.stages.worker import WorkerOrders
from bert_serving.server.supervisor import BACKOFF_SECONDS, MAX_BACKOFF_SECONDS, MAX_FAILED_STARTS, Supervisor

from .core.conftest import make_pending

SETTINGS = EngineSettings(engine="echo")
WORKER = WorkerOrders(slot=0, jobs="jobs-0", results="results", largest_job=1000, settings=SETTINGS,
                      device_is_a_must=False, verbose=False)
PROXY = ProxyOrders(ip="127.0.0.1", port=1, port_out=2, host="127.0.0.1", http_port=0,
                    options=HttpOptions(http_max_connect=1, cors="*", max_message_mb=1.0, verbose=False), api_keys=(),
                    curve=None, private=(), model=ServedModel())
CLUSTER = ClusterOrders(connect=":1", workers=1, cpus=1, cpu=True, arguments=(), curve=None, verbose=False)

ENDED, KILLED = ExitStatus(0), ExitStatus(None, signal.SIGKILL)


class FakeChild:
    """Stands for a process: lives until ``end``, or until it is killed or told to stop."""

    def __init__(self, module, orders=None, **settings):
        self.module, self.orders, self.pid = module, orders, 1000
        self.sentinel, self._held = os.pipe()
        self.output, self._written = os.pipe() if settings.get("piped_output") else (None, None)
        self.environ = settings.get("environ")
        self.messages, self.how, self.deeds = [], ENDED, []

    def say(self, **message):
        """Write something, as far as the loop can tell."""
        self.messages.append(message)
        os.write(self._written, b".")

    def tell(self, orders):
        self.deeds.append(orders)

    def end_input(self):
        self.deeds.append("end input")
        self.end(ENDED)

    def read_messages(self):
        if self._written is None or select.select([self.output], [], [], 0)[0]:
            if not os.read(self.output, 100):
                return None
        messages, self.messages = self.messages, []
        return messages

    def end(self, how=ExitStatus(1)):
        self.how = how
        for name in ("_written", "_held"):
            if getattr(self, name) is not None:
                os.close(getattr(self, name))
                setattr(self, name, None)

    def kill(self):
        self.deeds.append("kill")
        self.end(KILLED)

    def signal(self, number):
        self.deeds.append(f"signal {number}")

    def wait(self, seconds):
        self.deeds.append("wait")
        return self._held is None

    def forget(self):
        self.deeds.append("forget")
        self.end(self.how)
        for descriptor in (self.sentinel, self.output):
            if descriptor is not None:
                os.close(descriptor)
        self.sentinel = self.output = None
        return self.how


class World:
    """What is around a supervisor: a clock, a loop that watches, children, and what they saw."""

    def __init__(self, num_worker=1, freeze=False, proxy=False, start_timeout=300.0, cluster=False,
                 scaler=None):
        self.now = 1000.0
        self.started, self.handlers = [], {}
        self.lost, self.stops, self.ready = [], [], 0
        self.no_room = 0
        self.nobody_listens = False
        self.scheduler = Scheduler(num_worker, Backlog(8, 8, 25), hang_seconds=60.0)
        self.supervisor = Supervisor(
            self.scheduler, [replace(WORKER, slot=slot, jobs=f"jobs-{slot}") for slot in range(num_worker)],
            freeze_orders=ArtefactOrders(SETTINGS, "cache") if freeze else None,
            proxy_orders=PROXY if proxy else None, cluster_orders=CLUSTER if cluster else None, scaler=scaler,
            start_timeout=start_timeout, on_worker_lost=self.on_lost, send_stop=self.send_stop,
            on_ready=self.on_ready, environ={"TF": "3"})

    # What it needs.

    def child(self, *arguments, **settings):
        if self.no_room:
            self.no_room -= 1
            raise OSError(12, "Cannot allocate memory")
        self.started.append(FakeChild(*arguments, **settings))
        return self.started[-1]

    def on_lost(self, slot, how):
        self.lost.append(slot)
        self.scheduler.lost(slot)

    def send_stop(self, slot, frames):
        self.stops.append(decode_to_worker(frames))
        if self.nobody_listens:
            return False
        self.workers(slot)[-1].end(ENDED)
        return True

    def on_ready(self):
        self.ready += 1

    def monotonic(self):
        return self.now

    # What happens.

    def begin(self):
        self.supervisor.start(self.handlers.__setitem__, self.handlers.__delitem__)
        return self

    def turn(self):
        """One turn of the loop, for whatever can be read now."""
        for descriptor in select.select(list(self.handlers), [], [], 0)[0]:
            if descriptor in self.handlers:
                self.handlers[descriptor]()

    def later(self, seconds):
        self.now += seconds
        self.turn()
        self.supervisor.tick(self.now)

    def workers(self, slot=0):
        """Every process that was started for a slot."""
        return [child for child in self.started if child.module.endswith(".worker") and child.orders.slot == slot]

    def others(self, name):
        return [child for child in self.started if child.module.endswith(name)]

    def get_ready(self, slot=0):
        self.supervisor.on_ready(Ready(slot, self.scheduler.workers[slot].incarnation,
                                       {"pid": 1, "device": -1, "num_threads": 1, "about": "fake", "seconds": 0.1}))

    def end_worker(self, slot=0, how=ExitStatus(None, signal.SIGSEGV)):
        self.workers(slot)[-1].end(how)
        self.turn()

    @property
    def failure(self):
        return self.supervisor.failure


@pytest.fixture
def world(monkeypatch):
    """Make worlds; nothing of them may be left open."""
    made = []

    def make(**settings):
        made.append(World(**settings))
        monkeypatch.setattr(module, "Child", made[-1].child)
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=made[-1].monotonic))
        return made[-1]

    before = sorted(os.listdir("/dev/fd"))
    yield make
    for one in made:
        one.supervisor.stop()
    assert sorted(os.listdir("/dev/fd")) == before, "descriptors are left"


# ---- start -----------------------------------------------------------------------------------------------------------

def test_ready_when_every_worker_is(world):
    one = world(num_worker=2).begin()
    assert [child.orders.slot for child in one.started] == [0, 1]
    assert one.workers(1)[0].orders == replace(WORKER, slot=1, jobs="jobs-1", incarnation=1)
    one.get_ready(1)
    assert not one.ready
    one.get_ready(0)
    assert one.ready == 1 and one.supervisor.is_ready and one.failure is None
    assert one.supervisor.num_processes == 3


def test_the_graph_comes_first_then_workers_that_know_where_it_is(world):
    one = world(freeze=True).begin()
    freezer, = one.others("artefact")
    assert freezer.orders == ArtefactOrders(SETTINGS, "cache")
    assert freezer.environ == {"TF": "3"} and not one.workers()
    freezer.say(path="/cache/graph", layers=12, layers_kept=11, seconds=1.0, bytes=10)
    one.turn()
    assert one.workers()[0].orders.settings == replace(SETTINGS, artefact="/cache/graph")
    assert one.workers()[0].environ == {"TF": "3"}
    freezer.end(ENDED)
    one.turn()
    one.get_ready()
    assert one.ready == 1 and one.failure is None


def test_what_the_freezing_process_found_wrong_is_the_failure(world):
    one = world(freeze=True).begin()
    freezer, = one.others("artefact")
    freezer.say(error={"name": "ModelError", "message": "bert_config.json is missing"})
    freezer.end(ExitStatus(3))
    one.turn()
    assert isinstance(one.failure, ModelError) and str(one.failure) == "bert_config.json is missing"


@pytest.mark.parametrize("how", [KILLED, ExitStatus(1)])
def test_a_freezing_process_that_ends_without_a_word(world, how):
    one = world(freeze=True).begin()
    one.others("artefact")[0].end(how)
    one.turn()
    assert isinstance(one.failure, EngineError) and f"the process that converts the model {how}; " in str(one.failure)


def test_a_worker_that_dies_while_the_freezing_process_is_still_ending_is_not_its_fault(world):
    one = world(freeze=True).begin()
    freezer, = one.others("artefact")
    freezer.say(path="/cache/graph", layers=12, layers_kept=11, seconds=1.0, bytes=10)
    one.turn()
    one.end_worker()
    freezer.end(ENDED)
    one.turn()
    assert one.failure is None


@pytest.mark.parametrize("settings, waited_for", [
    ({"freeze": True}, "the model to be converted"), ({}, "the workers to be ready")])
def test_each_phase_has_its_time(world, settings, waited_for):
    one = world(start_timeout=30.0, **settings).begin()
    one.later(30.0)
    assert one.failure is None
    one.later(0.1)
    assert isinstance(one.failure, WorkerStartError) and waited_for in str(one.failure)
    assert "-start_timeout" in str(one.failure)


def test_a_phase_that_is_over_has_no_end(world):
    one = world(start_timeout=30.0).begin()
    one.get_ready()
    one.later(1000.0)
    assert one.failure is None


def test_a_server_that_cannot_start_the_freezing_process_says_so(world):
    one = world(freeze=True)
    one.no_room = 1
    one.begin()
    assert isinstance(one.failure, EngineError) and "Cannot allocate memory" in str(one.failure)


# ---- workers that do not get ready -----------------------------------------------------------------------------------

def test_a_worker_that_knows_why_it_cannot_start_ends_the_start(world):
    one = world(num_worker=2).begin()
    one.supervisor.on_start_fault(Fault(1, 1, 0, "EngineError", "no memory on GPU 0"))
    one.end_worker(1, ExitStatus(5))
    assert isinstance(one.failure, EngineError) and str(one.failure) == "no memory on GPU 0"


def test_a_reason_of_an_unknown_kind(world):
    one = world().begin()
    one.supervisor.on_start_fault(Fault(0, 1, 0, "ZeroDivisionError", "division by zero"))
    one.end_worker()
    assert type(one.failure) is WorkerStartError and "division by zero" in str(one.failure)


def test_a_worker_that_just_dies_is_tried_again_ever_later_and_then_given_up(world):
    one = world().begin()
    pauses = []
    while one.failure is None:
        count = len(one.workers())
        one.end_worker()
        if one.failure is not None:
            break
        pause = 0.0
        while len(one.workers()) == count:
            one.later(0.05)
            pause += 0.05
            assert pause < 60
        pauses.append(pause)
    assert len(one.workers()) == MAX_FAILED_STARTS and one.lost == [0] * MAX_FAILED_STARTS
    assert pauses == pytest.approx([BACKOFF_SECONDS * 2 ** number for number in range(MAX_FAILED_STARTS - 1)], abs=0.06)
    assert isinstance(one.failure, WorkerStartError)
    assert f"{MAX_FAILED_STARTS} attempts" in str(one.failure)
    assert "(the last one was killed by SIGSEGV)" in str(one.failure)


def test_a_worker_that_cannot_even_be_started_is_tried_again(world):
    one = world()
    one.no_room = 1
    one.begin()
    assert not one.started and one.scheduler.workers[0].state is WorkerState.LOST
    one.later(BACKOFF_SECONDS)
    assert one.workers()[0].orders.incarnation == 2
    one.get_ready()
    assert one.ready == 1


def test_getting_ready_wipes_the_slate(world):
    one = world().begin()
    for _ in range(3):
        for _ in range(MAX_FAILED_STARTS - 1):
            one.end_worker()
            one.later(MAX_BACKOFF_SECONDS)
        one.get_ready()
        one.end_worker()
    assert one.failure is None


# ---- workers that are lost -------------------------------------------------------------------------------------------

def test_a_lost_worker_is_replaced_at_once(world):
    one = world(num_worker=2).begin()
    one.get_ready(0)
    one.get_ready(1)
    one.end_worker(1)
    assert one.lost == [1] and len(one.workers(1)) == 2 and one.workers(1)[1].orders.incarnation == 2
    assert one.workers(1)[0].deeds[-1] == "forget"
    one.get_ready(1)
    assert one.ready == 1, "that is announced once only"


def test_while_others_work_a_worker_that_stays_away_does_not_end_the_server(world):
    one = world(num_worker=2).begin()
    one.get_ready(0)
    one.get_ready(1)
    one.end_worker(1)
    for _ in range(2 * MAX_FAILED_STARTS):
        one.end_worker(1)
        one.later(MAX_BACKOFF_SECONDS)
        assert one.failure is None and one.scheduler.workers[1].state is WorkerState.STARTING
    one.get_ready(1)
    assert one.scheduler.num_ready == 2


def test_when_nobody_is_left_the_server_ends_with_the_reason(world):
    one = world().begin()
    one.get_ready()
    one.end_worker()
    for _ in range(MAX_FAILED_STARTS):
        assert one.failure is None
        incarnation = one.scheduler.workers[0].incarnation
        one.supervisor.on_start_fault(Fault(0, incarnation, 0, "EngineError", "the GPU fell off"))
        one.end_worker()
        one.later(MAX_BACKOFF_SECONDS)
    assert isinstance(one.failure, EngineError) and "the GPU fell off" in str(one.failure)


def test_a_last_word_after_death_is_not_taken_for_life(world):
    one = world(num_worker=2).begin()
    one.get_ready(0)
    one.end_worker(1)
    one.get_ready(1)                                 # had been on its way
    assert one.scheduler.workers[1].state is WorkerState.LOST and not one.ready


def test_a_worker_that_hangs_is_killed_once(world):
    one = world().begin()
    one.get_ready()
    one.scheduler.backlog.add(make_pending(1))
    one.scheduler.next_flight(one.now)
    one.later(60.0)
    assert not one.workers()[0].deeds
    one.later(0.1)
    one.supervisor.tick(one.now + 1)
    assert one.workers()[0].deeds == ["kill"]
    one.turn()
    assert one.lost == [0] and len(one.workers()) == 2


def test_a_worker_that_hangs_while_it_starts_again_is_killed_too(world):
    one = world(num_worker=2, start_timeout=30.0).begin()
    one.get_ready(0)
    one.get_ready(1)
    one.end_worker(0)
    one.later(31.0)
    assert one.workers(0)[1].deeds == ["kill"]
    one.later(0.1)
    one.later(BACKOFF_SECONDS)
    assert len(one.workers(0)) == 3 and one.failure is None
    one.get_ready(0)
    one.later(1000.0)
    assert one.workers(0)[2].deeds == []


# ---- the HTTP proxy --------------------------------------------------------------------------------------------------

def test_the_proxy_comes_last(world):
    one = world(proxy=True).begin()
    assert not one.others("proxy")
    one.get_ready()
    proxy, = one.others("proxy")
    assert not one.ready
    proxy.say(ready=True, http_port=8125)
    one.turn()
    assert one.ready == 1 and one.supervisor.http_port == 8125 and one.supervisor.num_processes == 3


@pytest.mark.parametrize("wish, given", [(None, "2"), ("8", "8")])
def test_the_threads_of_the_proxy_share_memory_unless_somebody_wants_it_otherwise(world, monkeypatch, wish, given):
    monkeypatch.delenv("MALLOC_ARENA_MAX", raising=False)
    if wish:
        monkeypatch.setenv("MALLOC_ARENA_MAX", wish)
    one = world(proxy=True).begin()
    one.get_ready()
    proxy, = one.others("proxy")
    assert proxy.environ["MALLOC_ARENA_MAX"] == given
    assert proxy.environ["GLIBC_TUNABLES"] == os.environ.get("GLIBC_TUNABLES", "glibc.malloc.tcache_count=0")


def test_what_the_proxy_found_wrong_is_the_failure(world):
    one = world(proxy=True).begin()
    one.get_ready()
    one.others("proxy")[0].say(error={"name": "PortError", "message": "port 8125 is in use"})
    one.turn()
    assert isinstance(one.failure, PortError) and "8125" in str(one.failure)


def test_a_lost_proxy_is_replaced_on_its_old_port(world, caplog):
    one = world(proxy=True).begin()
    one.get_ready()
    one.others("proxy")[0].say(ready=True, http_port=8125)
    one.turn()
    one.others("proxy")[0].end(KILLED)
    one.turn()
    assert "the HTTP proxy was lost (it was killed by SIGKILL); it is replaced" in caplog.messages
    one.later(BACKOFF_SECONDS)
    assert [proxy.orders for proxy in one.others("proxy")] == [PROXY, replace(PROXY, http_port=8125)]
    one.others("proxy")[1].say(ready=True, http_port=8125)
    one.turn()
    assert one.ready == 1 and one.failure is None


def test_a_proxy_that_does_not_get_ready_is_given_up(world):
    one = world(proxy=True).begin()
    one.get_ready()
    for number in range(MAX_FAILED_STARTS):
        assert one.failure is None and len(one.others("proxy")) == number + 1
        one.others("proxy")[-1].end(KILLED)
        one.turn()
        one.later(MAX_BACKOFF_SECONDS)
    assert isinstance(one.failure, StartError)
    assert str(one.failure).startswith("the HTTP proxy was killed by SIGKILL before it was ready; ")


def test_a_proxy_that_cannot_be_started_is_tried_again(world):
    one = world(proxy=True).begin()
    one.no_room = 1
    one.get_ready()
    one.later(BACKOFF_SECONDS)
    assert len(one.others("proxy")) == 1 and one.failure is None


def test_last_words_are_heard_when_the_child_is_gone_already(world):
    one = world(freeze=True).begin()
    freezer, = one.others("artefact")
    freezer.say(error={"name": "ModelError", "message": "vocab.txt is missing"})
    freezer.end(ExitStatus(3))
    one.handlers[freezer.sentinel]()                 # the end is noticed first
    assert isinstance(one.failure, ModelError)
    assert not one.handlers


# ---- the end ---------------------------------------------------------------------------------------------------------

def test_idle_workers_are_told_to_stop_and_busy_ones_are_killed(world):
    one = world(num_worker=3).begin()
    one.get_ready(0)
    one.get_ready(1)
    one.scheduler.backlog.add(make_pending(1))
    busy = one.scheduler.next_flight(one.now).slot
    one.supervisor.stop()
    idle = 1 - busy
    assert one.stops == [Stop(idle, 1)]
    assert one.workers(idle)[0].deeds == ["wait", "forget"]
    assert one.workers(busy)[0].deeds == ["kill", "wait", "forget"]
    assert one.workers(2)[0].deeds == ["kill", "wait", "forget"]       # it was still loading


def test_a_worker_that_is_just_gone_does_not_hold_up_the_end(world):
    one = world().begin()
    one.get_ready()
    one.nobody_listens = True
    one.supervisor.stop()
    assert one.workers()[0].deeds == ["kill", "wait", "forget"]


def test_who_does_not_end_by_itself_is_killed(world):
    one = world(proxy=True).begin()
    one.get_ready()
    one.supervisor.stop()
    assert one.others("proxy")[0].deeds == ["signal 15", "wait", "kill", "forget"]


def test_nothing_is_replaced_while_stopping(world):
    one = world().begin()
    one.get_ready()
    one.supervisor._stopping = True
    one.end_worker()
    assert len(one.workers()) == 1


# ---- workers of other hosts ------------------------------------------------------------------------------------------

def test_without_workers_of_this_host_it_is_ready_at_once(world):
    assert world(num_worker=0).begin().ready == 1
    one = world(num_worker=0, proxy=True).begin()
    assert not one.ready and one.others("proxy")


def join(one):
    """A worker of the cluster gets there."""
    slot = one.scheduler.add()
    one.scheduler.started(slot)
    one.scheduler.ready(slot)
    return slot


def test_with_a_cluster_it_is_ready_when_the_first_worker_is(world):
    one = world(num_worker=0, cluster=True).begin()
    cluster, = one.others("ray_actors")
    cluster.say(placed=1)
    one.later(1.0)
    assert not one.ready
    join(one)
    one.later(1.0)
    assert one.ready == 1 and one.failure is None
    one.supervisor.stop()
    assert "end input" in cluster.deeds and not [deed for deed in cluster.deeds if str(deed).startswith("signal")]


def test_what_the_cluster_has_against_it_is_the_failure_until_it_is_ready_and_a_line_then(world, caplog):
    one = world(num_worker=0, cluster=True).begin()
    one.others("ray_actors")[0].say(error={"name": "ConfigError", "message": "no Ray"})
    one.turn()
    assert str(one.failure) == "no Ray"
    one = world(num_worker=0, cluster=True).begin()
    join(one)
    one.later(1.0)
    one.others("ray_actors")[0].say(error={"name": "WorkerStartError", "message": "they end"})
    one.turn()
    assert one.failure is None and "the cluster gives no workers: they end" in caplog.text


def test_nobody_from_the_cluster_in_time(world):
    one = world(num_worker=0, cluster=True, start_timeout=5.0).begin()
    one.later(5.1)
    assert "waited 5 seconds for a worker of the cluster" in str(one.failure)


def test_who_asks_the_cluster_is_replaced_and_given_up_only_before_it_was_ready(world):
    one = world(num_worker=0, cluster=True).begin()
    for number in range(MAX_FAILED_STARTS):
        assert one.failure is None and len(one.others("ray_actors")) == number + 1
        one.others("ray_actors")[-1].end(KILLED)
        one.turn()
        one.later(MAX_BACKOFF_SECONDS)
    assert "asks the cluster for workers was killed by SIGKILL before it was ready; " in str(one.failure)
    one = world(num_worker=0, cluster=True).begin()
    join(one)
    one.later(1.0)
    for number in range(MAX_FAILED_STARTS + 2):
        one.others("ray_actors")[-1].end(KILLED)
        one.turn()
        one.later(MAX_BACKOFF_SECONDS)
    assert one.failure is None and len(one.others("ray_actors")) == MAX_FAILED_STARTS + 3


def test_the_cluster_is_told_how_many_are_wanted_and_so_is_the_next_who_asks_it(world):
    one = world(num_worker=0, cluster=True, scaler=Scaler(1, 4, backlog_seconds=1.0, idle_seconds=60.0)).begin()
    slot = join(one)
    one.later(1.0)
    one.scheduler.workers[slot].tokens_per_second = 1.0
    one.scheduler.backlog.add(make_pending(1, 3))
    for _ in range(4):
        one.later(1.0)
    cluster, = one.others("ray_actors")
    assert Wanted(2) in cluster.deeds
    cluster.end(KILLED)
    one.turn()
    one.later(MAX_BACKOFF_SECONDS)
    assert one.others("ray_actors")[-1].orders == replace(CLUSTER, workers=2)
