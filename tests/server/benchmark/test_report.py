"""Tables and JSON of runs."""
import json

from bert_serving.server.benchmark.report import BenchmarkResult, Spread, figure, markdown, table, to_json, unchanged


def test_spread():
    assert Spread.of([3, 1, 2]) == Spread(1, 2, 3)
    assert Spread.of([4, 1]) == Spread(1, 2.5, 4)


def test_a_point_is_the_median_of_its_runs(result):
    first = result.points[0]
    assert first.speed == Spread(100, 200, 300)
    assert first.latency(50) == 4


def test_figures_have_three_digits_that_count():
    assert [figure(value) for value in (4404.3, 100, 98.76, 10, 1.526, 0.004)] == \
        ["4404", "100", "98.8", "10.0", "1.53", "0.00"]


def test_table():
    assert table(["name", "n"], [["a", "1"], ["long name", "1234"]]).splitlines() == [
        "| name      |    n |",
        "|-----------|-----:|",
        "| a         |    1 |",
        "| long name | 1234 |"]


def test_a_sweep_as_markdown(result):
    text = markdown(result)
    first, *lines = text.splitlines()
    assert first == "With client_batch_size 10, num_worker 2, max_seq_len NONE, max_batch_size 256, pooling_layer -2 -1"
    assert lines[1].startswith("| `num_client` | sentences/s |")
    assert [cell.strip() for cell in lines[4].split("|")[1:-1]] == \
        ["4", "480", "440", "520", "4.00", "4.00", "120", "110", "130"]
    assert lines[-1] == "Left out: num_client 9: too many of them"
    assert "per client" in text


def test_values_left_out_for_one_reason_share_a_line(result):
    result.left_out = {-7: "no layer -7 of 17", -8: "no layer -8 of 17", 9: "9 are too many"}
    assert markdown(result).splitlines()[-3::2] == ["Left out: num_client -7, -8: no layer … of 17",
                                                    "Left out: num_client 9: 9 are too many"]


def test_one_client_needs_no_column_of_its_own(result):
    result.points = result.points[:1]
    assert "per client" not in markdown(result)


def test_the_sweeps_own_number_is_not_among_those_that_stayed(result):
    assert unchanged(BenchmarkResult("max_seq_len", result.points, server=result.server)).startswith(
        "With num_client 1, client_batch_size 10, num_worker 2, max_batch_size 256")


def test_json(result):
    values = json.loads(json.dumps(to_json({"about": "a test"}, [result])))
    assert values["about"] == "a test"
    sweep, = values["sweeps"]
    assert sweep["name"] == "num_client" and sweep["left_out"] == {"9": "too many of them"}
    assert [point["value"] for point in sweep["points"]] == [1, 4]
    assert sweep["points"][0]["speed"] == {"min": 100, "median": 200, "max": 300}
    assert [run["speed"] for run in sweep["points"][0]["runs"]] == [100, 300, 200]
    assert sweep["points"][1]["runs"][0]["client_speeds"] == [110] * 4
