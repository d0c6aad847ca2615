"""The keys of CURVE, ZeroMQ's encryption: who the server is, and who a client is to it. Files, but no sockets.

They lie in a directory that ``bert-serving-keygen`` makes, each in a certificate as pyzmq's own::

    server.key           the server's public key; clients need it to know the server
    server.key_secret    the server's key pair; for the server alone
    client.key_secret    a client's key pair; for that client alone
    clients/NAME.key     public keys of the clients that the server lets in
"""
from __future__ import annotations

import os
import re
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Callable, Dict, Optional, Union

from .errors import UnauthorizedError

ENVIRONMENT = "BERT_SERVING_CURVE_DIR"
"""The directory for clients that are given none, and for a server."""

SERVER_PUBLIC, SERVER_SECRET, CLIENT_SECRET = "server.key", "server.key_secret", "client.key_secret"
CLIENTS, PUBLIC_SUFFIX = "clients", ".key"

_Z85 = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-:+=^!/*?&<>()[]{}@%$#"
_LINE = re.compile(r'^\s*(public-key|secret-key)\s*=\s*"([^"]*)"\s*$', re.MULTILINE)
_LARGEST = 10_000  # bytes; a certificate has about 500


class KeysError(UnauthorizedError, ValueError):
    """The files with the keys are not there, or are not what they should be."""


@dataclass(frozen=True)
class Certificate:
    """A key pair, or the public half of one, as 40 characters of Z85.

    Attributes:
        exposed: what to say if others may read the file with the private key; empty if they may not.
    """

    public: bytes
    secret: Optional[bytes] = field(default=None, repr=False)
    exposed: str = ""


@dataclass(frozen=True)
class Keys:
    """What a client needs.

    Attributes:
        server: the server's public key.
        public, secret: the client's own keys.
        origin: where they come from, for messages.
    """

    server: bytes
    public: bytes
    secret: bytes = field(repr=False)
    origin: str = "the keys that were given"

    def to_json(self) -> Dict[str, str]:
        """Plain JSON values, for another process; to be sent where nobody else reads them."""
        return {name: getattr(self, name).decode("ascii") for name in ("server", "public", "secret")}

    @classmethod
    def from_json(cls, values: Dict[str, str]) -> "Keys":
        """What :meth:`to_json` was made of."""
        return cls(values["server"].encode("ascii"), values["public"].encode("ascii"), values["secret"].encode("ascii"))


CurveDir = Union[None, str, "os.PathLike[str]", Keys]


def find(curve_dir: CurveDir, warn: Callable[[str], None] = warnings.warn) -> Optional[Keys]:
    """The keys of a client.

    Args:
        curve_dir: their directory; None: the one that the environment names, if it does; ``""``: no keys at all.
        warn: is told if others may read the client's private key.
    Returns:
        None if the client does without.
    Raises:
        KeysError: they are not there, or are no keys.
    """
    if isinstance(curve_dir, Keys):
        return curve_dir
    where = os.environ.get(ENVIRONMENT, "") if curve_dir is None else os.fspath(curve_dir)
    if not where:
        return None
    directory = Path(where)
    own = read(directory / CLIENT_SECRET, is_pair=True)
    assert own.secret is not None
    if own.exposed:
        warn(own.exposed)
    return Keys(read(directory / SERVER_PUBLIC).public, own.public, own.secret, str(directory))


def read(path: Path, is_pair: bool = False) -> Certificate:
    """The keys of a file.

    Args:
        is_pair: it has to have a private key too.
    Raises:
        KeysError: it cannot be read, or is no certificate; it names the file, and never shows what is in it.
    """
    try:
        with open(path, "rb") as file:
            found = dict(_LINE.findall(file.read(_LARGEST).decode("utf-8", "replace")))
            mode = os.fstat(file.fileno()).st_mode
    except OSError as error:
        raise KeysError("cannot read %s: %s; bert-serving-keygen makes a directory with keys, "
                        "and curve_dir names it" % (path, error.strerror)) from error
    for name in ("public-key", "secret-key") if is_pair else ("public-key",):
        if not is_key(found.get(name, "")):
            raise KeysError("%s has no %s of 40 characters; expected a certificate of bert-serving-keygen, "
                            "or of pyzmq" % (path, name))
    public = found["public-key"].encode("ascii")
    if not is_pair:
        return Certificate(public)
    exposed = ""
    if os.name == "posix" and mode & 0o077:
        exposed = "others may read the private key in %s (mode %o); forbid it: chmod 600" % (path, mode & 0o777)
    return Certificate(public, found["secret-key"].encode("ascii"), exposed)


def is_key(text: str) -> bool:
    """Whether it is 32 bytes in Z85: five characters for each four."""
    if len(text) != 40 or not set(text) <= set(_Z85):
        return False
    groups = (text[start:start + 5] for start in range(0, 40, 5))
    return all(sum(_Z85.index(digit) * 85 ** (4 - place) for place, digit in enumerate(group)) < 2 ** 32
               for group in groups)


def as_text(certificate: Certificate, about: str) -> str:
    """The contents of a certificate's file.

    Args:
        about: one line for whoever opens it.
    """
    lines = ["# " + about, "", "metadata", "curve", '    public-key = "%s"' % certificate.public.decode("ascii")]
    if certificate.secret is not None:
        lines.append('    secret-key = "%s"' % certificate.secret.decode("ascii"))
    return "\n".join(lines) + "\n"
