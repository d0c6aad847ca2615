"""Every frame between broker and worker, both directions: frozen dataclasses, encode and decode beside each other.

Small frames come first and the one big frame last: libzmq aborts the process when a connection goes away while a
multipart with a large inner frame is half sent.

::

    broker -> worker   [head options, sequences]    Job     options: JSON object after the head, or nothing if all
                                                            are the defaults; sequences: JSON list, each a string, a
                                                            list of strings, or {"first", "second"} for a pair
                       [head]                       Stop
    worker -> broker   [head, meta]                 Ready, Fault            meta: JSON object
                       [head, meta, rows]           Rows

``head`` is ``kind u8 | slot u32 | incarnation u64 | job u64``, little-endian.
"""
from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
from bert_serving.client.options import DEFAULT, RequestOptions, decode_options, encode_options
from bert_serving.client.pairs import Pair, Text

HEAD = struct.Struct("<BIQQ")
JOB, STOP, READY, FAULT, ROWS = range(1, 6)


@dataclass(frozen=True, slots=True)
class Job:
    """The mini-batch that one worker gets; its sequences may stem from many requests.

    Attributes:
        options: what holds for all of its sequences. With ``tokens`` the rows are to have the sequences' tokens.
    """

    slot: int
    incarnation: int
    job: int
    sequences: list[Text]
    options: RequestOptions = DEFAULT


@dataclass(frozen=True, slots=True)
class Stop:
    """Finish what you have, then end."""

    slot: int
    incarnation: int


@dataclass(frozen=True, slots=True)
class Ready:
    """The worker's engine has proved itself on golden sentences; ``about`` describes it for log and status."""

    slot: int
    incarnation: int
    about: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Fault:
    """The worker could not do a job; it goes on living.

    Attributes:
        code: wire code of the error, see bert_serving.client.errors.
        index: the sequence of the job that is to blame, if known.
    """

    slot: int
    incarnation: int
    job: int
    code: str
    message: str
    index: int | None = None


@dataclass(frozen=True, slots=True)
class Rows:
    """A job's result.

    Attributes:
        array: [n, D], a row per sequence; with ``lengths``, [sum(lengths), D], a row per token.
        lengths: tokens of each sequence when the rows are token-level, else None.
        contents: tokens of each sequence without special ones, token-level only.
        specials: how many special tokens each sequence's batch is widened by (see Features), token-level only.
        tokens: each sequence's tokens when somebody wants them, else None.
        num_tokens: tokens computed, for the statistics.
        seconds: time the worker spent tokenizing and computing; to tokenize beside the job before takes none.
        bad: sequences whose vector is not finite.
        counts: tokens of each sequence, special ones included.
    """

    slot: int
    incarnation: int
    job: int
    array: np.ndarray
    lengths: list[int] | None = None
    contents: list[int] | None = None
    specials: list[int] | None = None
    tokens: list[list[str]] | None = None
    num_tokens: int = 0
    seconds: dict[str, float] = field(default_factory=dict)
    bad: list[int] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)


ToWorker = Job | Stop
FromWorker = Ready | Fault | Rows


def encode_to_worker(message: ToWorker) -> list[bytes]:
    if isinstance(message, Stop):
        return [HEAD.pack(STOP, message.slot, message.incarnation, 0)]
    head = HEAD.pack(JOB, message.slot, message.incarnation, message.job)
    return [head + encode_options(message.options), dump(message.sequences)]


def decode_to_worker(frames: Sequence[bytes]) -> ToWorker:
    """What the broker says.

    Raises:
        ValueError, KeyError, struct.error: it is no such message, which would be our own mistake.
    """
    kind, slot, incarnation, job = HEAD.unpack_from(frames[0])
    if kind == STOP:
        return Stop(slot, incarnation)
    if kind != JOB:
        raise ValueError(f"message of kind {kind} to a worker")
    rest = bytes(frames[0][HEAD.size:])
    return Job(slot, incarnation, job, _read(frames[1].decode("ascii")), decode_options(rest) if rest else DEFAULT)


def readdress(head: bytes, slot: int, incarnation: int, job: int) -> bytes:
    """The first frame of a message to a worker, for another worker; its kind and its options stay."""
    return HEAD.pack(HEAD.unpack_from(head)[0], slot, incarnation, job) + head[HEAD.size:]


def dump(sequences: Text | list[Text]) -> bytes:
    """Sequences, or one of them, as JSON: equal ones, and no others, become equal bytes."""
    return _write(sequences).encode("ascii")


def _pair_to_json(pair: Any) -> dict[str, Any]:
    if not isinstance(pair, Pair):
        raise TypeError(f"{type(pair).__name__} among the sequences of a job")
    return {"first": pair.first, "second": pair.second}


# Made once: json.dumps and json.loads make a new one for each call that has a hook. Text alone never gets to the hooks.
_write = json.JSONEncoder(default=_pair_to_json).encode
_read = json.JSONDecoder(object_hook=lambda values: Pair(values["first"], values["second"])).decode


def encode_from_worker(message: FromWorker) -> list[bytes | memoryview]:
    """Frames of what a worker says; the rows travel without a copy."""
    slot, incarnation = message.slot, message.incarnation
    if isinstance(message, Ready):
        return [HEAD.pack(READY, slot, incarnation, 0), json.dumps(message.about).encode("ascii")]
    if isinstance(message, Fault):
        meta: dict[str, Any] = {"code": message.code, "message": message.message, "index": message.index}
        return [HEAD.pack(FAULT, slot, incarnation, message.job), json.dumps(meta).encode("ascii")]
    array = np.ascontiguousarray(message.array)
    meta = {"dtype": dtype_name(array.dtype), "shape": array.shape, "num_tokens": message.num_tokens,
            "seconds": message.seconds}
    for name in ("lengths", "contents", "specials", "tokens", "bad", "counts"):
        if getattr(message, name):
            meta[name] = getattr(message, name)
    return [HEAD.pack(ROWS, slot, incarnation, message.job), json.dumps(meta).encode("ascii"),
            array.data.cast("B") if array.size else b""]


@cache
def dtype_name(dtype: np.dtype[Any]) -> str:
    """A dtype's name, which NumPy makes anew each time it is asked; that takes as long as all else a reply needs."""
    return dtype.name


def decode_from_worker(frames: Sequence[bytes | memoryview]) -> FromWorker:
    """Workers are ours, so a frame that does not decode is our own mistake: ValueError, struct.error or KeyError."""
    kind, slot, incarnation, job = HEAD.unpack(frames[0])
    meta = json.loads(bytes(frames[1]))
    if kind == READY:
        return Ready(slot, incarnation, meta)
    if kind == FAULT:
        return Fault(slot, incarnation, job, meta["code"], meta["message"], meta["index"])
    if kind != ROWS:
        raise ValueError(f"message of kind {kind} from a worker")
    array = np.frombuffer(frames[2], meta["dtype"]).reshape(meta["shape"])
    return Rows(slot, incarnation, job, array, meta.get("lengths"), meta.get("contents"), meta.get("specials"),
                meta.get("tokens"), meta["num_tokens"], meta["seconds"], meta.get("bad", []), meta.get("counts", []))
