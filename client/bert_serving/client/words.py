"""Wording that messages of all rooms share: counts with their nouns, and names of types."""
from __future__ import annotations

from typing import Any, Callable, Optional, Union

JSON_NAMES = {dict: "an object", list: "an array", tuple: "an array", str: "a string", bool: "a boolean",
              int: "an integer", float: "a number", type(None): "null"}
"""Type -> what JSON calls it."""


def counted(number: Union[int, float], noun: str, plural: Optional[str] = None) -> str:
    """A count and its noun: "1 worker", "2 workers", "0.5 seconds".

    Args:
        noun: in the singular; words before it are allowed, as in "original client".
        plural: if it is not the noun with an s.
    """
    return ("%d %s" if number % 1 == 0 else "%g %s") % (number, noun if number == 1 else plural or noun + "s")


def every(number: int, noun: str) -> str:
    """All of a number of things: "the only worker", "all 2 workers"."""
    return "the only %s" % noun if number == 1 else "all %s" % counted(number, noun)


def with_article(noun: str) -> str:
    """The noun after "a" or "an", as it is spoken: "an int", "a uint8", "an ndarray"."""
    return ("an " if noun[:1].lower() in "aeio" or noun.startswith("nd") else "a ") + noun


def python_kind(value: Any) -> str:
    """What a value is, to readers of Python: "an int", "None"."""
    return "None" if value is None else "bytes" if type(value) is bytes else with_article(type(value).__name__)


def json_kind(value: Any) -> str:
    """What a value is, to callers in any language: "an integer", "null"."""
    return JSON_NAMES.get(type(value)) or python_kind(value)


Kind = Callable[[Any], str]
"""One of the two above."""
