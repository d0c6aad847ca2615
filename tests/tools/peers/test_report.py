import pytest
from tools.peers import report
from tools.peers.report import Row, shown, times_faster

TOKENS = {"short": 1000, "one": 12}


@pytest.fixture
def rows():
    return {"base": Row("the base", "fp32", "base 1.0", {"short": [2.0, 2.2, 1.8], "one": [0.010] * 3}),
            "mine": Row("mine", "fp32", "mine 2", {"short": [1.0, 1.0, 1.0], "one": [0.004, 0.005, 0.006]},
                        {"short": (1.0, 1.0), "one": (1.0, 1.0)}),
            "peer": Row("a peer", "fp32", "peer 3", {"short": [1.5, 1.2, 1.1]}, {"short": (0.99, 0.998)}),
            "small": Row("small int8", "int8", "small 4", {"short": [0.5, 0.5, 0.5]})}


def test_ratios_are_taken_round_by_round():
    spread = times_faster([1, 2, 1], [2, 2, 3])
    assert (spread.min, spread.median, spread.max) == (1, 2, 3)
    assert shown(spread) == "2.00 (1.00-3.00)"


def test_the_tables(rows):
    text = report.engines(rows, TOKENS, ["mine", "absent"], ["base", "peer", "small"], "base")
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]
    assert ["the base", "fp32", "500 (1.00)", "10.00 ms (1.00)", "-"] in lines
    assert ["mine", "fp32", "1000 (2.00)", "5.00 ms (2.00)", "1.0000 / 1.0000"] in lines
    assert ["a peer", "fp32", "833 (1.64)", "-", "0.9900 / 0.9980"] in lines
    assert ["the base", "2.00 (1.80-2.20)", "2.00 (1.67-2.50)"] in lines
    assert ["a peer", "1.20 (1.10-1.50)", "-"] in lines
    assert "mine in fp32 is, median" in text and lines.count(["small int8", "int8", "2000 (4.00)", "-", "-"]) == 1


def test_each_workload_has_a_line_with_the_fastest_of_the_class(rows):
    rows |= {"int8": Row("mine", "int8", "mine 2", {"short": [0.4, 0.4, 0.4]}),
             "second": Row("mine, too", "fp32", "mine 1", {"short": [0.1] * 3}),
             "bf16": Row("mine", "bf16", "mine 2", {"short": [0.5] * 3, "one": [0.002] * 3})}
    text = report.engines(rows, TOKENS, ["mine", "bf16", "int8"], ["base", "peer", "small"], "base")
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]
    assert ["workload", "mine, fp32", "mine, bf16", "mine, int8"] in lines
    assert ["short", "1.20 (1.10-1.50) than a peer", "-", "1.25 (1.25-1.25) than small int8"] in lines
    assert ["one", "2.00 (1.67-2.50) than the base", "-", "-"] in lines


@pytest.mark.parametrize("reported, compared", [
    ("fp32", "fp32"), ("int16", "bf16"), ("fp32 as 2 x bf16", "fp32"), ("int8+fp32", "int8"), ("int8+bf16", "int8"),
    ("fp32+int8", "fp32"), ("f4e2m1", "f4e2m1")])
def test_classes(reported, compared):
    assert report.precision_class(reported) == compared


def test_without_the_base_there_are_no_multiples(rows):
    del rows["base"]
    assert "| 1000 |" in " ".join(report.engines(rows, TOKENS, ["mine"], ["peer"], "base").split())


def test_who_ran_and_who_did_not(rows):
    assert report.ran({"mine": rows["mine"]}, {"that one": "pip has no package"}).splitlines() == [
        "- mine: mine 2; computes in fp32", "- not run: that one: pip has no package"]


def test_servers():
    rows = {"old": Row("the old one", "fp32", "1.0", {"bulk": [0.01, 0.012, 0.01], "one": [0.02] * 3}),
            "own": Row("ours", "fp32", "2.0", {"bulk": [0.002, 0.002, 0.002], "one": [0.004] * 3, "64": [0.0025] * 3}),
            "own-engine": Row("ours, engine alone", "fp32", "x", {"bulk": [0.0019] * 3, "one": [0.0035] * 3})}
    text = report.servers(rows, {"bulk": False, "one": True, "64": False}, "old", {"own": "own-engine", "no": "none"})
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]
    assert ["the old one", "100", "20.00 ms", "-"] in lines
    assert ["ours", "500, 5.00 (5.00-6.00)", "4.00 ms, 5.00 (5.00-5.00)", "400"] in lines
    assert ["ours", "0.95 (0.95-0.95)", "+0.50 ms", "0.76 (0.76-0.76)"] in lines
    assert lines.count(["server", "bulk", "one", "64"]) == 2
