"""The worker's process: takes a job, tokenizes, runs the engine, answers rows or a fault.

Where the engine overlaps, a second thread computes larger jobs, and the first one tokenizes the next job meanwhile.
Answers leave in the jobs' order.

Started by the server as ``python -m bert_serving.server.stages.worker``, with its orders on standard input.
"""
from __future__ import annotations

import gc
import logging
import os
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NoReturn

import numpy as np
import zmq

from bert_serving.client.errors import BertServingError
from bert_serving.client.pairs import Pair, Text

from .. import log
from ..core import messages
from ..core.features import Features, lengths_of
from ..core.messages import Fault, Job, Ready, Rows, Stop
from ..core.remote_messages import encode_proof
from ..core.placement import CPU
from ..engine.backends import create
from ..engine.base import Engine, EngineSettings, create_tokenizer, features, prove, speed
from ..errors import EngineError, StartError
from ..orders import Orders
from ..process import read_orders
from . import endpoints
from .compute_thread import ComputeThread

logger = logging.getLogger(__name__)


HANDED_OVER = 16
"""Sequences from which on a job is computed in the second thread. To wake it takes as long as to tokenize so many."""

MAX_AHEAD_BYTES = 8 << 20
"""Of a job that is read beside a computation. That may end meanwhile, and is not answered before all is read."""

SWITCH_SECONDS = 0.5e-3
"""After which the thread that computes has its turn in Python, while the other one tokenizes."""


@dataclass(frozen=True, kw_only=True)
class WorkerOrders(Orders):
    """What a worker's process is told.

    Attributes:
        slot, incarnation: which worker it is; incarnations count from 1, and 0 is none that was started.
        jobs, results: endpoints that it connects to.
        largest_job: most bytes of a job.
        settings: of its engine.
        device_is_a_must: the user asked for this device; else the CPU will do where the engine cannot use it.
        verbose: log at DEBUG.
    """

    slot: int
    incarnation: int = 0
    jobs: str
    results: str
    largest_job: int
    settings: EngineSettings
    device_is_a_must: bool
    verbose: bool


@dataclass(frozen=True, slots=True)
class Task:
    """A job that is tokenized.

    Attributes:
        began, tokenized: when that began and ended, on the monotonic clock.
        batch: its distinct texts.
        places: of each of its texts in the batch; None: all are distinct.
        error: why it has no batch.
    """

    job: Job
    began: float
    tokenized: float
    batch: Sequence[Features] = ()
    places: list[int] | None = None
    error: Exception | None = None


class Worker:
    """One engine behind one pipe.

    Sockets: ``jobs`` PULL, ``results`` PUSH; of two threads, the one that computes sends.
    """

    def __init__(self, jobs: zmq.Socket[Any], results: zmq.Socket[Any], slot: int, incarnation: int,
                 settings: EngineSettings, device_is_a_must: bool = True) -> None:
        """
        Args:
            device_is_a_must: the user asked for this device; else the CPU will do where the engine cannot use it.
        """
        self.jobs, self.results = jobs, results
        self.slot, self.incarnation = slot, incarnation
        self.settings, self.device_is_a_must = settings, device_is_a_must
        self.tokenizer = create_tokenizer(settings)
        self.engine: Engine | None = None
        self.thread: ComputeThread[Task] | None = None
        self._computed = 0.0  # when the engine was last done

    def load(self) -> None:
        """Load the engine, prove it, and say so.

        Raises:
            StartError: it cannot run here, or what it computes is wrong.
        """
        started = time.monotonic()
        try:
            self.engine = create(self.settings)
        except EngineError as error:
            if self.settings.device == CPU or self.device_is_a_must:
                raise
            # A GPU that the driver shows and the engine cannot use: this build of TensorFlow is for CPUs, say.
            logger.warning("%s; going on without: on the CPU", error)
            self.settings = replace(self.settings, device=CPU)
            self.engine = create(self.settings)
        golden = prove(self.engine, self.tokenizer, self.settings)
        rate = speed(self.engine, self.tokenizer, self.settings)
        if self.engine.overlaps:
            self.thread = ComputeThread(self._compute)
        self.send(Ready(self.slot, self.incarnation, {
            "pid": os.getpid(), "device": self.settings.device, "num_threads": self.settings.num_threads,
            "about": f"{self.settings.engine}: {self.engine.describe()}",
            "seconds": round(time.monotonic() - started, 2),
            "tokens_per_second": round(rate, 1), "proof": encode_proof(golden)}))

    def step(self) -> bool:
        """Take the job that waits, if any, and answer it, or have it answered; False if there will be no more."""
        received = endpoints.receive(self.jobs)
        if received is None:
            return True
        frames = [frame.bytes for frame in received]
        if self.thread is not None and sum(map(len, frames)) > MAX_AHEAD_BYTES:
            self.thread.wait_idle()
        message = messages.decode_to_worker(frames)
        if isinstance(message, Stop):
            return False
        if message.incarnation != self.incarnation:  # it was meant for our predecessor, and is given again
            return True
        thread = self.thread
        if thread is None or thread.is_idle and len(message.sequences) < HANDED_OVER:
            self._compute(self._tokenize(message))
        else:
            thread.give(self._tokenize(message))
        return True

    def stop(self, at_once: bool = False) -> None:
        """Answer what was taken, and compute no more.

        Args:
            at_once: answer only what is being computed.
        """
        if self.thread is not None:
            self.thread.close(at_once)
            self.thread.join()

    def _tokenize(self, job: Job) -> Task:
        began = time.monotonic()
        try:
            texts, places = _distinct(job.sequences)
            batch = features(texts, self.tokenizer, self.settings)
        except Exception as error:
            return Task(job, began, time.monotonic(), error=error)
        return Task(job, began, time.monotonic(), batch, places)

    def _compute(self, task: Task) -> None:
        """Answer with the rows of a job, or with what is wrong."""
        answer: Rows | Fault
        job = task.job.job
        try:
            if task.error is not None:
                raise task.error
            answer = self._rows(task)
        except BertServingError as error:
            answer = Fault(self.slot, self.incarnation, job, error.code, error.message, error.index)
        except Exception as error:  # whatever the engine raises is an answer, not the worker's end
            logger.exception("job %d failed", job)
            answer = Fault(self.slot, self.incarnation, job, "internal", f"{type(error).__name__}: {error}"[:500])
        self.send(answer)

    def _rows(self, task: Task) -> Rows:
        assert self.engine is not None
        started = time.monotonic()
        array = self.engine.encode(task.batch)
        # What was tokenized beside the job before took no time of this one.
        seconds = {"tokenize": max(0.0, task.tokenized - max(task.began, self._computed)), "compute": 0.0}
        self._computed = time.monotonic()
        seconds["compute"] = self._computed - started
        batch, places, show_tokens = task.batch, task.places, task.job.options.tokens
        counts = lengths_of(batch)
        num_tokens = sum(counts)
        lengths = contents = specials = None
        finite = bool(np.isfinite(array).all())
        if self.engine.token_level:
            bad = [] if finite else _bad_sequences(array, counts)
            if places is not None:
                starts = np.cumsum([0, *counts])
                array = np.concatenate([array[starts[place]:starts[place + 1]] for place in places])
        else:
            bad = [] if finite else np.flatnonzero(~np.isfinite(array).all(axis=1)).tolist()
            if places is not None:
                array = array[places]
        if places is not None:
            counts = [counts[place] for place in places]
            unique_bad = set(bad)
            bad = [sequence for sequence, place in enumerate(places) if place in unique_bad]
            if show_tokens or self.engine.token_level:
                batch = [batch[place] for place in places]
        if self.engine.token_level:
            lengths = counts
            specials = [sequence.num_special for sequence in batch]
            contents = [length if sequence.is_bare else length - sequence.num_special
                        for sequence, length in zip(batch, lengths)]
        return Rows(self.slot, self.incarnation, task.job.job, array, lengths, contents, specials,
                    [sequence.tokens for sequence in batch] if show_tokens else None,
                    num_tokens, seconds, bad, counts)

    def send(self, message: messages.FromWorker) -> None:
        frames = messages.encode_from_worker(message)
        self.results.send_multipart(frames, copy=len(frames[-1]) < 65536)


def _distinct(texts: Sequence[Text]) -> tuple[list[Text], list[int] | None]:
    """Each text once, and for each of ``texts`` its place among them; None if all are distinct anyway."""
    places: dict[str | tuple[str, ...] | Pair, int] = {}
    order = [places.setdefault(text if isinstance(text, str) else _hashable(text), len(places)) for text in texts]
    if len(places) == len(texts):
        return list(texts), None
    return list(dict(zip(order, texts)).values()), order


def _hashable(text: list[str] | Pair) -> tuple[str, ...] | Pair:
    """A stand-in for what cannot be hashed; no two different texts have the same."""
    if isinstance(text, Pair):
        return Pair(*(half if isinstance(half, str) else tuple(half) for half in text))
    return tuple(text)


def _bad_sequences(array: np.ndarray, lengths: Sequence[int]) -> list[int]:
    """Sequences of a token-level result that hold something not finite."""
    finite = np.isfinite(array).all(axis=1)
    starts = np.cumsum([0, *lengths[:-1]])
    return np.flatnonzero(~np.logical_and.reduceat(finite, starts)).tolist()


def main() -> None:
    orders = read_orders("bert-worker", WorkerOrders)
    slot, incarnation = orders.slot, orders.incarnation
    log.set_up(orders.verbose, log.Stage.WORKER, slot)
    context = zmq.Context()
    jobs, results = endpoints.worker_end(context, orders.jobs, orders.results, orders.largest_job)
    try:
        worker = Worker(jobs, results, slot, incarnation, orders.settings, orders.device_is_a_must)
        worker.load()
    except Exception as error:
        if not isinstance(error, StartError):
            logger.exception("the engine cannot be loaded")
        fault = Fault(slot, incarnation, 0, type(error).__name__, f"{error}"[:1000])
        results.send_multipart(messages.encode_from_worker(fault))
        _leave(context, jobs, results, getattr(error, "exit_code", 1))
    if worker.thread is not None:
        sys.setswitchinterval(SWITCH_SECONDS)
    gc.freeze()  # what is loaded by now stays; let collections skip it
    poller = zmq.Poller()
    poller.register(jobs, zmq.POLLIN)
    poller.register(0, zmq.POLLIN)  # standard input: readable when the server is gone
    while True:
        server_is_gone = 0 in dict(poller.poll())
        if server_is_gone or not worker.step():
            break
    worker.stop(at_once=server_is_gone)
    logger.debug("stopped")
    _leave(context, jobs, results, 0)


def _leave(context: zmq.Context[Any], jobs: zmq.Socket[Any], results: zmq.Socket[Any], code: int) -> NoReturn:
    """End this process once its last message has left: TensorFlow's threads take seconds to end by themselves."""
    jobs.close(linger=0)
    results.close(linger=2000)
    # Waits for the linger, and now and then for ever: let a thread wait that nobody waits for.
    leaving = threading.Thread(target=context.term, daemon=True)
    leaving.start()
    leaving.join(3)
    logging.shutdown()
    os._exit(code)


if __name__ == "__main__":
    # Under its own name, for the log and for whoever compares classes.
    from bert_serving.server.stages import worker
    worker.main()
