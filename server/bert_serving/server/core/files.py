"""The small files of a model, which anybody may have written: text and JSON, read with limits."""
from __future__ import annotations

import errno
import json
import os
import stat
from pathlib import Path
from typing import Any

MAX_BYTES = 100_000_000
"""Of one file; the largest vocabularies have a few megabytes."""


def read_text(path: str | Path) -> str:
    """The text of a file, line ends as they are.

    Raises:
        OSError: it cannot be read, or is no file: a pipe would be waited for without end.
        ValueError: it is too large, or not UTF-8.
    """
    about = os.stat(path)
    if not stat.S_ISREG(about.st_mode):
        raise OSError(errno.EINVAL, "it is no regular file")
    if about.st_size > MAX_BYTES:
        raise ValueError(f"it has more than {MAX_BYTES / 1e6:g} MB")
    with open(path, "rb") as file:
        return file.read(MAX_BYTES).decode("utf-8")


def read_json(path: str | Path) -> Any:
    """
    Raises:
        OSError, ValueError: as read_text, and if it is not JSON.
    """
    text = read_text(path)
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
