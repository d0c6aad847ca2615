"""What is written to standard error is kept back, and shown only when something goes wrong."""
from __future__ import annotations

import os
import subprocess
import sys

import pytest

from bert_serving.server.engine.quiet import quiet_stderr


def test_what_a_library_writes_is_kept_back(capfd):
    with quiet_stderr():
        os.write(2, b"chatter\n")
    os.write(2, b"after\n")
    assert capfd.readouterr().err == "after\n"


def test_it_is_shown_when_the_block_raises(capfd):
    with pytest.raises(ImportError), quiet_stderr():
        os.write(2, b"the reason\n")
        raise ImportError
    assert capfd.readouterr().err == "the reason\n"


def test_tensorflow_is_imported_without_keras_which_is_there_afterwards():
    code = ("import sys\n"
            "from importlib.util import find_spec\n"
            "from bert_serving.server.engine.quiet import import_tensorflow\n"
            "print(import_tensorflow().__name__, 'keras' in sys.modules, find_spec('keras').name)\n")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=55)
    assert done.stdout == "tensorflow False keras\n", done.stderr
