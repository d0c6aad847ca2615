"""The sweeps: in each, one number of the server's or the clients' takes several values, and all others stay."""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any


@dataclass(frozen=True)
class Sweep:
    """
    Attributes:
        values: those of the original's benchmark; all but num_worker, whose figures it took by hand.
        of_server: whether it is an option of the server, which has to be started anew for every value.
        help: what it is.
    """

    values: tuple[int, ...]
    of_server: bool
    help: str


SWEEPS = {
    "max_seq_len": Sweep((32, 64, 128, 256), True, "tokens of the longest sequence, and words of the sentences"),
    "client_batch_size": Sweep((1, 16, 256, 4096), False, "sentences in a request"),
    "num_client": Sweep((1, 4, 16, 64), False, "clients at the same time"),
    "max_batch_size": Sweep((8, 32, 128, 512), True, "most sentences that a worker gets at a time"),
    "pooling_layer": Sweep(tuple(range(-1, -13, -1)), True, "encoder layer that is pooled"),
    "num_worker": Sweep((1, 2, 4), True, "worker processes"),
}


@dataclass(frozen=True)
class Setting:
    """One point of a sweep, or what is usual in all of them.

    Attributes:
        value: of the number that the sweep is about.
        server: options of the server that differ from the usual.
        num_client: clients at the same time.
        size: sentences in a request.
        num_words: words of a random sentence.
    """

    value: int = 0
    server: Mapping[str, Any] = field(default_factory=dict)
    num_client: int = 1
    size: int = 256
    num_words: int = 25


def settings(name: str, values: Sequence[int], usual: Setting) -> list[Setting]:
    """The points of a sweep, in which everything else is as usual."""
    return [replace(_prepared(name, values, usual), value=value, **_changes(name, value)) for value in values]


def _prepared(name: str, values: Sequence[int], usual: Setting) -> Setting:
    """What has to be different in all of a sweep for it to show something."""
    if name == "max_batch_size":  # no batch is larger than the request that it is cut from
        return replace(usual, size=max(usual.size, *values))
    if name == "num_worker":  # no worker is idle
        return replace(usual, num_client=max(usual.num_client, 2 * max(values)))
    return usual


def _changes(name: str, value: int) -> dict[str, Any]:
    """The fields of a Setting that make a sweep's number have that value."""
    if name == "client_batch_size":
        return {"size": value}
    if name == "num_client":
        return {"num_client": value}
    if name == "max_seq_len":  # sentences that fill it
        return {"server": {name: value}, "num_words": value}
    return {"server": {name: [value] if name == "pooling_layer" else value}}
