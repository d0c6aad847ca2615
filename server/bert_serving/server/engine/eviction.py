"""Frozen graphs in the cache: which there are, which are in use, and removing those least recently used.

Beside each directory lies a file, ``NAME.used``: its time says when the graph was last used, and who uses it holds a
lock on it. The kernel drops that lock with the process, however it ends. A server holds it for its whole life, for a
worker that is restarted needs the files again.
"""
from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..config import MB
from .cache import MANIFEST, remove_directory

DAY = 24 * 3600

GRAPH_NAME = re.compile(r"[0-9a-f]{32}")
"""What a frozen graph's directory is called: see artefact.artefact_path."""

UNFINISHED_NAME = re.compile(r"\.([0-9a-f]{32})\..+")
"""What it is called while it is made or removed; such a one stays behind where a process was killed at that."""

MARK_NAME = re.compile(r"([0-9a-f]{32})\.used")


class Lease:
    """Keeps a frozen graph from being removed, be it there already or still to be made, until it is released.

    Where nothing can be written, nothing is marked; nobody of this user's can remove anything there either.
    """

    def __init__(self, graph: Path) -> None:
        self._descriptor: int | None = None
        try:
            graph.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._descriptor = _lock(_mark(graph), fcntl.LOCK_SH)
            os.utime(self._descriptor)
        except OSError:
            pass

    def release(self) -> None:
        """Let it go, noting that it was used until now."""
        if self._descriptor is None:
            return
        descriptor, self._descriptor = self._descriptor, None
        try:
            os.utime(descriptor)
        except OSError:                                # The disk may have become read-only.
            pass
        os.close(descriptor)

    __del__ = release


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One frozen graph of the cache.

    Attributes:
        path: its directory.
        nbytes: what its files take.
        used: when it was last used, in seconds since 1970.
        in_use: somebody holds a lease on it.
        about: what its manifest says; empty for what was left unfinished.
    """

    path: Path
    nbytes: int
    used: float
    in_use: bool
    about: dict[str, Any]


def entries(directory: Path) -> list[Entry]:
    """The frozen graphs in a cache directory, the least recently used first. What is not this user's is left out.

    What was left unfinished by a process that was killed counts as well.
    """
    return sorted(_entries(directory), key=lambda entry: entry.used)


def _entries(directory: Path) -> Iterator[Entry]:
    try:
        paths = sorted(directory.iterdir())
    except OSError:
        return
    for path in paths:
        unfinished = UNFINISHED_NAME.fullmatch(path.name)
        about: dict[str, Any] = {} if unfinished else _about(path)
        if not (unfinished or about):
            continue
        graph = directory / unfinished[1] if unfinished else path
        try:
            status = path.lstat()
            if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid():
                continue
            nbytes = sum(file.lstat().st_size for file in path.rglob("*") if not file.is_dir())
            used = status.st_mtime if unfinished else _last_use(graph, status.st_mtime)
        except OSError:                                # Another process has just removed it.
            continue
        yield Entry(path=path, nbytes=nbytes, used=used, in_use=_in_use(graph), about=about)


def prune(directory: Path, *, keep_bytes: float | None = None,
          before: float | None = None) -> tuple[list[Entry], list[Entry]]:
    """Remove frozen graphs, the least recently used first, but never one in use.

    Args:
        keep_bytes: only until those that are left take no more than that.
        before: only those last used before then, in seconds since 1970. With neither, all.
    Returns:
        Those that were removed; those that would have been, but are in use.
    """
    found = entries(directory)
    total = sum(entry.nbytes for entry in found)
    removed, spared = [], []
    for entry in found:
        is_wanted = keep_bytes is None and before is None
        is_wanted = is_wanted or keep_bytes is not None and total > keep_bytes
        if not (is_wanted or before is not None and entry.used < before):
            continue
        if _remove(entry.path):
            removed.append(entry)
            total -= entry.nbytes
        else:
            spared.append(entry)
    _sweep(directory)
    return removed, spared


def _remove(path: Path) -> bool:
    """Whether it is gone; it stays while somebody has a lease on it."""
    unfinished = UNFINISHED_NAME.fullmatch(path.name)
    mark = _mark(path.parent / unfinished[1] if unfinished else path)
    try:
        lock = _lock(mark, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:                                    # It is in use, or nothing can be written there.
        return False
    try:
        if unfinished:
            shutil.rmtree(path, ignore_errors=True)
        else:
            remove_directory(path)
        is_gone = not path.exists()
        if not mark.with_suffix("").exists():
            mark.unlink()
        return is_gone
    except OSError:
        return False
    finally:
        os.close(lock)


def _sweep(directory: Path) -> None:
    """Remove marks of graphs that are gone, or were never made."""
    for mark in directory.glob("*.used"):
        if MARK_NAME.fullmatch(mark.name) and not mark.with_suffix("").exists():
            _remove(mark.with_suffix(""))


def _mark(graph: Path) -> Path:
    return graph.with_name(graph.name + ".used")


def _lock(mark: Path, how: int) -> int:
    """The descriptor of the mark, made if need be and locked.

    Raises:
        BlockingIOError: another process has it.
        OSError: it cannot be made, or this file system has no locks.
    """
    while True:
        descriptor = os.open(mark, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(descriptor, how)
            # Whoever had it before may have removed the file meanwhile: its lock is worth nothing then.
            if os.path.samestat(os.fstat(descriptor), os.stat(mark)):
                return descriptor
        except FileNotFoundError:
            pass
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _in_use(graph: Path) -> bool:
    try:
        descriptor = os.open(_mark(graph), os.O_RDONLY | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(descriptor)
    return False


def _last_use(graph: Path, otherwise: float) -> float:
    try:
        return _mark(graph).stat().st_mtime
    except OSError:                                    # Made by a version that did not mark its use.
        return otherwise


def _about(path: Path) -> dict[str, Any]:
    """What a frozen graph's manifest says; empty for what is none."""
    if not GRAPH_NAME.fullmatch(path.name):
        return {}
    try:
        manifest = json.loads((path / MANIFEST).read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    is_graph = isinstance(manifest, dict) and "files" in manifest and "format" in manifest
    return manifest if is_graph else {}


# ---- for people ------------------------------------------------------------------------------------------------------

def describe(entry: Entry) -> str:
    """One line: size, last use, what it is of."""
    made_from = entry.about.get("made_from")
    if not entry.about:
        what = "left unfinished by a process that was killed"
    elif not isinstance(made_from, dict):
        what = f"{'lite' if 'outputs' in entry.about else 'graph'}, made by an earlier version"
    else:
        what = (f"{made_from.get('engine')} {made_from.get('precision')}, {made_from.get('pooling_strategy')} of "
                f"layers {' '.join(map(str, made_from.get('pooling_layer', ())))}"
                f"{', no position embeddings' if made_from.get('no_position_embeddings') else ''}: "
                f"{made_from.get('checkpoint')}")
    used = "in use" if entry.in_use else f"used {time.strftime('%Y-%m-%d %H:%M', time.localtime(entry.used))}"
    return f"{entry.path.name.lstrip('.')[:12]}  {entry.nbytes / MB:8.1f} MB  {used:21}  {what}"


def total(found: list[Entry]) -> str:
    """How many there are, and what they take."""
    return (f"{len(found)} frozen {'graph' if len(found) == 1 else 'graphs'}, "
            f"{sum(entry.nbytes for entry in found) / MB:.1f} MB")
