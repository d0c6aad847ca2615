"""Every example runs against a real server, and what it prints shows that it did what it says.

Most ask the echo server, which is quick. Where it matters what the vectors mean, the default model answers. Options of
the examples make them small here.
"""
from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from ..conftest import RunningServer

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "example"
SECONDS = 50


@pytest.fixture(scope="module")
def model_server():
    """The default model, and HTTP."""
    yield from served("-http_port", "0")


@pytest.fixture(scope="module")
def token_server():
    """The default model, all layers of every token."""
    yield from served("-pooling_strategy", "NONE", "-max_seq_len", "25", "-pooling_layer", *map(str, range(-1, -7, -1)))


def served(*options):
    server = RunningServer("-cpu", "-port", "0", "-port_out", "0", *options)
    try:
        yield server.ready(300)
        assert server.stop() == 0, server.log
    finally:
        server.close()


def run(name: str, server: RunningServer, *options: object) -> str:
    """What an example prints."""
    done = end(name, server, *options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def end(name: str, server: RunningServer, *options: object) -> subprocess.CompletedProcess[str]:
    """How an example ended, well or not."""
    path, http = str(EXAMPLES / name), f"http://127.0.0.1:{server.http_port}"
    sockets = ["-port", server.port, "-port_out", server.port_out]
    command = {".sh": ["sh", path, http], ".mjs": ["node", path, http],
               ".py": [sys.executable, path, "-ip", "127.0.0.1",
                       *(["-http_port", server.http_port] if name in HTTP else sockets)]}[Path(name).suffix]
    return subprocess.run([*map(str, [*command, *options])], capture_output=True, text=True, timeout=SECONDS)


def number(pattern: str, text: str) -> float:
    """The number that a pattern's group matches."""
    found = re.search(pattern, text)
    assert found, f"{pattern!r} is not in:\n{text}"
    return float(found[1])


# ---- with the echo server: it is shapes and order that matter --------------------------------------------------------

HTTP = {"http_python.py", "openai_client.py"}

ECHO = {
    "encode.py": ([], ["sentences -> float32 (", "sentences/s"]),
    "fetch_later.py": ([], ["request 2: (1, 768)", "request 4: (3, 768)", "  (6, 768)"]),
    "broadcast.py": ([], ["the first listener hears (5, 768)", "the second listener hears (5, 768)"]),
    "endless_stream.py": (["-num_batch", 30], ["request 31: (64, 768), 1920 sentences so far"]),
    "asyncio_tasks.py": ([], ["100 tasks, each with its own answer of shape (1, 768)", "request 106: (2, 768)"]),
    "monitor.py": (["-num_look", 2, "-pause", 0], ["bert-serving 2.", "workers: ", " requests of "]),
    "http_curl.sh": ([], ['{"id":123,"result":[[',
                          '{"tokens":[["[CLS]","hello","world","[SEP]"]]', '"ready":true', " 200"]),
    "http_python.py": ([], ["2 vectors of 768 numbers", "answered with 400: element 1 is empty"]),
    "openai_client.py": ([], ["echo: 2 vectors of 768 numbers, for 8 tokens"]),
}
"""Example -> its options, and words of its output."""


@pytest.mark.parametrize("name", ECHO)
def test_example(name, echo_server):
    if name.endswith(".sh") and not shutil.which("curl"):
        pytest.skip("there is no curl here")
    options, words = ECHO[name]
    output = run(name, echo_server, *options)
    for word in words:
        assert word in output, f"{word!r} is not in:\n{output}"


def test_broadcast_prints_whole_lines(echo_server):
    lines = run("broadcast.py", echo_server).splitlines()
    assert sorted(lines) == sorted(f"the {listener} listener hears ({number}, 768)"
                                   for listener in ("first", "second") for number in range(1, 6))


@pytest.mark.parametrize("content, said", [(None, "No such file"), (b"\xff\xfe", "can't decode"),
                                           (b"text\n", "no headings")])
def test_a_faq_that_is_none_is_an_error_of_one_line(echo_server, tmp_path, content, said):
    faq = tmp_path / "faq.md"
    if content is not None:
        faq.write_bytes(content)
    done = end("faq_search.py", echo_server, "-faq", faq, "-question", "why?")
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert str(faq) in done.stderr.splitlines()[-1] and said in done.stderr.splitlines()[-1]


# ---- with the default model: it is what vectors mean that matters ----------------------------------------------------

def nearest(output: str, question: str) -> str:
    """What stands first below a question."""
    return output.split(f"{question}\n")[1].splitlines()[0]


def check_faq(server, tmp_path):
    faq = tmp_path / "faq.md"
    faq.write_text("## How large is a vector?\n\n384.\n\n## Can I use a GPU?\n\nYes.\n\n## Is it free of charge?\n")
    asked = ["what does it cost?", "how many numbers do I get for a sentence?", "does it run on graphics cards?"]
    output = run("faq_search.py", server, "-faq", faq, "-question", *asked)
    assert "free of charge" in nearest(output, asked[0])
    assert "large" in nearest(output, asked[1])
    assert "GPU" in nearest(output, asked[2])
    assert " GPU" in run("faq_search.py", server, "-question", asked[2])   # of this project's own


def check_own_tokenizer(server, tmp_path):
    output = run("own_tokenizer.py", server)
    assert "['Good', 'morning'] -> ['[CLS]', '[UNK]', 'morning', '[SEP]']" in output
    assert "the vectors of our tokens are those of the sentences: yes" in output


def check_sklearn(server, tmp_path):
    output = run("sklearn_pipeline.py", server, "-num_title", 300)
    assert number(r"accuracy +([\d.]+)", output) > 0.7     # the largest class has a third
    assert "curved screen -> science-technology" in output


def check_vector_index(server, tmp_path):
    stdlib = Path(sysconfig.get_path("stdlib"))
    query = "remove a directory with everything in it"
    output = run("vector_index.py", server, "-query", query, "-path", *(stdlib / f"{name}.py" for name in (
        "shutil", "textwrap", "statistics", "random", "tempfile")))
    assert number(r"(\d+) sentences", output) > 50
    assert number(r"(\d+)% of what an exact search finds", output) == 100
    assert "shutil.rmtree" in nearest(output, query)


def check_javascript(server, tmp_path):
    if not shutil.which("node"):
        pytest.skip("there is no node here")
    output = run("http_javascript.mjs", server)
    assert number(r"kitten: ([-\d.]+)", output) > 0.5 > number(r"bank: ([-\d.]+)", output)


def check_cross_lingual(server, tmp_path):
    """With a model that knows English only."""
    output = run("cross_lingual.py", server)
    assert "去机场的火车中午出发。 -> [CLS] [UNK]" in output
    assert number(r"English to French: (\d+)%", output) > 30 and number(r"French: .*; (\d+)% of its", output) == 0
    assert number(r"Chinese: .*; (\d+)% of its", output) > 20


def check_similarity(server, tmp_path):
    pairs, picture = tmp_path / "pairs.csv", tmp_path / "picture.png"
    pairs.write_text("""A man plays a guitar.,Somebody plays the guitar.,4.5
The cat sleeps on the sofa.,A cat is asleep on a couch.,5
"Well, the bus was late.",The bus did not come in time.,4
A woman cuts onions.,A woman cooks dinner.,2
A dog runs on the beach.,A man walks by the sea.,1.5
The shop opens at nine.,Elephants live in Africa.,0
He reads a book.,The engine needs oil.,0
""", encoding="utf-8")
    output = run("similarity.py", server, "-pairs", pairs, "-picture", picture)
    assert number(r"7 pairs, Spearman's correlation ([-\d.]+)", output) > 0.7
    assert number(r"0 to 1: 2 pairs, mean cosine ([-\d.]+)", output) < 0.3
    assert picture.read_bytes().startswith(b"\x89PNG")


MODEL = {
    "cross_lingual.py": check_cross_lingual,
    "similarity.py": check_similarity,
    "faq_search.py": check_faq,
    "own_tokenizer.py": check_own_tokenizer,
    "sklearn_pipeline.py": check_sklearn,
    "vector_index.py": check_vector_index,
    "http_javascript.mjs": check_javascript,
}


@pytest.mark.model
@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", MODEL)
def test_example_with_the_default_model(name, model_server, tmp_path):
    MODEL[name](model_server, tmp_path)


# ---- with the vectors of every token ---------------------------------------------------------------------------------

def check_token_vectors(server, tmp_path):
    output = run("token_vectors.py", server)
    assert "(3, 25, 2304)" in output and "7 tokens, 7 vectors: [CLS] the bank lent me money [SEP]" in output
    assert number(r"both of money: cosine ([\d.]+)", output) > number(r"of a river: cosine ([\d.]+)", output) + 0.05


def check_pooling_layers(server, tmp_path):
    output = run("pooling_layers.py", server, "-num_title", 176, "-draw", "REDUCE_MEAN", "-directory", tmp_path)
    for strategy in ("REDUCE_MEAN", "CLS_TOKEN"):
        accuracies = re.search(rf"^ +{strategy} (.*)$", output, re.M)[1].split()
        assert len(accuracies) == 6 and float(accuracies[0]) > 0.5      # of four classes, a mean over classes
    assert (tmp_path / "pooling-reduce-mean.png").read_bytes().startswith(b"\x89PNG")


TOKENS = {"token_vectors.py": check_token_vectors, "pooling_layers.py": check_pooling_layers}


@pytest.mark.model
@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", TOKENS)
def test_example_with_a_vector_per_token(name, token_server, tmp_path):
    TOKENS[name](token_server, tmp_path)


# ---- with a server that was started otherwise ------------------------------------------------------------------------

@pytest.fixture(scope="module")
def echo_tokens():
    """The echo server with a vector for each token, and HTTP."""
    yield from served("-engine", "echo", "-pooling_strategy", "NONE", "-max_seq_len", "25", "-http_port", "0")


def assert_one_line(done, *words):
    """It ended as after a wrong option, with one line that says what the server needs."""
    assert done.returncode == 2, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    for word in words:
        assert word in done.stderr.splitlines()[-1]


@pytest.mark.parametrize("name", ["token_vectors.py", "pooling_layers.py"])
def test_an_example_for_tokens_says_so_to_a_server_that_pools(name, echo_server, tmp_path):
    options = ["-directory", tmp_path] if name == "pooling_layers.py" else []
    assert_one_line(end(name, echo_server, *options), "the server pools", "start it with -pooling_strategy NONE")


ONE_VECTOR = {"cross_lingual.py": [], "faq_search.py": ["-question", "why?"], "sklearn_pipeline.py": ["-num_title", 66],
              "similarity.py": ["-pairs", "PAIRS"], "vector_index.py": ["-size", 50], "openai_client.py": [],
              "news_classifier.py": ["-num_title", 66], "tf_data.py": ["-num_title", 528],
              "text_to_class.py": ["-num_title", 66]}
"""Examples that need one vector for each text -> their options."""


@pytest.mark.parametrize("name", ONE_VECTOR)
def test_an_example_for_one_vector_says_so_to_a_server_that_does_not_pool(name, echo_tokens, tmp_path):
    pairs = tmp_path / "pairs.csv"
    pairs.write_text("A man plays.,Somebody plays.,4.5\nThe cat sleeps.,A cat is asleep.,5\n")
    options = [pairs if option == "PAIRS" else option for option in ONE_VECTOR[name]]
    assert_one_line(end(name, echo_tokens, *options), "-pooling_strategy", "NONE", "each token")


# ---- with TensorFlow, which takes seconds to import: all of them in one process --------------------------------------

def check_tf_data(output):
    assert number(r"accuracy on 320 other titles: ([\d.]+)", output) > 0.6


def check_news_classifier(output):
    assert "titles to learn from" in output
    assert number(r"accuracy: ([\d.]+)", output) > 0.6 > number(r"the largest class: ([\d.]+)", output)


def check_text_to_class(output):
    assert "low -> business" in output and "premiere -> entertainment" in output
    assert "screen -> science-technology" in output


def check_tfrecord(output):
    """Of sentences, then of tokens."""
    assert output.count("wrote 64 records") == output.count("read 64 records") == 2
    assert "slow taper: float32 (384,)\n" in output and "slow taper: float32 (16, 2304)\n" in output


def check_fine_tuned(output):
    assert re.search(r"weights: \S+/tuned/model\.ckpt-60, in place of those of the model", output)
    assert number(r"differ from our own by (\S+)", output) < 1e-4
    assert number(r"not tuned on: ([\d.]+)", output) > 0.6 > number(r"the largest class: ([\d.]+)", output)


TENSORFLOW = {
    "tf_data.py": check_tf_data,
    "news_classifier.py": check_news_classifier,
    "text_to_class.py": check_text_to_class,
    "tfrecord.py": check_tfrecord,
    "fine_tuned.py": check_fine_tuned,
}

ONE_BY_ONE = """
import json, runpy, sys
for sys.argv in json.loads(sys.argv[1]):
    print("== " + sys.argv[0], flush=True)
    runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.fixture(scope="module")
def outputs(model_server, token_server, tmp_path_factory):
    """Example -> what it printed, of TENSORFLOW."""
    directory = tmp_path_factory.mktemp("tensorflow")

    def command(name, *options, server=model_server):
        ports = [] if server is None else ["-port", server.port, "-port_out", server.port_out]
        return [str(word) for word in (EXAMPLES / name, "-ip", "127.0.0.1", *ports, *options)]

    commands = [
        command("tf_data.py", "-num_title", 528),
        command("news_classifier.py", "-num_title", 528, "-num_epoch", 10),
        command("text_to_class.py", "-num_title", 396),
        command("tfrecord.py", "-num_title", 64, "-file", directory / "sentences"),
        command("tfrecord.py", "-num_title", 64, "-file", directory / "tokens", server=token_server),
        command("fine_tuned.py", "-directory", directory, "-num_step", 60, server=None),
    ]
    done = subprocess.run([sys.executable, "-c", ONE_BY_ONE, json.dumps(commands)], stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True, timeout=500)
    assert done.returncode == 0, done.stdout
    printed = re.split(r"^== .*/(.*)\n", done.stdout, flags=re.M)
    return {name: "".join(text for other, text in zip(printed[1::2], printed[2::2]) if other == name)
            for name in TENSORFLOW}


@pytest.mark.model
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", TENSORFLOW)
def test_example_with_tensorflow(name, outputs):
    TENSORFLOW[name](outputs[name])


# ---- with models that today's tools saved ----------------------------------------------------------------------------

GOLDEN = ROOT / "tests" / "data" / "golden" / "architectures"


@pytest.fixture
def model_from():
    """Serves a directory, with no other option that is about the model."""
    running = []

    def start(directory):
        running.append(contextmanager(served)("-model_dir", str(directory)))
        return running[-1].__enter__()

    yield start
    for one in running:
        one.__exit__(None, None, None)


def check_classify(model_from, tmp_path):
    """With a directory shaped as transformers' save_pretrained writes it; its weights are random."""
    directory = GOLDEN / "distilbert-classify"
    server = model_from(directory)
    output = run("classify.py", server, "-directory", directory, "-text", "hello world", "good day").splitlines()
    assert [re.fullmatch(r"(.*) -> LABEL_[012] \((0\.\d\d|1\.00)\)", line)[1] for line in output] == [
        "hello world", "good day"]
    done = end("classify.py", server, "-directory", GOLDEN / "bert-rerank")
    assert_one_line(done, "3 numbers for a text, expected 1", "-pooling_strategy")


def check_rerank(model_from, tmp_path):
    """The scores are those of CrossEncoder."""
    pairs = json.loads((GOLDEN / "texts.json").read_text(encoding="utf-8"))["pairs"][:2]
    scores = np.load(GOLDEN / "bert-rerank" / "reference.npz")["pair_scores"][:2]
    assert pairs[0][0] == pairs[1][0]
    output = run("rerank.py", model_from(GOLDEN / "bert-rerank"), "-question", pairs[0][0], "-text",
                 *(text for _, text in pairs)).splitlines()
    expected = sorted(zip(scores, (text for _, text in pairs)), reverse=True)
    assert [line[8:] for line in output] == [text for _, text in expected]
    assert [float(line[:6]) for line in output] == pytest.approx([float(score) for score, _ in expected], abs=1e-4)


def check_fine_tune_transformers(model_from, tmp_path):
    """The whole tutorial, where there is a Python with transformers and torch: neither is installed for the tests."""
    python = os.environ.get("BERT_SERVING_TORCH_PYTHON")
    if not python:
        pytest.skip("BERT_SERVING_TORCH_PYTHON names no Python that has transformers[torch]")
    done = subprocess.run([python, EXAMPLES / "fine_tune_transformers.py", "-directory", tmp_path], capture_output=True,
                          text=True, timeout=400)
    assert done.returncode == 0, done.stdout + done.stderr
    assert number(r"not tuned on: ([\d.]+)", done.stdout) > 0.8
    output = run("classify.py", model_from(tmp_path), "-directory", tmp_path)
    assert "raises rates -> business" in output and "world tour -> entertainment" in output


SAVED = {"classify.py": check_classify, "rerank.py": check_rerank,
         "fine_tune_transformers.py": check_fine_tune_transformers}


@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", SAVED)
def test_example_with_a_saved_model(name, model_from, tmp_path):
    SAVED[name](model_from, tmp_path)


# ---- all of them -----------------------------------------------------------------------------------------------------

def test_every_example_is_run():
    assert {path.name for path in EXAMPLES.iterdir() if path.is_file()} == {*ECHO, *MODEL, *TOKENS, *TENSORFLOW, *SAVED}


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.*")), ids=lambda path: path.name)
def test_every_example_says_how_to_run_it(path):
    text = path.read_text(encoding="utf-8")
    assert "    bert-serving-start" in text and f"example/{path.name}" in text
