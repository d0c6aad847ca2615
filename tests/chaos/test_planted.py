"""The spoiler does what its name says, once in so many results, and lets everything else pass."""
import json

import pytest

from .planted import Spoiler


def result(number, rows=2):
    header = json.dumps({"dtype": "float32", "shape": [rows, 1]}).encode()
    vectors = b"".join(b"%02d%02d" % (number, row) for row in range(rows))
    return [b"a\0", header, vectors, b"%d" % number]


def passed(kind, every, messages):
    spoiler = Spoiler(kind, every)
    return [frames for message in messages for frames in spoiler(message)]


@pytest.mark.parametrize("kind, seen", [
    ("drop", [1, 2, 4, 5, 7]), ("double", [1, 2, 3, 3, 4, 5, 6, 6, 7]),
    ("swap", [1, 2, 3, 4, 5, 6, 7]), ("reorder", [1, 2, 3, 4, 5, 6, 7])])
def test_one_in_three(kind, seen):
    results = [result(number, rows=1 if kind == "swap" else 2) for number in range(1, 8)]
    assert [int(frames[3]) for frames in passed(kind, 3, results)] == seen


def test_swap_exchanges_what_is_in_them():
    out = passed("swap", 2, [result(1, 1), result(2, 1), result(3), result(4, 1)])
    assert [frames[2] for frames in out] == [result(1, 1)[2], result(3)[2], result(4, 1)[2], result(2, 1)[2]]


def test_swap_waits_for_a_result_of_one_row():
    out = passed("swap", 1, [result(1), result(2, 1), result(3), result(4, 1)])
    assert [frames[2] for frames in out] == [result(1)[2], result(3)[2], result(4, 1)[2], result(2, 1)[2]]


def test_reorder_exchanges_two_rows():
    assert passed("reorder", 1, [result(7, rows=3)])[0][2] == b"070107000702"
    assert passed("reorder", 1, [result(7, rows=1)]) == [result(7, rows=1)]


def test_status_and_errors_pass():
    messages = [[b"a\0", b"{}", b"1"], [b"a\0", b"{}", b"", b"2"]]
    assert passed("drop", 1, messages) == messages
