"""Bugs on purpose, to see that the fuzzer finds them; the product's code is as it is.

As a script it is a server with one of them: ``planted.py KIND OPTIONS`` of bert-serving-start. KIND is

    crash    a request of seven frames ends the server
    leak     whatever is refused leaves something behind
    wrong    after a subscription to everything, results of two requests are exchanged
"""
from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterable
from typing import Any

from bert_serving.server.cli import main
from bert_serving.server.core import outlet, ventilator
from bert_serving.server.core.sink import Reply
from bert_serving.server.stages import broker


def spoiled(target: Any, kind: str) -> Any:
    """A target of ``codecs`` with a bug of that kind."""
    kept: list[bytes] = []

    def check(frames: list[bytes], right: Any) -> None:
        target.check(frames, right)
        if kind == "crash" and any(b"timeout" in frame and b"tru" in frame for frame in frames):
            raise ZeroDivisionError("planted")
        if kind == "leak":
            kept.append(bytes(5000))
        assert kind != "wrong" or not any(frame.endswith(b"\xff") for frame in frames), "planted"

    return dataclasses.replace(target, check=check)


def crash() -> None:
    receive = ventilator.Ventilator.receive

    def planted(self: Any, frames: Any, now: float, *more: Any) -> Any:
        if len(frames) == 7:
            raise ZeroDivisionError("planted")
        return receive(self, frames, now, *more)

    ventilator.Ventilator.receive = planted  # type: ignore[method-assign]


def leak() -> None:
    kept: list[bytes] = []
    refuse = ventilator.Ventilator._refuse

    def planted(self: Any, *args: Any, **kwargs: Any) -> Any:
        kept.append(bytes(5000))
        return refuse(self, *args, **kwargs)

    ventilator.Ventilator._refuse = planted  # type: ignore[method-assign]


def wrong() -> None:
    subscription, publish = outlet.Outlet.subscription, broker.Broker.publish
    kept: list[Any] = [None]  # None: nothing was heard yet; else a result that waits for another one, or nothing

    def heard(self: Any, message: bytes, now: float) -> Any:
        if message == b"\1" and kept[0] is None:
            kept[0] = ()
        return subscription(self, message, now)

    def planted(self: Any, replies: Iterable[Reply], now: float) -> None:
        for reply in replies:
            # Of one sentence, since two of another number, which are rarer, might not come in the time there is.
            frames = reply.frames
            is_result = reply.request is not None and b"[1," in bytes(frames[0]) and reply.identity[:4] != b"fuzz"
            if kept[0] is None or not is_result:
                publish(self, [reply], now)
            elif not kept[0]:
                kept[0] = reply._replace(frames=[frames[0], bytes(frames[1]), *frames[2:]])
            else:
                other, kept[0] = kept[0], ()
                publish(self, [other._replace(frames=[other.frames[0], frames[1], *other.frames[2:]]),
                               reply._replace(frames=[frames[0], other.frames[1], *frames[2:]])], now)

    outlet.Outlet.subscription, broker.Broker.publish = heard, planted  # type: ignore[method-assign]


if __name__ == "__main__":
    globals()[sys.argv.pop(1)]()
    sys.exit(main())
