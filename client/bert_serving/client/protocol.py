"""The wire between client and server: what the frames are, in both directions. No sockets here.

Client to server (PUSH to PULL), as bert-as-service 1.x::

    [identity, payload, request id, length]              an encode request or a command
    [identity, payload, request id, length, options]     the same to a server that announces ``request_options``

``payload`` is UTF-8 JSON (``list[str]``, or ``list[list[str]]`` for tokenized input) or a command token; request id and
length are decimal ASCII; ``options`` is a JSON object, see :mod:`.options`. Its ``input`` says what the payload holds
(``pairs``: a list of ``[first, second]``); without it, ``"a ||| b"`` is a pair, as in bert-as-service 1.x.

Server to client (XPUB to SUB)::

    [identity NUL, header, vectors, request id]          header: JSON {"dtype", "shape", "tokens"}
    [identity NUL, header, b"",     request id]          header: JSON {"error": {"code", "message"}, "dtype", ...}
    [identity NUL, status, request id]                   status: JSON object

SUB sockets match by prefix, so a client that subscribed to its bare identity accepts the terminated topic, while the
server, which registers ``identity NUL`` for it, never matches one identity with another (or with the empty one).
"""
from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple, Union

import numpy as np

from .errors import BertServingError, RequestError, from_wire
from .options import DEFAULT, PAIRS, TEXTS, TOKENS, RequestOptions, decode_options, encode_options
from .pairs import SEPARATOR, Pair, Text, split_text, split_tokens
from .words import counted, json_kind

PROTOCOL_VERSION = 2
"""The wire's own version: 1 is the original's; 2 adds the options frame and the error header. Old peers read both."""

SHOW_CONFIG = b"SHOW_CONFIG"
SHOW_STATUS = b"SHOW_STATUS"
TERMINATION = b"TERMINATION"
COMMANDS = (SHOW_CONFIG, SHOW_STATUS, TERMINATION)

TERMINATOR = b"\0"
"""Ends every topic, so that no identity is a prefix of another one's topic."""

PROBE = b"probe-"
"""How an identity begins whose requests only ask whether the server works: nobody waits for them."""

_RECENT = b"recent"

MAX_IDENTITY = 255
MAX_DIGITS = 18
"""More digits than any counter needs; ``int()`` of thousands of digits is an attack on the interpreter."""

_read_json = json.JSONDecoder().raw_decode

Texts = Union[List[str], List[List[str]], List[Pair], List[Text]]
Buffer = Union[bytes, bytearray, memoryview]


class ProtocolError(RequestError):
    """The peer sent frames that are not a request.

    Attributes:
        identity: whom to answer; empty if the frames do not say so in a usable way.
        request_id: the id to answer under, byte for byte.
    """

    def __init__(self, message: str, identity: bytes = b"", request_id: bytes = b"0") -> None:
        super().__init__(message)
        self.identity = identity
        self.request_id = request_id


class Request(NamedTuple):
    """An encode request: texts that become one array.

    A tuple, as Command is: a server makes one for each message, and a frozen dataclass takes three times as long.
    """

    identity: bytes
    request_id: bytes
    texts: List[Text]
    nbytes: int
    """Size of the payload as it came over the wire."""
    options: RequestOptions


class Command(NamedTuple):
    """SHOW_CONFIG, SHOW_STATUS or TERMINATION."""

    identity: bytes
    request_id: bytes
    name: bytes
    token: bytes = b""
    """Of TERMINATION: what allows it from another host."""


@dataclass(frozen=True)
class Result:
    """The answer to an encode request: an array with one row per sentence, read-only."""

    request_id: int
    embedding: np.ndarray
    tokens: Optional[List[List[str]]]


@dataclass(frozen=True)
class Status:
    """The answer to SHOW_CONFIG or SHOW_STATUS."""

    request_id: int
    values: Dict[str, Any]


@dataclass(frozen=True)
class Failure:
    """The server's answer when there is no result: the exception to raise."""

    request_id: int
    error: BertServingError


# ---- client to server ------------------------------------------------------------------------------------------------

def encode_request(identity: bytes, request_id: int, texts: Texts, options: RequestOptions = DEFAULT) -> List[bytes]:
    """Frames of an encode request; the options frame is there only if an option differs from its default.

    Args:
        texts: with ``options.input`` "pairs" each a :class:`.Pair`, or two in a tuple.
    """
    elements: Any = [list(pair) for pair in texts] if options.input == PAIRS else texts
    # ASCII escapes: a lone surrogate in a text survives JSON this way, and would not survive .encode().
    frames = [identity, json.dumps(elements).encode("ascii"), b"%d" % request_id, b"%d" % len(texts)]
    frame = encode_options(options)
    if frame:
        frames.append(frame)
    return frames


def encode_command(identity: bytes, name: bytes, request_id: int) -> List[bytes]:
    """Frames of a command."""
    return [identity, name, b"%d" % request_id, b"0"]


def encode_termination(token: bytes = b"") -> List[bytes]:
    """Frames that ask any server from 1.9.1 on to stop (earlier ones expect empty fields).

    Args:
        token: what allows it from another host than the server's own; only ours know it.
    """
    return [b"0", TERMINATION, b"0", b"0", *([token] if token else [])]


def decode_request(frames: Sequence[bytes]) -> Union[Request, Command]:
    """What a client wants.

    Raises:
        ProtocolError: the frames are no request; it names what was found, and whom to answer under which id.
    """
    identity = frames[0] if frames else b""
    if len(frames) >= 2 and frames[1] == TERMINATION:  # 1.9.0 and earlier leave every other frame empty
        return Command(identity, b"0", TERMINATION, bytes(frames[4]) if len(frames) > 4 else b"")
    if not 0 < len(identity) <= MAX_IDENTITY or TERMINATOR in identity:
        raise ProtocolError("identity of %s; expected 1 to %d bytes without NUL"
                            % (counted(len(identity), "byte"), MAX_IDENTITY))
    if len(frames) not in (4, 5):
        # Clients older than 1.5.7 sent [identity, payload, request id].
        request_id = frames[2] if len(frames) > 2 and _is_number(frames[2]) else b"0"
        raise ProtocolError("a request of %s; expected 4: identity; payload; request id; length"
                            % counted(len(frames), "frame"),
                            identity, request_id)
    payload, request_id, length = frames[1:4]
    if not _is_number(request_id):
        raise ProtocolError("request id is not a decimal number of at most %d digits" % MAX_DIGITS,
                            identity, request_id[:MAX_IDENTITY])
    if payload in (SHOW_CONFIG, SHOW_STATUS):
        return Command(identity, request_id, bytes(payload))
    if not _is_number(length):
        raise ProtocolError("length frame is not a decimal number of at most %d digits" % MAX_DIGITS,
                            identity, request_id)
    try:
        options = decode_options(bytes(frames[4])) if len(frames) == 5 else DEFAULT
        texts = decode_texts(payload, options.input)
    except RequestError as error:
        raise ProtocolError(error.message, identity, request_id) from error
    if int(length) != len(texts):
        raise ProtocolError("length frame says %s but the payload holds "
                            "%d" % (counted(int(length), "sentence"), len(texts)),
                            identity, request_id)
    return Request(identity, request_id, texts, len(payload), options)


def decode_texts(payload: Buffer, kind: Optional[str] = None) -> List[Text]:
    """The sentences of a request's payload.

    Args:
        kind: what they are, as ``RequestOptions.input`` says.
    Raises:
        RequestError: not JSON, or not a non-empty array of what ``kind`` says.
    """
    texts: Any
    try:
        # As json.loads reads bytes, but without its guess at the encoding, and at once if there are no blanks around.
        text = bytes(payload).decode("utf-8", "surrogatepass")
        texts, end = _read_json(text) if text[:1] == "[" else (None, 0)
        if end != len(text):
            texts = json.loads(text)
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError is a ValueError
        raise RequestError("payload is not UTF-8 JSON (%s); expected an array of strings or an array of arrays of "
                           "strings"
                           % str(error)[:100]) from error
    if kind is None:
        check_texts(texts)
        # Most payloads are seen at once to hold no pair: a bar is written as itself, or as an escape. Looking for one
        # character is a hundred times as fast as looking for several.
        return _split(texts) if "|" in text or "\\" in text else texts
    if kind == PAIRS:
        return check_pairs(texts)
    check_texts(texts)
    expected = {TEXTS: str, TOKENS: list}[kind]
    if type(texts[0]) is not expected:
        raise RequestError("element 0 is %s; expected, with input %s, %s"
                           % (json_kind(texts[0]), kind, json_kind(expected())), index=0)
    checked: List[Text] = texts
    return checked


def _split(texts: List[Any]) -> List[Text]:
    if type(texts[0]) is str:
        return [split_text(text) if SEPARATOR in text else text for text in texts]
    return [split_tokens(tokens) for tokens in texts]


def check_texts(texts: Any) -> Texts:
    """``texts`` itself if it is a non-empty list[str] or list[list[str]].

    Raises:
        RequestError: it is something else; the message says what, and at which index.
    """
    if type(texts) is not list:
        raise RequestError("payload is %s; expected an array of strings or an array of arrays of strings"
                           % json_kind(texts))
    if not texts:
        raise RequestError("payload is an empty array; expected at least one sentence")
    if set(map(type, texts)) == {str}:
        return texts
    expected = type(texts[0])
    if expected is not str and expected is not list:
        raise RequestError("element 0 is %s; expected a string or an array of strings" % json_kind(texts[0]),
                           index=0)
    for index, text in enumerate(texts):
        if type(text) is not expected:
            raise RequestError("element %d is %s but element 0 is %s; expected all strings or all arrays of strings"
                               % (index, json_kind(text), json_kind(texts[0])), index=index)
        if expected is list:
            for token in text:
                if type(token) is not str:
                    raise RequestError("element %d holds %s; expected an array of strings"
                                       % (index, json_kind(token)), index=index)
    return texts


def check_pairs(pairs: Any) -> List[Text]:
    """The pairs of a non-empty list of [first, second], all strings or all lists of strings.

    Raises:
        RequestError: it is something else; the message says what, and at which index.
    """
    if type(pairs) is not list or not pairs:
        raise RequestError("payload is %s; expected an array of pairs"
                           % ("an empty array" if pairs == [] else json_kind(pairs)))
    for index, pair in enumerate(pairs):
        if type(pair) is not list or len(pair) != 2:
            found = "an array of %d" % len(pair) if type(pair) is list else json_kind(pair)
            raise RequestError("element %d is %s; expected a pair: an array of two" % (index, found), index=index)
    try:
        check_texts([half for pair in pairs for half in pair])
    except RequestError as error:
        half = error.index or 0
        raise RequestError("pair %d: %s" % (half // 2, error.message), index=half // 2) from error
    return [Pair(first, second) for first, second in pairs]


def _is_number(frame: bytes) -> bool:
    return 0 < len(frame) <= MAX_DIGITS and frame.isdigit()


# ---- server to client ------------------------------------------------------------------------------------------------

def topic(identity: bytes) -> bytes:
    """First frame of every reply to ``identity``."""
    return identity + TERMINATOR


def recent_subscription(identity: bytes) -> bytes:
    """What a client subscribes to, beside its identity, to get what was published to it shortly before."""
    return identity + TERMINATOR + _RECENT


def recent_topic(identity: bytes) -> bytes:
    """First frame of a result that is sent to one subscriber again. It ends in no terminator, so that it does not
    match the topic of any identity."""
    return identity + b"\1"


def asks_for_recent(subscription: bytes) -> Optional[bytes]:
    """The identity of a :func:`recent_subscription`; None if it is something else."""
    identity, _, rest = subscription.partition(TERMINATOR)
    return identity if rest == _RECENT and 0 < len(identity) <= MAX_IDENTITY else None


def encode_result(dtype: str, shape: Sequence[int], vectors: Buffer, request_id: bytes,
                  tokens: Optional[List[List[str]]] = None) -> List[Buffer]:
    """Frames of a result, without the topic; ``vectors`` is C-contiguous and little-endian."""
    if tokens is None:
        return [_plain_header(dtype, tuple(shape)), vectors, request_id]
    return [json.dumps({"dtype": dtype, "shape": list(shape), "tokens": tokens}).encode("ascii"), vectors, request_id]


@lru_cache(maxsize=1024)
def _plain_header(dtype: str, shape: Tuple[int, ...]) -> bytes:
    """The header of a result without tokens; nearly all are of a few shapes."""
    return json.dumps({"dtype": dtype, "shape": shape, "tokens": ""}).encode("ascii")


def encode_status(values: Dict[str, Any], request_id: bytes) -> List[Buffer]:
    """Frames of a config or status reply, without the topic."""
    return [json.dumps(values).encode("ascii"), request_id]


def encode_error(error: BertServingError, request_id: bytes) -> List[Buffer]:
    """Frames of an error, without the topic.

    An original client builds an array from the header, so its ``dtype`` carries the message: numpy then raises
    ``TypeError: data type 'bert-serving error ...' not understood`` where the client would otherwise hang. A comma
    would make numpy parse a record type, and a non-ASCII character another error: neither may occur in it.
    """
    wire = error.to_wire()
    text = "bert-serving error %s: %s" % (wire["code"], wire["message"])
    printable = "".join(character if " " <= character <= "~" else "?" for character in text).replace(",", ";")
    header = {"error": wire, "dtype": printable, "shape": [0], "tokens": ""}
    return [json.dumps(header).encode("ascii"), b"", request_id]


def decode_reply(frames: Sequence[Buffer]) -> Union[Result, Status, Failure]:
    """What the server answered; reads replies of every server since 1.5.7.

    Raises:
        ProtocolError: the frames are no reply; its ``request_id`` is that of the reply, or ``b"0"`` if there is none.
    """
    last = bytes(frames[-1]) if len(frames) >= 3 else b""
    if not _is_number(last):
        raise ProtocolError("a reply of %s without a request id at its end" % counted(len(frames), "frame"))
    request_id = int(last)
    try:
        header = json.loads(bytes(frames[1]))
    except (ValueError, RecursionError) as error:
        raise ProtocolError("the header of a reply is not JSON", request_id=last) from error
    if type(header) is not dict:
        raise ProtocolError("the header of a reply is %s; expected an object" % json_kind(header), request_id=last)
    if len(frames) == 3:
        return Status(request_id, header)
    if isinstance(header.get("error"), dict):
        return Failure(request_id, from_wire(header["error"]))
    # "" from servers that show no tokens, absent before 1.8.0.
    tokens = header.get("tokens") or None
    try:
        # frombuffer over bytes gives a read-only array, as the original did.
        embedding = np.frombuffer(frames[2], dtype=_dtype(header["dtype"])).reshape(_shape(header["shape"]))
    except (KeyError, TypeError, ValueError) as error:
        raise ProtocolError("a result whose header does not fit its vectors: %s" % error, request_id=last) from error
    return Result(request_id, embedding, tokens)


def _dtype(name: Any) -> "np.dtype[Any]":
    # By name only: np.dtype() also evaluates small languages, and raises whatever their parsers raise.
    if type(name) is not str or not re.fullmatch(r"(float|u?int)(8|16|32|64)|bool", name):
        raise ValueError("dtype %.50r; expected the name of a number type" % (name,))
    return np.dtype(name)


def _shape(shape: Any) -> List[int]:
    if type(shape) is not list or not all(type(size) is int and 0 <= size < 2 ** 40 for size in shape):
        raise ValueError("shape %.50r; expected a list of sizes" % (shape,))
    return shape
