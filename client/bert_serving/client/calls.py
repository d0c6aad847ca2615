"""What a client's calls do, whoever waits for them: threads, which block, or asyncio's tasks.

The calls are coroutines. All that they wait for goes through :meth:`Calls._wait` and :meth:`Calls._sleep`; in a client
for threads these block, so that a call never suspends, and :func:`run` gives its result.
"""
from __future__ import annotations

import itertools
import os
import secrets
import sys
import warnings
import weakref
from typing import (Any, AsyncGenerator, AsyncIterator, Callable, Coroutine, Dict, Iterable, Iterator, List, NamedTuple,
                    Optional, Sequence, Set, Tuple, TypeVar, Union)

import numpy as np

from . import __version__
from .channel import Channel, Deadline
from .checks import (Address, check_input, check_kind, check_ports, check_timeout, check_version as check_server,
                     is_ours, is_short, server_addresses, valid_identity)
from .curve import CurveDir, find
from .errors import RequestError, UnavailableError
from .exchange import Exchange, Reply
from .multi_server import MultiServerChannel
from .hosts import check_host
from .options import PAIRS, TOKENS, RequestOptions, announced
from .pairs import SEPARATOR, Pair
from .protocol import SHOW_CONFIG, SHOW_STATUS, Failure, Result, Status, encode_command, encode_request
from .words import counted

T = TypeVar("T")

Inputs = Union[List[str], List[List[str]], List[Pair], List[Tuple[str, str]], List[Tuple[List[str], List[str]]]]
"""What ``encode`` takes."""

Servers = Optional[Sequence[Union[str, Sequence[Any]]]]

FORMATTERS: Dict[str, Callable[[np.ndarray], Any]] = {
    "ndarray": lambda embedding: embedding,
    "list": lambda embedding: embedding.tolist(),
}
"""output_fmt -> what becomes of a result."""

MAX_IN_FLIGHT = 1000
"""How many batches ``encode_async`` sends ahead of the caller."""

_FIRST_RETRY = 0.5    # a command without answer is asked again after so many seconds, then after twice as many ...
_LAST_RETRY = 5.0     # ... up to this
_SILENT_SECONDS = 5.0  # so long does a client wait without a word for a server that it has no connection to
_JOIN_MS = 300        # so long does a client wait for the other servers, when one of several has answered
_DONE: Any = object()

_clients: "weakref.WeakSet[Any]" = weakref.WeakSet()


class Response(NamedTuple):
    """The result of one request.

    Attributes:
        id: the request's id.
        embedding: array (or nested list) with one row per sentence.
        tokens: the tokens of each sentence, if the server shows them, else None.
    """

    id: int
    embedding: Any
    tokens: Optional[List[List[str]]]

    @property
    def content(self) -> Any:
        """``embedding`` under the name it had before 1.8."""
        return self.embedding

    @property
    def shape(self) -> Tuple[int, ...]:
        """Shape of the embedding: sentences, dimensions; with token-level pooling sentences, tokens, dimensions."""
        return np.shape(self.embedding)

    @property
    def dtype(self) -> "np.dtype[Any]":
        """NumPy's type of the embedding's numbers."""
        return np.asarray(self.embedding).dtype

    def __array__(self, dtype: Any = None, copy: Optional[bool] = None) -> np.ndarray:
        """The embedding, for ``np.asarray(response)``."""
        if copy is None:  # NumPy before 2 does not take None
            return np.asarray(self.embedding, dtype=dtype)
        array: np.ndarray = np.array(self.embedding, dtype=dtype, copy=copy)
        return array


class Stream:
    """What the two ends of an ``encode_async`` know of each other."""

    def __init__(self, channel: Channel, max_num_batch: Optional[int], is_tokenized: bool = False,
                 show_tokens: bool = False, input: Optional[str] = None, **unused: Any) -> None:
        unknown = set(unused) - {"blocking"}
        if unknown:
            raise TypeError("encode_async got unknown arguments: %s" % ", ".join(sorted(unknown)))
        self.channel = channel
        self.max_num_batch = max_num_batch or None
        self.is_tokenized = is_tokenized
        self.show_tokens = show_tokens
        self.input = input
        self.ids: Set[int] = set()  # sent, and not yet taken
        self.stopped = False        # the reader is gone
        self.finished = False       # nothing more will be sent
        self.error: Optional[BaseException] = None


class Calls:
    """A client, but for the waiting: the state of its connection, and its calls as coroutines."""

    _channel: Channel
    _server: Optional[Dict[str, Any]]  # its latest configuration
    _server_since: int                 # the channel's reconnections when that was asked
    _max_unsent = 1000

    def __init__(self, ip: str = "localhost", port: int = 5555, port_out: int = 5556, output_fmt: str = "ndarray",
                 show_server_config: bool = False, identity: Union[None, str, bytes] = None,
                 check_version: bool = True, check_length: bool = True, check_token_info: bool = True,
                 ignore_all_checks: bool = False, timeout: int = -1, curve_dir: CurveDir = None,
                 servers: Servers = None) -> None:
        """As :class:`.BertClient`; the server is not contacted."""
        if output_fmt not in FORMATTERS:
            raise AttributeError("output_fmt is %r; expected one of: %s" % (output_fmt, ", ".join(FORMATTERS)))
        check_ports(port=port, port_out=port_out)
        check_timeout(timeout)
        check_host("ip", ip)
        self._addresses: List[Address] = []
        if servers is not None:
            if ip != "localhost":
                raise ValueError("both ip, %r, and servers are given; put all servers into servers" % ip)
            self._addresses = server_addresses(servers, port, port_out)
            ip, port, port_out = self._addresses[0]
        self.ip = ip
        self.port = port
        self.port_out = port_out
        self.output_fmt = output_fmt
        self.formatter = FORMATTERS[output_fmt]
        self.timeout = timeout
        self.length_limit: Optional[int] = 0
        self.token_info_available = False
        self._keys = find(curve_dir, _warn)
        checks = {"check_version": check_version, "check_length": check_length, "check_token_info": check_token_info,
                  "show_server_config": show_server_config}
        self._checks = set() if ignore_all_checks else {name for name, is_wanted in checks.items() if is_wanted}
        self._begin(valid_identity(identity), shared=bool(identity))
        _clients.add(self)

    async def _wait(self, channel: Channel, ready: Callable[[], Optional[T]], *deadlines: Deadline,
                    ids: Iterable[int] = ()) -> Optional[T]:
        """As :meth:`Channel.wait`; ``ids`` says that only the replies to these requests can make a difference."""
        raise NotImplementedError

    async def _sleep(self, seconds: float) -> None:
        raise NotImplementedError

    # ---- what every client tells of itself ---------------------------------------------------------------------------

    @property
    def status(self) -> Dict[str, Any]:
        """This client's own state, as plain values that JSON can hold: ``identity`` is text."""
        servers = {"servers": self._channel.states()} if isinstance(self._channel, MultiServerChannel) else {}
        return {
            **servers,
            "identity": self.identity.decode("utf-8", "backslashreplace"),
            "num_request": self._channel.exchange.num_asked,
            "num_pending_request": len(self.pending_request),
            "pending_request": sorted(self.pending_request),
            "output_fmt": self.output_fmt,
            "port": self.port,
            "port_out": self.port_out,
            "server_ip": self.ip,
            "client_version": __version__,
            "timeout": self.timeout,
        }

    @property
    def identity(self) -> bytes:
        """Who this client is to the server."""
        return self._channel.exchange.identity

    @property
    def request_id(self) -> int:
        """Id of the latest request."""
        return self._channel.exchange.last_id

    @property
    def pending_request(self) -> Set[int]:
        """Ids of requests whose results were not taken yet."""
        return self._channel.exchange.pending

    @property
    def pending_response(self) -> Dict[int, Reply]:
        """Replies that came and wait for ``fetch`` or ``fetch_all``, by request id."""
        return self._channel.exchange.collected

    # ---- calls -------------------------------------------------------------------------------------------------------

    async def _greet(self) -> None:
        """Do the checks, if there are any to do."""
        if self._checks:
            await self._ask(SHOW_CONFIG, Deadline(self.timeout))

    async def _encode(self, texts: Any, blocking: bool, is_tokenized: bool, show_tokens: bool,
                      input: Optional[str]) -> Any:
        channel, deadline = self._channel, Deadline(self.timeout)
        request_id = await self._submit(texts, is_tokenized, deadline, collect=not blocking, show_tokens=show_tokens,
                                        input=input)
        shown = self.token_info_available or _shows_on_request(self._server)
        try:
            if show_tokens and not shown:
                _warn("the server does not show its tokens, or check_token_info was off; start the server with "
                      "-show_tokens_to_client to have them. Only the vectors are returned")
            if not blocking:
                return None
            reply: Any = await self._wait(channel, lambda: channel.exchange.take(request_id), deadline,
                                          ids=[request_id])
        finally:
            if blocking:
                channel.abandon([request_id])
        if reply is None:
            raise channel.timeout_error("encode %s" % counted(len(texts), "text"), deadline)
        response = self._respond(reply)
        if show_tokens and shown:
            return response.embedding, response.tokens
        return response.embedding

    async def _fetch(self, delay: float) -> AsyncGenerator[Response, None]:
        channel = self._channel
        await self._sleep(delay)

        def ready() -> Any:
            reply: Any = channel.exchange.take_first()
            return reply or (None if channel.exchange.collectable else _DONE)

        while True:
            deadline = Deadline(self.timeout)
            reply: Any = await self._wait(channel, ready, deadline)
            if reply is _DONE:
                return
            if reply is None:
                raise channel.timeout_error("send the next result", deadline)
            yield self._respond(reply)

    async def _fetch_all(self, sort: bool, concat: bool) -> Any:
        channel, deadline = self._channel, Deadline(self.timeout)
        missing = -1

        def ready() -> Any:
            nonlocal missing
            failure = channel.exchange.take_failure()
            if failure is not None:
                return failure
            before, missing = missing, len(channel.exchange.collectable) - len(channel.exchange.collected)
            if before != missing:
                deadline.restart()
            return None if missing else channel.exchange.take_all()

        replies: Any = await self._wait(channel, ready, deadline)
        if replies is None:
            raise channel.timeout_error("send the other %s" % counted(missing, "result"), deadline)
        if isinstance(replies, Failure):
            self._respond(replies)
        if not replies:
            return None
        try:
            if sort:
                replies.sort(key=lambda reply: int(reply.request_id))
            embeddings = [reply.embedding for reply in replies]
            if concat:
                return self.formatter(np.concatenate(embeddings, axis=0))
            return [self.formatter(embedding) for embedding in embeddings]
        except BaseException:
            with channel.changing() as exchange:
                exchange.put_back(replies)
            raise

    async def _listen(self, max_num: Optional[int]) -> AsyncGenerator[Response, None]:
        channel = self._channel
        with channel.changing() as exchange:
            queue = exchange.tap()
        try:
            for _ in itertools.count() if max_num is None else range(max_num):
                deadline = Deadline(self.timeout)
                try:
                    result = await self._wait(channel, lambda: queue.popleft() if queue else None, deadline)
                except UnavailableError:
                    return
                if result is None:
                    raise channel.timeout_error("publish a result", deadline)
                yield self._respond(result)
        finally:
            with channel.changing():
                exchange.untap(queue)

    async def _produce(self, stream: Stream, batches: AsyncIterator[Any]) -> None:
        """Send batches until they end, or until nobody reads any more."""
        channel = stream.channel
        try:
            left = itertools.count() if stream.max_num_batch is None else iter(range(stream.max_num_batch))
            while next(left, None) is not None:
                try:
                    batch = await batches.__anext__()
                except StopAsyncIteration:
                    return
                await self._wait(channel, lambda: stream.stopped or len(stream.ids) < MAX_IN_FLIGHT or None,
                                 Deadline(-1))
                if stream.stopped:
                    return
                await self._submit(batch, stream.is_tokenized, Deadline(self.timeout), collect=True, group=stream.ids,
                                   show_tokens=stream.show_tokens, input=stream.input)
        except BaseException as error:  # raised again where the results are read
            stream.error = error
        finally:
            with channel.changing():
                stream.finished = True

    async def _consume(self, stream: Stream) -> AsyncGenerator[Response, None]:
        channel = stream.channel
        try:
            while True:
                deadline = Deadline(self.timeout)

                def ready() -> Any:
                    reply = channel.exchange.take_first(stream.ids)
                    if reply is None and not stream.ids:
                        deadline.restart()  # it is the generator that takes its time
                        return _DONE if stream.finished else None
                    return reply

                reply = await self._wait(channel, ready, deadline)
                if reply is _DONE:
                    break
                if reply is None:
                    sent = counted(len(stream.ids), "batch", "batches")
                    raise channel.timeout_error("answer what was sent (%s)" % sent, deadline)
                yield self._respond(reply)
            if stream.error is not None:
                raise stream.error
        finally:
            with channel.changing():
                stream.stopped = True

    async def _server_config(self) -> Dict[str, Any]:
        return await self._ask(SHOW_CONFIG, Deadline(self.timeout))

    async def _server_status(self) -> Dict[str, Any]:
        deadline = Deadline(self.timeout)
        # A server before 1.9.3 takes SHOW_STATUS for sentences, and loses a worker over it. Such a server, and ours,
        # has the statistics in its configuration; whoever has not knows SHOW_STATUS.
        config = await self._ask(SHOW_CONFIG, deadline)
        return config if "statistic" in config else await self._ask(SHOW_STATUS, deadline)

    # ---- how it is done ----------------------------------------------------------------------------------------------

    def _begin(self, identity: bytes, shared: bool) -> None:
        # Clients of one identity hear each other's replies and tell them apart by the id alone, so they must not count
        # from the same number. The socket takes in all that comes, lest an original server drop results when it is
        # full; but a client that shares its identity may never read what others asked for.
        exchange = Exchange(identity, last_id=secrets.randbits(48) if shared else 0, shared=shared)
        max_unread = 1000 if shared else 0
        if self._addresses:
            check = check_server if "check_version" in self._checks else lambda config: None
            self._channel = MultiServerChannel(self._addresses, exchange, max_unread=max_unread,
                                               max_unsent=self._max_unsent, keys=self._keys, check=check)
        else:
            self._channel = Channel(host=self.ip, port=self.port, port_out=self.port_out, exchange=exchange,
                                    max_unread=max_unread, max_unsent=self._max_unsent, keys=self._keys)
        self._server = None
        self._server_since = 0
        self._told: Set[str] = set()  # what was warned of
        self._asking = False  # one of the calls asks for the configuration, and others may wait for it

    def _after_fork(self) -> None:
        """In a forked child: let the parent's connection alone, and make an own one when it is needed."""
        closed = self._channel.closed
        self._channel.disown()
        self._begin(valid_identity(), shared=False)
        self._channel.closed = closed

    async def _known_server(self, deadline: Deadline) -> Dict[str, Any]:
        """The server's configuration, asked for once for all who need it."""
        channel = self._channel
        # An original server loses the first result if the subscription has not arrived; after a reply it has. And after
        # a reconnection it may be another server.
        while self._server is None or self._server_since != channel.reconnections():
            if self._asking:
                if await self._wait(channel, lambda: None if self._asking else True, deadline) is None:
                    raise channel.timeout_error("answer %s" % SHOW_CONFIG.decode(), deadline)
                continue
            self._asking = True  # of two threads that come here at once both ask, which does no harm
            try:
                return await self._ask(SHOW_CONFIG, deadline)
            finally:
                with channel.changing():
                    self._asking = False
        return self._server

    async def _join(self, multi_channel: MultiServerChannel, deadline: Deadline) -> None:
        """Wait for one of several servers, and a moment for the others.

        Raises:
            ValueError: they are not alike.
        """
        def ready() -> Optional[List[str]]:
            return multi_channel.objections() or ([] if multi_channel.is_settled() else None)

        def first() -> Optional[List[str]]:
            return [] if any(lane.open for lane in multi_channel.dispatch.lanes) else ready()

        objections = await self._wait(multi_channel, first, deadline, Deadline(_SILENT_SECONDS * 1000))
        if objections is None and deadline.left():
            _warn(multi_channel.waits())
            objections = await self._wait(multi_channel, first, deadline)
        if objections is None:
            raise multi_channel.timeout_error("answer %s" % SHOW_CONFIG.decode(), deadline)
        objections = objections or await self._wait(multi_channel, ready, deadline, Deadline(_JOIN_MS))
        if objections:
            raise ValueError("; ".join(objections))

    async def _submit(self, texts: Any, is_tokenized: bool, deadline: Deadline, collect: bool,
                      group: Optional[Set[int]] = None, show_tokens: bool = False,
                      input: Optional[str] = None) -> int:
        """Send an encode request; its id."""
        kind = check_kind(texts, is_tokenized, input)
        is_tokenized = is_tokenized or kind == TOKENS
        check_input(texts, is_tokenized)
        server = await self._known_server(deadline)
        self._warn_of_servers()
        self._warn_of_length(texts, is_tokenized)
        if not is_ours(server) and set(b"#@") & set(self.identity):
            raise RequestError("identity %r would stop this server; one before 2.0 needs an identity without # and @"
                               % self.identity)
        options = self._options(server, texts, kind, has_deadline=not collect, show_tokens=show_tokens)
        with self._channel.changing() as exchange:
            request_id = exchange.number()
        self._channel.post(request_id, encode_request(exchange.identity, request_id, texts, options), deadline,
                           size=len(texts), collect=collect, group=group)
        return request_id

    def _options(self, server: Dict[str, Any], texts: Any, kind: Optional[str], has_deadline: bool,
                 show_tokens: bool) -> RequestOptions:
        """What a server is told of a request, of the options that it knows.

        Raises:
            RequestError: it does not know one without which the vectors would be others.
        """
        known = announced(server)
        # Requests that nobody waits for have no deadline: fetch() times from one result to the next.
        has_deadline = has_deadline and self.timeout is not None and self.timeout >= 0
        if kind is not None and "input" not in known:
            if kind == PAIRS:
                raise RequestError("this server takes no pairs as (first, second); send \"first ||| second\", or "
                                   "upgrade it")
            for index, text in enumerate(texts):
                if SEPARATOR in text:
                    raise RequestError("element %d holds ||| and this server would take it for a pair; upgrade it"
                                       % index, index=index)
            kind = None
        return RequestOptions(timeout=self.timeout if has_deadline and "timeout" in known else None,
                              tokens=show_tokens and "tokens" in known, input=kind)

    async def _ask(self, command: bytes, deadline: Deadline) -> Dict[str, Any]:
        """The answer to a command.

        Asked again if a connected server stays silent: an original one publishes whether or not the subscription has
        arrived. To one that is not connected nothing is repeated, since all of it would be delivered in the end.
        """
        channel = self._channel
        if self._server is None and isinstance(channel, MultiServerChannel):
            await self._join(channel, deadline)
        ids: List[int] = []
        pause, silence = _FIRST_RETRY, Deadline(_SILENT_SECONDS * 1000)
        since = channel.reconnections()
        try:
            while True:
                if not ids or channel.is_connected():
                    with channel.changing() as exchange:
                        ids.append(exchange.number())
                    channel.post(ids[-1], encode_command(exchange.identity, command, ids[-1]), deadline)
                    retry = Deadline(pause * 1000)
                    pause = min(2 * pause, _LAST_RETRY)
                else:
                    retry = Deadline(_FIRST_RETRY * 1000)
                reply: Any = await self._wait(channel, lambda: next(filter(None, map(exchange.take, ids)), None),
                                              deadline, retry, ids=ids)
                if reply is not None:
                    break
                if not deadline.left():
                    raise channel.timeout_error("answer %s" % command.decode(), deadline)
                if not silence.left() and not channel.is_connected():
                    silence = Deadline(-1)
                    _warn(channel.waits())
        finally:
            channel.abandon(ids)
        if isinstance(reply, Failure):
            raise reply.error
        assert isinstance(reply, Status), "the exchange lets only a status answer a command"
        if command == SHOW_CONFIG:
            self._learn(reply.values, since)
        return reply.values

    def _learn(self, config: Dict[str, Any], since: int) -> None:
        """Take note of the server's configuration, as it was after so many reconnections."""
        if "check_version" in self._checks:
            check_server(config)
        if "show_server_config" in self._checks:
            self._checks.remove("show_server_config")  # once
            print("server config:")
            print("\n".join("%30s = %s" % item for item in config.items()))
        if "check_length" in self._checks:
            limit = config.get("max_seq_len")
            self.length_limit = None if limit is None else int(limit)
        if "check_token_info" in self._checks:
            self.token_info_available = bool(config.get("show_tokens_to_client")) or _shows_on_request(config)
        # An original server that got an id twice, the first still unanswered, would spoil both.
        self._channel.repeats = is_ours(config)
        self._server, self._server_since = config, since

    def _respond(self, reply: Reply) -> Response:
        """A result as the user gets it; a failure is raised."""
        if isinstance(reply, Failure):
            reply.error.failed_request = reply.request_id
            raise reply.error
        assert isinstance(reply, Result), "the exchange lets only a result answer a request"
        return Response(reply.request_id, self.formatter(reply.embedding), reply.tokens)

    def _warn_of_servers(self) -> None:
        objections = self._channel.objections() if isinstance(self._channel, MultiServerChannel) else []
        for objection in objections:
            if objection not in self._told:
                self._told.add(objection)
                _warn("one of the servers is not used any more: %s" % objection)

    def _warn_of_length(self, texts: Any, is_tokenized: bool) -> None:
        limit = self.length_limit
        if limit is None:
            _warn("the server has no max_seq_len, so a long sentence is encoded at its full length; be careful with "
                  "memory")
        elif limit and not all(is_short(text, limit, is_tokenized) for text in texts):
            _warn("some sentences are longer than the max_seq_len=%d of the server, and will be cut there; start the "
                  "server with a larger -max_seq_len, or split them" % limit)


def run(call: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine that never suspends, because what it waits for blocks."""
    try:
        call.send(None)
    except StopIteration as end:
        result: T = end.value
        return result
    raise AssertionError("a call of a client for threads suspended")


def iterate(generator: AsyncGenerator[T, None]) -> Iterator[T]:
    """An asynchronous generator that never suspends, as a plain one."""
    try:
        while True:
            try:
                item = run(generator.__anext__())
            except StopAsyncIteration:
                return
            yield item
    finally:
        run(generator.aclose())


def _shows_on_request(config: Optional[Dict[str, Any]]) -> bool:
    """Whether a server with that configuration sends tokens to whoever asks for them."""
    return "tokens" in announced(config)


def _warn(message: str) -> None:
    """A warning that points at the line outside this package that led to it."""
    level, frame = 1, sys._getframe()
    while frame.f_back is not None and frame.f_globals.get("__package__") == __package__:
        level, frame = level + 1, frame.f_back
    warnings.warn(message, stacklevel=level)


def _renew_clients() -> None:
    for client in list(_clients):
        client._after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_clients)
