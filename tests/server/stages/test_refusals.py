"""How often the log says that somebody was not let in."""
from bert_serving.server.stages.refusals import MAX_LINES, SAME_SECONDS, Refusals


def test_the_same_is_said_once_in_a_while():
    refusals = Refusals()
    assert refusals.line("10.0.0.1", "it comes without", 0.0) == "refused 10.0.0.1: it comes without"
    for _ in range(30):
        assert refusals.line("10.0.0.1", "it comes without", 1.0) is None
    assert refusals.line("10.0.0.2", "it comes without", 2.0) == (
        "refused 10.0.0.2: it comes without (30 more refusals since the last line)")
    assert refusals.line("10.0.0.1", "its key is strange", 3.0) == "refused 10.0.0.1: its key is strange"
    assert refusals.line("10.0.0.1", "it comes without", SAME_SECONDS) == "refused 10.0.0.1: it comes without"
    assert refusals.count == 34


def test_however_many_come_there_are_few_lines_and_little_is_remembered():
    refusals = Refusals()
    lines = [refusals.line(f"10.0.{number // 256}.{number % 256}", "why", number / 100) for number in range(5000)]
    assert sum(line is not None for line in lines) == MAX_LINES
    assert refusals.line("10.1.1.1", "why", SAME_SECONDS) == (
        f"refused 10.1.1.1: why ({5000 - MAX_LINES} more refusals since the last line)")
    assert len(refusals._same) <= MAX_LINES


def test_a_quiet_time_makes_room_again():
    refusals = Refusals()
    for number in range(MAX_LINES):
        assert refusals.line(f"10.0.0.{number}", "why", 0.0)
    assert refusals.line("10.0.1.1", "why", SAME_SECONDS - 1) is None
    assert all(refusals.line(f"10.0.2.{number}", "why", SAME_SECONDS) for number in range(MAX_LINES))
