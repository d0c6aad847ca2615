import inspect
import sys

import pytest
from tools.peers import exports
from tools.peers.environments import PeerError, run


@pytest.mark.parametrize("step", exports.STEPS)
def test_without_the_library_it_says_which(step, tmp_path):
    arguments = ["x"] * len(inspect.signature(exports.STEPS[step]).parameters)
    with pytest.raises(PeerError, match="ModuleNotFoundError: No module named '(torch|onnx|nncf)'"):
        run([sys.executable, exports.__file__, step, *arguments], tmp_path / "log", 30)
