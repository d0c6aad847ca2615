from pathlib import Path

import pytest

from bert_serving.server.bulk.options import parse
from bert_serving.server.errors import ConfigError


def test_a_running_server_is_asked_by_default():
    order = parse(["in.csv", "out.npy", "-column", "body"], {"BERT_SERVING_PORT": "77"})
    assert order.address == {"ip": "localhost", "port": 77, "port_out": 5556, "curve_dir": ""} and order.own is None
    assert (order.input, order.format, order.column, order.output) == (Path("in.csv"), "csv", "body", Path("out.npy"))
    assert (order.overwrite, order.in_flight, order.patience) == (False, None, 60.0)


def test_another_server():
    order = parse(["-", "out.parquet", "-ip", "10.0.0.7", "-port", "1", "-port_out", "2", "-curve_dir", "keys",
                   "-timeout", "5", "-in_flight", "9", "--overwrite", "-format", "jsonl"], {})
    assert order.address == {"ip": "10.0.0.7", "port": 1, "port_out": 2, "curve_dir": "keys"}
    assert (order.input, order.format) == (None, "jsonl")
    assert (order.overwrite, order.in_flight, order.patience) == (True, 9, 5.0)


def test_workers_of_its_own_take_the_options_of_a_server():
    order = parse(["in.txt", "out.jsonl", "-own", "-num_worker", "3", "-model_dir", "minilm"], {})
    assert (order.own.num_worker, order.own.model_dir) == (3, "minilm")
    assert (order.own.host, order.own.port, order.own.port_out) == ("127.0.0.1", 0, 0), "it is for nobody else"


@pytest.mark.parametrize("options, message", [
    (["in.txt", "out.npy", "-num_worker", "2", "-cpu"], "-num_worker, -cpu is for workers of its own.*give -own"),
    (["in.txt", "out.npy", "-own", "-ip", "localhost"], "-ip names a server that runs, and -own starts one"),
    (["in.txt", "out.npy", "-own", "-host", "0.0.0.0", "-port", "7"],
     "-host, -port cannot be chosen for workers of its"),
    (["in.txt", "out.npy", "-column", "body"],
     "-column is for formats with names, and the input is text; give -format"),
    (["in.txt", "out.csv"], "out.csv does not end in a format; expected one of .npy, .jsonl, .parquet"),
    (["in.pdf", "out.npy"], "in.pdf does not end in a format that is known"),
])
def test_what_does_not_go_together(options, message):
    with pytest.raises(ConfigError, match=message):
        parse(options, {})
