"""A bug on purpose: stands between the server's results and the clients, and spoils one result in so many.

A script: ``planted.py PORT_OUT KIND EVERY``; it prints the port that clients have to take their results from.

    drop     a result is not passed on
    double   a result is passed on twice
    swap     two results of one row are exchanged, but for whom they are addressed to
    reorder  two rows of a result change places
"""
import json
import os
import sys

import zmq


class Spoiler:
    """Decides what becomes of each message; no sockets."""

    def __init__(self, kind, every):
        self.spoil = getattr(self, kind)
        self.every = every
        self.seen = self.spoiled = 0
        self.kept = None

    def __call__(self, frames):
        """A message -> the messages to pass on instead."""
        if len(frames) != 4 or not frames[2]:
            return [frames]  # a status, or an error
        self.seen += 1
        if self.kept is not None:
            return self.exchange(frames)
        if self.seen % self.every:
            return [frames]
        self.spoiled += 1
        return self.spoil(frames)

    def drop(self, frames):
        return []

    def double(self, frames):
        return [frames, frames]

    def swap(self, frames):
        if self.rows(frames) > 1:  # there might not come another one of its size
            return self.next_one(frames)
        self.kept = frames
        return []

    def exchange(self, frames):
        topic, header, vectors, number = self.kept
        if header != frames[1]:
            return [frames]
        self.kept = None
        return [[topic, header, frames[2], number], [frames[0], header, vectors, frames[3]]]

    def rows(self, frames):
        return json.loads(frames[1])["shape"][0]

    def next_one(self, frames):
        """Spoil the next one instead."""
        self.seen -= 1
        self.spoiled -= 1
        return [frames]

    def reorder(self, frames):
        topic, header, vectors, number = frames
        rows = self.rows(frames)
        if rows < 2:
            return self.next_one(frames)
        row = len(vectors) // rows
        return [[topic, header, vectors[row:2 * row] + vectors[:row] + vectors[2 * row:], number]]


def main(port_out, kind, every):
    spoiler = Spoiler(kind, int(every))
    context = zmq.Context()
    behind, front = context.socket(zmq.XSUB), context.socket(zmq.XPUB)
    for socket in (behind, front):
        socket.sndhwm = socket.rcvhwm = 0
    behind.connect("tcp://127.0.0.1:" + port_out)
    print(front.bind_to_random_port("tcp://127.0.0.1"), flush=True)
    poller = zmq.Poller()
    for socket in (behind, front, 0):
        poller.register(socket, zmq.POLLIN)
    while True:
        ready = dict(poller.poll())
        if 0 in ready:
            return  # standard input is closed: nobody wants us any more
        if front in ready:
            behind.send(front.recv())
        if behind in ready:
            for frames in spoiler(behind.recv_multipart()):
                front.send_multipart(frames)


if __name__ == "__main__":
    main(*sys.argv[1:])
    os._exit(0)
