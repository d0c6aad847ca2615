"""The page that Prometheus reads, parsed by Prometheus' own parser; on a real server in tests/integration."""
import json
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
from bert_serving.client.errors import DeadlineError, UnavailableError
from bert_serving.server.core.statistics import Statistics
from bert_serving.server.proxy.app import create_app
from bert_serving.server.proxy.metrics import HISTOGRAMS, Metrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_open
from prometheus_client.parser import text_string_to_metric_families as parse

from .conftest import told

OPEN = "application/openmetrics-text; version=1.0.0"


def status():
    """What a server says, as far as it matters here."""
    statistics = Statistics(0.0)
    statistics.request(b"a", 3, 1.0)
    statistics.command(b"b")
    statistics.ended("ok", 3, 12)
    statistics.ended("overloaded", 64, 0)
    statistics.job([4, 4, 4], 8, {"tokenize": 0.002, "compute": 0.3})
    for seconds in (0.0002, 0.3, 100.0):
        statistics.waiting.observe(seconds)
    return {
        "bert_serving_version": "2.0.0", "model_name": 'a "model"\\', "engine": "echo", "max_seq_len": None,
        "ready": True, "server_start_time": "2026-01-02 03:04:05.678901", "max_batch_size": 256,
        "statistic": statistics.to_status(2.0), **statistics.to_ours(), "tokens_per_second": 1234.5,
        "queue": {"requests": 2, "sentences": 7, "bytes": 100, "seconds": 0.25, "held_bytes": 5},
        "results": {"sent": 9, "held": 1, "dropped": 0, "expired": 0}, "counts": {"redispatched": 6},
        "workers": [{"slot": 0, "state": "ready", "jobs": 4, "sentences": 40, "restarts": 1, "out": 2},
                    {"slot": 3, "state": "lost", "jobs": 0, "sentences": 0, "restarts": 3, "out": 0}]}


@pytest.fixture
def metrics():
    return Metrics(status, lambda: 0.1)


def samples(page, parser=parse):
    """(name, labels) -> value"""
    return {(sample.name, *sorted(sample.labels.items())): sample.value
            for family in parser(page.decode()) for sample in family.samples}


@pytest.mark.parametrize("accept, parser, media_type", [("", parse, "text/plain"), (OPEN, parse_open, OPEN)])
def test_a_parser_that_is_not_ours_reads_it(metrics, accept, parser, media_type):
    page, content_type = metrics.page(accept)
    assert content_type.startswith(media_type)
    values = samples(page, parser)
    assert values["bert_serving_up",] == values["bert_serving_ready",] == 1
    assert values["bert_serving_requests_total", ("outcome", "ok")] == 1
    assert values["bert_serving_sentences_total", ("outcome", "overloaded")] == 64
    assert values["bert_serving_tokens_total", ("outcome", "ok")] == 12
    assert values["bert_serving_queue_sentences",] == 7
    assert values["bert_serving_backlog_seconds",] == 0.25
    assert values["bert_serving_held_bytes",] == 5
    assert values["bert_serving_repeats_saved_tokens_total",] == 4
    assert values["bert_serving_redispatched_total",] == 6
    assert [values["bert_serving_workers", ("state", state)] for state in ("starting", "ready", "lost", "stopped")] \
        == [0, 1, 1, 0]
    assert values["bert_serving_worker_restarts_total", ("worker", "3")] == 3
    assert ("bert_serving_server_info", ("engine", "echo"), ("max_seq_len", "None"), ("model", 'a "model"\\'),
            ("version", "2.0.0")) in values


@pytest.mark.parametrize("name", HISTOGRAMS)
def test_buckets_grow_up_to_the_count(metrics, name):
    family, = (family for family in parse(metrics.page("")[0].decode()) if family.name == "bert_serving_" + name)
    assert family.type == "histogram"
    buckets = [(float(sample.labels["le"]), sample.value) for sample in family.samples if "le" in sample.labels]
    assert buckets == sorted(buckets) and buckets[-1][0] == float("inf")
    count, = (sample.value for sample in family.samples if sample.name.endswith("_count"))
    assert [value for _, value in buckets] == sorted(value for _, value in buckets)
    assert buckets[-1][1] == count


def test_a_value_is_in_its_bucket(metrics):
    values = samples(metrics.page("")[0])
    waiting = "bert_serving_waiting_seconds"
    bounds = ("0.0001", "0.00025", "0.25", "0.5", "60.0", "+Inf")
    assert [values[waiting + "_bucket", ("le", bound)] for bound in bounds] == [0, 1, 1, 2, 2, 3]
    assert values[waiting + "_sum",] == pytest.approx(100.3002)


def test_a_server_that_does_not_answer():
    def status():
        raise DeadlineError("no answer")

    metrics = Metrics(status, lambda: 0.1)
    metrics.request("GET", "/livez", 200, 0.1)
    values = samples(metrics.page("")[0])
    assert values["bert_serving_up",] == values["bert_serving_ready",] == 0
    assert values["bert_serving_http_requests_total", ("method", "GET"), ("route", "/livez"), ("status", "200")] == 1
    assert not any(name.startswith("bert_serving_queue") for name, *_ in values)


def test_a_server_is_ready_when_readyz_says_so():
    """Its workers have been ready, and now none computes."""
    def check():
        raise UnavailableError("golden sentences did not come back")

    values = samples(Metrics(status, check).page("")[0])
    assert (values["bert_serving_up",], values["bert_serving_ready",]) == (1, 0)
    assert values["bert_serving_queue_sentences",] == 7, "the other numbers are there all the same"


def test_http_requests_are_counted_by_route_not_by_path(fake):
    http = create_app(fake, SimpleNamespace(server_status=status(), encode=fake.encode), told()).test_client()
    http.post("/encode", json={"id": 1, "texts": ["a"]})
    http.post("/encode", json={})
    for number in range(20):
        http.open(f"/nowhere/{number}", method=f"METHOD{number}")
    page = http.get("/metrics", headers={"Accept": "text/plain"}).data
    counted = {key: value for key, value in samples(page).items() if key[0] == "bert_serving_http_requests_total"}
    assert counted == {
        ("bert_serving_http_requests_total", ("method", "POST"), ("route", "/encode"), ("status", "200")): 1,
        ("bert_serving_http_requests_total", ("method", "POST"), ("route", "/encode"), ("status", "400")): 1,
        ("bert_serving_http_requests_total", ("method", "any"), ("route", "none"), ("status", "404")): 20}


# ---- docker/grafana.json ---------------------------------------------------------------------------------------------

GRAFANA = json.loads((Path(__file__).parents[3] / "docker/grafana.json").read_text(encoding="utf-8"))
EXPRESSIONS = sorted({target["expr"] for panel in GRAFANA["panels"] for target in panel["targets"]})


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_the_grafana_dashboard_asks_only_for_what_there_is(metrics, expression):
    metrics.request("GET", "/livez", 200, 0.1)
    values = samples(metrics.page("")[0])
    labels = {name: {label for key, *labels in values if key == name for label, _ in labels} for name, *_ in values}
    used = re.findall(r"(bert_serving_\w+)\{([^}]*)\}", expression)
    assert used and expression.count("(") == expression.count(")")
    for name, selector in used:
        assert name in labels
        assert set(re.findall(r"(\w+)(?==~?\"|!=)", selector)) - {"instance"} <= labels[name]


def test_panels_do_not_overlap():
    places = set()
    for panel in GRAFANA["panels"]:
        at = panel["gridPos"]
        squares = {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}
        assert not squares & places and at["x"] + at["w"] <= 24
        places |= squares
