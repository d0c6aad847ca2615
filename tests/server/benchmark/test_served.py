"""A server in a process of its own: it is there, it says why it is not, and it goes."""
import json
import os
import signal

import pytest
from bert_serving.client import BertClient
from bert_serving.client.errors import UnauthorizedError
from bert_serving.server import keys
from bert_serving.server.benchmark.load import BenchmarkError
from bert_serving.server.benchmark.served import Served, from_json, to_json
from bert_serving.server.config import PoolingStrategy, ServerConfig, get_args_parser
from bert_serving.server.errors import ConfigError, PortError, StartError


@pytest.mark.parametrize("line", [
    "", "-engine echo -max_seq_len NONE", "-pooling_strategy REDUCE_MAX -pooling_layer -1 -2", "-cased_tokenization"])
def test_options_there_and_back(line):
    config = ServerConfig.from_args(get_args_parser({}).parse_args(line.split()))
    again = from_json(json.loads(json.dumps(to_json(config))))
    for name, value in vars(config).items():
        assert str(getattr(again, name)) == str(value)
    assert isinstance(getattr(again.pooling_strategy, "fallback", again.pooling_strategy), PoolingStrategy)


def test_a_server_with_options():
    with Served({"engine": "echo", "max_seq_len": 9}) as served:
        served.check()
        with BertClient(**served.address, timeout=20_000, check_length=False) as client:
            assert client.server_config["max_seq_len"] == 9
            assert client.encode(["hello world"]).shape == (1, 768)
        pid = served._child.pid
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_server_on_an_address_of_its_own():
    with Served({"engine": "echo", "host": "127.0.0.2"}) as served, BertClient(**served.address) as client:
        assert client.encode(["hello world"]).shape == (1, 768)


def test_a_server_with_keys(tmp_path):
    keys.make(tmp_path / "keys")
    with Served({"engine": "echo", "curve_dir": str(tmp_path / "keys")}) as served:
        with BertClient(**served.address, timeout=20_000) as client:
            assert client.encode(["hello world"]).shape == (1, 768)
        with pytest.raises(UnauthorizedError):
            BertClient(**{**served.address, "curve_dir": ""}, timeout=20_000)


@pytest.mark.parametrize("options, error, said", [
    ({"engine": "echo", "pooling_layer": [-13]}, ConfigError, "-pooling_layer -13 does not exist"),
    ({"engine": "echo", "cpu": True, "device_map": [0]}, ConfigError, "-cpu and -device_map exclude each other"),
    ({"engine": "echo", "port": 1, "host": "203.0.113.1"}, PortError, "203.0.113.1"),
])
def test_a_server_that_cannot_start_says_why(options, error, said):
    with pytest.raises(error, match=said):
        Served(options)


def test_a_server_that_takes_too_long():
    with pytest.raises(StartError, match="not ready after 0 seconds; -wait_till_ready sets how long"):
        Served({"engine": "echo"}, start_seconds=0)


def test_its_warnings_are_told():
    warnings = []
    with Served({"engine": "echo", "host": "0.0.0.0"}, warn=warnings.append):
        pass
    warning, = warnings
    assert warning.startswith("every host that reaches 0.0.0.0 can use this server")


def test_a_server_that_is_killed():
    with Served({"engine": "echo"}) as served:
        os.kill(served._child.pid, signal.SIGKILL)
        served._child.popen.wait()
        with pytest.raises(BenchmarkError, match="the server has ended"):
            served.check()


def test_who_checks_may_end_the_waiting():
    def check():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Served({"engine": "echo"}, check=check)
