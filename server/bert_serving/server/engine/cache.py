"""The user's cache: directories that are whole or not there, whoever else is writing, whenever the power goes."""
from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..errors import EngineError

logger = logging.getLogger(__name__)

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
                remove_directory(target)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def remove_directory(target: Path) -> None:
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
    """What was noted about a directory; None if it is not there, or not to be used, which then is a line of the log."""
    try:
        return open_sealed(directory)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except SealError as error:
        logger.warning("%s is not used: %s", directory, error)
        return None


class SealError(Exception):
    """A cached directory is not what it was, or others than this user could have written to it; the message says which.

    Programs are in there that are run as they are, so that whoever can write to it can do what this user can.
    """


def open_sealed(directory: Path) -> dict[str, Any]:
    """What was noted about a directory whose every file is as it was, and was always this user's (or root's) alone.

    Raises:
        FileNotFoundError, NotADirectoryError: there is none.
        SealError: it is not to be used.
    """
    try:
        check_owner(directory)
    except PermissionError as error:
        raise SealError(f"it cannot be read: {error.strerror}") from error
    try:
        manifest: dict[str, Any] = json.loads((directory / MANIFEST).read_bytes())
        noted = {directory / name: checksum for name, checksum in manifest["files"].items()}
    except (OSError, ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
        raise SealError(f"its {MANIFEST} is missing or damaged") from error
    found = {path for path in directory.rglob("*") if not path.is_dir()} - {directory / MANIFEST}
    for path in sorted(found ^ set(noted)):
        raise SealError(f"{path.name} {'was added' if path in found else 'is missing'}")
    for path, checksum in noted.items():
        try:
            is_intact = sha256(path) == checksum
        except OSError as error:
            raise SealError(f"{path.name} cannot be read: {error.strerror}") from error
        if not is_intact:
            raise SealError(f"{path.name} is not what it was: its checksum differs")
    return manifest


def open_format(directory: Path, version: int) -> dict[str, Any]:
    """As :func:`open_sealed`, for what an engine loads.

    Raises:
        EngineError: it is not to be used, or of another version; what to do about it.
    """
    try:
        manifest = open_sealed(directory)
    except (OSError, SealError) as error:
        raise EngineError(f"what was made of the model, {directory}, is not used: {error}; remove it, and it will be "
                          "made again") from error
    if manifest.get("format") != version:
        raise EngineError(f"what was made of the model, {directory}, is another version's; remove it, and it will be "
                          "made again")
    return manifest


def check_owner(directory: Path) -> None:
    """
    Raises:
        OSError: there is no such directory, or it cannot be looked at.
        SealError: another user owns it or something in it, or may write to it, or could exchange all of it.
    """
    for path in [directory, *directory.rglob("*")]:
        about = path.lstat()
        what = f"{path.name} in it" if path != directory else "it"
        if not (stat.S_ISDIR(about.st_mode) or stat.S_ISREG(about.st_mode)):
            raise SealError(f"{what} is a link or another special file")
        if about.st_uid not in (os.geteuid(), 0):
            raise SealError(f"{what} belongs to another user ({about.st_uid})")
        if about.st_mode & 0o022:
            raise SealError(f"{what} has mode {stat.S_IMODE(about.st_mode):04o}: other users may write to it")
    parent = directory.parent.stat()
    if parent.st_mode & 0o002 and not parent.st_mode & stat.S_ISVTX:
        raise SealError(f"every user may write to {directory.parent}, and put something else in its place")
