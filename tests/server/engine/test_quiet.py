"""What is written to standard error is kept back, and shown only when something goes wrong."""
from __future__ import annotations

import os

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
