"""What broker and remote hosts say to each other.

A **host** is a ``bert-serving-worker``: it has workers of its own, like a server without clients. It connects to one
port, where it joins, says what its workers can do, gets jobs for them and brings their answers. Each frame sequence
begins with a kind of one byte, below with what follows::

    host -> broker    JOIN     {"host": its name for itself, "version", "protocol", "name", "pid"}
                      ALIVE
                      READY    {"worker": number, ... what the worker says of itself, see messages.Ready}
                      GONE     {"worker": number, "how": in words}
                      LEAVE                                         no more jobs, please
                      ANSWER   head, meta[, rows]                   of a worker, see messages
    broker -> host    WHO                                           join, if you want something
                      WELCOME  the fields of Welcome
                      REFUSED  {"reason": in words}
                      ALIVE
                      JOB      worker u32, head, sequences          see messages
                      KILL     {"worker": number, "why": in words}  it hangs
                      BYE      {"reason": in words}                 the server stops, or you have left

A connection that breaks and comes back is another peer to the broker, and so the host joins again: what it had is given
to others by then, or at once. Its workers stay as they are.
"""
from __future__ import annotations

import base64
import json
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from bert_serving.client.words import counted, json_kind

from ..errors import ConfigError
from ..orders import Orders
from .messages import HEAD, Job, encode_to_worker

PROTOCOL = 2

JOIN, ALIVE, READY, GONE, LEAVE, ANSWER, WHO, WELCOME, REFUSED, JOB, KILL, BYE = (bytes([code]) for code in range(12))

WORKER = struct.Struct("<I")

MAX_WORKERS = 4096
"""Of all other hosts together; of one host, a number beyond this is a mistake."""

MAX_WORDS = 16_000_000
"""Most bytes of a message that is no job and no answer; the vectors of the golden sentences need the most of it."""

MAX_COUNT = 2 ** 31
"""Of what a worker counts: a number beyond this is a mistake."""

ALIVE_SECONDS = 1.0
"""How often each end says that it is there, if the timeout is not so short that it has to be more often."""


class MembershipError(ValueError):
    """A message that is none of those above."""


def readable(value: Any, most: int = 64) -> str:
    """What another host says, for the log and for people: short and printable, so that nobody writes our log for us."""
    return (value if isinstance(value, str) else json_kind(value))[:most].encode("unicode_escape").decode()


@dataclass(frozen=True)
class Welcome(Orders):
    """What a host is told when it has joined.

    Attributes:
        options: of the model; see ServerConfig.of_the_model.
        largest_job: most bytes of a job.
        timeout: seconds without a sign of life after which either end counts as lost.
    """

    options: dict[str, Any]
    largest_job: int
    timeout: float

    @classmethod
    def read(cls, values: dict[str, Any]) -> Welcome:
        """
        Args:
            values: contents of a WELCOME.
        Raises:
            MembershipError: they are not.
        """
        try:
            welcome = cls.from_json(values)
        except ConfigError as error:
            raise MembershipError(f"a welcome that is none: {readable(error.message, 300)}") from error
        if not welcome.timeout > 0:
            raise MembershipError(f"a welcome without a timeout: {welcome.timeout!r}")
        return welcome


def encode(kind: bytes, **values: Any) -> list[bytes]:
    """A message whose contents, if any, are plain JSON values."""
    return [kind, json.dumps(values).encode("ascii")] if values else [kind]


def decode(frames: Sequence[bytes | memoryview]) -> tuple[bytes, dict[str, Any]]:
    """Kind and contents of a message that is neither ANSWER nor JOB.

    Raises:
        MembershipError: it is no such message.
    """
    kind = bytes(frames[0]) if frames else b""
    if kind not in (JOIN, ALIVE, READY, GONE, LEAVE, WHO, WELCOME, REFUSED, KILL, BYE) or len(frames) > 2:
        raise MembershipError(f"a message of kind {kind[:8]!r} with {counted(len(frames), 'frame')}")
    if len(frames) == 1:
        return kind, {}
    if len(frames[1]) > MAX_WORDS:
        raise MembershipError(f"contents of {counted(len(frames[1]), 'byte')}; expected at most {MAX_WORDS}")
    try:
        values = json.loads(bytes(frames[1]))
    except (ValueError, RecursionError) as error:
        raise MembershipError(f"contents that are not JSON: {error}") from error
    if not isinstance(values, dict):
        raise MembershipError("contents that are no JSON object")
    return kind, values


def encode_job(worker: int, job: Job) -> list[bytes]:
    return [JOB, WORKER.pack(worker), *encode_to_worker(job)]


def decode_job(frames: Sequence[bytes]) -> tuple[int, bytes, list[bytes]]:
    """
    Returns:
        Number of the worker, head of the message for it, and the rest of that.
    Raises:
        MembershipError: it is no job.
    """
    if len(frames) != 4 or len(frames[1]) != WORKER.size or len(frames[2]) < HEAD.size:
        raise MembershipError(f"a job of {counted(len(frames), 'frame')}")
    return WORKER.unpack(frames[1])[0], frames[2], list(frames[3:])


def encode_proof(array: np.ndarray) -> dict[str, Any]:
    """Vectors of the golden sentences, as part of what a worker says of itself."""
    rows = np.ascontiguousarray(array, np.float32)
    return {"shape": list(rows.shape), "rows": base64.b64encode(rows.tobytes()).decode("ascii")}


def decode_proof(proof: Any) -> np.ndarray:
    """
    Returns:
        float32 [n, D]
    Raises:
        MembershipError: it is no proof.
    """
    try:
        rows = np.frombuffer(base64.b64decode(proof["rows"], validate=True), np.float32)
        count, width = proof["shape"]
        return rows.reshape(int(count), int(width))
    except (TypeError, KeyError, ValueError, OverflowError) as error:
        raise MembershipError(f"no vectors of the golden sentences: {error}") from error


def worker_number(values: dict[str, Any]) -> int:
    """
    Raises:
        MembershipError: there is none.
    """
    number = values.get("worker")
    if type(number) is not int or not 0 <= number < MAX_WORKERS:
        raise MembershipError(f"worker {str(number)[:20]}")
    return number


def count_or_none(value: Any) -> int | None:
    """A number of something, if it is one."""
    return value if type(value) is int and 0 <= value < MAX_COUNT else None
