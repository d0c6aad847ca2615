"""One job: what it is, whether it is taken up again, and how it ends."""
from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bert_serving.client.checks import VECTOR_OPTIONS
from bert_serving.client.errors import OverloadedError
from bert_serving.client.words import counted

from .. import golden
from ..config import PoolingStrategy
from . import outputs
from .asking import PAUSE, Asker, Client
from .journal import Journal
from .places import (JOURNAL, RECORD, REJECTS, VECTORS, Places, content_digest, discard, publish, stamp, write_record,
                     write_rejects)
from .progress import BulkProgress, hours
from .records import CHUNK_RECORDS, BulkError
from .run import Input, BulkRun
from .vectors import VectorFile

SERVER = (*VECTOR_OPTIONS, "engine")
"""What of a server's configuration its vectors depend on, to the last bit."""

SHOWN = 32
"""Numbers of each canary's vector that are kept with a job: enough to know the model by."""

MIN_CHUNKS, MAX_CHUNKS = 4, 32
"""Chunks under way, where -in_flight does not say."""


@dataclass(frozen=True)
class ProbedServer:
    """What answers, as its configuration and its vectors of the canaries say.

    Attributes:
        facts: what the vectors depend on.
        canaries: [len(golden.SENTENCES), width]
        num_chunks: how many chunks keep its workers busy.
    """

    facts: dict[str, Any]
    canaries: np.ndarray
    num_chunks: int

    @property
    def precision(self) -> str:
        return str(self.facts.get("precision"))


def probe(client: Client, sleep: Callable[[float], None] = time.sleep) -> ProbedServer:
    """Ask a server what it is; one that has too much to do is asked again when it says.

    Raises:
        BulkError: it does not give one vector a text.
        BertServingError: it does not answer.
    """
    config = client.server_config
    while True:
        try:
            vectors = np.asarray(client.encode(list(golden.SENTENCES)))
            break
        except OverloadedError as error:
            sleep(PAUSE if error.retry_after is None else error.retry_after)
    if vectors.ndim != 2:
        raise BulkError(f"the server gives a vector for each token, an array of shape {vectors.shape} for "
                        f"{counted(len(vectors), 'text')}; a bulk job needs one vector a text, so another "
                        f"-pooling_strategy than {_name(config.get('pooling_strategy'))}")
    sentences = 2 * most_workers(config) * (config.get("max_batch_size") or 256)
    facts = json.loads(json.dumps({name: config[name] for name in SERVER if name in config}))
    facts["pooling_strategy"] = _name(facts.get("pooling_strategy"))
    return ProbedServer(facts, vectors, min(MAX_CHUNKS, max(MIN_CHUNKS, -(-sentences // CHUNK_RECORDS))))


def most_workers(config: Mapping[str, Any]) -> int:
    """How many workers a server has, those of other hosts included, or may get: -num_worker can be a range, as 1-8."""
    asked = str(config.get("num_worker") or 1).rpartition("-")[2]
    return max(int(asked), len(config.get("workers") or ()))


def _name(strategy: Any) -> Any:
    """What a pooling strategy's number means."""
    try:
        return PoolingStrategy(strategy).name
    except ValueError:
        return strategy


@dataclass(frozen=True)
class JobSpec:
    """What the user wants.

    Attributes:
        source: the input.
        about: its format, column and the like.
        output: where the vectors go; its suffix is their format.
        overwrite: what is there may be replaced.
        in_flight: chunks under way; None: as many as keep the server busy.
        patience: seconds without a server until it is given up.
    """

    source: Input
    about: dict[str, Any]
    output: Path
    overwrite: bool = False
    in_flight: int | None = None
    patience: float = 60.0


@dataclass(frozen=True)
class Outcome:
    """How a job ended.

    Attributes:
        counts: numbers of rows, different texts, and rejects.
        rows: how many were done in this run.
        seconds: how long that took.
        was_done: there was nothing left to do.
    """

    counts: dict[str, int]
    rows: int = 0
    seconds: float = 0.0
    was_done: bool = False

    def summary(self, places: Places) -> str:
        """In a line, for the user."""
        rows, texts, rejects = (self.counts[name] for name in ("rows", "texts", "rejects"))
        line = f"{places.output}: {counted(rows, 'row')}, {counted(texts, 'different text')}, "
        line += f"{counted(rejects, 'reject')}, listed in {places.rejects}" if rejects else "no rejects"
        if self.was_done:
            return line + "; it was there already, -overwrite begins anew"
        rate = self.rows / self.seconds if self.seconds else 0.0
        return line + f"; {counted(self.rows, 'row')} in {hours(self.seconds)}, {rate:.0f} a second"


class BulkJob:
    """A JobSpec on its way to an output."""

    def __init__(self, spec: JobSpec) -> None:
        """
        Raises:
            BulkError: something is in the way.
        """
        self.spec, self.places = spec, Places(spec.output)
        if not spec.output.parent.is_dir():
            raise BulkError(f"there is no directory {spec.output.parent} for the output")
        if spec.output.is_dir():
            raise BulkError(f"{spec.output} is a directory; give the name of a file")
        if spec.output.exists() and spec.output.samefile(spec.source.path):
            raise BulkError(f"{spec.output} is the input, too; give another name")
        outputs.check(spec.output.suffix)

    def run(self, client: Client, server: ProbedServer, progress: Callable[[int, int], BulkProgress]) -> Outcome:
        """Do it, or what is left of it.

        Args:
            progress: number of rows, and how many are done -> what shows that.
        Raises:
            BulkError: it cannot be done.
        """
        places = self.places
        if not (places.directory / JOURNAL).exists() and places.output.exists() and not self.spec.overwrite:
            return self._recognise(server)
        try:
            places.directory.mkdir(exist_ok=True)
        except OSError as error:
            raise BulkError(f"cannot make {places.directory}: {error.strerror or error}") from error
        with closing(Journal(places.directory / JOURNAL)) as journal:
            seen, before, seconds = self._agree(journal, server), journal.position.row, 0.0
            if not journal.is_computed:
                seconds = self._compute(journal, client, server, seen, progress)
            outcome = Outcome(journal.counts(), journal.position.row - before, seconds)
            publish(places)
        return outcome

    def _recognise(self, server: ProbedServer) -> Outcome:
        """The outcome of an earlier run that finished.

        Raises:
            BulkError: the output is somebody else's.
        """
        try:
            record = json.loads(self.places.record.read_text(encoding="utf-8"))
            different = self._differences(record, server, content_digest(self.spec.source.path))
            counts = record["counts"]
        except (OSError, ValueError, LookupError, TypeError, AttributeError):
            raise BulkError(f"{self.spec.output} is there already; give another name, or -overwrite") from None
        finally:
            if self.places.directory.is_dir():
                discard(self.places.directory)
        if different:
            raise BulkError(f"{self.spec.output} is there already, of another job: {'; '.join(different)}; give "
                            "another name, or -overwrite")
        return Outcome(counts, was_done=True)

    def _agree(self, journal: Journal, server: ProbedServer) -> list[int]:
        """See that a job which was begun is this one, or begin it; the stamp of the input that was looked at.

        Raises:
            BulkError: it is another one.
        """
        source = self.spec.source
        seen = stamp(source.path)
        if journal.job is not None:
            unchanged = journal.job["stamp"] == seen
            digest = journal.job["input"]["digest"] if unchanged else content_digest(source.path)
            different = self._differences(journal.job, server, digest)
            if not different:
                return seen
            if not self.spec.overwrite:
                raise BulkError(f"{self.places.directory} holds the beginning of another job: "
                                f"{'; '.join(different)}; go on with the old ones, or begin anew with -overwrite")
        journal.begin({"input": {**self.spec.about, "digest": content_digest(source.path), "records": source.count()},
                       "output": self.spec.output.suffix, "server": server.facts, "width": server.canaries.shape[1],
                       "dtype": server.canaries.dtype.name, "canaries": server.canaries[:, :SHOWN].tolist(),
                       "stamp": seen})
        return seen

    def _differences(self, job: Mapping[str, Any], server: ProbedServer, digest: str) -> list[str]:
        """What this job has not in common with an earlier one, in words."""
        before, now = ({**job["input"], **job["server"], "output": job["output"]},
                       {**self.spec.about, **server.facts, "output": self.spec.output.suffix})
        # A server of an older version, or a job that it began, does not speak of all that today's has.
        different = [f"{name} was {before.get(name)}, and is {value}" for name, value in now.items()
                     if before.get(name) != value and (name in before or name not in server.facts)]
        if job["input"]["digest"] != digest:
            different.append("the input's content is another")
        canaries = np.asarray(job["canaries"], server.canaries.dtype)
        if job["width"] != server.canaries.shape[1] or job["dtype"] != server.canaries.dtype.name:
            different.append(f"vectors had {counted(job['width'], 'number')} of {job['dtype']}, and have "
                             f"{server.canaries.shape[1]} of {server.canaries.dtype.name}")
        elif golden.difference(server.canaries[:, :SHOWN], canaries, server.precision) is not None:
            different.append("the server's model gives other vectors")
        return different

    def _compute(self, journal: Journal, client: Client, server: ProbedServer, seen: list[int],
                 progress: Callable[[int, int], BulkProgress]) -> float:
        """Compute and write everything that is missing; seconds that it took."""
        assert journal.job is not None
        places, count = self.places, journal.job["input"]["records"]
        width, dtype = server.canaries.shape[1], server.canaries.dtype
        with closing(VectorFile(places.directory / VECTORS, count, width, dtype)) as vectors:
            most = self.spec.in_flight or server.num_chunks
            asker = Asker(client, server.canaries, server.precision, most, self.spec.patience)
            with closing(progress(count, journal.position.row)) as shown:
                BulkRun(self.spec.source, seen, journal, vectors, asker, most, shown.add).run()
            self._complete(journal, vectors)
        return shown.seconds

    def _complete(self, journal: Journal, vectors: VectorFile) -> None:
        """Write what is still missing, and let the journal say that nothing is."""
        assert journal.job is not None
        places = self.places
        if places.output.exists() and not self.spec.overwrite:
            raise BulkError(f"{places.output} has come up in the meantime; move it away, or give -overwrite, and the "
                            "same command ends this job")
        job = {name: value for name, value in journal.job.items() if name != "stamp"}
        try:
            if places.result != VECTORS:
                outputs.FORMATS[places.output.suffix](places.directory / places.result, vectors, journal.rejects)
            write_rejects(places.directory / REJECTS, journal.rejects())
            write_record(places.directory / RECORD, {**job, "counts": journal.counts()})
        except OSError as error:
            raise BulkError(f"cannot write in {places.directory}: {error.strerror or error}; the same command goes on "
                            "from here") from error
        journal.set_computed()
