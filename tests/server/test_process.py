"""Child processes: orders in, messages out, told of each other's end, and nothing left."""
import json
import os
import resource
import select
import signal
import subprocess
import sys
from dataclasses import dataclass
from typing import Any

import pytest
from bert_serving.server.orders import NoOrders, Orders
from bert_serving.server.process import Child, ExitStatus, NotStarted, ask, environment_for, raise_descriptor_limit

OBEDIENT = """
import json, os, signal, subprocess, sys, time
from dataclasses import dataclass
from typing import Any
from bert_serving.server.orders import Orders
from bert_serving.server.process import exit_on_sigterm, read_orders, report, reserve_output

@dataclass(frozen=True)
class Do(Orders):
    do: str
    echo: Any = None

def say(**message):
    report(message)

if __name__ == "__main__":
    orders = read_orders("obedient", Do)
    exec(orders.do)
"""
"""A module that does what its orders say."""


@dataclass(frozen=True)
class Do(Orders):
    """As that of the module."""

    do: str
    echo: Any = None


@pytest.fixture
def path(tmp_path):
    """PYTHONPATH on which there is the module ``obedient``."""
    (tmp_path / "obedient.py").write_text(OBEDIENT)
    return os.pathsep.join([str(tmp_path), *filter(None, sys.path)])


@pytest.fixture
def start(path):
    """Start children that are gone at the end of the test, whatever it does."""
    children = []

    def start(do, **orders):
        children.append(Child("obedient", Do(do, **orders), piped_output=True, environ={"PYTHONPATH": path}))
        return children[-1]

    yield start
    for child in children:
        if not child.popen.stdout.closed:        # else it has been forgotten
            child.kill()
            child.forget()


def is_readable(descriptor, seconds=20.0):
    return bool(select.select([descriptor], [], [], seconds)[0])


def next_message(child):
    while is_readable(child.output):
        messages = child.read_messages()
        if messages is None:
            raise AssertionError("the child has ended")
        if messages:
            message, = messages
            return message
    raise AssertionError("the child says nothing")


def is_gone(pid, seconds=20.0):
    """Whether a process, of whoever, ends in time."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return is_readable(descriptor, seconds)
    finally:
        os.close(descriptor)


needs_pidfd = pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="this system cannot wait for a stranger's end")


@pytest.mark.parametrize("do, seconds, expected", [
    ("print('nonsense'); say(number=1); say(number=2); time.sleep(1000)", 20, {"number": 1}),
    ("pass", 20, None), ("time.sleep(1000)", 0.1, None)], ids=["answers", "ends", "hangs"])
def test_a_question_is_answered_or_given_up(path, do, seconds, expected):
    assert ask("obedient", Do(do), seconds, environ={"PYTHONPATH": path}) == expected


@needs_pidfd
def test_nothing_is_left_of_who_was_asked(path):
    do = "say(pid=subprocess.Popen(['sleep', '1000']).pid); time.sleep(1000)"
    answer = ask("obedient", Do(do), 20, environ={"PYTHONPATH": path})
    assert is_gone(answer["pid"])


def test_orders_arrive_and_answers_come_back(start):
    child = start("say(**orders.echo)", echo={"text": "ä\n\ud800", "number": 1})
    assert next_message(child) == {"text": "ä\n\ud800", "number": 1}


def test_orders_of_another_kind_are_refused_by_name(path):
    done = subprocess.run([sys.executable, "-m", "obedient"], input=b'{"do": "say(done=1)", "more": 1}\n',
                          capture_output=True, env={**os.environ, "PYTHONPATH": path}, timeout=40)
    assert done.returncode == 1 and done.stderr.splitlines()[-1].endswith(b"Do.more is unknown; expected do, echo")


def test_it_can_be_told_more_later(start):
    child = start("say(**json.loads(sys.stdin.readline())['echo'])")
    child.tell(Do("", {"number": 2}))
    assert next_message(child) == {"number": 2}
    child.wait(20)
    child.tell(Do("it is gone"))


def test_reserved_output_is_for_reports_alone(start, capfd):
    """What a library prints meanwhile, in Python or in C, is no message, whatever it looks like."""
    child = start("""
own = reserve_output()
print('{"from": "Python"}', flush=True)
os.write(1, b'{"from": "C"}\\n')
report({"from": "us"}, own)
""")
    assert next_message(child) == {"from": "us"}
    assert is_readable(child.sentinel) and child.read_messages() is None
    assert capfd.readouterr().err == '{"from": "Python"}\n{"from": "C"}\n'


def test_a_sigterm_that_lets_finally_blocks_run(start):
    child = start("""
exit_on_sigterm()
try:
    report({"ready": True})
    time.sleep(1000)
finally:
    report({"stopped": True})
""")
    assert next_message(child) == {"ready": True}
    child.signal(signal.SIGTERM)
    assert next_message(child) == {"stopped": True}
    assert is_readable(child.sentinel) and child.forget() == ExitStatus(128 + signal.SIGTERM)


@pytest.mark.parametrize("do, how", [
    ("pass", ExitStatus(0)), ("sys.exit(3)", ExitStatus(3)),
    ("os._exit(7)", ExitStatus(7)),
    ("os.kill(os.getpid(), signal.SIGKILL)", ExitStatus(None, signal.SIGKILL)),
    ("os.kill(os.getpid(), signal.SIGSEGV)", ExitStatus(None, signal.SIGSEGV))])
def test_its_end_is_seen_and_told(start, do, how):
    child = start(do)
    assert is_readable(child.sentinel)
    assert child.forget() == how


@pytest.mark.parametrize("how, told", [
    (ExitStatus(0), "ended with exit code 0"), (ExitStatus(None, signal.SIGKILL), "was killed by SIGKILL"),
    (ExitStatus(None, signal.SIGRTMIN + 1), f"was killed by signal {signal.SIGRTMIN + 1:d}"),
    (NotStarted(OSError(12, "Cannot allocate memory")), "could not be started: [Errno 12] Cannot allocate memory")])
def test_an_end_is_the_predicate_of_a_sentence(how, told):
    assert str(how) == told


def test_a_module_that_is_not_there_ends_too(path):
    child = Child("no_such_module", NoOrders(), piped_output=True, environ={"PYTHONPATH": path})
    assert is_readable(child.sentinel)
    assert child.forget() == ExitStatus(1)


def test_the_sentinel_is_silent_while_the_child_lives(start):
    child = start("say(pid=os.getpid()); sys.stdin.read()")
    assert next_message(child) == {"pid": child.pid}
    assert not is_readable(child.sentinel, 0.0)
    assert not child.wait(0.0)


def test_kill_takes_its_children_along(start):
    child = start("grandchild = subprocess.Popen(['sleep', '1000']); say(pid=grandchild.pid); time.sleep(1000)")
    grandchild = next_message(child)["pid"]
    child.kill()
    assert is_readable(child.sentinel) and child.wait(20)
    assert is_gone(grandchild)
    child.kill()  # again, without harm


def test_its_end_is_seen_though_it_leaves_a_process_behind(start):
    child = start("""
left = subprocess.Popen(['sleep', '1000'], close_fds=False, start_new_session=True)
say(pid=left.pid)
os._exit(0)""")
    left = next_message(child)["pid"]
    try:
        assert is_readable(child.sentinel)
        assert child.read_messages() == [], "its output is still open, so there is no end of it"
    finally:
        os.kill(left, signal.SIGKILL)


def test_a_session_of_its_own_and_deaf_to_ctrl_c(start):
    child = start("os.kill(os.getpid(), signal.SIGINT); say(session=os.getsid(0))")
    assert next_message(child) == {"session": child.pid}


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a process cannot rename itself so easily")
def test_ps_shows_its_name(start):
    child = start("say(name=open('/proc/self/comm').read().strip())")
    assert next_message(child) == {"name": "obedient"}


def test_it_hears_when_its_parent_lets_go(start):
    child = start("say(ready=1); os.read(0, 1); sys.exit(5)")
    next_message(child)
    child.popen.stdin.close()
    assert is_readable(child.sentinel)
    assert child.forget() == ExitStatus(5)


@needs_pidfd
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a process with its parent")
def test_a_child_that_does_not_listen_dies_with_its_parent(path):
    parent = subprocess.Popen([sys.executable, "-c", """
from bert_serving.server.process import Child
from obedient import Do
child = Child("obedient", Do("say(pid=os.getpid()); time.sleep(1000)"))
input()
"""], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ, "PYTHONPATH": path})
    with parent:
        child = json.loads(parent.stderr.readline())["pid"]     # a child's output goes to standard error
        assert not is_gone(child, 0.0)
        parent.kill()
        assert is_gone(child)


@needs_pidfd
def test_a_child_whose_parent_is_gone_before_it_looks_ends_at_once(path):
    middle = subprocess.run([sys.executable, "-c", """
import os, subprocess, sys
held = os.open(os.devnull, os.O_RDONLY)
child = subprocess.Popen([sys.executable, "-m", "obedient"], stdin=subprocess.PIPE, pass_fds=(held,))
orders = b'{"do": "time.sleep(1000)", "parent": 1, "held": %d}\\n' % held     # as if we had gone, and init had it now
child.stdin.write(orders)
child.stdin.flush()
sys.exit(child.wait(20) + 40)
"""], env={**os.environ, "PYTHONPATH": path}, timeout=40)
    assert middle.returncode == 41


def test_orders_from_a_shell_name_no_parent(path):
    done = subprocess.run([sys.executable, "-m", "obedient"], input=b'{"do": "say(done=1)"}\n', capture_output=True,
                          env={**os.environ, "PYTHONPATH": path}, timeout=40)
    assert json.loads(done.stdout) == {"done": 1}


def test_output_that_is_no_message_is_passed_on(start, capsys):
    child = start("print('library: hello'); print(5); print('[1]'); print('{'); say(ready=1); print('tail', end='')")
    assert next_message(child) == {"ready": 1}
    while is_readable(child.output) and child.read_messages() is not None:
        pass
    assert capsys.readouterr().err.splitlines() == ["library: hello", "5", "[1]", "{"]


def test_messages_in_parts_and_several_at_once(start):
    child = start("""
os.write(1, b'{"number": 1}\\n{"num')
say = os.read(0, 1)
os.write(1, b'ber": 2}\\n')""")
    assert is_readable(child.output) and child.read_messages() == [{"number": 1}]
    assert child.read_messages() == []
    child.popen.stdin.write(b"go on")
    child.popen.stdin.flush()
    assert is_readable(child.output) and child.read_messages() == [{"number": 2}]
    assert is_readable(child.output) and child.read_messages() is None


def test_nothing_is_left(start):
    before = sorted(os.listdir("/dev/fd"))
    child = start("pass")
    assert is_readable(child.sentinel)
    child.forget()
    assert sorted(os.listdir("/dev/fd")) == before


def test_nothing_is_left_of_a_child_that_cannot_be_started(monkeypatch):
    before = sorted(os.listdir("/dev/fd"))
    monkeypatch.setattr(sys, "executable", "/no/such/python")
    with pytest.raises(OSError):
        Child("obedient", NoOrders())
    assert sorted(os.listdir("/dev/fd")) == before


def test_who_closes_its_sentinel_and_stays_is_ended(start):
    child = start("os.closerange(3, 100); say(ready=1); time.sleep(1000)")
    assert next_message(child) == {"ready": 1}
    assert is_readable(child.sentinel)
    child.signal(signal.SIGKILL)
    assert child.forget() == ExitStatus(None, signal.SIGKILL)


def test_tensorflow_is_silent_unless_one_wants_to_hear():
    assert environment_for(True) == {} and environment_for(False) == {"TF_CPP_MIN_LOG_LEVEL": "3"}


# ---- limits ----------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("soft, hard, expected", [
    (256, 1000, 1000), (1000, 1000, 1000), (256, 10**6, 65536), (10**6, 10**6, 10**6), (256, -1, 65536), (-1, -1, -1)])
def test_as_many_files_as_are_allowed(monkeypatch, soft, hard, expected):
    limits = [(soft, hard)]
    assert resource.RLIM_INFINITY == -1
    monkeypatch.setattr(resource, "getrlimit", lambda which: limits[-1])
    monkeypatch.setattr(resource, "setrlimit", lambda which, pair: limits.append(pair))
    raise_descriptor_limit()
    assert limits[-1] == (expected, hard)
