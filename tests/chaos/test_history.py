"""The checker: finds every kind of fault, and nothing in a history without one."""
from __future__ import annotations

from hashlib import blake2b

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from .driver import texts_of
from .history import DIGITS, Checker, Verdict


def expect(texts):
    """A model for these tests: a row's fingerprint is the hash of its text."""
    return "".join(blake2b(text.encode(), digest_size=DIGITS // 2).hexdigest() for text in texts)


def right(client, number, size):
    return expect(texts_of(client, number, size))


def judge(*events, end=1000.0):
    return Checker(expect).add_all(events).finish(end)


def faults(verdict: Verdict) -> dict[str, int]:
    return {name: getattr(verdict, name) for name in Verdict.FAULTS if getattr(verdict, name)}


def asked(number, size=2, client="a", when=1.0, poison=None):
    return ["asked", when, client, number, size, poison]


def answered(number, size=2, client="a", when=2.0, rows=None):
    return ["answered", when, client, number, right(client, number, size) if rows is None else rows]


def test_a_clean_history():
    verdict = judge(asked(0), asked(1, 3), answered(1, 3), answered(0), asked(0, 5, "b"), answered(0, 5, "b"))
    assert verdict == Verdict(requests=3, sentences=10, answered=10)
    assert verdict.clean


@pytest.mark.parametrize("events, found", [pytest.param(*values, id=name) for name, values in {
    "never answered": ([asked(0)], {"lost": 1}),
    "given up": ([asked(0), ["gave up", 9.0, "a", 0]], {"lost": 1}),
    "answered twice": ([asked(0), answered(0), answered(0)], {"doubled": 1}),
    "answered, then failed": ([asked(0), answered(0), ["failed", 3.0, "a", 0, "internal", "", None]], {"doubled": 1}),
    "another one's": ([asked(0), asked(0, client="b"), answered(0, rows=right("b", 0, 2)), answered(0, client="b")],
                      {"misrouted": 2}),
    "one row is another one's": ([asked(0), asked(1, 1), answered(1, 1),
                                  answered(0, rows=right("a", 0, 2)[:DIGITS] + right("a", 1, 1))], {"misrouted": 1}),
    "asked only later": ([asked(0, 1), answered(0, 1, rows=right("a", 1, 1)), asked(1, 1), answered(1, 1)],
                         {"misrouted": 1}),
    "rows changed places": ([asked(0), answered(0, rows=right("a", 0, 2)[DIGITS:] + right("a", 0, 2)[:DIGITS])],
                            {"disordered": 2}),
    "nobody's": ([asked(0, 1), answered(0, 1, rows="f" * DIGITS)], {"wrong": 1}),
    "a row too few": ([asked(0), answered(0, rows=right("a", 0, 2)[:DIGITS])], {"wrong": 1}),
    "a row too many": ([asked(0), answered(0, rows=right("a", 0, 3))], {"wrong": 1}),
    "never asked": ([asked(0), answered(0), answered(7)], {"wrong": 1}),
    "an error": ([asked(0), ["failed", 3.0, "a", 0, "internal", "oops", None]], {"failed": 1}),
    "poison that is encoded": ([asked(0, poison=1), answered(0)], {"failed": 1}),
    "poison, the wrong text": ([asked(0, poison=1), ["failed", 3.0, "a", 0, "unprocessable", "", 0]], {"failed": 1}),
}.items()])
def test_every_fault_is_found(events, found):
    verdict = judge(*events)
    assert faults(verdict) == found
    assert not verdict.clean and verdict.examples


def test_poison_has_to_fail():
    verdict = judge(asked(0, poison=1), ["failed", 3.0, "a", 0, "unprocessable", "", 1])
    assert verdict.clean and verdict.expected == 1


@pytest.mark.parametrize("resends, start, end, lost", [
    (True, 5, 6, 1),    # it should have asked again
    (False, 5, 6, 0),
    (False, 11, 12, 1),  # given up before
    (False, 0.1, 0.9, 1),  # asked after
])
def test_a_restart_excuses_a_client_that_does_not_ask_again(resends, start, end, lost):
    verdict = judge(["client", 0.0, "a", resends], asked(0), ["gave up", 10.0, "a", 0], ["disturbed", start, end, "x"])
    assert (verdict.lost, verdict.excused) == (lost, 1 - lost)


def test_a_late_answer_is_not_a_second_one():
    verdict = judge(["client", 0.0, "a", False], asked(0), ["gave up", 3.0, "a", 0], answered(0, when=4.0),
                    ["disturbed", 2.0, 3.0, "x"])
    assert verdict.clean and verdict.excused == 1


def test_what_was_never_sent_needs_no_answer():
    assert judge(asked(0), ["withdrew", 3.0, "a", 0]).clean
    assert faults(judge(asked(0), ["withdrew", 3.0, "a", 0], answered(0))) == {"doubled": 1}


def test_a_stopping_server_may_refuse():
    events = asked(0), ["failed", 3.0, "a", 0, "unavailable", "stopping", None]
    assert judge(*events, ["disturbed", 2.5, 4.0, "x"]).expected == 1
    assert faults(judge(*events)) == {"failed": 1}


# ---- properties ------------------------------------------------------------------------------------------------------

@st.composite
def histories(draw):
    """Clean ones: each client's requests in order, its answers in any order after them."""
    events = []
    requests = draw(st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 4)), min_size=2, max_size=12))
    counts = dict.fromkeys("abc", 0)
    waiting = []
    for client, size in requests:
        waiting.append((client, counts[client], size))
        events.append(asked(counts[client], size, client))
        counts[client] += 1
        while waiting and draw(st.booleans()):
            client, number, size = waiting.pop(draw(st.integers(0, len(waiting) - 1)))
            events.append(answered(number, size, client))
    return events + [answered(number, size, client) for client, number, size in waiting]


def places(events):
    return [place for place, event in enumerate(events) if event[0] == "answered"]


@settings(max_examples=60, deadline=None)
@given(histories(), st.data())
def test_each_single_fault_is_found_and_named(events, data):
    assert judge(*events).clean
    place = data.draw(st.sampled_from(places(events)))
    assert faults(judge(*events[:place], *events[place + 1:])) == {"lost": 1}
    assert faults(judge(*events, events[place])) == {"doubled": 1}
    spoiled = list(events)
    spoiled[place] = [*events[place][:4], "0" * len(events[place][4])]
    assert faults(judge(*spoiled)) == {"wrong": len(events[place][4]) // DIGITS}


@settings(max_examples=60, deadline=None)
@given(histories(), st.data())
def test_two_exchanged_answers_are_found(events, data):
    pair = data.draw(st.permutations(places(events)))[:2]
    first, second = (events[place] for place in pair)
    spoiled = list(events)
    spoiled[pair[0]], spoiled[pair[1]] = [*first[:4], second[4]], [*second[:4], first[4]]
    verdict = judge(*spoiled)
    same_size = len(first[4]) == len(second[4])
    assert faults(verdict) == ({"misrouted": 2 * len(first[4]) // DIGITS} if same_size else {"wrong": 2})
