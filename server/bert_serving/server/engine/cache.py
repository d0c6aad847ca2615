"""The user's cache: directories that are whole or not there, whoever else is writing, whenever the power goes."""
from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

MANIFEST = "manifest.json"
"""Lists a cached directory's files with their checksums, beside what else is worth knowing about it."""


def user_cache(kind: str) -> Path:
    """Where things of this kind ("graphs", "models") are kept for this user; it need not exist."""
    root = os.environ.get("XDG_CACHE_HOME", "")
    base = Path(root) if os.path.isabs(root) else Path.home() / ".cache"
    return base / "bert-serving" / kind


@contextmanager
def new_directory(target: Path) -> Iterator[Path]:
    """A fresh directory to fill, for this user only; it becomes ``target`` when the block ends well, else it vanishes.

    What is at ``target`` is replaced. Who has its files open keeps them.

    Raises:
        OSError: the directory cannot be made; the disk is full.
    """
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        yield fresh
        for attempts_left in reversed(range(100)):
            try:
                fresh.rename(target)                   # Fails while there is a target with something in it.
                break
            except OSError:
                if not attempts_left or not target.parent.is_dir():
                    raise
                _remove(target)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def _remove(target: Path) -> None:
    """Take a directory away at once, unless someone else is quicker."""
    old = Path(tempfile.mkdtemp(prefix=f".{target.name}.old.", dir=target.parent))
    try:
        target.rename(old)
    except FileNotFoundError:
        pass
    finally:
        shutil.rmtree(old, ignore_errors=True)


def write_file(path: Path, data: bytes | memoryview) -> None:
    """A new file that only this user can read."""
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(data)


def sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else _digest(file)


def _digest(file: Any) -> str:
    # Python 3.10 has no hashlib.file_digest.
    digest = hashlib.sha256()
    while block := file.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()


def write_manifest(directory: Path, about: dict[str, Any]) -> None:
    """Seal a directory: note every file's checksum, and ``about``."""
    files = {path.relative_to(directory).as_posix(): sha256(path)
             for path in sorted(directory.rglob("*")) if path.is_file()}
    write_file(directory / MANIFEST, json.dumps({**about, "files": files}, indent=1).encode("ascii"))


def read_manifest(directory: Path) -> dict[str, Any] | None:
    """What was noted about a directory; None if it is not there, or any of its files is not what it was."""
    try:
        manifest: dict[str, Any] = json.loads((directory / MANIFEST).read_bytes())
        intact = all(sha256(directory / name) == checksum for name, checksum in manifest["files"].items())
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        return None
    return manifest if intact else None
