"""BertClient: sends sentences, gives back vectors. It is for threads; :mod:`.aio` has the same for asyncio.

What the methods promise is here, what they do in :mod:`.calls`; sockets and threads are in :mod:`.channel`, decisions
about replies in :mod:`.exchange`, frames in :mod:`.protocol`.
"""
from __future__ import annotations

import threading
import time
from typing import Any, AsyncGenerator, Callable, Dict, Iterable, Iterator, Optional, Union

import zmq

from .calls import Calls, Inputs, Response, Servers, Stream, T, iterate, run
from .channel import Channel, Deadline
from .curve import CurveDir
from .link import context

__all__ = ["BertClient", "Response"]


class BertClient(Calls):
    """Connection to a bert-serving server.

    ::

        bc = BertClient()
        bc.encode(['First do it', 'then do it right', 'then do it better'])

    One client may be used by any number of threads. After a fork the child's copy makes its own connection, with an
    identity of its own, when it is first used; requests of the parent stay the parent's.
    """

    def __init__(self, ip: str = "localhost", port: int = 5555, port_out: int = 5556, output_fmt: str = "ndarray",
                 show_server_config: bool = False, identity: Union[None, str, bytes] = None,
                 check_version: bool = True, check_length: bool = True, check_token_info: bool = True,
                 ignore_all_checks: bool = False, timeout: int = -1, curve_dir: CurveDir = None,
                 servers: Servers = None) -> None:
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
            curve_dir: a directory with ``server.key`` and ``client.key_secret``, as ``bert-serving-keygen`` makes it,
                for a server with ``-curve_dir``; by default the one named by BERT_SERVING_CURVE_DIR, if that is set;
                ``""``: none at all.
            servers: several servers of version 2 and the same vectors, instead of ``ip``: each "host", "host:port" (the
                other port is the next number) or "host:port:port_out", or a tuple of these. A request goes to the one
                with the fewest unanswered sentences. What has no answer when a server vanishes, or was refused because
                a server is full or stops, goes to another one. One that comes back is used again. ``curve_dir`` is for
                all of them.
        Raises:
            ValueError: ``servers`` is no such list, or they do not give the same vectors.
            AttributeError: unknown ``output_fmt``, or a server that this client does not understand.
            DeadlineError: no answer within ``timeout``; it is a TimeoutError.
            UnauthorizedError: the server does not let this client in, or the keys cannot be read. This ends waiting
                calls of an endless ``timeout`` too.
        """
        super().__init__(
            ip=ip, port=port, port_out=port_out, output_fmt=output_fmt, show_server_config=show_server_config,
            identity=identity, check_version=check_version, check_length=check_length,
            check_token_info=check_token_info, ignore_all_checks=ignore_all_checks, timeout=timeout,
            curve_dir=curve_dir, servers=servers)
        try:
            self._channel.links()
            run(self._greet())
        except BaseException:
            self.close()
            raise

    # ---- what can be asked of a client -------------------------------------------------------------------------------

    def encode(self, texts: Inputs, blocking: bool = True, is_tokenized: bool = False,
               show_tokens: bool = False, *, input: Optional[str] = None) -> Any:
        """Vectors of sentences.

        Args:
            texts: the sentences; with ``is_tokenized`` a list of tokens for each. ``(first, second)`` in a tuple is a
                pair: two sentences (or two lists of tokens) that become one vector; all elements are pairs, or none.
            blocking: wait for the vectors; otherwise only send, and :meth:`fetch` or :meth:`fetch_all` gives them.
            is_tokenized: the sentences are already split into tokens.
            show_tokens: give ``(vectors, tokens)``, if the server shows its tokens.
            input: 'texts' or 'tokens': take them literally; by default ``"first ||| second"`` on one line, or a token
                ``"|||"``, makes a pair, as it did in 1.x. 'pairs' is what tuples say by themselves.
        Returns:
            An array (or nested list) with one row per sentence, in their order; None if not ``blocking``.
        Raises:
            TypeError, ValueError: ``texts`` cannot be encoded; nothing was sent.
            DeadlineError: no answer within the client's timeout; it is a TimeoutError, and a late answer is dropped.
            UnauthorizedError: the server does not let this client in.
            BertServingError: the server answered that it cannot; see :mod:`.errors`.
        """
        return run(self._encode(texts, blocking, is_tokenized, show_tokens, input))

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
        return iterate(self._fetch(delay))

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
        return run(self._fetch_all(sort, concat))

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
        stream = Stream(self._channel, max_num_batch, **kwargs)
        threading.Thread(target=run, args=(self._produce(stream, _each(iter(batch_generator))),),
                         name="bert-serving-encode-async", daemon=True).start()
        return iterate(self._consume(stream))

    def listen(self, max_num: Optional[int] = None) -> Iterator[Response]:
        """Everything that is published to this client's identity, whoever asked for it.

        With several clients of one identity, what one of them sends is heard by all::

            bc = BertClient(identity='news')
            for response in bc.listen():
                print(response.embedding.shape)

        A client with a given ``identity`` that has sent no request yet also gets what arrived since it was made.
        When the identity is just beginning, the server also sends its first results of the last ten seconds, at most
        twelve, so that a clone may come after the first batch. Other clients hear what arrives from the first
        ``next()`` on. Results of this client's own ``blocking=False`` requests
        count as fetched when they are heard here. It ends when the client is closed, or after ``max_num`` results.

        Args:
            max_num: how many results to give; None for no limit.
        Yields:
            Response(id, embedding, tokens).
        Raises:
            DeadlineError: nothing came for as long as the client's timeout.
        """
        return iterate(self._listen(max_num))

    @property
    def server_config(self) -> Dict[str, Any]:
        """The server's configuration; of several servers that of the first in the list that is there."""
        return run(self._server_config())

    @property
    def server_status(self) -> Dict[str, Any]:
        """The server's configuration, and its statistics under ``statistic``; of several servers those of the first in
        the list that is there. :attr:`status` says what this client knows of each."""
        return run(self._server_status())

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

    # ---- how it waits ------------------------------------------------------------------------------------------------

    async def _wait(self, channel: Channel, ready: Callable[[], Optional[T]], *deadlines: Deadline,
                    ids: Iterable[int] = ()) -> Optional[T]:
        return channel.wait(ready, *deadlines)

    async def _sleep(self, seconds: float) -> None:
        time.sleep(seconds)


async def _each(batches: Iterator[Any]) -> AsyncGenerator[Any, None]:
    for batch in batches:
        yield batch
