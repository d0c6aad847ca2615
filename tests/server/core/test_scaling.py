"""How many workers are wanted, by the clock of the test."""
import pytest
from bert_serving.server.core.scaling import SMOOTH_SECONDS, Scaler
from hypothesis import given
from hypothesis import strategies as st


def make_scaler(least=1, most=8):
    return Scaler(least, most, backlog_seconds=2.0, idle_seconds=60.0)


def when_more(scaler, backlog, ready, seconds=100):
    """The first tenth of a second at which more are wanted, if that is what waits all the time; None: never."""
    return next((tick for tick in range(10 * seconds) if scaler.decide(tick / 10, backlog, ready)), None)


def test_a_backlog_that_lasts_asks_for_more_and_the_longer_it_is_the_sooner():
    long, longer = when_more(make_scaler(), 3.0, 1), when_more(make_scaler(), 30.0, 1)
    assert long > 10 * SMOOTH_SECONDS > longer > 0
    assert when_more(make_scaler(), 1.9, 1) is None


def test_a_burst_asks_for_nothing():
    scaler = make_scaler()
    assert not any(scaler.decide(tick / 10, 5.0 if tick % 100 < 5 else 0.0, 1) for tick in range(550))


def test_a_gap_in_what_waits_changes_nothing():
    scaler = make_scaler()
    assert any(scaler.decide(tick / 10, 5.0 if tick % 10 else 0.0, 1) for tick in range(100))


@pytest.mark.parametrize("ready, backlog, wanted", [(1, 2.5, 2), (1, 100.0, 2), (2, 2.5, 3), (4, 2.9, 5), (3, 100.0, 6),
                                                    (6, 100.0, 8)])
def test_how_many_more(ready, backlog, wanted):
    scaler = make_scaler()
    scaler.wanted = ready
    assert when_more(scaler, backlog, ready) and scaler.wanted == wanted


def test_those_that_are_still_to_come_are_waited_for():
    scaler = make_scaler()
    scaler.wanted = 4
    assert when_more(scaler, 100.0, 2) is None
    assert scaler.decide(101.0, 100.0, 4)


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
