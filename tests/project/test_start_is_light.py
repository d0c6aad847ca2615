"""``bert-serving-start -h``, and what a client imports, answer at once because nothing heavy is imported for them."""
import subprocess
import sys

import pytest

HEAVY = ["tensorflow", "keras", "ai_edge_litert", "safetensors", "tokenizers", "flask", "waitress", "GPUtil",
         "setuptools", "distutils", "ray", "matplotlib", "pyarrow", "tqdm"]

# Importing a blocked module fails; what was imported all the same is on the last line of standard error.
RUN = """
import sys
for name in {heavy!r}:
    sys.modules[name] = None
sys.argv[1:] = {arguments!r}
try:
    {statement}
finally:
    print(" ".join(sorted({{name.split(".")[0] for name in sys.modules}})), file=sys.stderr)
"""


def run(statement, *arguments):
    """(standard output, top-level modules that were imported)"""
    program = RUN.format(heavy=HEAVY, arguments=list(arguments), statement=statement)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=50)
    assert done.returncode == 0, done.stderr
    return done.stdout, set(done.stderr.splitlines()[-1].split())


@pytest.mark.parametrize("option", ["-h", "--help"])
def test_help(option):
    output, _ = run("from bert_serving.server.cli import main; main()", option)
    assert "-model_dir" in output and "-num_worker" in output


def test_help_of_the_benchmark():
    output, _ = run("from bert_serving.server.benchmark.command import main; main()", "-h")
    assert "-test_num_client" in output


def test_help_of_bulk_jobs():
    output, _ = run("from bert_serving.server.bulk.command import main; main()", "-h")
    assert "-overwrite" in output


def test_help_of_the_doctor():
    output, _ = run("from bert_serving.server.doctor.command import main; main()", "-h")
    assert output.startswith("usage: bert-serving-doctor") and "-model_dir" in output


def test_version():
    from bert_serving.server import __version__
    output, _ = run("from bert_serving.server.cli import main; main()", "-version")
    assert output.split()[-1] == __version__


def test_import_of_the_package():
    _, modules = run("import bert_serving.server")
    assert not modules & {"zmq", "numpy"}


def test_import_of_the_client():
    """Of the package alone, which is what workers import, next to nothing; of the client what it needs."""
    _, modules = run("import bert_serving.client")
    assert not modules & {"zmq", "numpy"}
    _, modules = run("from bert_serving.client import BertClient")
    assert {"zmq", "numpy"} <= modules, "the test would otherwise see nothing at all"


@pytest.mark.parametrize("name", HEAVY)
def test_the_blocker_blocks(name):
    with pytest.raises(AssertionError, match="ModuleNotFoundError"):
        run(f"import {name}")
