"""How many workers are wanted, by the clock of the test."""
import pytest
from bert_serving.server.core.scaling import SUSTAINED_SECONDS, Scaler
from hypothesis import given
from hypothesis import strategies as st

LATER = SUSTAINED_SECONDS + 0.1


def make_scaler(least=1, most=8):
    return Scaler(least, most, backlog_seconds=2.0, idle_seconds=60.0)


def test_a_backlog_that_lasts_asks_for_more_and_a_burst_does_not():
    scaler = make_scaler()
    assert not scaler.decide(0.0, 5.0, 1) and not scaler.decide(1.0, 0.5, 1) and not scaler.decide(LATER, 5.0, 1)
    assert scaler.decide(2 * LATER, 5.0, 1) and scaler.wanted == 2


@pytest.mark.parametrize("ready, backlog, wanted", [(1, 2.5, 2), (1, 100.0, 2), (2, 2.5, 3), (2, 3.9, 4), (3, 100.0, 6),
                                                    (6, 100.0, 8)])
def test_how_many_more(ready, backlog, wanted):
    scaler = make_scaler()
    scaler.wanted = ready
    scaler.decide(0.0, backlog, ready)
    assert scaler.decide(LATER, backlog, ready) and scaler.wanted == wanted


def test_those_that_are_still_to_come_are_waited_for():
    scaler = make_scaler()
    scaler.wanted = 4
    assert not any(scaler.decide(time, 100.0, 2) for time in range(100))
    assert not scaler.decide(100.0, 100.0, 4) and scaler.decide(100.0 + LATER, 100.0, 4)


def test_one_is_given_back_whenever_nothing_has_waited_for_long():
    scaler = make_scaler(least=2)
    scaler.wanted = 4
    changed = [time for time in range(300) if scaler.decide(time, 0.0, scaler.wanted)]
    assert changed == [60, 120] and scaler.wanted == 2


def test_a_request_now_and_then_keeps_them():
    scaler = make_scaler()
    scaler.wanted = 4
    assert not any(scaler.decide(time, 0.1 if time % 50 == 0 else 0.0, 4) for time in range(300))


@given(st.lists(st.tuples(st.floats(0, 100), st.floats(0, 1000), st.integers(0, 10))))
def test_never_beyond_the_bounds(events):
    scaler, now = make_scaler(2, 5), 0.0
    for seconds, backlog, ready in events:
        now += seconds
        before = scaler.wanted
        assert scaler.decide(now, backlog, ready) == (scaler.wanted != before)
        assert 2 <= scaler.wanted <= 5
