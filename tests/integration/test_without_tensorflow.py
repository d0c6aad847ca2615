"""Engine native, from the start to an answer, where no process can import TensorFlow or another such library."""
from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from bert_serving.server.engine.backends import backend

MODEL = Path(__file__).parents[1] / "data" / "golden" / "architectures" / "bert-gelu-new"
MISSING = ("tensorflow", "keras", "ai_edge_litert", "onnx", "onnxruntime", "torch")
HOOK = """
import sys


class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {missing!r}:
            with open({seen!r}, "a") as file:
                file.write(name + " in " + " ".join(sys.orig_argv) + "\\n")
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)


sys.meta_path.insert(0, Missing())
"""


@pytest.fixture
def environ(tmp_path):
    """Variables with which every process of this Python has the hook; what it was asked for is in the file ``seen``."""
    if reason := backend("native").missing():
        pytest.skip(f"native {reason}")
    (tmp_path / "hook").mkdir()
    (tmp_path / "hook" / "sitecustomize.py").write_text(HOOK.format(missing=MISSING, seen=str(tmp_path / "seen")))
    path = os.pathsep.join([str(tmp_path / "hook"), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**os.environ, "PYTHONPATH": path}


def test_the_hook_hides(environ, tmp_path):
    done = subprocess.run([sys.executable, "-c", "import tensorflow"], env=environ, capture_output=True, text=True)
    assert "No module named 'tensorflow'" in done.stderr and (tmp_path / "seen").read_text().startswith("tensorflow in")


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_nobody_asks_for_tensorflow(serve, environ, tmp_path, precision):
    """Neither the first start, which converts, nor the next one."""
    options = ("-model_dir", str(MODEL), "-engine", "native", "-precision", precision, "-graph_tmp_dir",
               str(tmp_path / "graphs"), "-http_port", "0")
    found = []
    for start in range(2):
        server = serve(*options, environ=environ).ready()
        assert bool(re.search(r"converted \d+ of ", server.log)) == (start == 0)
        assert "worker 0 is ready and listening after" in server.log and ": native: " in server.log
        with server.client() as client:
            found.append(client.encode(["the quick fox", "the fox"]))
        server.stop()
    assert np.array_equal(*found) and found[0].shape[0] == 2
    examined = subprocess.run([sys.executable, "-m", "bert_serving.server.doctor.command", *options, "-port", "0",
                               "-port_out", "0"], env=environ, capture_output=True, text=True, timeout=50)
    assert examined.returncode == 0, examined.stdout + examined.stderr
    assert not (tmp_path / "seen").exists(), (tmp_path / "seen").read_text()
