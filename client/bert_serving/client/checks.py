"""What is looked at before anything is sent: the user's input, and whether the server can be understood."""
from __future__ import annotations

import re
import uuid
from typing import Any, Dict, Union

from . import __version__
from .errors import RequestError
from .protocol import MAX_IDENTITY, PROTOCOL_VERSION, TERMINATOR

OLDEST_SERVER = (1, 5, 7)
"""The first version that speaks four frames."""


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
        raise TypeError("identity is a %s; expected bytes or str" % type(identity).__name__)
    if len(identity) > MAX_IDENTITY or TERMINATOR in identity:
        raise ValueError("identity of %d bytes; expected 1 to %d bytes without NUL" % (len(identity), MAX_IDENTITY))
    return identity


def check_input(texts: Any, is_tokenized: bool) -> None:
    """Raises TypeError or ValueError if ``texts`` is not what ``encode`` takes; never shows the texts themselves."""
    inside = "a list of tokens" if is_tokenized else "a str"
    if not isinstance(texts, list):
        raise TypeError("texts is a %s; expected a list, each element %s" % (type(texts).__name__, inside))
    if not texts:
        raise RequestError("texts is an empty list; expected at least one element")
    for index, text in enumerate(texts):
        if not is_tokenized:
            if not isinstance(text, str):
                raise TypeError("element %d is a %s; expected %s" % (index, type(text).__name__, inside))
            if not text or text.isspace():
                raise RequestError("element %d is empty or blank; expected a sentence" % index, index=index)
            continue
        if not isinstance(text, list):
            raise TypeError("element %d is a %s; expected %s" % (index, type(text).__name__, inside))
        if not text:
            raise RequestError("element %d is an empty list; expected at least one token" % index, index=index)
        for token in text:
            if not isinstance(token, str):
                raise TypeError("element %d holds a %s; expected tokens of type str" % (index, type(token).__name__))
            if not token or token.isspace():
                raise RequestError("element %d holds an empty or blank token" % index, index=index)


def is_short(text: Any, limit: int, is_tokenized: bool) -> bool:
    """Whether a text has at most ``limit`` words (or given tokens)."""
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
