"""Where the files of a job are, how they get there, and what tells whether one was changed.

While a job runs, everything is in ``OUTPUT.part``: the journal, and all vectors in a .npy file. At the end the files
are made whole, the journal says that, and they are moved to their places; the journal goes last.
"""
from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import IO, Any

BLOCK = 1 << 20

JOURNAL, VECTORS, RESULT, REJECTS, RECORD, SPOOL = "journal", "vectors", "result", "rejects", "record", "input"
"""Names in a job's directory. ``vectors`` is the result itself, if that is a .npy file."""


@dataclass(frozen=True)
class Places:
    """Where a job's files are.

    Attributes:
        output: the vectors.
        rejects: the records without one.
        record: what the job was.
        directory: everything, until it is done.
    """

    output: Path

    @property
    def rejects(self) -> Path:
        return self._beside(".rejects.jsonl")

    @property
    def record(self) -> Path:
        return self._beside(".job.json")

    @property
    def directory(self) -> Path:
        return self._beside(".part")

    def _beside(self, suffix: str) -> Path:
        return self.output.with_name(self.output.name + suffix)

    @property
    def spool(self) -> Path:
        """What came on standard input, kept because it is read twice."""
        return self.directory / SPOOL

    @property
    def result(self) -> str:
        """Name in the directory of what becomes the output."""
        return VECTORS if self.output.suffix == ".npy" else RESULT

    def targets(self) -> dict[str, Path]:
        """Name in the directory -> place of the finished file; the output comes last."""
        return {REJECTS: self.rejects, RECORD: self.record, self.result: self.output}


def stamp(path: Path) -> list[int]:
    """Differs when a file was changed, or another one put in its place."""
    about = path.stat()
    return [about.st_dev, about.st_ino, about.st_size, about.st_mtime_ns]


def content_digest(path: Path) -> str:
    made = blake2b(digest_size=16)
    with open(path, "rb") as file:
        while block := file.read(BLOCK):
            made.update(block)
    return made.hexdigest()


def write_rejects(path: Path, rejects: Iterable[tuple[int, int, str]]) -> None:
    """A line of JSON for each record without a vector."""
    with open(path, "w", encoding="utf-8") as file:
        for row, line, reason in rejects:
            file.write(json.dumps({"line": line, "row": row, "reason": reason}, ensure_ascii=False) + "\n")
        sync(file)


def write_record(path: Path, job: Mapping[str, Any]) -> None:
    with open(path, "w", encoding="utf-8") as file:
        json.dump(job, file, indent=1, ensure_ascii=False)
        file.write("\n")
        sync(file)


def sync(file: IO[str]) -> None:
    file.flush()
    os.fsync(file.fileno())


def publish(places: Places) -> None:
    """Move the finished files to their places, and remove the job's directory; may be repeated from any point."""
    for name, target in places.targets().items():
        finished = places.directory / name
        if name == REJECTS and finished.exists() and not finished.stat().st_size:
            target.unlink(missing_ok=True)  # those of the job whose output is replaced
            finished.unlink()
        elif finished.exists():
            os.replace(finished, target)
    sync_directory(places.output.parent)
    discard(places.directory)


def sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def discard(directory: Path) -> None:
    """Remove a job's directory: the journal last, so that it says what happened for as long as there is anything."""
    for name in (VECTORS, RESULT, REJECTS, RECORD, SPOOL, f"{JOURNAL}-wal", JOURNAL):
        (directory / name).unlink(missing_ok=True)
    with suppress(OSError):  # what else is in there is not ours
        directory.rmdir()
