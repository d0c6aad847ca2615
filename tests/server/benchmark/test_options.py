"""The command line of bert-serving-benchmark."""
import pytest
from bert_serving.server.benchmark.load import Load
from bert_serving.server.benchmark.options import get_parser, parse
from bert_serving.server.benchmark.sweeps import SWEEPS, Setting
from bert_serving.server.errors import ConfigError


def parsed(line):
    return parse(line.split(), {})


def test_defaults():
    benchmark = parsed("")
    assert benchmark.tests == {name: sweep.values for name, sweep in SWEEPS.items()}
    assert benchmark.running is None
    assert (benchmark.load, benchmark.usual) == (Load(size=256, seconds=5), Setting(0, {}, 1, 256, 25))
    assert "port" not in benchmark.server, "a free one"


def test_options_of_the_server_go_to_the_server():
    server = parsed("-engine echo -max_seq_len NONE -pooling_strategy CLS_TOKEN -port 7000 -cased_tokenization").server
    assert (server["engine"], server["max_seq_len"], server["port"]) == ("echo", None, 7000)
    assert server["pooling_strategy"] == "FIRST_TOKEN" and server["do_lower_case"] is False


def test_options_in_the_environment():
    benchmark = parse([], {"BERT_SERVING_NUM_WORKER": "3", "BERT_SERVING_PORT": "7000"})
    assert (benchmark.server["num_worker"], benchmark.server["port"]) == (3, 7000)


@pytest.mark.parametrize("line, tests", [
    ("-tests num_client", {"num_client": (1, 4, 16, 64)}),
    ("-tests pooling_layer num_client -test_pooling_layer -1 -2",
     {"pooling_layer": [-1, -2], "num_client": (1, 4, 16, 64)}),
    ("-test_max_seq_len 8 --test_client_batch_size -test_max_batch_size -test_pooling_layer -test_num_worker",
     {"max_seq_len": [8], "num_client": (1, 4, 16, 64)}),
    ("-ip there", {"client_batch_size": (1, 16, 256, 4096), "num_client": (1, 4, 16, 64)}),
    ("-ip there -test_max_seq_len -test_num_client", {"client_batch_size": (1, 16, 256, 4096)}),
])
def test_tests(line, tests):
    assert parsed(line).tests == tests


def test_a_running_server():
    assert parsed("-ip there").running == {"ip": "there", "port": 5555, "port_out": 5556, "curve_dir": ""}
    assert parsed("-ip there -port 7 -port_out 8 -curve_dir keys").running == {
        "ip": "there", "port": 7, "port_out": 8, "curve_dir": "keys"}


def test_how_much():
    benchmark = parsed("-num_client 2 -client_batch_size 8 -num_words 5 -num_repeat 3 -num_run 1 -wait_till_ready 9")
    assert benchmark.usual == Setting(0, {}, 2, 8, 5)
    assert benchmark.load.num_repeat == 3 and benchmark.num_run == 1 and benchmark.start_seconds == 9


@pytest.mark.parametrize("line, said", [
    ("-ip there -max_seq_len 40", "-ip names a server that runs, so -max_seq_len cannot be set"),
    ("-ip there -tests max_seq_len", "the test of max_seq_len starts servers of its own"),
    ("-ip there -test_num_worker 2", "the test of num_worker starts servers of its own"),
    ("-tests num_client -test_max_seq_len 8", "-test_max_seq_len has values, but -tests leaves max_seq_len out"),
    ("-tests num_client -test_num_client", "there is nothing to measure; choose from max_seq_len, "),
    ("-num_repeat 2", "-num_repeat is 2, and the first 2 do not count; expected 3 or more"),
    ("-client_sentence_file a -num_words 5", "-client_sentence_file leaves nothing to "),
    ("-client_sentence_file a -client_vocab_file b", "-client_sentence_file leaves nothing to "),
    ("-plot", "-plot needs -output_dir"),
    ("-port 7 -port_out 7", "-port and -port_out are both 7"),
])
def test_what_does_not_go_together(line, said):
    with pytest.raises(ConfigError, match=said):
        parsed(line)


@pytest.mark.parametrize("line, said", [
    ("-tests latency", "argument -tests/--tests: invalid choice: 'latency'"),
    ("-test_max_seq_len 3", "'3' is not a length"),
    ("-test_max_seq_len none", "NONE is no length to fill"),
    ("-test_num_client 0", "0 is too small"),
    ("-test_pooling_layer last", "invalid int value: 'last'"),
    ("-seconds 1 -num_repeat 5", "not allowed with argument"),
    ("-seconds soon", "invalid number of seconds value: 'soon'"),
    ("-no_such_option", "unrecognized arguments: -no_such_option"),
])
def test_wrong_values_are_one_line(line, said, capsys):
    with pytest.raises(SystemExit) as ended:
        parsed(line)
    assert ended.value.code == 2
    error, = capsys.readouterr().err.splitlines()
    assert error.startswith("bert-serving-benchmark: error: ") and said in error


def test_help_tells_the_tests_and_their_values():
    text = " ".join(get_parser({}).format_help().split())
    for name, sweep in SWEEPS.items():
        assert f"-test_{name} [N ...]" in text and " ".join(map(str, sweep.values)) in text.replace("- ", "-")
