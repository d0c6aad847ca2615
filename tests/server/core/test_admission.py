"""Who is let in, and how often the log says that somebody was not."""
from bert_serving.server.core.admission import MOST_LINES, SAME_SECONDS, Admission


def test_those_on_the_list_and_the_proxy():
    admission = Admission("own")
    assert admission.admits("own") and not admission.admits("alice") and not admission.admits("")
    admission.listed = {"alice": "Alice"}
    assert admission.admits("alice") and not admission.admits("bob")
    admission.listed = {}
    assert not admission.admits("alice") and admission.admits("own")


def test_the_same_is_said_once_in_a_while():
    admission = Admission("own")
    assert admission.refused("10.0.0.1", "it comes without", 0.0) == "refused 10.0.0.1: it comes without"
    for _ in range(30):
        assert admission.refused("10.0.0.1", "it comes without", 1.0) is None
    assert admission.refused("10.0.0.2", "it comes without", 2.0) == (
        "refused 10.0.0.2: it comes without (30 more refusals since the last line)")
    assert admission.refused("10.0.0.1", "its key is strange", 3.0) == "refused 10.0.0.1: its key is strange"
    assert admission.refused("10.0.0.1", "it comes without", SAME_SECONDS) == "refused 10.0.0.1: it comes without"
    assert admission.num_refused == 34


def test_however_many_come_there_are_few_lines_and_little_is_remembered():
    admission = Admission("own")
    lines = [admission.refused(f"10.0.{number // 256}.{number % 256}", "why", number / 100) for number in range(5000)]
    assert sum(line is not None for line in lines) == MOST_LINES
    assert admission.refused("10.1.1.1", "why", SAME_SECONDS) == (
        f"refused 10.1.1.1: why ({5000 - MOST_LINES} more refusals since the last line)")
    assert len(admission._said) <= MOST_LINES


def test_a_quiet_time_makes_room_again():
    admission = Admission("own")
    for number in range(MOST_LINES):
        assert admission.refused(f"10.0.0.{number}", "why", 0.0)
    assert admission.refused("10.0.1.1", "why", SAME_SECONDS - 1) is None
    assert all(admission.refused(f"10.0.2.{number}", "why", SAME_SECONDS) for number in range(MOST_LINES))
