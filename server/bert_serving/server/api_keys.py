"""ApiKeys that let callers of the HTTP proxy in: where they come from, and how one is recognised.

A key is a secret: no message, log line or status reply of this package holds one.
"""
from __future__ import annotations

import hmac
import re
from collections.abc import Iterable, Sequence
from hashlib import sha256
from pathlib import Path

from bert_serving.client.words import counted

from .errors import ConfigError

MIN_CHARACTERS, MAX_CHARACTERS = 16, 512
"""Characters of a key. Nobody counts wrong guesses here, so that a key must be too long to guess."""

MAKE_ONE = 'make one with: python3 -c "import secrets; print(secrets.token_urlsafe(32))"'

BEARER = re.compile(r"bearer +(\S+)", re.IGNORECASE)
"""``Authorization: Bearer KEY``, as OpenAI's clients and Prometheus send it."""


class ApiKeys:
    """The keys that open the door; without any it stands open."""

    def __init__(self, keys: Iterable[str] = ()) -> None:
        # Of equal length, whatever is compared: how long a comparison takes says nothing about a key.
        self._digests = [_digest(key) for key in keys]

    def __bool__(self) -> bool:
        """Whether a key is needed."""
        return bool(self._digests)

    def accept(self, authorization: str, x_api_key: str = "") -> bool:
        """Whether a caller may come in; always true where no key is needed.

        Args:
            authorization: its ``Authorization`` header, or "".
            x_api_key: its ``X-API-Key`` header, or "".
        """
        bearer = BEARER.fullmatch(authorization)
        given = [_digest(key) for key in (bearer and bearer[1], x_api_key) if key]
        # Every key is compared with every one, so that the time does not tell which one was met.
        met = [hmac.compare_digest(one, own) for one in given for own in self._digests]
        return any(met) or not self


def _digest(key: str) -> bytes:
    return sha256(key.encode("utf-8", "surrogatepass")).digest()


def collect(given: Sequence[str], file: str | Path | None) -> list[str]:
    """The keys of ``-api_key`` and ``-api_key_file``, checked; a file holds one a line, and comments after a #.

    Raises:
        ConfigError: the file cannot be read or holds none, or a key is none.
    """
    keys = [_checked(key, f"key {number} of -api_key") for number, key in enumerate(given, 1)]
    if file is not None:
        found = [_checked(line, f"line {number} of -api_key_file {file}") for number, line in _lines(file)]
        if not found:
            raise ConfigError(f"-api_key_file {file} holds no key; expected one on each line; {MAKE_ONE}")
        keys += found
    return keys


def _lines(file: str | Path) -> list[tuple[int, str]]:
    """(number, text) of the lines that hold something."""
    try:
        text = Path(file).expanduser().read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"-api_key_file {file} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError:
        # The exception, which would be chained, holds what stands in the file.
        raise ConfigError(f"-api_key_file {file} is not text; expected one key on each line") from None
    lines = enumerate((line.strip() for line in text.splitlines()), 1)
    return [(number, line) for number, line in lines if line and not line.startswith("#")]


def _checked(key: str, where: str) -> str:
    if not MIN_CHARACTERS <= len(key) <= MAX_CHARACTERS:
        raise ConfigError(f"{where} has {counted(len(key), 'character')}, expected {MIN_CHARACTERS} to "
                          f"{MAX_CHARACTERS}; {MAKE_ONE}")
    if not all("!" <= character <= "~" for character in key):
        raise ConfigError(f"{where} holds a blank or a character that is not ASCII; {MAKE_ONE}")
    return key


def is_open_to_others(file: str | Path) -> bool:
    """Whether every user of this machine can read it."""
    return bool(Path(file).expanduser().stat().st_mode & 0o004)
