"""The server's half of the keys: making a directory of them, reading it, and watching who is let in.

What the files are is said in bert_serving.client.curve.
"""
from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import zmq

from bert_serving.client.curve import (CLIENT_SECRET, CLIENTS, PUBLIC_SUFFIX, SERVER_PUBLIC, SERVER_SECRET, Certificate,
                                       Keys, KeysError, as_text, read)

from .errors import ConfigError

logger = logging.getLogger(__name__)

WORKERS = "workers"
"""Folder with the public keys of other hosts' workers."""

LOCAL = "local"
"""Name of the client whose key pair lies beside the server's: those on the server's own host."""

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")


# ---- making them -----------------------------------------------------------------------------------------------------

def make(directory: Path, names: Sequence[str] = (), are_workers: bool = False) -> list[Path]:
    """Make a directory of keys for a server, if there is none yet, and a key pair for each named client.

    The server's directory serves clients on its own host as well. Each named client gets a directory in it, which is
    all that it needs. Nothing that is there is written over, and nothing is written if anything is in the way.

    Args:
        are_workers: the names are of hosts with workers, who may not ask as clients do, nor may clients compute.
    Returns:
        What was made.
    Raises:
        ConfigError: a name is none, something is there already, or it cannot be written.
    """
    folder = WORKERS if are_workers else CLIENTS
    for name in names:
        if not NAME.fullmatch(name) or name in (CLIENTS, WORKERS, LOCAL) or names.count(name) > 1:
            raise ConfigError(f"{name!r} is no name for another client; expected one of letters, digits and dashes, "
                              f"given once, and not {CLIENTS}, {WORKERS} or {LOCAL}")
        for path in (directory / name, _listed(directory, name, folder)):
            if os.path.lexists(path):
                raise ConfigError(f"{path} is there already; remove it, or give another name than {name}")
    made = []
    try:
        if os.path.lexists(directory / SERVER_SECRET):
            if not names:
                raise ConfigError(f"{directory / SERVER_SECRET} is there already; give the name of a client to add, or "
                                  "another directory")
            server = _pair_of(directory).public
        else:
            server = _make_server(directory)
            made.append(directory)
        for name in names:
            _folder(directory / name)
            _folder(directory / folder)
            _write_client(directory, directory / name, name, folder)
            _write(directory / name / SERVER_PUBLIC, Certificate(server), "public key of the bert-serving server")
            made.append(directory / name)
    except OSError as error:
        raise ConfigError(f"cannot write {error.filename}: {error.strerror}") from error
    return made


def _make_server(directory: Path) -> bytes:
    """The public key of a server whose directory is new."""
    for path in (SERVER_PUBLIC, CLIENT_SECRET, CLIENTS):
        if os.path.lexists(directory / path):
            raise ConfigError(f"{directory / path} is there already, but no {SERVER_SECRET}; give an empty directory")
    _folder(directory)
    _folder(directory / CLIENTS)
    pair = _new_pair()
    _write(directory / SERVER_SECRET, pair, "key pair of a bert-serving server; keep it secret")
    _write(directory / SERVER_PUBLIC, Certificate(pair.public), "public key of a bert-serving server, for its clients")
    _write_client(directory, directory, LOCAL)
    return pair.public


def _write_client(directory: Path, home: Path, name: str, folder: str = CLIENTS) -> None:
    """A new key pair in ``home``, and its public half among those that the server lets in."""
    pair = _new_pair()
    kind = "bert-serving client" if folder == CLIENTS else "bert-serving-worker"
    _write(home / CLIENT_SECRET, pair, f"key pair of the {kind} {name}; keep it secret")
    _write(_listed(directory, name, folder), Certificate(pair.public), f"public key of the {kind} {name}")


def _listed(directory: Path, name: str, folder: str) -> Path:
    return directory / folder / (name + PUBLIC_SUFFIX)


def _new_pair() -> Certificate:
    return Certificate(*zmq.curve_keypair())


def _folder(path: Path) -> None:
    """A directory for its owner alone; one that is there is left as it is."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)


def _write(path: Path, certificate: Certificate, about: str) -> None:
    # Never over a file that is there, and never readable by others, not for a moment.
    mode = 0o644 if certificate.secret is None else 0o600
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "w") as file:
        file.write(as_text(certificate, about))


# ---- reading them ----------------------------------------------------------------------------------------------------

@dataclass(frozen=True)
class ServerKeys:
    """
    Attributes:
        directory: where they lie.
        proxy: what the server's own HTTP proxy comes in with: made for this run, and nowhere on disk.
        launched: likewise for workers that it has started on other hosts.
    """

    directory: Path
    public: bytes
    secret: bytes = field(repr=False)
    proxy: Keys
    launched: Keys


def load(directory: str) -> ServerKeys:
    """The keys of a server.

    Raises:
        ConfigError: they are not there, or are no keys, or this ZeroMQ cannot use them.
    """
    if not zmq.has("curve"):
        raise ConfigError("this pyzmq was built without CURVE, which -curve_dir needs; install one from PyPI")
    path = Path(directory)
    if not os.path.lexists(path / SERVER_SECRET):
        raise ConfigError(f"-curve_dir {directory} has no {SERVER_SECRET}; make one: bert-serving-keygen {directory}")
    pair = _pair_of(path)
    assert pair.secret is not None
    if pair.exposed:
        logger.warning("%s", pair.exposed)
    return ServerKeys(path, pair.public, pair.secret, *(
        Keys(pair.public, *zmq.curve_keypair(), "this server") for _ in ("proxy", "launched")))


def _pair_of(directory: Path) -> Certificate:
    """The key pair of the server whose directory that is.

    Raises:
        ConfigError: there is none to be read.
    """
    try:
        pair = read(directory / SERVER_SECRET, is_pair=True)
    except KeysError as error:
        raise ConfigError(error.message) from error
    assert pair.secret is not None
    if zmq.curve_public(pair.secret) != pair.public:
        raise ConfigError(f"the two keys in {directory / SERVER_SECRET} do not belong together; make new ones")
    return pair


class AllowList:
    """The public keys in a directory, as of the last ``refresh``.

    Attributes:
        names: key, as 40 characters -> name of the client.
    """

    def __init__(self, directory: Path, folder: str = CLIENTS) -> None:
        self.directory = directory / folder
        self.names: dict[str, str] = {}
        self._seen: dict[str, tuple[int, ...]] = {}
        self._is_readable = True

    def refresh(self) -> bool:
        """Read what has changed; whether anything has. A directory that cannot be read leaves all as it was."""
        try:
            with os.scandir(self.directory) as entries:
                seen = {entry.name: _version(entry) for entry in entries if entry.name.endswith(PUBLIC_SUFFIX)}
        except OSError as error:
            if self._is_readable:
                logger.warning("cannot read %s: %s; who was let in before still is", self.directory,
                               error.strerror)
            self._is_readable = False
            return False
        self._is_readable = True
        if seen == self._seen:
            return False
        self._seen = seen
        self.names = dict(self._read(sorted(seen)))
        return True

    def _read(self, files: Iterable[str]) -> Iterable[tuple[str, str]]:
        for file in files:
            try:
                yield read(self.directory / file).public.decode("ascii"), file.removesuffix(PUBLIC_SUFFIX)
            except KeysError as error:
                logger.warning("somebody is not let in: %s", error)


def _version(entry: os.DirEntry[str]) -> tuple[int, ...]:
    try:
        found = entry.stat()
    except OSError:  # a link that leads nowhere, or a file that was just removed
        return ()
    return found.st_ino, found.st_size, found.st_mtime_ns
