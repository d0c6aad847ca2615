"""A worker as a process of this machine: started with orders, ready, at work, told to stop, or killed."""
import select
import signal

import numpy as np
import pytest
import zmq
from bert_serving.server.core import messages
from bert_serving.server.core.messages import Fault, Job, Ready, Rows, Stop
from bert_serving.server.engine.base import EngineSettings
from bert_serving.server.process import Child, ExitStatus
from bert_serving.server.stages import endpoints
from bert_serving.server.stages.worker import WorkerOrders


class Place:
    """A worker's pipe, where its rows arrive, and the worker."""

    def __init__(self, context, **settings):
        run = endpoints.RunDirectory()
        jobs, results = run.endpoint("jobs-0"), run.endpoint("results")
        self.pipe, self.results = endpoints.pipe(context, jobs), endpoints.results(context, results)
        engine = EngineSettings(**{"engine": "echo", "hidden_size": 8, **settings})
        self.handle = Child("bert_serving.server.stages.worker", WorkerOrders(
            slot=0, incarnation=1, jobs=jobs, results=results, largest_job=1_000_000, settings=engine,
            device_is_a_must=True, verbose=False))

    def say(self, message):
        self.pipe.send_multipart(messages.encode_to_worker(message))

    def heard(self):
        assert self.results.poll(30_000), "the worker says nothing"
        return messages.decode_from_worker(self.results.recv_multipart())

    def end(self):
        """How the worker ended."""
        assert select.select([self.handle.sentinel], [], [], 30)[0], "the worker does not end"
        handle, self.handle = self.handle, None
        return handle.forget()


@pytest.fixture
def place(monkeypatch):
    monkeypatch.delenv("ZEROMQ_SOCK_TMP_DIR", raising=False)
    context = zmq.Context()
    places = []

    def start(**settings):
        places.append(Place(context, **settings))
        return places[-1]

    yield start
    for one in places:
        if one.handle is not None:
            one.handle.kill()
            one.handle.forget()
        one.pipe.close(0)
        one.results.close(0)
    context.destroy(linger=0)


def test_a_life(place):
    one = place()
    ready = one.heard()
    assert isinstance(ready, Ready) and ready.about["pid"] == one.handle.pid
    one.say(Job(0, 1, 5, ["first do it", "then do it right"]))
    rows = one.heard()
    assert isinstance(rows, Rows) and rows.array.shape == (2, 8) and np.isfinite(rows.array).all()
    one.say(Stop(0, 1))
    assert one.end() == ExitStatus(0)


def test_a_death(place):
    one = place()
    assert isinstance(one.heard(), Ready)
    one.say(Job(0, 1, 5, ["__die__"]))
    assert one.end() == ExitStatus(None, signal.SIGKILL)


def test_an_engine_that_cannot_be_loaded_says_why_and_ends_with_its_code(place):
    one = place(engine="abacus")
    fault = one.heard()
    assert isinstance(fault, Fault) and (fault.code, fault.job) == ("EngineError", 0) and "abacus" in fault.message
    assert one.end() == ExitStatus(5)


def test_it_ends_when_the_server_lets_go(place):
    one = place()
    assert isinstance(one.heard(), Ready)
    one.handle.popen.stdin.close()
    assert one.end() == ExitStatus(0)
