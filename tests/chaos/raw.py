"""Clients without a client library, so that nothing hides what comes over the wire: a message too many is reported.

A script like ``driver.py``, with the same order and the same events; ``window`` is how many requests each client has
out, ``pace`` how many it begins a second at most. After a line "stall" on its standard input it reads nothing any more,
but goes on asking: a burst of ``burst`` requests, then ``pace`` a second; after "read" it is as before.
"""
import json
import os
import random
import sys
import threading
import time

import numpy as np
import zmq
from bert_serving.client.curve import find
from driver import Reporter, fingerprints, texts_of


class Raw:
    """All clients of one process, in one loop."""

    def __init__(self, order):
        self.order = order
        self.report = Reporter()
        self.rng = random.Random(order["seed"])
        self.names = order["names"]
        self.stop = threading.Event()
        self.reading = threading.Event()
        self.reading.set()
        self.out = {name: {} for name in self.names}  # number -> when asked
        self.next = {name: 0 for name in self.names}
        self.not_before = 0.0
        context = zmq.Context()
        keys = find(order["curve_dir"])
        self.push = {}
        self.sub = {}
        for name in self.names:
            self.sub[name] = context.socket(zmq.SUB)
            self.sub[name].rcvhwm = order.get("rcvhwm", 1000)
            self.sub[name].subscribe(self.identity(name))
            self.push[name] = context.socket(zmq.PUSH)
            self.push[name].linger = self.sub[name].linger = 200
            if keys is not None:
                for socket in (self.push[name], self.sub[name]):
                    socket.curve_serverkey = keys.server
                    socket.curve_publickey, socket.curve_secretkey = keys.public, keys.secret
            self.sub[name].connect("tcp://127.0.0.1:%d" % order["port_out"])
            self.push[name].connect("tcp://127.0.0.1:%d" % order["port"])

    def identity(self, name):
        return b"%s %d" % (name.encode(), self.order["seed"])

    def run(self):
        threading.Thread(target=self.follow_orders, daemon=True).start()
        poller = zmq.Poller()
        by_socket = {}
        for name, socket in self.sub.items():
            poller.register(socket, zmq.POLLIN)
            by_socket[socket] = name
        while not self.stop.is_set():
            if not self.reading.is_set():
                self.stall()
            self.ask()
            for socket, _ in poller.poll(20):
                self.take(by_socket[socket])
            self.forget()
        # What comes after the last answer would be one too many: listen a while longer.
        end = time.monotonic() + self.order["timeout"] / 1000
        while time.monotonic() < end and any(self.out.values()):
            for socket, _ in poller.poll(20):
                self.take(by_socket[socket])
            self.forget()
        for socket, _ in poller.poll(self.order.get("quiet", 300)):
            self.take(by_socket[socket])

    def follow_orders(self):
        for line in sys.stdin:
            if line.strip() == "stall":
                self.reading.clear()
            else:
                self.reading.set()
        self.reading.set()
        self.stop.set()

    def ask(self):
        now = time.monotonic()
        if now < self.not_before:  # the server is stopping, or has too much to do, or it is too soon
            return
        if self.order.get("pace"):
            self.not_before = now + 1 / self.order["pace"]
        for name in self.names:
            while len(self.out[name]) < self.order["window"] and self.ask_once(name):
                pass

    def ask_once(self, name):
        """One request more; False if the socket has no room for it."""
        number = self.next[name]
        size = self.order.get("size") or int(self.order["largest"] ** self.rng.random())
        payload = json.dumps(texts_of(name, number, size)).encode()
        self.report("asked", name, number, size, None)
        self.next[name] += 1
        self.out[name][number] = time.monotonic()
        try:
            self.push[name].send_multipart([self.identity(name), payload, b"%d" % number, b"%d" % size], zmq.NOBLOCK)
        except zmq.Again:
            del self.out[name][number]
            self.report("failed", name, number, "unsent", "no room in the socket", None)
            return False
        return True

    def stall(self):
        began, asked = time.monotonic(), 0
        while not self.reading.is_set():
            if asked < self.order["burst"] + (time.monotonic() - began) * self.order["pace"]:
                asked += self.ask_once(self.names[0])
            else:
                self.reading.wait(0.005)

    def take(self, name):
        for _ in range(50):
            try:
                frames = self.sub[name].recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            number = int(frames[-1])
            self.out[name].pop(number, None)
            header = json.loads(frames[1])
            if "error" in header:
                error = header["error"]
                self.report("failed", name, number, error["code"], error["message"][:200], error.get("index"))
                self.not_before = time.monotonic() + 0.1
            elif frames[0] != self.identity(name) + b"\0" or len(frames) != 4:
                self.report("failed", name, number, "frames", "%d frames for %r" % (len(frames), frames[0]), None)
            else:
                rows = np.frombuffer(frames[2], header["dtype"]).reshape(header["shape"])
                self.report("answered", name, number, fingerprints(rows))

    def forget(self):
        limit = time.monotonic() - self.order["timeout"] / 1000
        for name, out in self.out.items():
            for number in [number for number, asked in out.items() if asked < limit]:
                del out[number]
                self.report("gave up", name, number)


if __name__ == "__main__":
    Raw(json.loads(sys.argv[1])).run()
    sys.stdout.flush()
    os._exit(0)  # libzmq's threads do not always end
