"""No option is ignored: every one of every command with a value, or in a situation, in which it cannot be used."""
import argparse
from dataclasses import fields

import pytest
from bert_serving.server import cli, machine
from bert_serving.server.benchmark import options as benchmark
from bert_serving.server.bulk import options as bulk
from bert_serving.server.config import ENVIRONMENT_PREFIX, ServerConfig, get_args_parser
from bert_serving.server.doctor import command as doctor
from bert_serving.server.errors import ConfigError, StartError
from bert_serving.server.join import get_worker_parser
from bert_serving.server.service import Service

from ..server.engine.conftest import TinyBert

HERE = ["-port", "0", "-port_out", "0"]
ECHO = ["-engine", "echo"]


@pytest.fixture(scope="module")
def tiny_dir(tmp_path_factory):
    return TinyBert().write_hugging_face(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(autouse=True)
def bare(tmp_path, monkeypatch):
    """Nothing of this user's or this machine's is found or written."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(machine, "gpus", list)


# ---- bert-serving-start, and bert-serving-doctor ---------------------------------------------------------------------

WRONG = {
    "model_dir": [["", "-model_dir is empty; give a value, or leave it out"],
                  ["/no/such", "there is no such directory"]],
    "tuned_model_dir": [["", "is empty"], ["/no/such", "there is no such directory"],
                        ["/", "-engine echo does not", *ECHO]],
    "ckpt_name": [["", "is empty"], ["nope", "there is no checkpoint"], ["nope.safetensors", "has no such file"],
                  ["bert_model.ckpt", "there is no checkpoint"], ["nope", "-engine echo does not", *ECHO]],
    "config_name": [["", "is empty"], ["nope", "has no such file"], ["bert_config.json", "has no such file"],
                    ["nope", "-engine echo has none", *ECHO]],
    "graph_tmp_dir": [["", "is empty"], ["/proc/x", "-engine echo does not", *ECHO],
                      ["/tmp", "for workers on this host", "-num_worker", "0", "-worker_port", "0"]],
    "cache_mb": [["-1", "from 0"], ["9", "-engine echo does not", *ECHO],
                 ["9", "for workers on this host", "-num_worker", "0", "-worker_port", "0"]],
    "max_seq_len": [["3", "above 3, or NONE"], ["41", "beyond the model's 40 positions"]],
    "do_lower_case": [["1", "unrecognized arguments: -do_lower_case"]],
    "pooling_layer": [["last", "invalid int value"],
                      ["-4", "expected -3 (first) to -1 (last), or 0 (first) to 2 (last)"],
                      ["3", "does not exist in a model of 3 layers"],
                      ["0", "reads the last layer", "-pooling_strategy", "CLS_POOLED"]],
    "pooling_strategy": [["MEAN", "choose from NONE, REDUCE_MAX"],
                         ["REDUCE_MEAN+NONE", "NONE cannot be joined with another strategy"]],
    "normalize": [["maybe", "neither yes nor no"], ["yes", "-engine echo does not", *ECHO],
                  ["yes", "does not go with -pooling_strategy NONE", "-pooling_strategy", "NONE"]],
    "prompt_name": [["", "is empty"], ["query", "it has none at all"], ["query", "-engine echo does not", *ECHO]],
    "special_tokens_in_text": [["maybe", "neither yes nor no"], ["yes", "-engine echo does not", *ECHO]],
    "mask_cls_sep": [], "no_special_token": [], "show_tokens_to_client": [], "verbose": [], "cpu": [], "fp16": [
        ["", "exclude each other", "-precision", "fp32"],
        ["", "-engine lite has no -precision fp16", "-engine", "lite"]],
    "no_position_embeddings": [["", "-engine echo does not", *ECHO]],
    "num_labels": [["0", "from 1"], ["3", "is for -pooling_strategy CLASSIFICATION"]],
    "host": [["", "is empty"], ["no such host", "expected a host name"]],
    "port": [["http", "port"], ["65536", "65535"]],
    "port_out": [["-1", "65535"]],
    "curve_dir": [["", "is empty"], ["/no/such", "/no/such"]],
    "worker_port": [["70000", "65535"]],
    "http_port": [["70000", "65535"]],
    "http_max_connect": [["0", "from 1", "-http_port", "0"], ["20", "give -http_port, too"]],
    "cors": [["a.example", "is no origin", "-http_port", "0"], ["https://a.example", "give -http_port, too"]],
    "api_key": [["", "is empty", "-http_port", "0"], ["short", "key", "-http_port", "0"],
                ["a-key-that-is-long-enough", "give -http_port, too"]],
    "api_key_file": [["", "is empty", "-http_port", "0"], ["/no/such", "/no/such", "-http_port", "0"],
                     ["/no/such", "give -http_port, too"]],
    "engine": [["torch", "graph"]],
    "num_worker": [["-1", "a range as 1-8"], ["0", "nobody would compute"], ["1-2", "give -launcher ray"],
                   ["0", "-launcher ray starts workers", "-launcher", "ray"]],
    "launcher": [["slurm", "ray"]],
    "scale_backlog": [["0", "above 0"], ["1", "is for a range of workers"]],
    "scale_idle": [["0", "above 0"], ["1", "is for a range of workers"]],
    "num_threads": [["0", "from 1"], ["2", "-num_worker is 0", "-num_worker", "0", "-worker_port", "0"]],
    "max_batch_size": [["0", "from 1"]],
    "priority_batch_size": [["-1", "from 0"]],
    "xla": [["", "-engine echo does not", *ECHO], ["", "-engine lite does without -xla", "-engine", "lite"]],
    "precision": [["fp8", "fp32"], ["int8", "-engine echo has no -precision int8", *ECHO],
                  ["bf16", "-engine echo has no -precision bf16", *ECHO]],
    "gpu_memory_fraction": [["0", "above 0"], ["1.5", "up to 1"], ["-0.1", "above 0"]],
    "device_map": [["-1", "from 0"], ["7", "asks for GPU 7"], ["0", "-engine echo does not", *ECHO],
                   ["0", "exclude each other", "-cpu"], ["0", "for workers on this host", "-launcher", "ray"]],
    "prefetch_size": [["0", "from 1"]],
    "fixed_embed_length": [["", "give both", "-pooling_strategy", "NONE"], ["", "give both", "-max_seq_len", "NONE"]],
    "report_version": [["", "is empty"]],
    "max_queue_mb": [["0", "above 0"]],
    "max_queue_size": [["0", "from 1"]],
    "max_message_mb": [["0", "above 0"]],
    "max_held_mb": [["0", "above 0"]],
    "max_held_client_mb": [["nan", "above 0"]],
    "hold_timeout": [["-1", "seconds"]],
    "job_timeout": [["-1", "seconds"]],
    "worker_timeout": [["0.1", "expected 0.2 seconds or more"], ["5", "give -worker_port, too"]],
    "drain_timeout": [["inf", "seconds"]],
    "start_timeout": [["nan", "seconds"]],
    "terminate_token": [["", "is empty"]],
}
"""Option -> a value (none for a flag), what is said about it, and the options beside it. A flag can always be given a
wrong value in the environment, which is tested for all; those without a row can be used whatever the others are."""

FLAGS = [f.name for f in fields(ServerConfig) if "flags" not in f.metadata and f.metadata["type"] is None]


def test_every_option_has_its_wrong_values():
    assert set(WRONG) == {f.name for f in fields(ServerConfig)}
    assert all(WRONG[name] for name in WRONG if name not in FLAGS)


def refusal(capsys, words, environ=()):
    """What bert-serving-start says about options that are refused."""
    try:
        Service(ServerConfig.from_args(get_args_parser(dict(environ)).parse_args(words)))
    except SystemExit as end:
        assert end.code == 2
        line, = capsys.readouterr().err.splitlines()
        return line
    except StartError as error:
        return f"bert-serving-start: error: {error.message}"
    return pytest.fail("it is ignored")


ROWS = [(name, *row) for name, rows in WRONG.items() for row in rows]


@pytest.mark.parametrize("name, value, told, beside", [
    (name, value, told, beside) for name, value, told, *beside in ROWS],
    ids=lambda value: " ".join(value) if isinstance(value, list) else value)
def test_what_cannot_be_used_is_said_by_the_start_and_by_the_doctor(capsys, tiny_dir, name, value, told, beside):
    given = [f"-{name}"] if name in FLAGS else [f"-{name}", value]
    of_the_model = [] if name == "model_dir" or beside == ECHO else ["-model_dir", str(tiny_dir)]
    words = [*([] if name in ("port", "port_out") else HERE), *of_the_model, *beside, *given]
    line = refusal(capsys, words)
    assert name in line and told in line and "\n" not in line
    try:
        assert doctor.main(words) == 1
    except SystemExit:
        assert line.partition(": error: ")[2] in capsys.readouterr().err
    else:
        assert line.partition(": error: ")[2] in capsys.readouterr().out


@pytest.mark.parametrize("name, value, told, beside", [
    (name, value, told, beside) for name, value, told, *beside in ROWS if name not in (*FLAGS, "do_lower_case")],
    ids=lambda value: " ".join(value) if isinstance(value, list) else value)
def test_what_the_environment_says_counts_as_given(capsys, tiny_dir, name, value, told, beside):
    words = [*([] if name in ("port", "port_out") else HERE), *beside]
    if name != "model_dir" and beside != ECHO:
        words += ["-model_dir", str(tiny_dir)]
    line = refusal(capsys, words, {ENVIRONMENT_PREFIX + name.upper(): value})
    assert told in line or f"{ENVIRONMENT_PREFIX}{name.upper()}" in line


@pytest.mark.parametrize("flag", FLAGS)
def test_a_flag_in_the_environment_is_true_or_false(capsys, flag):
    with pytest.raises(SystemExit):
        get_args_parser({ENVIRONMENT_PREFIX + flag.upper(): "perhaps"})
    assert f"{ENVIRONMENT_PREFIX}{flag.upper()}=perhaps is neither true nor false" in capsys.readouterr().err


@pytest.mark.parametrize("names", [("CASED_TOKENIZATION", "UNCASED_TOKENIZATION"),
                                   ("DO_LOWER_CASE", "CASED_TOKENIZATION")], ids=" ".join)
def test_case_in_the_environment_is_one_or_the_other(capsys, names):
    with pytest.raises(SystemExit):
        get_args_parser({ENVIRONMENT_PREFIX + name: "1" for name in names})
    assert "contradict each other; unset one of them" in capsys.readouterr().err


def test_a_list_in_the_environment_is_not_empty(capsys):
    with pytest.raises(SystemExit):
        get_args_parser({"BERT_SERVING_API_KEY": " "})
    assert "BERT_SERVING_API_KEY is empty; give one or more values, or unset it" in capsys.readouterr().err


@pytest.mark.parametrize("words", [
    ["-cpu", "-gpu_memory_fraction", "0.9"], ["-prefetch_size", "20"], ["-engine", "lite", "-cpu"],
    ["-engine", "echo", "-cpu", "-gpu_memory_fraction", "0.9", "-prefetch_size", "5", "-num_threads", "1"],
    ["-max_batch_size", "8", "-priority_batch_size", "16"], ["-http_port", "0", "-http_max_connect", "20"],
    ["-pooling_layer", "-1", "-pooling_strategy", "CLS_POOLED"], ["-pooling_layer", "0"],
    ["-launcher", "ray", "-worker_timeout", "5"], ["-num_labels", "3", "-pooling_strategy", "CLASSIFICATION"]],
    ids=" ".join)
def test_hints_about_resources_are_welcome_everywhere(words):
    """Start scripts of the original give them whether or not there is a GPU."""
    ServerConfig.from_args(get_args_parser({}).parse_args(words))


# ---- the other commands ----------------------------------------------------------------------------------------------

WORKER = ["-connect", "127.0.0.1:1"]

OTHERS = {
    "bert-serving-worker": (get_worker_parser, WORKER, {
        "connect": [["nowhere", "is no address; expected HOST:PORT"]],
        "curve_dir": [["", "is empty"], ["/no/such", "/no/such"]],
        "patience": [["-1", "seconds"]], "orders": None}),
    "bert-serving-encode": (lambda: bulk.get_parser({}), ["in.txt", "out.npy"], {
        "input": [["-input", "unrecognized"]], "output": [["-output", "unrecognized"]],
        "format": [["pdf", "invalid choice"]],
        "column": [["body", "-column is for formats with names"], ["", "is empty"]],
        "overwrite": None, "ip": [["", "is empty"], ["localhost", "leave one of them out", "-own"]],
        "own": [["", "-port cannot be chosen", "-port", "7"], ["", "-host cannot be", "-host", "0.0.0.0"]],
        "in_flight": [["0", "from 1"]], "timeout": [["-1", "seconds"]]}),
    "bert-serving-benchmark": (lambda: benchmark.get_parser({}), [], {
        "tests": [["speed", "invalid choice"]],
        **{f"test_{name}": [["x", f"argument -test_{name}"]] for name in benchmark.SWEEPS},
        "ip": [["", "is empty"], ["localhost", "-cpu cannot be set", "-cpu"]], "num_client": [["0", "from 1"]],
        "client_batch_size": [["0", "from 1"]], "client_sentence_file": [["", "is empty"],
                                                                         ["x", "one or the other", "-num_words", "3"]],
        "client_vocab_file": [["", "is empty"]], "num_words": [["0", "from 1"]], "seconds": [["-1", "seconds"]],
        "num_repeat": [["1", "expected"]], "num_run": [["0", "from 1"]], "wait_till_ready": [["-1", "seconds"]],
        "output_dir": [["", "is empty"]], "plot": [["", "-plot needs -output_dir"]]}),
}
"""Command -> its parser, what it must be given, and as WRONG; None: it can always be used."""


@pytest.mark.parametrize("command", OTHERS)
def test_every_option_of_the_other_commands_has_its_wrong_values(command):
    parser, _, rows = OTHERS[command]
    known = {f.name for f in fields(ServerConfig)} - set(rows) | {"help", "version"}
    assert {action.dest for action in parser()._actions if action.dest not in known} == set(rows)


CASES = [(command, name, *row[:2], row[2:]) for command, (_, _, rows) in OTHERS.items()
         for name, values in rows.items() for row in values or ()]


@pytest.mark.parametrize("command, name, value, told, beside", CASES, ids=lambda value: str(value))
def test_what_another_command_cannot_use_is_said(capsys, command, name, value, told, beside):
    parser, rest, _ = OTHERS[command]
    is_flag = not any(action.nargs != 0 for action in parser()._actions if action.dest == name)
    words = [*([] if name == "connect" else rest), f"-{name}", *([] if is_flag else [value]), *beside]
    parse = {"bert-serving-worker": join_main, "bert-serving-encode": lambda words: bulk.parse(words, {}),
             "bert-serving-benchmark": lambda words: benchmark.parse(words, {})}[command]
    try:
        parse(words)
    except SystemExit as end:
        assert end.code == 2
        line = capsys.readouterr().err.splitlines()[-1]
    except ConfigError as error:
        line = error.message
    else:
        pytest.fail("it is ignored")
    assert told in line


def join_main(words):
    from bert_serving.server.join import main
    main(words)


def test_server_options_of_a_worker_are_checked_before_it_connects(capsys):
    for words, told in ((["-model_dir", ""], "-model_dir is empty"),
                        (["-graph_tmp_dir", ""], "-graph_tmp_dir is empty"),
                        (["-cpu", "-device_map", "0"], "exclude each other"),
                        (["-num_worker", "1-2"], "is the range")):
        with pytest.raises(SystemExit) as end:
            join_main([*WORKER, *words])
        assert end.value.code == 2 and told in capsys.readouterr().err


# ---- commands whose parsers are made where they run ------------------------------------------------------------------

class Seen(Exception):
    """Carries a parser."""


def parser_of(main, words):
    def parse_args(parser, argv=None):
        raise Seen(parser)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(argparse.ArgumentParser, "parse_args", parse_args)
        with pytest.raises(Seen) as seen:
            main(words)
    return seen.value.args[0]


COMMANDS = {
    "terminate": (cli.terminate, ["-port", "1"], {
        "ip": [["", "is empty"]], "port": [["70000", "65535"]], "timeout": [["-1", "from 0"]],
        "token": [["", "is empty"]], "curve_dir": [["", "is empty"], ["/no/such", "/no/such"]]}),
    "keygen": (cli.keygen, [], {"dir": [["", "is empty"]], "names": None, "worker": None}),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_of_the_small_commands_has_its_wrong_values(command):
    main, _, rows = COMMANDS[command]
    assert {action.dest for action in parser_of(main, [])._actions if action.dest != "help"} == set(rows)


@pytest.mark.parametrize("command, name, value, told", [
    (command, name, *row) for command, (_, _, rows) in COMMANDS.items() for name, values in rows.items()
    for row in values or ()])
def test_what_a_small_command_cannot_use_is_said(capsys, command, name, value, told):
    main, rest, _ = COMMANDS[command]
    try:
        assert main([*rest, *([] if name == "dir" else [f"-{name}"]), value]) != 0
    except SystemExit as end:
        assert end.code == 2
    assert told in capsys.readouterr().err.splitlines()[-1]
