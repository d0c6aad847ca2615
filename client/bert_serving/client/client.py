"""BertClient: sends sentences, gives back vectors.

What the methods promise is here; sockets and threads are in :mod:`.channel`, decisions about replies in
:mod:`.exchange`, frames in :mod:`.protocol`.
"""
from __future__ import annotations

import itertools
import os
import secrets
import threading
import time
import warnings
import weakref
from typing import Any, Callable, Dict, Iterable, Iterator, List, NamedTuple, Optional, Set, Union

import numpy as np
import zmq

from . import __version__
from .channel import Channel, Patience
from .checks import check_input, check_version as check_server, is_ours, is_short, valid_identity
from .errors import RequestError, UnavailableError
from .exchange import Exchange, Reply
from .link import context
from .protocol import SHOW_CONFIG, SHOW_STATUS, Failure, Result, Status, encode_command, encode_request

FORMATTERS: Dict[str, Callable[[np.ndarray], Any]] = {
    "ndarray": lambda embedding: embedding,
    "list": lambda embedding: embedding.tolist(),
}
"""output_fmt -> what becomes of a result."""

MAX_IN_FLIGHT = 1000
"""How many batches ``encode_async`` sends ahead of the caller."""

_FIRST_RETRY = 0.5    # a command without answer is asked again after so many seconds, then after twice as many ...
_LAST_RETRY = 5.0     # ... up to this
_DONE = object()

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


class _Stream:
    """What the two ends of an ``encode_async`` know of each other."""

    def __init__(self) -> None:
        self.ids: Set[int] = set()  # sent, and not yet taken
        self.stopped = False        # the reader is gone
        self.finished = False       # nothing more will be sent
        self.error: Optional[BaseException] = None


class BertClient:
    """Connection to a bert-serving server.

    ::

        bc = BertClient()
        bc.encode(['First do it', 'then do it right', 'then do it better'])

    One client may be used by any number of threads. After a fork the child's copy makes its own connection, with an
    identity of its own, when it is first used; requests of the parent stay the parent's.
    """

    _channel: Channel
    _server: Optional[Dict[str, Any]]  # its latest configuration
    _server_since: int                 # the channel's reconnections when that was asked

    def __init__(self, ip: str = "localhost", port: int = 5555, port_out: int = 5556, output_fmt: str = "ndarray",
                 show_server_config: bool = False, identity: Union[None, str, bytes] = None,
                 check_version: bool = True, check_length: bool = True, check_token_info: bool = True,
                 ignore_all_checks: bool = False, timeout: int = -1) -> None:
        """
        Args:
            ip: name or address of the server.
            port: where the server receives requests.
            port_out: where the server publishes results.
            output_fmt: 'ndarray' (read-only) or 'list' (nested Python lists).
            show_server_config: print the server's configuration.
            identity: who this client is: 1 to 255 bytes without NUL; text is encoded as UTF-8. By default a random
                one. Clients with the same identity all receive the results of each of them (see :meth:`listen`).
                For servers before 2.0 it must be ASCII without ``#`` and ``@``, and not begin another one's.
            check_version: refuse a server that this client does not understand. A 2.x server states the version of
                its protocol, which must not be newer than this client's; of older servers any from 1.5.7 on is fine.
            check_length: ask for the server's max_seq_len, and warn of longer sentences.
            check_token_info: ask whether the server shows its tokens, for ``encode(show_tokens=True)``.
            ignore_all_checks: do none of the above, and contact the server only with the first request.
            timeout: how long to wait for the server, in milliseconds; -1 for ever. It holds for this constructor too.
        Raises:
            AttributeError: unknown ``output_fmt``, or a server that this client does not understand.
            DeadlineError: no answer within ``timeout``; it is a TimeoutError.
        """
        if output_fmt not in FORMATTERS:
            raise AttributeError("output_fmt is %r; expected one of: %s" % (output_fmt, ", ".join(FORMATTERS)))
        self.ip = ip
        self.port = port
        self.port_out = port_out
        self.output_fmt = output_fmt
        self.formatter = FORMATTERS[output_fmt]
        self.timeout = timeout
        self.length_limit: Optional[int] = 0
        self.token_info_available = False
        self._begin(valid_identity(identity), shared=bool(identity))
        try:
            self._channel.links()
            if not ignore_all_checks and (check_version or show_server_config or check_length or check_token_info):
                config = self.server_config
                if check_version:
                    check_server(config)
                if show_server_config:
                    print("server config:")
                    print("\n".join("%30s = %s" % item for item in config.items()))
                if check_length:
                    limit = config.get("max_seq_len")
                    self.length_limit = None if limit is None else int(limit)
                if check_token_info:
                    self.token_info_available = bool(config.get("show_tokens_to_client"))
        except BaseException:
            self.close()
            raise
        _clients.add(self)

    # ---- what can be asked of a client -------------------------------------------------------------------------------

    def encode(self, texts: Union[List[str], List[List[str]]], blocking: bool = True, is_tokenized: bool = False,
               show_tokens: bool = False) -> Any:
        """Vectors of sentences.

        Args:
            texts: the sentences; with ``is_tokenized`` a list of tokens for each.
            blocking: wait for the vectors; otherwise only send, and :meth:`fetch` or :meth:`fetch_all` gives them.
            is_tokenized: the sentences are already split into tokens.
            show_tokens: give ``(vectors, tokens)``, if the server shows its tokens.
        Returns:
            An array (or nested list) with one row per sentence, in their order; None if not ``blocking``.
        Raises:
            TypeError, ValueError: ``texts`` cannot be encoded; nothing was sent.
            DeadlineError: no answer within the client's timeout; it is a TimeoutError, and a late answer is dropped.
            BertServingError: the server answered that it cannot; see :mod:`.errors`.
        """
        check_input(texts, is_tokenized)
        self._warn_of_length(texts, is_tokenized)
        if show_tokens and not self.token_info_available:
            warnings.warn("the server does not show its tokens, or check_token_info was off; start the server with "
                          "-show_tokens_to_client to have them. Only the vectors are returned", stacklevel=2)
        channel, patience = self._channel, Patience(self.timeout)
        request_id = self._submit(texts, patience, collect=not blocking)
        if not blocking:
            return None
        try:
            reply: Any = channel.wait(lambda: channel.exchange.take(request_id), patience)
        finally:
            channel.abandon([request_id])
        if reply is None:
            raise channel.late("encode %d texts" % len(texts), patience)
        response = self._respond(reply)
        if show_tokens and self.token_info_available:
            return response.embedding, response.tokens
        return response.embedding

    def fetch(self, delay: float = .0) -> Iterator[Response]:
        """Results of earlier ``encode(..., blocking=False)`` calls, as they arrive.

        An error from the server is raised where its result would have been, and ends this iteration; its
        ``failed_request`` says which one it was. All other results, come or still to come, stay for the next fetch.

        Args:
            delay: wait so many seconds before the first.
        Yields:
            Response(id, embedding, tokens); nothing at all if nothing is pending.
        Raises:
            DeadlineError: the next result did not come within the client's timeout; it stays pending.
        """
        channel = self._channel
        time.sleep(delay)

        def ready() -> Any:
            reply: Any = channel.exchange.take_first()
            return reply or (None if channel.exchange.collectable else _DONE)

        while True:
            patience = Patience(self.timeout)
            reply: Any = channel.wait(ready, patience)
            if reply is _DONE:
                return
            if reply is None:
                raise channel.late("send the next result", patience)
            yield self._respond(reply)

    def fetch_all(self, sort: bool = True, concat: bool = False) -> Any:
        """Results of all earlier ``encode(..., blocking=False)`` calls, once all are there.

        If it raises, no other result is lost: a further call gives them.

        Args:
            sort: in the order of the requests, rather than of arrival.
            concat: one array (or list) of all rows, instead of one per request.
        Returns:
            List of arrays (or of nested lists), or one; None if nothing is pending.
        Raises:
            DeadlineError: nothing came for as long as the client's timeout.
            BertServingError: what the server answered to one of the requests.
        """
        channel, patience = self._channel, Patience(self.timeout)
        missing = -1

        def ready() -> Any:
            nonlocal missing
            failure = channel.exchange.take_failure()
            if failure is not None:
                return failure
            before, missing = missing, len(channel.exchange.collectable) - len(channel.exchange.collected)
            if before != missing:
                patience.restart()
            return None if missing else channel.exchange.take_all()

        replies: Any = channel.wait(ready, patience)
        if replies is None:
            raise channel.late("send the other %d results" % missing, patience)
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

    def encode_async(self, batch_generator: Iterable[Any], max_num_batch: Optional[int] = None, delay: float = 0.1,
                     **kwargs: Any) -> Iterator[Response]:
        """Encode batches while they are being produced: a thread sends, the caller reads.

        It goes on until the generator ends and all its results were given, however slow either is. What the generator
        raises is raised here, after the results of the batches before. An error from the server is raised at once,
        stops the sending, and leaves other results to :meth:`fetch`.

        Args:
            batch_generator: gives lists of sentences.
            max_num_batch: take at most so many of them.
            delay: was the wait for the first result; there is none any more.
            **kwargs: further arguments of :meth:`encode`, for instance ``is_tokenized``.
        Yields:
            Response(id, embedding, tokens) in the order of arrival, of these batches only.
        Raises:
            DeadlineError: a result did not come within the client's timeout; slow batches do not count.
        """
        unknown = set(kwargs) - {"is_tokenized", "show_tokens", "blocking"}
        if unknown:
            raise TypeError("encode_async got unknown arguments: %s" % ", ".join(sorted(unknown)))
        stream = _Stream()
        batches = itertools.islice(batch_generator, max_num_batch or None)
        threading.Thread(target=self._produce, args=(self._channel, stream, batches, bool(kwargs.get("is_tokenized"))),
                         name="bert-serving-encode-async", daemon=True).start()
        return self._consume(self._channel, stream)

    def listen(self, max_num: Optional[int] = None) -> Iterator[Response]:
        """Everything that is published to this client's identity, whoever asked for it.

        With several clients of one identity, what one of them sends is heard by all::

            bc = BertClient(identity='news')
            for response in bc.listen():
                print(response.embedding.shape)

        It sees what arrives from the first ``next()`` on. Results of this client's own ``blocking=False`` requests
        count as fetched when they are heard here. It ends when the client is closed, or after ``max_num`` results.

        Args:
            max_num: how many results to give; None for no limit.
        Yields:
            Response(id, embedding, tokens).
        Raises:
            DeadlineError: nothing came for as long as the client's timeout.
        """
        channel = self._channel
        with channel.changing() as exchange:
            queue = exchange.tap()
        try:
            for _ in itertools.count() if max_num is None else range(max_num):
                patience = Patience(self.timeout)
                try:
                    result = channel.wait(lambda: queue.popleft() if queue else None, patience)
                except UnavailableError:
                    return
                if result is None:
                    raise channel.late("publish a result", patience)
                yield self._respond(result)
        finally:
            with channel.changing():
                exchange.untap(queue)

    @property
    def server_config(self) -> Dict[str, Any]:
        """The server's configuration."""
        return self._ask(SHOW_CONFIG, Patience(self.timeout))

    @property
    def server_status(self) -> Dict[str, Any]:
        """The server's configuration, and its statistics under ``statistic``."""
        patience = Patience(self.timeout)
        # A server before 1.9.3 takes SHOW_STATUS for sentences, and loses a worker over it. Such a server, and ours,
        # has the statistics in its configuration; whoever has not knows SHOW_STATUS.
        config = self._ask(SHOW_CONFIG, patience)
        return config if "statistic" in config else self._ask(SHOW_STATUS, patience)

    @property
    def status(self) -> Dict[str, Any]:
        """This client's own state."""
        return {
            "identity": self.identity,
            "num_request": self._channel.exchange.num_asked,
            "num_pending_request": len(self.pending_request),
            "pending_request": self.pending_request,
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
        """Replies that came and wait for :meth:`fetch` or :meth:`fetch_all`, by request id."""
        return self._channel.exchange.collected

    @property
    def context(self) -> "zmq.Context[zmq.Socket[bytes]]":
        """The ZeroMQ context, shared by all clients of this process; do not terminate it."""
        return context()

    @property
    def sender(self) -> "zmq.Socket[bytes]":
        """The socket that requests go through."""
        return self._channel.links()[0].socket

    @property
    def receiver(self) -> "zmq.Socket[bytes]":
        """The socket that replies come from."""
        return self._channel.links()[1].socket

    def close(self) -> None:
        """End the connection. What is still unsent gets a second to leave; what is unanswered is given up."""
        self._channel.close()

    def __enter__(self) -> "BertClient":
        return self

    def __exit__(self, *exc_info: Any) -> None:
        self.close()

    # ---- how it is done ----------------------------------------------------------------------------------------------

    def _begin(self, identity: bytes, shared: bool) -> None:
        # Clients of one identity hear each other's replies and tell them apart by the id alone, so they must not count
        # from the same number. The socket takes in all that comes, lest an original server drop results when it is
        # full; but a client that shares its identity may never read what others asked for.
        exchange = Exchange(identity, last_id=secrets.randbits(48) if shared else 0)
        self._channel = Channel(self.ip, self.port, self.port_out, exchange, max_unread=1000 if shared else 0)
        self._server = None
        self._server_since = 0

    def _after_fork(self) -> None:
        """In a forked child: let the parent's connection alone, and make an own one when it is needed."""
        closed = self._channel.closed
        self._channel.disown()
        self._begin(valid_identity(), shared=False)
        self._channel.closed = closed

    def _submit(self, texts: Any, patience: Patience, collect: bool, group: Optional[Set[int]] = None) -> int:
        """Send an encode request; its id."""
        server = self._server
        if server is None or self._server_since != self._channel.reconnections():
            # An original server loses the first result if the subscription has not arrived; after a reply it has. And
            # after a reconnection it may be another server.
            server = self._ask(SHOW_CONFIG, patience)
        if not is_ours(server) and set(b"#@") & set(self.identity):
            raise RequestError("identity %r would stop this server; one before 2.0 needs an identity without # and @"
                               % self.identity)
        options: Dict[str, Any] = {}
        # Requests that nobody waits for have no deadline: fetch() times from one result to the next.
        if not collect and self.timeout is not None and self.timeout >= 0:
            if "timeout" in (server.get("request_options") or ()):
                options["timeout"] = self.timeout
        with self._channel.changing() as exchange:
            request_id = exchange.number()
        self._channel.post(request_id, encode_request(exchange.identity, request_id, texts, options), patience,
                           size=len(texts), collect=collect, group=group)
        return request_id

    def _ask(self, command: bytes, patience: Patience) -> Dict[str, Any]:
        """The answer to a command.

        Asked again if a connected server stays silent: an original one publishes whether or not the subscription has
        arrived. To one that is not connected nothing is repeated, since all of it would be delivered in the end.
        """
        ids: List[int] = []
        pause = _FIRST_RETRY
        since = self._channel.reconnections()
        try:
            while True:
                if not ids or self._channel.is_connected():
                    with self._channel.changing() as exchange:
                        ids.append(exchange.number())
                    self._channel.post(ids[-1], encode_command(exchange.identity, command, ids[-1]), patience)
                    retry = Patience(pause * 1000)
                    pause = min(2 * pause, _LAST_RETRY)
                else:
                    retry = Patience(_FIRST_RETRY * 1000)
                reply: Any = self._channel.wait(lambda: next(filter(None, map(exchange.take, ids)), None),
                                                patience, retry)
                if reply is not None:
                    break
                if not patience.left():
                    raise self._channel.late("answer %s" % command.decode(), patience)
        finally:
            self._channel.abandon(ids)
        if isinstance(reply, Failure):
            raise reply.error
        assert isinstance(reply, Status), "the exchange lets only a status answer a command"
        if command == SHOW_CONFIG:
            # An original server that got an id twice, the first still unanswered, would spoil both.
            self._channel.repeats = is_ours(reply.values)
            self._server, self._server_since = reply.values, since
        return reply.values

    def _respond(self, reply: Reply) -> Response:
        """A result as the user gets it; a failure is raised."""
        if isinstance(reply, Failure):
            reply.error.failed_request = reply.request_id
            raise reply.error
        assert isinstance(reply, Result), "the exchange lets only a result answer a request"
        return Response(reply.request_id, self.formatter(reply.embedding), reply.tokens)

    def _produce(self, channel: Channel, stream: _Stream, batches: Iterator[Any], is_tokenized: bool) -> None:
        """Send batches until they end, or until nobody reads any more."""
        try:
            for batch in batches:
                check_input(batch, is_tokenized)
                self._warn_of_length(batch, is_tokenized)
                channel.wait(lambda: stream.stopped or len(stream.ids) < MAX_IN_FLIGHT or None, Patience(-1))
                if stream.stopped:
                    return
                self._submit(batch, Patience(self.timeout), collect=True, group=stream.ids)
        except BaseException as error:  # raised again where the results are read
            stream.error = error
        finally:
            with channel.changing():
                stream.finished = True

    def _consume(self, channel: Channel, stream: _Stream) -> Iterator[Response]:
        try:
            while True:
                patience = Patience(self.timeout)

                def ready() -> Any:
                    reply = channel.exchange.take_first(stream.ids)
                    if reply is None and not stream.ids:
                        patience.restart()  # it is the generator that takes its time
                        return _DONE if stream.finished else None
                    return reply

                reply = channel.wait(ready, patience)
                if reply is _DONE:
                    break
                if reply is None:
                    raise channel.late("answer one of %d batches" % len(stream.ids), patience)
                yield self._respond(reply)
            if stream.error is not None:
                raise stream.error
        finally:
            with channel.changing():
                stream.stopped = True

    # ---- words -------------------------------------------------------------------------------------------------------

    def _warn_of_length(self, texts: Any, is_tokenized: bool) -> None:
        limit = self.length_limit
        if limit is None:
            warnings.warn("the server has no max_seq_len, so a long sentence is encoded at its full length; be careful "
                          "with memory", stacklevel=3)
        elif limit and not all(is_short(text, limit, is_tokenized) for text in texts):
            warnings.warn("some sentences are longer than the max_seq_len=%d of the server, and will be cut there; "
                          "start the server with a larger -max_seq_len, or split them" % limit, stacklevel=3)


def _renew_clients() -> None:
    for client in list(_clients):
        client._after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_clients)
