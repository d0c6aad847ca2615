"""The ``statistic`` object of a status reply: the original's names (CONTRACT 6.5), in bounded memory."""
import sys

import pytest
from bert_serving.server.core.statistics import ACTIVE_SECONDS, MAX_CLIENTS, MAX_SIZES, WINDOW, Histogram, Statistics

ALWAYS = {"num_data_request", "num_total_seq", "num_sys_request", "num_total_request", "num_total_client",
          "num_active_client"}


def five(name):
    return {f"{kind}_{name}" for kind in ("avg", "min", "max", "num_min", "num_max")}


def test_keys_before_anything_happened():
    assert set(Statistics(0.0).to_status(1.0)) == ALWAYS


def test_keys_after_a_command():
    statistics = Statistics(0.0)
    statistics.command(b"a")
    assert set(statistics.to_status(1.0)) == ALWAYS | five("request_per_client")


def test_keys_after_an_encode_request():
    statistics = Statistics(0.0)
    statistics.request(b"a", 3, 1.0)
    assert set(statistics.to_status(1.0)) == ALWAYS | five("request_per_client") | five("size_per_request") \
        | five("last_two_interval") | five("request_per_second")


def test_values():
    statistics = Statistics(10.0)
    statistics.command(b"asks only")
    for identity, size, now in [(b"a", 3, 12.0), (b"a", 3, 12.5), (b"b", 1, 13.0), (b"a", 8, 14.0)]:
        statistics.request(identity, size, now)
    values = statistics.to_status(15.0)
    assert (values["num_data_request"], values["num_sys_request"], values["num_total_request"]) == (4, 1, 5)
    assert (values["num_total_seq"], values["num_total_client"], values["num_active_client"]) == (15, 3, 2)
    assert [values[f"{kind}_size_per_request"] for kind in ("avg", "min", "max", "num_min", "num_max")] \
        == [15 / 4, 1, 8, 1, 1]
    assert [values[f"{kind}_request_per_client"] for kind in ("avg", "min", "max", "num_min", "num_max")] \
        == [5 / 3, 1, 3, 2, 1]
    assert [values[f"{kind}_last_two_interval"] for kind in ("avg", "min", "max", "num_min", "num_max")] \
        == [1.0, 0.5, 2.0, 2, 1]
    assert (values["min_request_per_second"], values["max_request_per_second"]) == (0.5, 2.0)


@pytest.mark.parametrize("later, active", [(ACTIVE_SECONDS - 1, 1), (ACTIVE_SECONDS, 0)])
def test_a_client_is_active_for_three_minutes(later, active):
    statistics = Statistics(0.0)
    statistics.request(b"a", 1, 100.0)
    statistics.command(b"b")
    assert statistics.to_status(100.0 + later)["num_active_client"] == active


def test_the_window_holds_the_last_intervals_every_one_of_them():
    statistics = Statistics(0.0)
    for number in range(1, WINDOW + 1):
        statistics.request(b"a", 1, float(number))
    now = float(WINDOW)
    for _ in range(WINDOW):
        now += 2.0
        statistics.request(b"a", 1, now)
    values = statistics.to_status(now)
    assert (values["min_last_two_interval"], values["num_min_last_two_interval"]) == (2.0, WINDOW)


def rates(statistics, now):
    values = statistics.to_status(now)
    return [values[f"{kind}_request_per_second"] for kind in ("min", "avg", "max")]


def test_a_rate_is_of_a_span_not_of_two_requests_that_come_at_once():
    statistics = Statistics(5.0)
    statistics.request(b"a", 1, 5.0)
    statistics.request(b"a", 1, 5.0)
    assert rates(statistics, 5.0) == [2.0, 2.0, 2.0], "two in the first second"
    assert rates(statistics, 9.0) == [0.5, 0.5, 0.5], "and none in the next three"
    statistics.request(b"a", 1, 9.0)
    for _ in range(3000):
        statistics.request(b"a", 1, 9.5)
    statistics.request(b"a", 1, 10.0)
    assert rates(statistics, 10.0) == [3 / 4, 3004 / 5, 3001.0]


def test_rates_of_a_busy_server_are_those_that_it_has():
    statistics = Statistics(0.0)
    for number in range(1, 10_001):
        statistics.request(b"a", 1, number / 1000)
    assert rates(statistics, 10.0) == pytest.approx([1000.0, 1000.0, 1000.0], rel=0.01)
    assert len(statistics.spans) == 10
    for second in range(11, 2 * WINDOW + 20):
        statistics.request(b"a", 1, float(second))
    assert rates(statistics, 1e3) == [1.0, 1.0, 1.0] and len(statistics.spans) == WINDOW


def test_memory_is_bounded_and_totals_stay_right():
    statistics = Statistics(0.0)
    for number in range(5 * MAX_CLIENTS):
        statistics.request(b"client %d" % number, number + 1, float(number))
    values = statistics.to_status(5.0 * MAX_CLIENTS)
    assert values["num_total_client"] == values["num_data_request"] == 5 * MAX_CLIENTS
    assert len(statistics.clients) <= MAX_CLIENTS
    assert len(statistics.sizes) <= MAX_SIZES
    assert len(statistics.intervals) <= WINDOW
    assert sys.getsizeof(statistics.clients) < 200_000


def test_the_busiest_clients_are_kept():
    statistics = Statistics(0.0)
    for number in range(3 * MAX_CLIENTS):
        statistics.request(b"client %d" % number, 1, float(number))
        statistics.request(b"regular", 1, float(number))
    assert statistics.to_status(0.0)["max_request_per_client"] == 3 * MAX_CLIENTS


# ---- our own ---------------------------------------------------------------------------------------------------------

def test_a_histogram_counts_each_value_once_in_the_first_bucket_that_holds_it():
    histogram = Histogram((0.1, 1.0, 10.0))
    for value in (0.0, 0.1, 0.2, 1.0, 10.5, 1e9, -0.001):
        histogram.observe(value)
    status = histogram.to_status()
    assert status["bounds"] == [0.1, 1.0, 10.0]
    assert status["counts"] == [3, 2, 0, 2]
    assert status["sum"] == pytest.approx(1e9 + 11.799)


def test_how_requests_ended():
    statistics = Statistics(0.0)
    for ending in [("ok", 3, 12), ("ok", 1, 5), ("overloaded", 64, 0), ("bad_request", 0, 0)]:
        statistics.ended(*ending)
    assert statistics.to_ours()["outcomes"] == {
        "ok": {"requests": 2, "sentences": 4, "tokens": 17},
        "overloaded": {"requests": 1, "sentences": 64, "tokens": 0},
        "bad_request": {"requests": 1, "sentences": 0, "tokens": 0}}


def test_what_packing_and_repeats_save():
    statistics = Statistics(0.0)
    # Three sequences, the last two of equal text: packed 3 + 7, where a padded batch would have computed 3 * 7.
    statistics.job([3, 7, 7], 10, {"tokenize": 0.002, "compute": 0.3})
    statistics.job([], 0, {})  # a worker that counts nothing
    ours = statistics.to_ours()
    assert ours["tokens"] == {"computed": 10, "saved_by_packing": 4, "saved_by_repeats": 7}
    assert 3 * 7 == sum(ours["tokens"].values())
    assert sum(ours["histograms"]["batch_sentences"]["counts"]) == 1
    assert ours["histograms"]["tokenizing_seconds"]["sum"] == 0.002
    assert ours["histograms"]["computing_seconds"]["sum"] == 0.3
