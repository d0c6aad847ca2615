"""Clients that ask without end and report what they see. A script that runs with our client, or with the original's.

It is given one JSON object (see ``Clients``), asks until its standard input is closed, and writes events, one JSON list
a line. A request's texts follow from who asks and its number, so that nobody has to send them to the checker:

    ["asked", seconds, client, number, size, poison]     poison: index of the text that kills, or null
    ["answered", seconds, client, number, fingerprints]  16 hexadecimal digits a row
    ["failed", seconds, client, number, code, message, index]
    ["gave up", seconds, client, number]                 no answer within the client's timeout
    ["withdrew", seconds, client, number]                never sent, because something before it failed
    ["figure", seconds, name, value]                     what a scenario measures
"""
import faulthandler
import hashlib
import json
import os
import random
import re
import signal
import sys
import threading
import time
import warnings

import zmq

SERVER_ERROR = re.compile(r"bert-serving error (\w+): ")


def texts_of(client, number, size, poison=None):
    """The sentences of a request: each names its place, and has one to eight words more than the next shorter one."""
    texts = ["%s r%d s%d%s" % (client, number, place, " more" * ((number + place) % 8)) for place in range(size)]
    if poison is not None:
        texts[poison] += " __die__"
    return texts


def fingerprints(array):
    """What is kept of the rows of an array: 16 hexadecimal digits for each."""
    return "".join(hashlib.blake2b(row.tobytes(), digest_size=8).hexdigest() for row in array)


class Reporter:
    """Writes events, whichever thread they come from."""

    def __init__(self):
        self._lock = threading.Lock()

    def __call__(self, kind, *details):
        line = json.dumps([kind, round(time.monotonic(), 6), *details])
        with self._lock:
            sys.stdout.write(line + "\n")
            sys.stdout.flush()


class Clients:
    """What one process of clients does.

    The order has: ``mode``, ``port``, ``port_out``, ``names`` of the clients, ``seed``, ``timeout`` in milliseconds,
    ``largest`` request in sentences, ``curve_dir``, ``original``: the interpreter's client is the original's; and what
    the mode needs.
    """

    def __init__(self, order):
        self.order = order
        self.report = Reporter()
        self.stop = threading.Event()

    def connect(self, **options):
        from bert_serving.client import BertClient
        options = {"port": self.order["port"], "port_out": self.order["port_out"], "timeout": self.order["timeout"],
                   **options}
        if self.order["original"]:  # its constructor, when it fails, leaves a context whose collection can hang
            options["ignore_all_checks"] = True
        else:
            options["curve_dir"] = self.order["curve_dir"]
        while True:
            try:
                return BertClient(**options)
            except TimeoutError:  # the server is down just now
                if self.stop.is_set():
                    return None

    # ---- asking ------------------------------------------------------------------------------------------------------

    def mixed(self, name):
        """Requests of every size by every method, one after the other."""
        rng = random.Random("%s %s" % (self.order["seed"], name))
        number = 0
        client = self.connect()
        while client is not None and not self.stop.is_set():
            call = rng.choice([self.one, self.one, self.several, self.stream])
            number, client = call(client, name, number, rng)
        self.close(client)

    def size(self, rng):
        return int(self.order["largest"] ** rng.random())

    def one(self, client, name, number, rng):
        size = self.size(rng)
        poison = rng.randrange(size) if rng.random() < self.order.get("poison", 0) else None
        self.report("asked", name, number, size, poison)
        try:
            vectors = client.encode(texts_of(name, number, size, poison))
        except TimeoutError:
            self.report("gave up", name, number)
            client = self.renew(client)
        except Exception as error:
            self.failed(name, number, error)
        else:
            self.report("answered", name, number, fingerprints(vectors))
        if poison is not None:  # it has cost several workers; there has to be time for other things
            self.stop.wait(self.order["recovery"])
        return number + 1, client

    def several(self, client, name, number, rng):
        return self.collect(client, name, number, rng, rng.randint(2, 8))

    def collect(self, client, name, number, rng, count):
        """Send first, fetch later."""
        waiting = {}
        for number in range(number, number + count):
            size = self.size(rng)
            self.report("asked", name, number, size, None)
            try:
                client.encode(texts_of(name, number, size), blocking=False)
                waiting[client.request_id] = number
            except TimeoutError:
                self.report("gave up", name, number)
        return number + 1, self.fetch(client, name, waiting, client.fetch())

    def stream(self, client, name, number, rng):
        if self.order["original"]:  # it loses results of its own accord when the generator is slower than the server
            return self.one(client, name, number, rng)
        sizes = [self.size(rng) for _ in range(rng.randint(2, 8))]
        taken, ended, outcomes = [], threading.Event(), {}

        def batches():
            try:
                for step, size in enumerate(sizes):
                    self.report("asked", name, number + step, size, None)
                    taken.append(number + step)
                    yield texts_of(name, number + step, size)
            finally:
                ended.set()

        responses = client.encode_async(batches())
        while responses is not None:
            try:
                for response in responses:
                    outcomes[response.id] = fingerprints(response.embedding)
                responses = None
            except TimeoutError:
                break
            except Exception as error:
                outcomes[error.failed_request] = error
                responses.close()  # it sends no more; what was sent is left to fetch()
                ended.wait(10)
                responses = client.fetch()
        # The client's ids grow in the order of sending. What was taken from the generator last may be unsent.
        pending = set(client.pending_request)
        ids = sorted(pending | set(outcomes))
        for step, ours in enumerate(taken):
            outcome = outcomes.get(ids[step]) if step < len(ids) else None
            if isinstance(outcome, str):
                self.report("answered", name, ours, outcome)
            elif outcome is not None:
                self.failed(name, ours, outcome)
            else:
                self.report("gave up" if step < len(ids) else "withdrew", name, ours)
        return number + len(sizes), self.renew(client) if pending else client

    def fetch(self, client, name, waiting, responses):
        """Take results until none of ``waiting`` (the client's id -> our number) is left; a client to go on with."""
        if self.order["original"]:  # its fetch() has no timeout of its own
            client.receiver.rcvtimeo = self.order["timeout"]
        while True:
            try:
                for response in responses:
                    self.report("answered", name, waiting.pop(response.id), fingerprints(response.embedding))
            except (TimeoutError, zmq.Again):
                break
            except Exception as error:
                failed = getattr(error, "failed_request", None)
                if failed is None:  # the original's exception does not say which
                    return self.lose(client, name, waiting, error)
                self.failed(name, waiting.pop(failed), error)
                if not waiting:
                    return client
                responses = client.fetch()
            else:
                if waiting:
                    break
                return client
        for number in waiting.values():
            self.report("gave up", name, number)
        return self.renew(client)

    def lose(self, client, name, waiting, error):
        for number in waiting.values():
            self.failed(name, number, error)
        return self.renew(client)

    def failed(self, name, number, error):
        found = SERVER_ERROR.search(str(error))
        code = found.group(1) if found else getattr(error, "code", type(error).__name__)
        self.report("failed", name, number, code, str(error)[:200], getattr(error, "index", None))
        if code in ("unavailable", "overloaded"):
            self.stop.wait(0.1)

    def renew(self, client):
        self.close(client)
        return self.connect()

    def close(self, client):
        """The original's close() terminates its context, which now and then takes for ever."""
        if client is None:  # there was no server to connect to
            return
        if self.order["original"]:
            threading.Thread(target=client.close, daemon=True).start()
        else:
            client.close()

    # ---- measuring ---------------------------------------------------------------------------------------------------

    def timed(self, name):
        """One request after the other; how long each took is a figure. Those of ``words`` begin with them."""
        client = self.connect()
        number = 0
        while client is not None and not self.stop.is_set() and number < self.order.get("count", 1e9):
            texts = [self.order["words"] + text for text in texts_of(name, number, self.order["size"])] \
                if self.order.get("words") else texts_of(name, number, self.order["size"])
            if not self.order.get("words"):
                self.report("asked", name, number, self.order["size"], None)
            started = time.monotonic()
            try:
                vectors = client.encode(texts)
            except TimeoutError:
                self.report("gave up", name, number)
                client = self.renew(client)
                continue
            finally:
                ended = time.monotonic()
                number += 1
            if not self.order.get("words"):
                self.report("answered", name, number - 1, fingerprints(vectors))
            self.report("figure", name, [started, ended])
            if self.order.get("pause"):
                self.stop.wait(self.order["pause"])
        self.close(client)

    def fresh(self, name):
        """New clients, each of which asks once without having asked anything before."""
        for number in range(self.order["count"]):
            client = self.connect(ignore_all_checks=True)
            self.report("asked", name, number, 1, None)
            started = time.monotonic()
            try:
                vectors = client.encode(texts_of(name, number, 1))
            except TimeoutError:
                self.report("gave up", name, number)
            else:
                self.report("figure", name, time.monotonic() - started)
                self.report("answered", name, number, fingerprints(vectors))
            self.close(client)
            if self.stop.is_set():
                return

    def unfetched(self, name):
        """Very many requests before the first result is taken."""
        client = self.connect()
        waiting = {}
        for number in range(self.order["count"]):
            self.report("asked", name, number, 1, None)
            client.encode(texts_of(name, number, 1), blocking=False)
            waiting[client.request_id] = number
        self.report("figure", name, "all sent")
        self.stop.wait(self.order.get("pause", 1))
        self.close(self.fetch(client, name, waiting, client.fetch()))

    def whole(self, name):
        """All sentences of a file, whose vectors go to another one."""
        import numpy as np
        with open(self.order["texts"]) as file:
            texts = json.load(file)
        size = self.order["size"]
        client = self.connect()
        first = client.request_id + 1
        parts = {response.id - first: response.embedding for response in client.encode_async(
            texts[start:start + size] for start in range(0, len(texts), size))}
        np.save(self.order["out"], np.concatenate([parts[part] for part in sorted(parts)]))
        self.close(client)

    # ---- life --------------------------------------------------------------------------------------------------------

    def run(self):
        threads = [threading.Thread(target=getattr(self, self.order["mode"]), args=(name,))
                   for name in self.order["names"]]
        threading.Thread(target=self.wait_for_stop, daemon=True).start()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def wait_for_stop(self):
        sys.stdin.read()
        self.stop.set()


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    faulthandler.register(signal.SIGUSR1)  # for whoever wonders what it waits for
    Clients(json.loads(sys.argv[1])).run()
    sys.stdout.flush()
    os._exit(0)  # libzmq's threads do not always end
