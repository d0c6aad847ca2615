import inspect
import sys

import pytest
from tools.peers import exports
from tools.peers.environments import PeerError, run


@pytest.mark.parametrize("step", exports.STEPS)
def test_without_the_library_it_says_which(step, tmp_path, monkeypatch):
    for name in ("torch", "onnx", "nncf", "ctranslate2"):    # the tests' own environment may have some of them
        (tmp_path / f"{name}.py").write_text(f"raise ModuleNotFoundError(\"No module named '{name}'\")")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    arguments = ["x"] * len(inspect.signature(exports.STEPS[step]).parameters)
    with pytest.raises(PeerError, match="ModuleNotFoundError: No module named '(torch|onnx|nncf|ctranslate2)'"):
        run([sys.executable, exports.__file__, step, *arguments], tmp_path / "log", 30)
