"""Input made from a random number generator: what is right, and what is right but for something that was spoiled.

Pure, and fast, since millions are wanted. The same generator in the same state makes the same input.
"""
from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

import numpy as np
from bert_serving.client import protocol
from bert_serving.client.errors import BY_CODE
from bert_serving.client.options import RequestOptions
from bert_serving.client.pairs import Pair, Text
from bert_serving.server import __version__
from bert_serving.server.core import messages, remote_messages

Frames = list[bytes]

IDENTITIES = [b"fuzz-%d" % number for number in range(20)]
"""Those that are used again and again; clients that are checked have others."""

WORDS = ["a", "hello world", "", " ", "\x00", "|||", "a ||| b", "[CLS]", "\u00fc\u00f1", "\ud800", "\U0010ffff",
         "\u202e", "x" * 300, "a " * 200, "\n\t", "NaN", '"', "\\", "1", "##ing", "\ufeff", "e\u0301" * 50]

NUMBERS = [b"0", b"1", b"-1", b"+1", b" 1", b"1 ", b"01", b"1.0", b"1e3", b"0x1", b"9" * 17, b"9" * 18, b"9" * 19,
           b"\xd9\xa3", b"\xb2", b"", b"\0", b"1\0", b"one", b"None", b"true", b"18446744073709551616"]

PIECES = [b"", b"\0", b"\xff", b"\xff\xfe", b"\xef\xbb\xbf[]", b"[]", b"{}", b"[[]]", b"null", b"true", b"NaN", b"-0",
          b"1e999", b"[1]", b'["a"]', b'["a",]', b'[["a"],"b"]', b'["a" "b"]', b'{"a":1}', b'{"timeout":-1}',
          b'{"tokens":2}', b'{"input":"pairs"}', b'{"input":"tokens"}', b'{"input":[]}', b'[["a","b"]]',
          b'[["a","b"],["a"]]', b'[["a",["b"]]]', b'[[["a"],["b"]]]', b'["a |\\u007c| b"]', b'["a ||| b"]',
          b'{"timeout":1e400}', b'{"timeout":NaN}', b'{"timeout":true}', b"SHOW_CONFIG",
          b"SHOW_STATUS", b"show_config", b"REGISTER", b'["\\ud800"]', b'["\\u0000"]', '["\u00fc"]'.encode("utf-16"),
          '["\u00fc"]'.encode("latin-1"), b"\x80\x04\x95cos\nsystem\n", b"(lp0\n.", b"%s%n%x", b"../../etc/passwd"]

HEAVY = [b"[" * 20_000, b"[" * 900 + b"]" * 900, b"[" + b"9" * 5000 + b"]", b'{"a":' * 20_000, b"9" * 5000,
         b'"' + b"a" * 70_000 + b'"', b"[" + b'"a",' * 3000 + b'"a"]', b"\0" * 100_000, b" " * 50_000 + b"[]"]
"""What takes so long that it comes once in a hundred."""

Random = random.Random


def piece(rng: Random) -> bytes:
    return rng.choice(PIECES if rng.random() < 0.99 else HEAVY)


def some_bytes(rng: Random, most: int = 40) -> bytes:
    return rng.randbytes(int(most * rng.random() ** 2))


def texts(rng: Random, is_tokenized: bool | None = None) -> Any:
    """The sentences of a right request."""
    size = 1 + int(4 * rng.random() ** 2)
    if is_tokenized if is_tokenized is not None else rng.random() < 0.2:
        return [rng.choices(WORDS, k=int(5 * rng.random())) for _ in range(size)]
    return rng.choices(WORDS, k=size)


def options(rng: Random) -> RequestOptions:
    """What a right request may say."""
    return RequestOptions(timeout=rng.choice((None, 1, 50, 1000.5, 10 ** 6)), tokens=rng.random() < 0.5,
                          input=rng.choice((None, "texts", "tokens", "pairs")))


def pairs(rng: Random) -> list[Pair]:
    is_tokenized = rng.random() < 0.3
    halves = [texts(rng, is_tokenized)[0] for _ in range(2 + 2 * int(3 * rng.random() ** 2))]
    return [Pair(*two) for two in zip(halves[::2], halves[1::2])]


def sequences(rng: Random) -> list[Text]:
    """What is in a job."""
    return [*texts(rng, False), *texts(rng, True), *pairs(rng)]


def value(rng: Random, depth: int = 0) -> Any:
    """Any JSON value, mostly small."""
    kind = rng.random()
    if depth < 3 and kind < 0.25:
        return [value(rng, depth + 1) for _ in range(int(4 * rng.random()))]
    if depth < 3 and kind < 0.4:
        return {rng.choice(KEYS): value(rng, depth + 1) for _ in range(int(3 * rng.random()))}
    return rng.choice(SCALARS)


KEYS = ["dtype", "shape", "tokens", "error", "code", "message", "index", "retry_after", "timeout", "", "a", "lengths",
        "seconds", "num_tokens", "bad", "counts", "statistic", "contents", "specials", "worker", "proof", "input",
        "first", "second"]
SCALARS = [None, True, False, 0, 1, -1, 2 ** 31, 2 ** 63, 2 ** 64, -2 ** 63, 0.5, -0.0, 1e308, float("inf"),
           float("nan"), "", "a", "float32", "<f4", "O", "object", "V8", "U1000000000", "M8[ns]", "f4,f4",
           "1000000000f4", "bad_request", "no_such_code", "\ud800", "x" * 500]


def dump(anything: Any) -> bytes:
    return json.dumps(anything).encode("ascii")


# ---- what is right ---------------------------------------------------------------------------------------------------

def identity(rng: Random) -> bytes:
    if rng.random() < 0.7:
        return rng.choice(IDENTITIES)
    return b"fuzz" + bytes(1 + int(255 * rng.random()) for _ in range(int(12 * rng.random())))


def request(rng: Random) -> Frames:
    """A right request or command; one that stops the server is not among them."""
    kind = rng.random()
    if kind < 0.03:
        return protocol.encode_command(identity(rng), rng.choice((protocol.SHOW_CONFIG, protocol.SHOW_STATUS)),
                                       rng.randrange(10 ** 6))
    if kind < 0.7:
        return protocol.encode_request(identity(rng), rng.randrange(10 ** 6), texts(rng))
    said = options(rng)
    content = pairs(rng) if said.input == "pairs" else texts(rng, said.input and said.input == "tokens")
    return protocol.encode_request(identity(rng), rng.randrange(10 ** 6), content, said)


def reply(rng: Random) -> Frames:
    """A right answer, its topic first."""
    topic, number = protocol.topic(identity(rng)), b"%d" % rng.randrange(10 ** 6)
    kind = rng.random()
    if kind < 0.2:
        return [topic, *map(bytes, protocol.encode_status({rng.choice(KEYS): value(rng, 2)}, number))]
    if kind < 0.4:
        error = rng.choice(ERRORS)("found \u00fc, expected a, b", index=rng.choice((None, 0, 7)),
                                   retry_after=rng.choice((None, 0.5)))
        return [topic, *map(bytes, protocol.encode_error(error, number))]
    rows, columns = int(4 * rng.random()), 1 + int(4 * rng.random())
    dtype, width = rng.choice((("float32", 4), ("float16", 2), ("float64", 8), ("int32", 4)))
    tokens = texts(rng, True) if kind > 0.8 else None
    return [topic, *map(bytes, protocol.encode_result(dtype, [rows, columns], rng.randbytes(rows * columns * width),
                                                      number, tokens))]


ERRORS = list(BY_CODE.values())


def subscription(rng: Random) -> bytes:
    return bytes((rng.random() < 0.7,)) + identity(rng)


def to_worker(rng: Random) -> messages.ToWorker:
    slot, incarnation = rng.randrange(2 ** 32), rng.randrange(2 ** 64)
    if rng.random() < 0.1:
        return messages.Stop(slot, incarnation)
    return messages.Job(slot, incarnation, rng.randrange(2 ** 64), sequences(rng), options(rng))


GOLDEN = np.arange(1, 9, dtype=np.float32).reshape(2, 4)
"""Vectors of the golden sentences at the server that a host has joined; see codecs.check_host."""


def joining(rng: Random, name: str = "fuzz") -> Frames:
    """How a host joins."""
    return remote_messages.encode(remote_messages.JOIN, host=f"{name}{int(5 * rng.random())}", name=name, pid=7,
                                  version=__version__, protocol=remote_messages.PROTOCOL)


def host(rng: Random) -> Frames:
    """What a host says to the server that it works for; answers are to job 1, of two texts."""
    kind = rng.random()
    if kind < 0.5:
        return [remote_messages.ANSWER, *answer(rng, kind < 0.25)]
    if kind < 0.6:
        return joining(rng)
    if kind < 0.75:
        return remote_messages.encode(remote_messages.READY, worker=int(3 * rng.random()), device=-1, num_threads=1,
                                      about="echo", proof=remote_messages.encode_proof(GOLDEN))
    if kind < 0.85:
        return remote_messages.encode(remote_messages.GONE, worker=int(2 * rng.random()), how="killed")
    if kind < 0.9:
        return [remote_messages.ANSWER, *map(bytes, messages.encode_from_worker(
            messages.Fault(0, 1, 1, "internal", "why", rng.choice((None, 1)))))]
    return remote_messages.encode(rng.choice((remote_messages.ALIVE, remote_messages.LEAVE)))


def answer(rng: Random, is_token_level: bool) -> Frames:
    """A worker's right answer to a job of two texts."""
    lengths = [1 + int(4 * rng.random()) for _ in range(2)]
    size = 4 * (sum(lengths) if is_token_level else 2)
    array = np.array([rng.random() - 0.5 for _ in range(size)], np.float32).reshape(-1, 4)
    more: dict[str, Any] = {"lengths": lengths, "contents": lengths, "specials": [2, 2]} if is_token_level else {}
    rows = messages.Rows(0, 1, 1, array, num_tokens=sum(lengths), seconds={"tokenize": 0.001, "compute": 0.5},
                         counts=lengths, tokens=[["a"], []] if rng.random() < 0.3 else None, **more)
    return [bytes(frame) for frame in messages.encode_from_worker(rows)]


# ---- what is spoiled -------------------------------------------------------------------------------------------------

def spoil(rng: Random, frames: Frames) -> Frames:
    """The frames with one to three things wrong; what is given stays as it is."""
    frames = list(frames)
    for _ in range(1 + int(3 * rng.random() ** 3)):
        frames = rng.choice(SPOILERS)(rng, frames)
    return frames


def _flip(rng: Random, frames: Frames) -> Frames:
    place = _place(rng, frames)
    if place is not None and frames[place]:
        changed = bytearray(frames[place])
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
        frames[place] = bytes(changed)
    return frames


def _cut(rng: Random, frames: Frames) -> Frames:
    place = _place(rng, frames)
    if place is not None:
        frames[place] = frames[place][:int(len(frames[place]) * rng.random())]
    return frames


def _lengthen(rng: Random, frames: Frames) -> Frames:
    place = _place(rng, frames)
    if place is not None:
        frames[place] += rng.choice((b"\0", b" ", b"]", b"1", frames[place][:2000], some_bytes(rng)))
    return frames


def _put(rng: Random, frames: Frames) -> Frames:
    place = _place(rng, frames)
    if place is not None:
        frames[place] = piece(rng)
    return frames


def _number(rng: Random, frames: Frames) -> Frames:
    place = _place(rng, frames)
    if place is not None:
        frames[place] = rng.choice(NUMBERS)
    return frames


def _json(rng: Random, frames: Frames) -> Frames:
    place = _place(rng, frames)
    if place is not None:
        frames[place] = dump(value(rng))
    return frames


def _key(rng: Random, frames: Frames) -> Frames:
    """Another value in a JSON object, or another element in a list."""
    for place in rng.sample(range(len(frames)), len(frames)):
        if frames[place][:1] in (b"{", b"["):
            try:
                held = json.loads(frames[place])
            except (ValueError, RecursionError):
                continue
            if isinstance(held, dict):
                held[rng.choice([*held, rng.choice(KEYS)])] = value(rng)
            elif held:
                held[rng.randrange(len(held))] = value(rng)
            frames[place] = dump(held)
            break
    return frames


def _drop(rng: Random, frames: Frames) -> Frames:
    place = _place(rng, frames)
    return frames if place is None else frames[:place] + frames[place + 1:]


def _more(rng: Random, frames: Frames) -> Frames:
    place = rng.randrange(len(frames) + 1)
    return frames[:place] + [piece(rng)] * rng.choice((1, 1, 1, 2, 30)) + frames[place:]


def _swap(rng: Random, frames: Frames) -> Frames:
    rng.shuffle(frames)
    return frames


def _noise(rng: Random, frames: Frames) -> Frames:
    place = _place(rng, frames)
    if place is not None:
        frames[place] = some_bytes(rng, 300)
    return frames


def _place(rng: Random, frames: Frames) -> int | None:
    return rng.randrange(len(frames)) if frames else None


SPOILERS: list[Callable[[Random, Frames], Frames]] = [
    _flip, _flip, _cut, _lengthen, _put, _number, _json, _key, _key, _drop, _more, _swap, _noise]


# ---- HTTP ------------------------------------------------------------------------------------------------------------

PATHS = ["/encode", "/tokenize", "/v1/embeddings", "/v1/models", "/status/server", "/livez", "/metrics", "/", "/app.js",
         "/nowhere", "/../../etc/passwd", "/%00", "/%ff%fe", "/" + "a" * 3000, "*", "http://other/encode", "//encode",
         "/encode?x=" + "y" * 2000, "/encode#", "/\r\nX: 1"]
METHODS = ["GET", "POST", "POST", "POST", "HEAD", "OPTIONS", "PUT", "DELETE", "TRACE", "CONNECT", "get", "PRI", "G\0T",
           ""]
VERSIONS = ["1.1", "1.1", "1.1", "1.0", "2.0", "9", ""]
HEADERS = ["Host: h", "Connection: close", "Connection: keep-alive", "Expect: 100-continue", "Expect: 200-ok",
           "Accept-Encoding: gzip", "Accept-Encoding: br;q=x", "Origin: http://a.example", "Authorization: Bearer x",
           "Authorization: Bearer " + "x" * 5000, "X-API-Key: \xff", "Content-Type: application/json",
           "Content-Type: text/plain", "Content-Type: application/json; charset=utf-7", "Content-Encoding: gzip",
           "Transfer-Encoding: chunked", "Transfer-Encoding: gzip, chunked", "Transfer-Encoding: chunked, chunked",
           "Transfer-Encoding : chunked", "Content-Length: 5", "Content-Length: -1", "Content-Length: 5, 5",
           "Content-Length: 99999999999999999999", "Content-Length: 0x5", " folded: 1", "NoColon", ": empty", "X:",
           "Upgrade: h2c", "X: " + "y" * 9000, "Range: bytes=0-0", "If-None-Match: *", "X-Forwarded-For: 127.0.0.1",
           "Cookie: a=b", "Accept: application/openmetrics-text", "Forwarded: for=x"]


def body(rng: Random) -> bytes:
    kind = rng.random()
    if kind < 0.4:
        return dump({"id": value(rng, 2), "texts": texts(rng)})
    if kind < 0.6:
        return dump({"input": rng.choice((texts(rng), "a", value(rng, 1))), "model": value(rng, 3),
                     "encoding_format": rng.choice(("float", "base64", 3)), "dimensions": value(rng, 3)})
    if kind < 0.8:
        return dump({key: value(rng) for key in rng.sample(("id", "texts", "is_tokenized", "input"), 2)})
    return piece(rng)


def http(rng: Random) -> bytes:
    """One HTTP request, or several in a row, mostly with something wrong."""
    sent = b""
    for _ in range(1 + int(3 * rng.random() ** 3)):
        content = body(rng)
        headers = ["Host: localhost"] if rng.random() < 0.9 else []
        headers += rng.choices(HEADERS, k=int(4 * rng.random() ** 2))
        if rng.random() < 0.2:
            headers.append("Transfer-Encoding: chunked")
            content = _chunked(rng, content)
        elif rng.random() < 0.95:
            headers.append(f"Content-Length: {len(content)}")
        if rng.random() < 0.8:
            headers.append("Content-Type: application/json")
        line = f"{rng.choice(METHODS)} {rng.choice(PATHS)} HTTP/{rng.choice(VERSIONS)}"
        end = "\r\n" if rng.random() < 0.95 else rng.choice(("\n", "\r", "\0\r\n"))
        sent += end.join([line, *headers, "", ""]).encode("latin-1") + content
    return b"".join(spoil(rng, [sent])) if rng.random() < 0.4 else sent


def _chunked(rng: Random, content: bytes) -> bytes:
    size = rng.choice((1, 7, 1000, 100_000))
    parts = [content[at:at + size] for at in range(0, min(len(content), 50 * size), size)]
    coded = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts)
    return coded + rng.choice(CHUNKED_ENDS if rng.random() < 0.98 else ENDLESS)


CHUNKED_ENDS = [b"0\r\n\r\n", b"0\r\n\r\n", b"0\r\nX: 1\r\n\r\n", b"", b"-1\r\n", b"f" * 16 + b"\r\nx", b"zz\r\n",
                b"1;" + b"x" * 3000 + b"\r\na\r\n0\r\n\r\n", b"0" * 500 + b"\r\n\r\n"]
ENDLESS = [b"1;" + b"x" * 40_000, b"0\r\nX: " + b"y" * 40_000]


# ---- ZeroMQ's own protocol (ZMTP 3), as raw bytes --------------------------------------------------------------------

COMMANDS = [b"\4PONG", b"\4PONGabc", b"\5ERROR\5abc", b"\5READY", b"\x09SUBSCRIBE", b"\6CANCEL", b"\xffX", b""]
"""Without PING, which libzmq 4.3.5 does not stand (test_libzmq.py): one would end every run."""


def zmtp(rng: Random) -> bytes:
    """What a peer sends after it has connected: greeting, handshake, frames; mostly with something wrong."""
    kind = rng.random()
    if kind < 0.1:
        return rng.choice((b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x02\x00\x01", b"\0" * 64, b"\xff" * 64,
                           b"SSH-2.0-x\r\n"))
    greeting = b"\xff" + b"\0" * 8 + b"\x7f" + rng.choice((b"\3\0", b"\3\1", b"\2\0", b"\1\0", b"\xff\xff")) + \
        rng.choice((b"NULL", b"NULL", b"NULL", b"PLAIN", b"CURVE", b"GSSAPI", b"X" * 20)).ljust(20, b"\0") + b"\0" * 32
    kind_of_socket = rng.choice((b"PUSH", b"SUB", b"XSUB", b"PUSH", b"SUB", *[b"DEALER"] * 2, b"PAIR", b"", b"Y" * 300))
    ready = b"\5READY" + b"\x0bSocket-Type" + len(kind_of_socket).to_bytes(4, "big") + kind_of_socket
    if rng.random() < 0.2:
        ready += b"\x08Identity" + rng.choice((b"\0\0\0\0", b"\xff\xff\xff\xff", b"\0\0\0\3abc"))
    parts = [greeting, _frame(rng, ready, 4)]
    for _ in range(int(6 * rng.random())):
        if kind_of_socket == b"DEALER":
            frames = host(rng)
        else:
            frames = spoil(rng, request(rng)) if rng.random() < 0.5 else [subscription(rng)]
        frames = without_termination(frames)
        parts += [_frame(rng, frame, int(place + 1 < len(frames))) for place, frame in enumerate(frames)]
        if rng.random() < 0.2:
            parts.append(_frame(rng, rng.choice(COMMANDS), 4))
    return b"".join(spoil(rng, parts) if rng.random() < 0.6 else parts)


TOO_LONG = [b"\xff" * 8, b"\x7f" + b"\xff" * 7, (2 ** 32).to_bytes(8, "big")]
"""Lengths of frames that nobody sends."""


def _frame(rng: Random, data: bytes, flags: int) -> bytes:
    if rng.random() < 0.05:
        return bytes((flags | 2,)) + rng.choice(TOO_LONG) + data
    if len(data) < 256:
        return bytes((flags, len(data))) + data
    return bytes((flags | 2,)) + len(data).to_bytes(8, "big") + data


def without_termination(frames: Frames) -> Frames:
    """The same, but not what makes a server on this host stop."""
    return frames if frames[1:2] != [protocol.TERMINATION] else [frames[0], b"TERMINATION!", *frames[2:]]
