"""What libzmq itself does not stand: a bare socket of it, in a process that it ends.

When one of these tests fails, libzmq has been mended: then what it forbade can come back.
"""
from __future__ import annotations

import signal
import subprocess
import sys

import pytest
import zmq

PEER_GOES = """
import socket, sys, time, zmq
kind = sys.argv[1]
pull = zmq.Context().socket(zmq.PULL)
pull.rcvhwm = 32
if kind == "heartbeat":
    pull.heartbeat_ivl = 200
port = pull.bind_to_random_port("tcp://127.0.0.1")
peer = socket.create_connection(("127.0.0.1", port))
greeting = b"\\xff" + bytes(8) + b"\\x7f\\3\\1" + b"NULL".ljust(20, b"\\0") + bytes(32)
ready = b"\\5READY\\x0bSocket-Type\\0\\0\\0\\4PUSH"
peer.sendall(greeting + bytes((4, len(ready))) + ready)
assert pull.poll(100) == 0
peer.sendall(b"\\0\\5hello" * 100 + (b"\\4\\7\\4PING\\0\\0" if kind == "ping" else b"") + b"\\0\\5hello" * 100)
assert pull.poll(10_000)
peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\\1\\0\\0\\0\\0\\0\\0\\0")
peer.close()
for _ in range(10):
    pull.get(zmq.EVENTS)
    time.sleep(0.05)  # the heartbeat is due in another thread, that says nothing
while pull.poll(300):
    pull.recv()
print("survived")
"""


@pytest.mark.skipif(zmq.zmq_version_info() > (4, 3, 5), reason="a libzmq of which nothing is known here")
@pytest.mark.parametrize("kind, survives", [("nothing", True), ("heartbeat", False), ("ping", False)])
def test_a_peer_that_goes_while_its_messages_wait(kind, survives):
    """No heartbeats in stages/endpoints.py, and none in generate.py, because of the last two."""
    done = subprocess.run([sys.executable, "-c", PEER_GOES, kind], capture_output=True, text=True, timeout=50)
    if survives:
        assert done.returncode == 0 and done.stdout == "survived\n", done.stderr
    else:
        assert done.returncode == -signal.SIGABRT and "!_io_error" in done.stderr, (done.returncode, done.stderr)
