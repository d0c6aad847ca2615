"""Log lines: what they look like, whose they are, and colours on terminals only."""
import io
import logging
import re

import pytest
from bert_serving.server import log

LINE = re.compile(r"^([DIWE]) \d\d:\d\d:\d\d\.\d\d\d (\S+) +(.*)$")


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture(autouse=True)
def restored(monkeypatch):
    """The loggers as they were, and no wishes about colours from outside."""
    root = logging.getLogger("bert_serving")
    before = root.handlers[:], root.level, root.propagate
    for name in ("FORCE_COLOR", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)
    yield
    root.handlers[:], root.level, root.propagate = before


def said(module="bert_serving.server.service", level=logging.INFO, text="all set", *, stream=None, **settings):
    """What comes out of the stream when a module logs a line."""
    stream = stream or io.StringIO()
    log.set_up(**{"verbose": False, **settings}, stream=stream)
    logging.getLogger(module).log(level, text)
    return stream.getvalue()


@pytest.mark.parametrize("level, letter", [(logging.INFO, "I"), (logging.WARNING, "W"), (logging.ERROR, "E")])
def test_level_time_stage_message(level, letter):
    assert LINE.match(said(level=level)).groups() == (letter, "SERVER", "all set")


@pytest.mark.parametrize("module, stage", [
    ("core.ventilator", "VENTILATOR"), ("core.scheduler", "VENTILATOR"), ("core.sink", "SINK"), ("core.outlet", "SINK"),
    ("engine", "GRAPHOPT"), ("engine.artefact", "GRAPHOPT"), ("proxy.app", "PROXY"), ("supervisor", "SERVER"),
    ("core.sinkhole", "SERVER")])
def test_the_stage_is_that_of_the_module(module, stage):
    assert LINE.match(said(f"bert_serving.server.{module}"))[2] == stage


def test_a_childs_lines_carry_its_own_name():
    line = said("bert_serving.server.engine.backends.graph", stage=log.Stage.WORKER, number=3)
    assert LINE.match(line)[2] == "WORKER-3"


@pytest.mark.parametrize("verbose, lines", [(False, 0), (True, 1)])
def test_requests_are_logged_only_when_verbose(verbose, lines):
    assert said("bert_serving.server.core.sink", logging.DEBUG, verbose=verbose).count("\n") == lines


@pytest.mark.parametrize("number", [None, 0, 12])
@pytest.mark.parametrize("stage", log.Stage)
def test_every_stage_has_a_colour_on_a_terminal(stage, number):
    name = stage.name if number is None else f"{stage.name}-{number}"
    line = said(stage=stage, number=number, stream=Terminal())
    assert re.fullmatch(rf"I \S+ \x1b\[\d+m{name} *\x1b\[0m all set\n", line)


@pytest.mark.parametrize("stage, colour", [("VENTILATOR", 35), ("SINK", 32), ("WORKER", 33), ("GRAPHOPT", 36),
                                           ("PROXY", 31)])
def test_the_colours_of_the_original(stage, colour):
    """CONTRACT 2.1: magenta, green, yellow, cyan, red."""
    assert f"\x1b[{colour}m{stage}" in said(stage=log.Stage[stage], stream=Terminal())


def test_no_colour_elsewhere():
    assert "\x1b" not in said()


@pytest.mark.parametrize("variable, stream, colours", [
    ("NO_COLOR", Terminal, False), ("FORCE_COLOR", io.StringIO, True)])
def test_wishes_about_colours(monkeypatch, variable, stream, colours):
    monkeypatch.setenv(variable, "1")
    assert ("\x1b" in said(stream=stream())) == colours


def test_a_traceback_follows_its_line():
    stream = io.StringIO()
    log.set_up(False, stream=stream)
    try:
        raise ValueError("inside")
    except ValueError:
        logging.getLogger("bert_serving.server").exception("job %d failed", 7)
    first, *rest = stream.getvalue().splitlines()
    assert LINE.match(first)[3] == "job 7 failed" and rest[-1] == "ValueError: inside"


def test_set_up_again_does_not_double_the_lines():
    said()
    assert said().count("all set") == 1


# ---- many warnings ---------------------------------------------------------------------------------------------------

@pytest.fixture
def clocked():
    """Write a line as of a time; whether it is let through, and as what."""
    brake = log.Brake()

    def write(at, message="bad %s", level=logging.WARNING, line=1):
        record = logging.LogRecord("bert_serving.x", level, "x.py", line, message, ("request",), None)
        record.created = at
        return record.getMessage() if brake.filter(record) else None

    return write


def test_a_throttle_lets_few_lines_through_in_any_time_and_counts_the_rest():
    throttle = log.Throttle(2, 10.0)
    let_through = []
    for now in (0.0, 6.0, 7.0, 9.9, 10.0, 11.0, 16.0, 50.0):
        if throttle.is_open(now):
            let_through.append((now, throttle.let_through(now)))
        else:
            throttle.keep_back()
    assert let_through == [(0.0, 0), (6.0, 0), (10.0, 2), (16.0, 1), (50.0, 0)]


def test_many_warnings_of_a_kind_are_a_few_and_their_number(clocked):
    lines = [clocked(100 + number / 1000) for number in range(1000)]
    assert lines == ["bad request"] * log.MAX_WARNINGS + [None] * (1000 - log.MAX_WARNINGS)
    assert clocked(111) == "bad request (980 more like it in the last 10 seconds)"
    assert clocked(111.1) == "bad request"


def test_other_lines_are_let_through(clocked):
    assert [clocked(100) for _ in range(30)].count(None) == 10
    assert clocked(100, line=2) == "bad request"
    assert [clocked(100, level=logging.INFO) for _ in range(100)].count(None) == 0


def test_the_log_has_a_brake():
    stream = io.StringIO()
    log.set_up(False, stream=stream)
    for _ in range(100):
        logging.getLogger("bert_serving.server.x").warning("again")
    assert stream.getvalue().count("again") == log.MAX_WARNINGS
