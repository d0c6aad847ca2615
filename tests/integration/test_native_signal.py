"""A signal inside the native library ends one worker, in one of whose threads it was; its work is done by others."""
from __future__ import annotations

import ctypes
import itertools
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from bert_serving.server.engine.backends import native
from bert_serving.server.errors import EngineError

from ..server.engine.conftest import TinyBert
from .conftest import eventually

pytestmark = pytest.mark.timeout(120)

SIGNALS = (signal.SIGSEGV, signal.SIGILL, signal.SIGABRT)


def why_not() -> str:
    try:
        native.build()
    except EngineError as error:
        return f"the native engine does not run here: {error}"
    return ""


def computing(pid: int) -> list[int]:
    """Threads of a worker that run at this moment, other than its first one and ZeroMQ's: the library's."""
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        try:
            name, _, rest = (task / "stat").read_text().partition("(")[2].rpartition(")")
        except OSError:  # it is over
            continue
        if rest.split()[0] == "R" and not name.startswith("ZMQ") and int(task.name) != pid:
            found.append(int(task.name))
    return found


@pytest.mark.skipif(bool(why_not()), reason=why_not())
def test_a_signal_inside_the_library_ends_one_worker_and_costs_no_answer(serve, tmp_path):
    model = TinyBert(hidden_size=256, num_hidden_layers=6, intermediate_size=512).write_hugging_face(tmp_path / "model")
    server = serve("-engine", "native", "-model_dir", str(model), "-num_worker", "2", "-cpu", "-num_threads", "2",
                   "-max_seq_len", "40", "-max_batch_size", "64").ready()
    texts = [" ".join(words) for words in itertools.islice(itertools.product(TinyBert().words[5:10], repeat=30), 64)]
    stop, answered = threading.Event(), []

    def work(number: int) -> None:
        with server.client() as client:
            while not stop.is_set():
                np.testing.assert_array_equal(client.encode(texts), expected)
                answered.append(number)

    with server.client() as client:
        expected = client.encode(texts)
    with ThreadPoolExecutor(4) as pool:
        clients = [pool.submit(work, number) for number in range(4)]
        try:
            for number in SIGNALS:
                before, workers, killed = len(answered), set(server.workers()), []

                def kill() -> bool:
                    for pid in sorted(workers):
                        for thread in computing(pid)[:1]:
                            killed.append(pid)
                            return ctypes.CDLL(None).tgkill(pid, thread, number) == 0
                    return False

                assert eventually(kill), "no thread of the library was seen to compute"
                server.wait_for(f"killed by {number.name}")
                server.wait_for("is ready and listening")
                assert workers - set(server.workers()) == set(killed), "one worker, and no other"
                assert eventually(lambda: len(answered) > before + 8)
        finally:
            stop.set()
        for one in clients:
            one.result(30)
    with server.client() as client:
        status = client.server_status
    assert status["queue"]["requests"] == 0
    assert sum(worker["restarts"] for worker in status["workers"]) == len(SIGNALS)
    assert server.stop() == 0
