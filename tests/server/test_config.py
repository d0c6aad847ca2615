"""Options: every one of the original's, its default and its aliases; what is wrong is said; environment and flags."""
import argparse
import json
from dataclasses import fields, replace

import pytest
from bert_serving.server.config import (ENGINES, ENVIRONMENT_PREFIX, HANG_FLOOR, HANG_FLOOR_GPU, HANG_SECONDS,
                                        FromModel, PoolingStrategy, ServerConfig, WorkerRange, get_args_parser)
from bert_serving.server.errors import ConfigError


def parse(*words, environ=()):
    return get_args_parser(dict(environ)).parse_args(words)


def configure(*words, environ=()):
    return ServerConfig.from_args(parse(*words, environ=environ))


def refused(capsys, *words, environ=()):
    """What standard error says about options that are refused."""
    with pytest.raises(SystemExit) as ended:
        parse(*words, environ=environ)
    assert ended.value.code == 2
    return capsys.readouterr().err.splitlines()[-1]


# ---- the original's command line (CONTRACT 2.1) ----------------------------------------------------------------------

DEFAULTS = {
    "tuned_model_dir": None, "ckpt_name": "bert_model.ckpt", "config_name": "bert_config.json", "graph_tmp_dir": None,
    "max_seq_len": 25, "do_lower_case": True, "pooling_layer": [-2], "pooling_strategy": PoolingStrategy.REDUCE_MEAN,
    "mask_cls_sep": False, "no_special_token": False, "show_tokens_to_client": False, "no_position_embeddings": False,
    "num_labels": 2,
    "port": 5555, "port_out": 5556, "http_port": None, "http_max_connect": 10, "cors": "*",
    "max_batch_size": 256, "priority_batch_size": 16, "cpu": False, "xla": False, "fp16": False,
    "gpu_memory_fraction": 0.5, "device_map": [], "prefetch_size": 10, "fixed_embed_length": False, "verbose": False,
}


def test_how_many_workers_of_how_many_threads_is_decided_when_the_cores_are_known():
    assert (configure().num_worker, configure().num_threads) == (None, None)


@pytest.mark.parametrize("name", DEFAULTS)
def test_defaults_are_the_originals(name):
    value = getattr(configure(), name)
    assert (value.fallback if isinstance(value, FromModel) else value) == DEFAULTS[name]


VALUES = [
    ("model_dir", "/models/bert", "/models/bert"), ("tuned_model_dir", "x", "x"),
    ("ckpt_name", "m.ckpt-343", "m.ckpt-343"), ("config_name", "c.json", "c.json"), ("graph_tmp_dir", "t", "t"),
    ("max_seq_len", "40", 40), ("max_seq_len", "NONE", None), ("max_seq_len", "none", None),
    ("pooling_layer", "-1", [-1]), ("pooling_layer", "-4 -3 -2 -1", [-4, -3, -2, -1]), ("pooling_layer", "11", [11]),
    ("pooling_strategy", "CLS_TOKEN", PoolingStrategy.FIRST_TOKEN), ("num_labels", "3", 3), ("port", "7777", 7777),
    ("port_in", "7777", 7777), ("port_data", "7777", 7777), ("port_out", "0", 0), ("port_result", "1", 1),
    ("http_port", "8125", 8125), ("http_max_connect", "20", 20), ("cors", "http://a", "http://a"),
    ("num_worker", "4", 4), ("launcher", "ray", "ray"), ("scale_backlog", "0.5", 0.5), ("scale_idle", "9", 9.0),
    ("num_threads", "3", 3), ("max_batch_size", "1", 1), ("priority_batch_size", "0", 0),
    ("gpu_memory_fraction", "0.25", 0.25), ("device_map", "1 0", [1, 0]), ("prefetch_size", "1", 1),
    ("engine", "echo", "echo"), ("host", "0.0.0.0", "0.0.0.0"), ("report_version", "1.9.6", "1.9.6"),
    ("curve_dir", "/etc/keys", "/etc/keys"), ("drain_timeout", "0", 0.0), ("max_queue_mb", "0.5", 0.5),
]
ALIASES = {"port_in": "port", "port_data": "port", "port_result": "port_out"}
BESIDE = {"http_max_connect": {"http_port": "0"}, "cors": {"http_port": "0"},
          **dict.fromkeys(("scale_backlog", "scale_idle"), {"launcher": "ray", "num_worker": "1-2"})}
"""Option -> others that it needs."""


def beside(name):
    return [word for other, value in BESIDE.get(name, {}).items() for word in (f"-{other}", value)]


@pytest.mark.parametrize("dash", ["-", "--"])
@pytest.mark.parametrize("name, given, value", VALUES)
def test_values(dash, name, given, value):
    assert getattr(configure(dash + name, *given.split(" "), *beside(name)), ALIASES.get(name, name)) == value


def test_a_value_after_an_equals_sign():
    assert configure("-port=1", "--num_worker=3", "-pooling_layer=-3").port == 1


def test_an_unambiguous_beginning_is_enough():
    assert configure("-device", "0", "-gpu", "0.9", "-pooling_s", "NONE").device_map == [0]


@pytest.mark.parametrize("flag", ["mask_cls_sep", "no_special_token", "show_tokens_to_client", "no_position_embeddings",
                                  "cpu", "xla", "fp16", "fixed_embed_length", "verbose"])
def test_flags(flag):
    assert getattr(configure("-" + flag), flag) is getattr(configure("--" + flag), flag) is True
    assert getattr(configure(), flag) is False


@pytest.mark.parametrize("words, value", [
    (["-cased_tokenization"], False), (["-uncased_tokenization"], True), (["--cased_tokenization"], False)])
def test_case(words, value):
    assert configure(*words).do_lower_case is value


def test_case_is_one_or_the_other(capsys):
    assert "not allowed with" in refused(capsys, "-cased_tokenization", "-uncased_tokenization")


def test_version(capsys):
    from bert_serving.server import __version__
    with pytest.raises(SystemExit) as ended:
        parse("-version")
    assert ended.value.code == 0 and __version__ in capsys.readouterr().out


def test_help_names_every_option_and_its_default(capsys):
    with pytest.raises(SystemExit) as ended:
        parse("-h")
    assert ended.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    for f in fields(ServerConfig):
        for name in f.metadata.get("flags") or [f.name]:
            assert f"-{name}" in text
    assert "(default: 5555)" in text and "(default: the model's own, else 25)" in text


# ---- what is wrong is said -------------------------------------------------------------------------------------------

WRONG = [
    ("port", "http", "port"), ("port", "65536", "65535"), ("port_out", "-1", "65535"),
    ("http_port", "99999", "65535"), ("num_worker", "-1", "a range as 1-8"),
    ("num_worker", "0-3", "a range as 1-8"), ("num_worker", "4-2", "a range as 1-8"), ("scale_idle", "0", "above 0"),
    ("num_threads", "0", "from 1"), ("num_worker", "two", "a whole number, or a range"), ("num_worker", "1-2-3", "1-8"),
    ("max_batch_size", "0", "from 1"), ("priority_batch_size", "-1", "from 0"),
    ("max_seq_len", "3", "above 3, or NONE"), ("max_seq_len", "-5", "above 3"),
    ("max_seq_len", "long", "above 3, or NONE"), ("pooling_layer", "last", "int"),
    ("pooling_strategy", "MEAN", "REDUCE_MEAN"), ("pooling_strategy", "reduce_mean", "REDUCE_MEAN"),
    ("gpu_memory_fraction", "0", "above 0"), ("gpu_memory_fraction", "1.5", "up to 1"),
    ("gpu_memory_fraction", "nan", "fraction"), ("device_map", "-1", "from 0"), ("device_map", "cpu", "whole number"),
    ("engine", "torch", "graph"), ("job_timeout", "-1", "seconds"), ("start_timeout", "nan", "seconds"),
    ("drain_timeout", "inf", "seconds"), ("max_queue_mb", "much", "float"),
]


@pytest.mark.parametrize("name, given, expected", WRONG)
def test_a_bad_value_is_named_with_what_is_expected(capsys, name, given, expected):
    line = refused(capsys, f"-{name}={given}")
    assert name in line and given in line and expected in line


@pytest.mark.parametrize("words, told", [
    (["-port", "7", "-port_out", "7"], "-port and -port_out are both 7"),
    (["-http_port", "5555"], "-http_port is 5555"),
    (["-http_port", "5556"], "-http_port is 5556"),
    (["-worker_port", "5555"], "-worker_port is 5555, as another port is"),
    (["-worker_port", "5556"], "-worker_port is 5556"),
    (["-worker_port", "8125", "-http_port", "8125"], "-worker_port is 8125"),
    (["-num_worker", "0"], "nobody would compute; give -worker_port"),
    (["-worker_timeout", "0.1"], "-worker_timeout is 0.1; expected 0.2 seconds or more"),
    (["-cpu", "-device_map", "0"], "exclude each other"),
    (["-max_queue_mb", "0"], "-max_queue_mb is 0"),
    (["-max_message_mb", "-1"], "-max_message_mb is -1"),
    (["-max_held_mb", "nan"], "-max_held_mb is nan"),
    (["-max_held_client_mb", "inf"], "-max_held_client_mb is inf"),
], ids=" ".join)
def test_options_that_do_not_go_together(words, told):
    with pytest.raises(ConfigError, match=told):
        configure(*words)


def test_ports_may_all_be_any():
    assert configure("-port", "0", "-port_out", "0", "-http_port", "0", "-worker_port", "0").port == 0


def test_a_server_may_do_without_workers_of_its_own_where_others_may_join():
    assert configure("-num_worker", "0", "-worker_port", "0").num_worker == 0


@pytest.mark.parametrize("words, on_gpu, expected", [
    ([], False, (HANG_SECONDS, HANG_FLOOR)), ([], True, (HANG_SECONDS, HANG_FLOOR_GPU)),
    (["-xla"], False, (HANG_SECONDS, HANG_SECONDS)), (["-job_timeout", "0.5"], True, (0.5, 0.5)),
    (["-job_timeout", "90", "-xla"], False, (90.0, 90.0))], ids=str)
def test_how_long_a_worker_may_take(words, on_gpu, expected):
    assert configure(*words).hang_seconds(on_gpu) == expected


def test_fast_requests_fit_into_a_batch():
    assert configure("-max_batch_size", "4").priority_batch_size == 4


def test_a_range_of_workers_is_for_a_cluster():
    assert configure("-num_worker", "2-8", "-launcher", "ray").num_worker == WorkerRange(2, 8)
    assert configure("-launcher", "ray").num_worker == 1
    assert configure("-num_worker", "2-8", "-launcher", "ray").to_status()["num_worker"] == "2-8"
    with pytest.raises(ConfigError, match="-num_worker is the range 2-8, .* give -launcher ray, or a number"):
        configure("-num_worker", "2-8")


# ---- the environment -------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("name, given, value", [entry for entry in VALUES if entry[0] not in ALIASES])
def test_every_option_can_be_given_in_the_environment(name, given, value):
    assert getattr(configure(*beside(name), environ={ENVIRONMENT_PREFIX + name.upper(): given}), name) == value


@pytest.mark.parametrize("given, value", [("1", True), ("true", True), ("YES", True), ("on", True), ("0", False),
                                          ("false", False), ("No", False), ("off", False), ("", False)])
def test_flags_in_the_environment(given, value):
    assert configure(environ={"BERT_SERVING_FP16": given}).fp16 is value


@pytest.mark.parametrize("name, given, value", [
    ("CASED_TOKENIZATION", "1", False), ("CASED_TOKENIZATION", "0", "the model's own, else True"),
    ("UNCASED_TOKENIZATION", "1", True), ("DO_LOWER_CASE", "0", False), ("DO_LOWER_CASE", "1", True)])
def test_case_in_the_environment(name, given, value):
    lower = configure(environ={"BERT_SERVING_" + name: given}).do_lower_case
    assert (repr(lower) if isinstance(lower, FromModel) else lower) == value


def test_the_command_line_wins_over_the_environment():
    config = configure("-port", "1", environ={"BERT_SERVING_PORT": "2", "BERT_SERVING_PORT_OUT": "3"})
    assert (config.port, config.port_out) == (1, 3)


@pytest.mark.parametrize("name, given, expected", [
    ("PORT", "http", "http"), ("FP16", "maybe", "neither true nor false"), ("ENGINE", "torch", ", ".join(ENGINES)),
    ("POOLING_STRATEGY", "MEAN", "REDUCE_MEAN"), ("DEVICE_MAP", "0 x", "0 x")])
def test_a_bad_value_in_the_environment_is_named(capsys, name, given, expected):
    line = refused(capsys, environ={"BERT_SERVING_" + name: given})
    assert f"BERT_SERVING_{name}={given}" in line and expected in line


def test_what_kubernetes_says_of_a_service_called_bert_serving_is_not_for_us():
    config = configure(environ={"BERT_SERVING_PORT": "tcp://10.0.0.1:5555", "BERT_SERVING_SERVICE_HOST": "10.0.0.1",
                                "BERT_SERVING_PORT_5555_TCP": "tcp://10.0.0.1:5555"})
    assert config.port == 5555


# ---- as an object ----------------------------------------------------------------------------------------------------

def test_status_is_plain_json_under_the_originals_names():
    status = configure("-pooling_strategy", "REDUCE_MAX", "-max_seq_len", "NONE", "-cased_tokenization").to_status()
    assert json.loads(json.dumps(status)) == status
    assert set(DEFAULTS) <= set(status)
    assert (status["pooling_strategy"], status["max_seq_len"], status["do_lower_case"]) == (1, None, False)
    assert configure().to_status()["pooling_layer"] == [-2]


def test_the_token_is_shown_to_nobody(capsys):
    environ = {"BERT_SERVING_TERMINATE_TOKEN": "open sesame"}
    config = configure(environ=environ)
    assert config.terminate_token == "open sesame"
    assert "open sesame" not in json.dumps(config.to_status())
    with pytest.raises(SystemExit):
        parse("-h", environ=environ)
    assert "open sesame" not in " ".join(capsys.readouterr().out.split())


def test_attributes_that_are_no_options_are_left_alone():
    assert ServerConfig.from_args(argparse.Namespace(port=7, something="else")).port == 7


def test_a_configuration_is_taken_as_it_is():
    config = configure()
    assert ServerConfig.from_args(config) is config


def test_lists_are_not_shared():
    configure().device_map.append(1)
    assert configure().device_map == []


@pytest.mark.parametrize("name, number", [
    ("NONE", 0), ("REDUCE_MAX", 1), ("REDUCE_MEAN", 2), ("REDUCE_MEAN_MAX", 3), ("FIRST_TOKEN", 4), ("CLS_TOKEN", 4),
    ("LAST_TOKEN", 5), ("SEP_TOKEN", 5), ("CLS_POOLED", 6), ("CLASSIFICATION", 7), ("REGRESSION", 8)])
def test_numbers_of_strategies_are_the_originals(name, number):
    assert PoolingStrategy.from_string(name).value == number


# ---- precision -------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("words, precision", [([], "fp32"), (["-fp16"], "fp16"), (["-precision", "fp16"], "fp16"),
                                              (["-fp16", "-precision", "fp16"], "fp16"),
                                              (["-precision", "int8", "-engine", "lite"], "int8"),
                                              (["-precision", "bf16", "-xla"], "bf16"),
                                              (["-precision", "bf16", "-engine", "graph"], "bf16")])
def test_precision(words, precision):
    config = configure(*words)
    assert config.precision == config.to_status()["precision"] == precision
    assert config.fp16 is config.to_status()["fp16"] is (precision == "fp16")
    assert replace(config, port=1).precision == precision


@pytest.mark.parametrize("precision", ["int8", "fp32", "bf16"])
def test_fp16_is_a_precision(precision):
    with pytest.raises(ConfigError, match=f"-fp16 and -precision {precision} exclude each other"):
        configure("-fp16", "-precision", precision)


# ---- secrets and origins ---------------------------------------------------------------------------------------------

KEY = "a-key-that-is-long-enough"


@pytest.mark.parametrize("words, environ, keys", [
    (("-api_key", KEY, "another-key-of-this-test"), (), [KEY, "another-key-of-this-test"]),
    ((), {"BERT_SERVING_API_KEY": f"{KEY} another-key-of-this-test"}, [KEY, "another-key-of-this-test"]),
    (("-api_key", KEY), {"BERT_SERVING_API_KEY": "another-key-of-this-test"}, [KEY])])
def test_keys_are_given_on_the_command_line_or_in_the_environment(words, environ, keys):
    assert configure("-http_port", "0", *words, environ=environ).api_key == keys


@pytest.mark.parametrize("words", [("-api_key", KEY), ("-api_key_file", "/x")])
def test_keys_without_http_are_a_mistake(words):
    with pytest.raises(ConfigError, match=f"{words[0]} is for the HTTP proxy.*give -http_port, too"):
        configure(*words)


def test_secrets_are_shown_nowhere():
    environ = {"BERT_SERVING_API_KEY": KEY, "BERT_SERVING_TERMINATE_TOKEN": "a-word"}
    config = configure("-http_port", "0", "-api_key_file", "/secret/place", environ=environ)
    shown = json.dumps(config.to_status()) + get_args_parser(environ).format_help()
    for secret in (KEY, "a-word", "/secret/place"):
        assert secret not in shown
    assert {"BERT_SERVING_API_KEY", "BERT_SERVING_API_KEY_FILE",
            "BERT_SERVING_TERMINATE_TOKEN"} <= set(ServerConfig.secret_variables())


@pytest.mark.parametrize("given", ["*", "null", "https://a.example", "http://[::1]:3000,HTTP://localhost:80,null"])
def test_origins(given):
    assert configure("-cors", given, "-http_port", "0").cors == given


@pytest.mark.parametrize("given", ["a.example", "http://a.example/", "http://*.a.example", "http://a.example, http://b",
                                   "", "ftp://a", "http://", "http://a.example?x"])
def test_what_is_no_origin(capsys, given):
    assert "is no origin; expected one like https://example.org" in refused(capsys, "-cors", given)


def test_paths_are_private():
    """So that nobody elsewhere learns what is where on the server's host."""
    names = {name for name in configure().to_status() if name.endswith("_dir")}
    assert set(ServerConfig.private_names()) == names == {"model_dir", "tuned_model_dir", "graph_tmp_dir", "curve_dir"}


# ---- for workers of other hosts --------------------------------------------------------------------------------------

HOSTS_OWN = {"num_worker": 3, "num_threads": 2, "cpu": True, "graph_tmp_dir": "/tmp/x"}


@pytest.mark.parametrize("words", [
    [], ["-max_seq_len", "NONE", "-pooling_layer", "-1", "-2", "-pooling_strategy", "REDUCE_MEAN_MAX"],
    ["-precision", "fp16", "-engine", "graph", "-model_dir", "bert-base", "-cased_tokenization", "-mask_cls_sep"],
    ["-max_batch_size", "7", "-no_special_token", "-xla"]], ids=" ".join)
def test_another_host_computes_what_this_one_does(words):
    config = configure("-port", "7", "-num_worker", "9", *words)
    config = replace(config, max_seq_len=11 if isinstance(config.max_seq_len, FromModel) else config.max_seq_len)
    config = replace(config, **{f.name: getattr(config, f.name).fallback for f in fields(config)
                                if isinstance(getattr(config, f.name), FromModel)})
    sent = json.loads(json.dumps(config.of_the_model("auto")))
    there = ServerConfig.from_the_model(sent, **HOSTS_OWN)
    assert there.of_the_model("auto") == config.of_the_model("auto")
    assert {name: getattr(there, name) for name in HOSTS_OWN} == HOSTS_OWN
    assert (there.engine, there.port) == ("auto", 5555), "ports are not of the model"


def test_secrets_and_places_of_the_server_are_not_of_the_model():
    config = configure("-terminate_token", "secret", "-curve_dir", "/keys", "-graph_tmp_dir", "/graphs")
    sent = config.of_the_model("echo")
    assert "secret" not in str(sent) and "/keys" not in str(sent) and "/graphs" not in str(sent)


def test_a_host_may_have_the_model_elsewhere():
    sent = configure("-model_dir", "/theirs").of_the_model("lite")
    assert ServerConfig.from_the_model(sent, model_dir="/ours").model_dir == "/ours"


def test_what_are_no_options_of_a_model():
    with pytest.raises(ConfigError, match="differ from this version's: .'more'"):
        ServerConfig.from_the_model({**configure().of_the_model("echo"), "more": 1})
    with pytest.raises(ConfigError, match="differ from this version's: .'engine'"):
        ServerConfig.from_the_model({name: value for name, value in configure().of_the_model("echo").items()
                                     if name != "engine"})


def test_another_command_may_have_some_of_the_options(capsys):
    parser = get_args_parser({"BERT_SERVING_NUM_WORKER": "4"}, only=("num_worker", "cpu"))
    assert vars(parser.parse_args(["-cpu"])) == {"num_worker": 4, "cpu": True}
    with pytest.raises(SystemExit):
        parser.parse_args(["-port", "1"])
    assert "unrecognized arguments: -port" in capsys.readouterr().err


@pytest.mark.parametrize("words, told", [
    (["-max_bach_size", "3"], "unrecognized arguments: -max_bach_size 3; did you mean -max_batch_size?"),
    (["--pooling_stratgy=NONE"], "unrecognized arguments: --pooling_stratgy=NONE; did you mean --pooling_strategy?"),
    (["-qqqq"], "unrecognized arguments: -qqqq; -h shows all options"),
    (["-port", "x"], "invalid port value: 'x'"),
])
def test_what_is_no_option_is_told_in_one_line(capsys, words, told):
    with pytest.raises(SystemExit) as end:
        get_args_parser({}).parse_args(words)
    line, = capsys.readouterr().err.splitlines()
    assert end.value.code == 2 and line.startswith("bert-serving-start: error: ") and told in line
