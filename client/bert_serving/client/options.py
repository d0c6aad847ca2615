"""What a request can say beside its texts: one value, declared once, and its JSON."""
from __future__ import annotations

import json
from dataclasses import MISSING, Field, dataclass, field, fields
from functools import lru_cache
from typing import Any, Callable, Dict, Optional, Sequence, Tuple

from .errors import RequestError
from .words import json_kind

TEXTS, TOKENS, PAIRS = "texts", "tokens", "pairs"
INPUTS = (TEXTS, TOKENS, PAIRS)
"""What the elements of a request may be."""

_MAX_CACHED = 256
"""Longest options frame that is remembered with its meaning, in bytes. Most clients send the same one each time."""


def _option(default: Any, accepts: Callable[[Any], bool], expected: str, about: str) -> Any:
    """A field of RequestOptions.

    Args:
        default: what holds where a request does not say; never sent.
        accepts: whether a JSON value other than the default is one of this option's.
        expected: what it accepts, for messages.
        about: what the option does, in a sentence.
    """
    return field(default=default, metadata={"accepts": accepts, "expected": expected, "help": about})


@dataclass(frozen=True)
class RequestOptions:
    """The options of one request; the defaults are what an original client gets."""

    timeout: Optional[float] = _option(
        None, lambda value: type(value) in (int, float) and value >= 0, "a number of milliseconds, 0 or more",
        "how long the client waits for the answer, in milliseconds; without it, for ever")
    tokens: bool = _option(
        False, lambda value: type(value) is bool, "true or false",
        "send the tokens of each text along with the vectors")
    input: Optional[str] = _option(
        None, lambda value: type(value) is str and value in INPUTS, " or ".join(map(json.dumps, INPUTS)),
        "what the payload holds: texts, taken literally; tokens, a list for each text, taken literally; or pairs, each "
        "[first, second], both texts or both lists of tokens. Without it: texts or lists of tokens, where ||| between "
        "two texts makes them a pair")

    def to_json(self) -> Dict[str, Any]:
        """The options that differ from their defaults; what :meth:`from_json` reads."""
        return {option.name: value for option in FIELDS
                for value in (getattr(self, option.name),) if value != option.default}

    @classmethod
    def from_json(cls, values: Any) -> RequestOptions:
        """
        Raises:
            RequestError: it is no object, holds an option that there is not, or a value that is none of its option's.
        """
        if type(values) is not dict:
            raise RequestError("options frame is %s; expected an object" % json_kind(values))
        for name, value in values.items():
            if name not in _BY_NAME:
                raise RequestError("unknown option %s; expected %s"
                                   % (json.dumps(name)[:50], " or ".join(NAMES)))
            option = _BY_NAME[name]
            if not (value is None and option.default is None or option.metadata["accepts"](value)):
                found = json.dumps(value)[:50] if type(value) in (str, int, float) else json_kind(value)
                raise RequestError("option %s is %s; expected %s" % (name, found, option.metadata["expected"]))
        return cls(**values)


FIELDS: Tuple[Field[Any], ...] = fields(RequestOptions)
NAMES = tuple(option.name for option in FIELDS)
"""What a server announces as ``request_options``."""
_BY_NAME = {option.name: option for option in FIELDS}
assert all(option.default is not MISSING for option in FIELDS), "a request may say nothing at all"

DEFAULT = RequestOptions()


def encode_options(options: RequestOptions) -> bytes:
    """The options as a frame; empty if all are the defaults."""
    values = {} if options is DEFAULT else options.to_json()
    return json.dumps(values).encode("ascii") if values else b""


def decode_options(frame: bytes) -> RequestOptions:
    """The options in a frame: a JSON object.

    Raises:
        RequestError: see :meth:`RequestOptions.from_json`; or it is not JSON.
    """
    return _cached(frame) if len(frame) <= _MAX_CACHED else _decode(frame)


def _decode(frame: bytes) -> RequestOptions:
    try:
        values = json.loads(frame)
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError is a ValueError
        raise RequestError("options frame is not JSON; expected an object") from error
    return RequestOptions.from_json(values)


_cached = lru_cache(maxsize=1024)(_decode)


def announced(config: Optional[Dict[str, Any]]) -> Sequence[str]:
    """The options that a server with that configuration understands."""
    names = (config or {}).get("request_options")
    return names if isinstance(names, (list, tuple)) else ()
