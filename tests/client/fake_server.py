"""A server made of one thread, for tests of the client: it answers well, late, wrongly, in any order, or not at all."""
from __future__ import annotations

import queue
import threading
from typing import Any, Callable, Dict, List, Optional, Sequence

import numpy as np
import zmq
from bert_serving.client import protocol
from bert_serving.client.curve import Keys
from bert_serving.client.errors import BertServingError
from bert_serving.client.options import DEFAULT, decode_options
from bert_serving.client.pairs import Pair
from zmq.auth.thread import ThreadAuthenticator

STATISTIC = {"num_data_request": 0, "num_sys_request": 1}

# What servers of these versions say of themselves, as recorded on the wire, less what no client looks at.
CONFIGS: Dict[str, Dict[str, Any]] = {
    "1.7.5": {"server_version": "1.7.5", "max_seq_len": 25, "pooling_layer": [-2], "statistic": STATISTIC},
    "1.10.0": {"server_version": "1.10.0", "max_seq_len": 25, "pooling_layer": [-2], "show_tokens_to_client": False},
    "2.0": {"server_version": "1.10.0", "bert_serving_version": "2.0.0", "max_seq_len": 25, "pooling_layer": [-2],
            "protocol_version": protocol.PROTOCOL_VERSION, "show_tokens_to_client": False, "statistic": STATISTIC,
            "request_options": ["timeout"]},
}


def vector(text: Any) -> List[float]:
    """What this server makes of a text: three numbers that tell texts apart."""
    words = ["".join(half) for half in text] if isinstance(text, Pair) else text if isinstance(text, list) else [text]
    return [float(len(words)), float(len(words[0])), float(sum(map(ord, words[0])))]


def vectors(texts: Sequence[Any]) -> np.ndarray:
    """What this server makes of texts."""
    return np.array([vector(text) for text in texts], dtype=np.float32)


class Received:
    """A message that a client sent."""

    def __init__(self, frames: List[bytes]) -> None:
        self.frames = frames
        self.identity, self.payload, self.request_id = frames[:3]
        self.command = self.payload.decode() if self.payload in protocol.COMMANDS else None
        self.texts = None
        if not self.command:
            options = decode_options(frames[4]) if frames[4:] else DEFAULT
            self.texts = protocol.decode_texts(self.payload, options.input)


class Door:
    """Lets those alone into a fake server who have a key that it knows; pyzmq's own authenticator asks it.

    Attributes:
        keys: a client's that is let in.
        stranger: another one's, that is not.
    """

    def __init__(self) -> None:
        public, self.secret = zmq.curve_keypair()
        self.keys = Keys(public, *zmq.curve_keypair())
        self.stranger = Keys(public, *zmq.curve_keypair())

    def callback(self, domain: str, key: bytes) -> bool:
        return key == self.keys.public

    def open(self, context: "zmq.Context[Any]", *sockets: "zmq.Socket[Any]") -> ThreadAuthenticator:
        """Guard sockets that are not bound yet; the authenticator has to be stopped."""
        authenticator = ThreadAuthenticator(context)
        authenticator.start()
        authenticator.configure_curve_callback("*", self)
        for socket in sockets:
            socket.curve_server = True
            socket.curve_secretkey = self.secret
        return authenticator


class FakeServer:
    """Listens on two free ports of this machine.

    By default everything is answered at once. After ``hold()`` encode requests wait until the test answers them.

    Attributes:
        received: every message, in order.
        handler: gives the replies to a message, each a list of frames without the topic; tests may replace it.
    """

    def __init__(self, style: str = "2.0", door: Optional[Door] = None, **config: Any) -> None:
        self.style = style
        self.door = door
        self.config = dict(CONFIGS[style], **config)
        self.config = {key: value for key, value in self.config.items() if value is not ...}
        self.received: List[Received] = []
        self.handler: Callable[[Received], List[List[Any]]] = self.reply
        self.held: "queue.Queue[Received]" = queue.Queue()
        self._holding = False
        self._changed = threading.Condition()
        self.port = self.port_out = 0
        self.start()

    def start(self) -> None:
        """Listen, on the ports of the last time if there was one."""
        self._context = zmq.Context()
        self._front = self._context.socket(zmq.PULL)
        self._outlet = self._context.socket(zmq.XPUB)
        self._inner = self._context.socket(zmq.PULL)
        self._hand = self._context.socket(zmq.PUSH)
        for socket in (self._front, self._outlet, self._inner, self._hand):
            socket.linger = 0
        self._authenticator = self.door and self.door.open(self._context, self._front, self._outlet)
        self.port = self._bind(self._front, self.port)
        self.port_out = self._bind(self._outlet, self.port_out)
        self._inner.bind("inproc://hand")
        self._hand.connect("inproc://hand")
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Be gone, with every connection and all that was not answered."""
        if self._context.closed:
            return
        self._hand.send_multipart([b"stop"])
        self._thread.join(10)
        for socket in (self._front, self._outlet, self._inner, self._hand):
            socket.close(0)
        if self._authenticator:
            self._authenticator.stop()
        self._context.term()

    def __enter__(self) -> "FakeServer":
        return self

    def __exit__(self, *exc_info: Any) -> None:
        self.stop()

    @property
    def address(self) -> Dict[str, Any]:
        """Arguments for a client."""
        return {"ip": "127.0.0.1", "port": self.port, "port_out": self.port_out}

    # ---- for tests ---------------------------------------------------------------------------------------------------

    def hold(self) -> None:
        """From now on encode requests wait in ``held``."""
        self._holding = True

    def next_held(self) -> Received:
        """The next request that waits."""
        return self.held.get(timeout=10)

    def go_on(self) -> None:
        """From now on encode requests are answered at once."""
        self._holding = False

    def restart(self) -> None:
        """Stop, and start again on the same ports."""
        self.stop()
        self.start()

    def cut(self, which: str) -> None:
        """End the connections to one port, and listen there again: "port" or "port_out"."""
        self._hand.send_multipart([b"cut", which.encode()])

    def send(self, identity: bytes, frames: Sequence[Any]) -> None:
        """Publish a reply; frames without the topic."""
        self._hand.send_multipart([b"send", identity, *frames])

    def answer(self, request: Received, **changes: Any) -> None:
        """Answer a held request rightly."""
        self.send(request.identity, self.result(request, **changes))

    def fail(self, request: Received, error: BertServingError) -> None:
        """Answer a held request with an error."""
        self.send(request.identity, protocol.encode_error(error, request.request_id))

    def wait_for(self, count: int, command: Optional[str] = None) -> List[Received]:
        """Messages received (encode requests, or those with ``command``), once there are so many."""
        def found() -> List[Received]:
            return [message for message in self.received if message.command == command]
        with self._changed:
            assert self._changed.wait_for(lambda: len(found()) >= count, 10), "only %d messages came" % len(found())
            return found()

    def commands(self) -> List[Optional[str]]:
        """The command (None: encode) of each message so far."""
        return [message.command for message in self.received]

    def ids(self) -> List[int]:
        """The id of each encode request so far."""
        return [int(message.request_id) for message in self.received if message.command is None]

    def result(self, request: Received, **changes: Any) -> List[Any]:
        """Frames of the right result, without the topic."""
        rows = vectors(request.texts or [])
        header = dict({"dtype": "float32", "shape": list(rows.shape)}, **changes)
        if self.style != "1.7.5":
            words = [text.split() if isinstance(text, str) else list(text) for text in request.texts or []]
            shown = self.config.get("show_tokens_to_client") or self._asked(request)
            header.setdefault("tokens", words if shown else "")
        return [protocol.json.dumps(header).encode(), rows.tobytes(), request.request_id]

    def _asked(self, request: Received) -> bool:
        """Whether a request asks for its tokens."""
        return "tokens" in self.config.get("request_options", ()) and b'"tokens": true' in b"".join(request.frames[4:])

    def reply(self, request: Received) -> List[List[Any]]:
        """The right replies to a message."""
        if request.command == "SHOW_CONFIG":
            return [protocol.encode_status(self.config, request.request_id)]
        if request.command == "SHOW_STATUS" and self.style != "1.7.5":
            return [protocol.encode_status(dict(self.config, statistic=STATISTIC), request.request_id)]
        return [self.result(request)]

    # ---- the thread --------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        subscribed: List[bytes] = []
        waiting: List[List[Any]] = []
        while True:
            poller = zmq.Poller()
            for socket in (self._front, self._outlet, self._inner):
                poller.register(socket, zmq.POLLIN)
            for socket, _ in poller.poll(10000):
                frames = socket.recv_multipart()
                if socket is self._outlet:
                    (subscribed.append if frames[0][0] else subscribed.remove)(frames[0][1:])
                elif socket is self._inner:
                    if frames[0] == b"stop":
                        return
                    if frames[0] == b"cut":
                        self._listen_anew(frames[1])
                        break  # the poller knows the old socket
                    waiting.append(self._addressed(frames[1], frames[2:]))
                else:
                    waiting.extend(self._on_request(Received(frames)))
            # Like the real outlet: nobody's reply is lost for want of a subscription.
            for reply in [reply for reply in waiting if any(reply[0].startswith(topic) for topic in subscribed)]:
                waiting.remove(reply)
                self._outlet.send_multipart(reply)

    def _listen_anew(self, which: bytes) -> None:
        socket, port = (self._front, self.port) if which == b"port" else (self._outlet, self.port_out)
        again = self._context.socket(socket.type)
        again.linger = 0
        socket.close(0)
        while True:
            try:
                self._bind(again, port)
                break
            except zmq.ZMQError:  # libzmq closes the old one in its own time
                threading.Event().wait(0.001)
        if which == b"port":
            self._front = again
        else:
            self._outlet = again

    @staticmethod
    def _bind(socket: "zmq.Socket[bytes]", port: int) -> int:
        if not port:
            return int(socket.bind_to_random_port("tcp://127.0.0.1"))
        socket.bind("tcp://127.0.0.1:%d" % port)
        return port

    def _on_request(self, request: Received) -> List[List[Any]]:
        if request.command is None and self._holding:
            replies: List[List[Any]] = []
        else:
            replies = self.handler(request)
        with self._changed:
            self.received.append(request)
            self._changed.notify_all()
        if request.command is None and self._holding:
            self.held.put(request)
        return [self._addressed(request.identity, frames) for frames in replies]

    def _addressed(self, identity: bytes, frames: Sequence[Any]) -> List[Any]:
        return [protocol.topic(identity) if self.style == "2.0" else identity, *frames]
