"""What is looked at before anything is sent: the user's input, and whether the server can be understood."""
from __future__ import annotations

import re
import uuid
from typing import Any, Dict, List, Optional, Sequence, Tuple, Union

from . import __version__
from .errors import RequestError
from .hosts import check_host
from .options import INPUTS, PAIRS, TEXTS
from .pairs import Pair
from .protocol import MAX_IDENTITY, PROTOCOL_VERSION, TERMINATOR
from .words import Kind, counted, python_kind

OLDEST_SERVER = (1, 5, 7)
"""The first version that speaks four frames."""

Address = Tuple[str, int, int]
"""Host, port, port_out."""

# Server options that change the vectors. The engine is not among them: `lite` and `graph` agree.
VECTOR_OPTIONS = (
    "model_name", "hidden_size", "ckpt_name", "max_seq_len", "do_lower_case", "pooling_layer", "pooling_strategy",
    "normalize", "prompt_name", "special_tokens_in_text", "mask_cls_sep", "no_special_token", "no_position_embeddings",
    "fixed_embed_length", "num_labels", "precision")


def valid_identity(identity: Union[None, str, bytes] = None) -> bytes:
    """The identity as it goes over the wire; a new random one if none is given.

    Raises:
        TypeError, ValueError: it is not one.
    """
    if not identity:
        return str(uuid.uuid4()).encode("ascii")
    if isinstance(identity, str):
        identity = identity.encode("utf-8")
    if not isinstance(identity, bytes):
        raise TypeError("identity is %s; expected bytes or str" % python_kind(identity))
    if len(identity) > MAX_IDENTITY or TERMINATOR in identity:
        raise ValueError("identity of %s; expected 1 to %d bytes without NUL"
                         % (counted(len(identity), "byte"), MAX_IDENTITY))
    return identity


def check_ports(**ports: Any) -> None:
    """Raises ValueError if a port is none; text that is a number is one."""
    for name, port in ports.items():
        if not re.fullmatch(r"\d{1,5}", str(port)) or not 0 < int(port) < 65536:
            raise ValueError("%s is %r; expected a number from 1 to 65535" % (name, port))


def check_timeout(timeout: Any) -> None:
    """Raises TypeError if ``timeout`` is no number, nor None."""
    if timeout is not None and not isinstance(timeout, (int, float)):
        raise TypeError("timeout is %r; expected milliseconds, or -1 for ever" % (timeout,))


def server_addresses(servers: Sequence[Union[str, Sequence[Any]]], port: int, port_out: int) -> List[Address]:
    """Where the servers of a list are.

    Args:
        servers: each "host", "host:port" or "host:port:port_out", or a tuple of these.
        port: of those who give none; then ``port_out`` is theirs too. After a port alone, port_out is the next number.
        port_out: see ``port``.
    Raises:
        TypeError, ValueError: it is no such list.
    """
    if isinstance(servers, (str, bytes)) or not isinstance(servers, Sequence):
        raise TypeError('servers is %s; expected a list like ["10.0.0.7", "10.0.0.8:5555:5556"]' % python_kind(servers))
    if not servers:
        raise ValueError("servers is an empty list; expected at least one server")
    addresses = [_address(entry, port, port_out) for entry in servers]
    for index, address in enumerate(addresses):
        if address in addresses[:index]:
            raise ValueError("servers has %s, ports %d and %d, twice" % address)
    return addresses


def _address(entry: Union[str, Sequence[Any]], port: int, port_out: int) -> Address:
    parts: Sequence[Any] = ()
    if isinstance(entry, str):
        found = re.fullmatch(r"(\[[^\]]+\]|[^:]+)(?::(\d{1,5}))?(?::(\d{1,5}))?", entry)
        if found:
            parts = [found.group(1), *(int(part) for part in found.groups()[1:] if part)]
        elif "::" in entry or entry.count(":") == 7:  # an address of IPv6, as it is
            parts = [entry]
    elif isinstance(entry, Sequence):
        parts = entry
    if (not 1 <= len(parts) <= 3 or not isinstance(parts[0], str) or not parts[0].strip()
            or not all(type(part) is int and 0 < part < 65536 for part in parts[1:])  # True is an int, too
            or len(parts) == 2 and parts[1] == 65535):
        raise ValueError('servers has %r; expected "host", "host:port" or "host:port:port_out", or a tuple of these; '
                         "ports are up to 65535, after a port alone port_out is the next" % (entry,))
    host, given = parts[0], list(parts[1:])
    check_host("a host of servers", host)
    if not given:
        return host, port, port_out
    return host, given[0], given[1] if given[1:] else given[0] + 1


def difference(config: Dict[str, Any], other: Dict[str, Any]) -> Optional[str]:
    """Why servers with these configurations do not give the same vectors; None if they do, as far as they tell."""
    return ", ".join("%s is %s instead of %s" % (key, config[key], other[key]) for key in VECTOR_OPTIONS
                     if key in config and key in other and config[key] != other[key]) or None


def check_kind(texts: Any, is_tokenized: bool, kind: Optional[str]) -> Optional[str]:
    """What a request's ``input`` is: what the user says, or that its elements are pairs; None: he leaves it open.

    Raises:
        ValueError: he says what there is not, or two things that do not go together.
    """
    if kind is not None and kind not in INPUTS:
        raise ValueError("input is %r; expected None or one of: %s" % (kind, ", ".join(INPUTS)))
    if is_tokenized and kind == TEXTS:
        raise ValueError("input is 'texts', but is_tokenized is true; leave one of them out")
    has_pairs = isinstance(texts, list) and bool(texts) and _is_pair(texts[0])
    if kind is not None and has_pairs != (kind == PAIRS):
        raise ValueError("input is %r, but the texts are %s" % (kind, "tuples" if has_pairs else "no tuples"))
    return PAIRS if has_pairs else kind


def _is_pair(text: Any) -> bool:
    return isinstance(text, (tuple, Pair))


def check_input(texts: Any, is_tokenized: bool, kind: Kind = python_kind) -> None:
    """
    Args:
        texts: what the user wants encoded: a list of strings, of lists of strings, or of pairs of either.
        is_tokenized: each text, or each half of a pair, is a list of tokens.
        kind: names a value's type for whoever reads the message.
    Raises:
        TypeError, ValueError: it cannot be encoded; the message says why, and at which index.
    """
    sequence, string = kind([]), kind("")
    inside = "%s of tokens" % sequence if is_tokenized else string
    if not isinstance(texts, list):
        raise TypeError("texts is %s; expected %s, each element %s" % (kind(texts), sequence, inside))
    if not texts:
        raise RequestError("texts is an empty %s; expected at least one element" % _bare(sequence))
    check = _check_tokens if is_tokenized else _check_text
    if not _is_pair(texts[0]):
        for index, text in enumerate(texts):
            check(index, text, kind)
        return
    for index, pair in enumerate(texts):
        if not _is_pair(pair):
            raise TypeError("element %d is %s, but element 0 is a pair; expected all pairs, or none"
                            % (index, kind(pair)))
        halves = tuple(pair)
        if len(halves) != 2:
            raise RequestError("element %d is a tuple of %d; expected a pair: (first, second)" % (index, len(halves)),
                               index=index)
        for half in halves:
            check(index, half, kind)


def _check_text(index: int, text: Any, kind: Kind) -> None:
    if not isinstance(text, str):
        raise TypeError("element %d is %s; expected %s" % (index, kind(text), kind("")))
    if not text or text.isspace():
        raise RequestError("element %d is empty or blank; expected a sentence" % index, index=index)


def _check_tokens(index: int, tokens: Any, kind: Kind) -> None:
    sequence = kind([])
    if not isinstance(tokens, list):
        raise TypeError("element %d is %s; expected %s of tokens" % (index, kind(tokens), sequence))
    if not tokens:
        raise RequestError("element %d is an empty %s; expected at least one token" % (index, _bare(sequence)),
                           index=index)
    for token in tokens:
        if not isinstance(token, str):
            raise TypeError("element %d holds %s; expected each token to be %s" % (index, kind(token), kind("")))
        if not token or token.isspace():
            raise RequestError("element %d holds an empty or blank token" % index, index=index)


def _bare(noun: str) -> str:
    """The noun without its article."""
    return noun.partition(" ")[2]


def is_short(text: Any, limit: int, is_tokenized: bool) -> bool:
    """Whether a text, or a pair, has at most ``limit`` words (or given tokens)."""
    if _is_pair(text):
        first, second = text
        return is_short(first + second if is_tokenized else "%s %s" % (first, second), limit, is_tokenized)
    if is_tokenized:
        return len(text) <= limit
    return len(text) < 2 * limit or len(text.split()) <= limit  # n words have at least 2n - 1 characters


def is_ours(config: Dict[str, Any]) -> bool:
    """Whether a server with that configuration is of this project, and so more robust than the original ones."""
    return "protocol_version" in config


def check_version(config: Dict[str, Any]) -> None:
    """Raises AttributeError if this client does not understand the server with that configuration."""
    way_out = "install the same version on both sides, or, at your own risk, use BertClient(check_version=False)"
    protocol = config.get("protocol_version")
    if isinstance(protocol, int):
        if protocol <= PROTOCOL_VERSION:
            return
        raise AttributeError("the server, %s, speaks protocol %d; this client, %s, speaks only up to %d; %s" % (
            config.get("bert_serving_version"), protocol, __version__, PROTOCOL_VERSION, way_out))
    found = re.match(r"(\d{1,9})\.(\d{1,9})(?:\.(\d{1,9}))?", str(config.get("server_version")))
    version = tuple(int(part or 0) for part in found.groups()) if found else (0,)
    if version[0] != OLDEST_SERVER[0] or version < OLDEST_SERVER:
        raise AttributeError("the server has version %s; this client, version %s, understands %s to 1.10 and 2.x; %s"
                             % (config.get("server_version"), __version__, ".".join(map(str, OLDEST_SERVER)), way_out))
