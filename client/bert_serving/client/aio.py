"""AsyncBertClient: what :class:`.BertClient` does, for asyncio.

A thread reads for all tasks, so that any event loop will do on any system, and several may be used one after another.
Sending never waits: what is asked has to be kept until it is answered anyway.
"""
from __future__ import annotations

import asyncio
import threading
import weakref
from typing import (Any, AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Dict, Iterable, List, Optional, Set,
                    Union)

from .calls import Calls, Inputs, Response, Stream, T
from .channel import Channel, Deadline
from .errors import UnavailableError

__all__ = ["AsyncBertClient"]

_IDLE_MS = 1000
"""So often does the thread of a client that does nothing look whether the client is still there."""


class AsyncBertClient(Calls):
    """Connection to a bert-serving server, for asyncio.

    ::

        async with AsyncBertClient() as bc:
            await bc.encode(['First do it', 'then do it right', 'then do it better'])

    One client may be used by any number of tasks. It takes the arguments of :class:`.BertClient`, but contacts the
    server only with ``async with`` or with the first request, and it is there that a server is refused or a timeout
    raised. What asks the server and is a property of a BertClient is a method here: ``await bc.server_config()``.

    A task that is cancelled abandons what it waits for, except what was sent with ``blocking=False``.
    """

    _max_unsent = 0

    async def encode(self, texts: Inputs, blocking: bool = True, is_tokenized: bool = False,
                     show_tokens: bool = False, *, input: Optional[str] = None) -> Any:
        """As :meth:`.BertClient.encode`."""
        return await self._encode(texts, blocking, is_tokenized, show_tokens, input)

    def fetch(self, delay: float = .0) -> AsyncGenerator[Response, None]:
        """As :meth:`.BertClient.fetch`, for ``async for``."""
        return self._fetch(delay)

    async def fetch_all(self, sort: bool = True, concat: bool = False) -> Any:
        """As :meth:`.BertClient.fetch_all`."""
        return await self._fetch_all(sort, concat)

    async def encode_async(self, batch_generator: Union[Iterable[Any], AsyncIterable[Any]],
                           max_num_batch: Optional[int] = None, delay: float = 0.1,
                           **kwargs: Any) -> AsyncGenerator[Response, None]:
        """As :meth:`.BertClient.encode_async`, for ``async for``: a task sends, the caller reads.

        ``batch_generator`` may be an asynchronous one. A plain one runs in the event loop, which stands still while it
        produces a batch.
        """
        stream = Stream(self._channel, max_num_batch, **kwargs)
        batches = (batch_generator.__aiter__() if isinstance(batch_generator, AsyncIterable)
                   else _each(batch_generator))
        producing = asyncio.ensure_future(self._produce(stream, batches))
        results = self._consume(stream)
        try:
            async for response in results:
                yield response
        finally:
            await results.aclose()
            producing.cancel()
            await asyncio.wait([producing])

    def listen(self, max_num: Optional[int] = None) -> AsyncGenerator[Response, None]:
        """As :meth:`.BertClient.listen`, for ``async for``."""
        return self._listen(max_num)

    async def server_config(self) -> Dict[str, Any]:
        """The server's configuration."""
        return await self._server_config()

    async def server_status(self) -> Dict[str, Any]:
        """The server's configuration, and its statistics under ``statistic``."""
        return await self._server_status()

    async def close(self) -> None:
        """End the connection. What is still unsent gets a second to leave; who still waits gets an UnavailableError."""
        reader = self._reader
        await asyncio.get_running_loop().run_in_executor(None, reader.close)

    async def __aenter__(self) -> "AsyncBertClient":
        try:
            await self._greet()
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(self, *exc_info: Any) -> None:
        await self.close()

    # ---- how it waits ------------------------------------------------------------------------------------------------

    def _begin(self, identity: bytes, shared: bool) -> None:
        super()._begin(identity, shared)
        self._reader = _Reader(self._channel)
        weakref.finalize(self, self._reader.let_go).atexit = False

    async def _wait(self, channel: Channel, ready: Callable[[], Optional[T]], *deadlines: Deadline,
                    ids: Iterable[int] = ()) -> Optional[T]:
        return await self._reader.wait(ready, deadlines, ids)

    async def _sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


class _Reader:
    """The thread that reads a channel, and the tasks that wait for what it reads.

    It only wakes tasks: taking a reply is theirs, so that none is lost to a task that is being cancelled.
    """

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._thread: Optional[threading.Thread] = None
        self._is_alone: List[bool] = []                      # not empty: the client was collected
        self._lock = threading.Lock()                        # guards the two below; taken after the channel's
        self._by_id: Dict[int, "asyncio.Future[None]"] = {}  # those who wait for one of a few replies, by each one's id
        self._others: Set["asyncio.Future[None]"] = set()    # those who wait for anything else
        channel.on_change = self._wake

    async def wait(self, ready: Callable[[], Optional[T]], deadlines: Iterable[Deadline],
                   ids: Iterable[int]) -> Optional[T]:
        """As :meth:`Channel.wait`, for a task."""
        self._start()
        loop = asyncio.get_running_loop()
        while True:
            left = min(deadline.left() for deadline in deadlines)
            woken: "asyncio.Future[None]" = loop.create_future()
            timer = None
            try:
                value = self._channel.peek(ready, lambda: self._enter(woken, ids))
                if value is not None or not left:
                    return value
                if left != float("inf"):
                    timer = loop.call_later(left, _settle, [woken])
                await woken
            finally:
                if timer is not None:
                    timer.cancel()
                self._leave(woken, ids)

    def let_go(self) -> None:
        """The client is gone, and the thread ends soon. May be called at any moment, so it locks nothing."""
        self._is_alone.append(True)

    def close(self) -> None:
        """Close the channel, and wait for the thread."""
        self._channel.close()
        if self._thread is not None:
            self._thread.join()

    def _start(self) -> None:
        self._channel.links()
        if self._thread is None:
            self._thread = threading.Thread(target=_read, args=(self._channel, self._is_alone), daemon=True,
                                            name="bert-serving-reader")
            self._thread.start()

    def _enter(self, woken: "asyncio.Future[None]", ids: Iterable[int]) -> None:
        with self._lock:
            if not ids:
                self._others.add(woken)
            for request_id in ids:
                self._by_id[request_id] = woken

    def _leave(self, woken: "asyncio.Future[None]", ids: Iterable[int]) -> None:
        with self._lock:
            self._others.discard(woken)
            for request_id in ids:
                self._by_id.pop(request_id, None)

    def _wake(self) -> None:
        """Wake those who should look again; called with the channel's lock held, by any thread."""
        with self._lock:
            due, self._others = list(self._others), set()
            ids = self._by_id if self._channel.closed or self._channel.unauthorized else self._channel.exchange.answered
            due.extend(self._by_id.pop(request_id) for request_id in list(ids) if request_id in self._by_id)
        if not due:
            return
        loops: Dict[asyncio.AbstractEventLoop, List["asyncio.Future[None]"]] = {}
        for woken in due:
            loops.setdefault(woken.get_loop(), []).append(woken)
        for loop, futures in loops.items():
            try:
                loop.call_soon_threadsafe(_settle, futures)
            except RuntimeError:  # a loop that was closed has no tasks to wake
                pass


def _settle(futures: List["asyncio.Future[None]"]) -> None:
    for future in futures:
        if not future.done():
            future.set_result(None)


def _read(channel: Channel, is_alone: List[bool]) -> None:
    """Read until the channel is closed, or nobody is left to close it."""
    try:
        while channel.wait(lambda: is_alone or None, Deadline(_IDLE_MS), steadfast=True) is None:
            pass
        channel.close()
    except UnavailableError:
        pass


async def _each(batches: Iterable[Any]) -> AsyncIterator[Any]:
    for batch in batches:
        yield batch
        await asyncio.sleep(0)  # others want to run too
