"""What a job has done so far, on disk: a database in which a chunk is done all or not at all, kill -9 or not.

It also knows where each text was first seen, so that it is computed once however often it comes; and it is the lock
that keeps a second process away. Its size grows with the number of different texts, the memory it takes does not.
"""
from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from hashlib import blake2b
from pathlib import Path
from typing import Any

from .records import START, BulkError, Position

DIGEST_BYTES = 16
"""Two of 10**9 different texts have the same digest with a probability of 10**-21."""

CACHE_KB = 16_000

TABLES = """
CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE texts (digest BLOB PRIMARY KEY, row INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE rejects (row INTEGER PRIMARY KEY, line INTEGER NOT NULL, reason TEXT NOT NULL);
"""


def digest(text: str) -> bytes:
    """What stands for a text where its rows are looked up."""
    return blake2b(text.encode("utf-8"), digest_size=DIGEST_BYTES).digest()


class Journal:
    """The database of one job.

    Attributes:
        job: what the job is, as it was when it was begun; None: it was not.
        position: all records before this one are done, their rows on disk.
        is_computed: every record is done, and what is left is to put files in their places.
    """

    def __init__(self, path: Path) -> None:
        """
        Raises:
            BulkError: another process has it, or it cannot be read.
        """
        self.path = path
        try:
            with ExitStack() as refused:
                self._database = sqlite3.connect(path, timeout=0, isolation_level=None)
                refused.callback(self._database.close)
                self._prepare()
                refused.pop_all()
        except sqlite3.OperationalError as error:
            if "locked" in str(error):
                raise BulkError(f"another process is at this job; {path.parent} is its directory") from error
            raise BulkError(f"cannot use {path}: {error}") from error
        except sqlite3.DatabaseError as error:
            raise BulkError(f"{path} is no journal of a job: {error}; -overwrite begins anew") from error
        self.job: dict[str, Any] | None = self._fact("job")
        self.position = Position(*self._fact("position") or START)
        self.is_computed = bool(self._fact("computed"))

    def _prepare(self) -> None:
        # In this order: an exclusive lock needs no shared memory, which not every file system has.
        for setting in ("locking_mode=EXCLUSIVE", "journal_mode=WAL", "synchronous=FULL", f"cache_size=-{CACHE_KB}"):
            self._database.execute(f"PRAGMA {setting}")
        self._database.execute("BEGIN IMMEDIATE")
        if not self._database.execute("SELECT 1 FROM sqlite_master").fetchone():
            for statement in TABLES.split(";"):
                self._database.execute(statement)
        self._database.execute("COMMIT")

    def begin(self, job: Mapping[str, Any]) -> None:
        """Note what the job is, before anything is done, and forget an earlier one: both or neither.

        A text of the earlier one that was still known would get a vector of this one's rows.
        """
        self._database.execute("BEGIN IMMEDIATE")
        for table in ("facts", "texts", "rejects"):
            self._database.execute(f"DELETE FROM {table}")
        self._note(job=job)
        self._database.execute("COMMIT")
        self.job, self.position, self.is_computed = self._fact("job"), START, False

    def rows_of(self, digests: Iterable[bytes]) -> dict[bytes, int]:
        """Digest -> the row that has its vector, for texts of the records that are done."""
        found = {}
        for one in digests:
            hit = self._database.execute("SELECT row FROM texts WHERE digest = ?", (one,)).fetchone()
            if hit:
                found[one] = hit[0]
        return found

    def reason(self, row: int) -> str | None:
        """Why there is no vector in a row; None: there is one."""
        found = self._database.execute("SELECT reason FROM rejects WHERE row = ?", (row,)).fetchone()
        return found[0] if found else None

    def advance(self, position: Position, texts: Mapping[bytes, int],
                rejects: Iterable[tuple[int, int, str]]) -> None:
        """Note that all records before ``position`` are done; their rows have to be on disk already.

        Args:
            texts: digest -> row of each text that was seen first.
            rejects: row, line and reason of each record without a vector.
        Raises:
            BulkError: the disk is full.
        """
        try:
            self._database.execute("BEGIN IMMEDIATE")
            self._database.executemany("INSERT INTO texts VALUES (?, ?)", texts.items())
            self._database.executemany("INSERT INTO rejects VALUES (?, ?, ?)", rejects)
            self._note(position=position)
            self._database.execute("COMMIT")
        except sqlite3.OperationalError as error:
            raise BulkError(f"cannot write {self.path}: {error}; the same command goes on from here") from error
        self.position = position

    def rejects(self, first: int = 0, end: int | None = None) -> Iterable[tuple[int, int, str]]:
        """Row, line and reason of each record without a vector, in their order."""
        return self._database.execute("SELECT row, line, reason FROM rejects WHERE row >= ? AND row < ? ORDER BY row",
                                      (first, end if end is not None else 1 << 62))

    def counts(self) -> dict[str, int]:
        """Numbers of records, of different texts among them, and of those without a vector."""
        texts, rejects = (self._database.execute(f"SELECT COUNT(*) FROM {table}").fetchone()[0]
                          for table in ("texts", "rejects"))
        return {"rows": self.position.row, "texts": texts, "rejects": rejects}

    def set_computed(self) -> None:
        """Note that from now on files are only put in their places."""
        self._note(computed=True)
        self._database.execute("PRAGMA wal_checkpoint(TRUNCATE)")  # its files are removed one by one
        self.is_computed = True

    def close(self) -> None:
        self._database.close()

    def _fact(self, name: str) -> Any:
        found = self._database.execute("SELECT value FROM facts WHERE name = ?", (name,)).fetchone()
        return json.loads(found[0]) if found else None

    def _note(self, **facts: bool | Mapping[str, Any] | Sequence[int]) -> None:
        self._database.executemany("INSERT OR REPLACE INTO facts VALUES (?, ?)",
                                   ((name, json.dumps(value)) for name, value in facts.items()))
