"""The door, with real handshakes on loopback and one step at a time: who gets in, who does not, what the log says."""
import contextlib
import socket

import pytest
import zmq
from bert_serving.client.curve import Keys, find
from bert_serving.server import keys
from bert_serving.server.keys import AllowList
from bert_serving.server.stages import authenticator as module
from bert_serving.server.stages import endpoints
from bert_serving.server.stages.authenticator import SOMEBODY, Authenticator, AllowedKeys


class House:
    """A guarded socket, its door, and those who want to come in."""

    def __init__(self, context, directory):
        self.context, self.directory = context, directory
        self.keys = keys.load(str(directory))
        self.authenticator = Authenticator(context, self.keys)
        self.front, self.port = endpoints.front(context, "127.0.0.1", 0, 1000, self.authenticator.guard)
        self.remote_workers, self.worker_port = endpoints.remote_workers(
            context, "127.0.0.1", 0, 1000, self.authenticator.guard_workers)
        self.poller = zmq.Poller()
        self.handlers = dict(self.authenticator.sources())
        for source in self.handlers:
            self.poller.register(source, zmq.POLLIN)

    def step(self, timeout_ms=20):
        for source, _ in self.poller.poll(timeout_ms):
            self.handlers[source]()

    def until(self, condition, what):
        for _ in range(500):
            if result := condition():
                return result
            self.step()
        raise AssertionError(f"{what} does not come")

    def knock(self, own):
        """A client's socket that wants to come in with these keys; it says so as soon as it is in."""
        pusher = self.context.socket(zmq.PUSH)
        if own is not None:
            pusher.curve_serverkey, pusher.curve_publickey, pusher.curve_secretkey = own.server, own.public, own.secret
        pusher.connect(f"tcp://127.0.0.1:{self.port}")
        pusher.send(b"in", zmq.NOBLOCK)

    def knock_as_worker(self, own):
        """Likewise at the port for workers of other hosts."""
        dealer = self.context.socket(zmq.DEALER)
        dealer.curve_serverkey, dealer.curve_publickey, dealer.curve_secretkey = own.server, own.public, own.secret
        dealer.connect(f"tcp://127.0.0.1:{self.worker_port}")
        dealer.send(b"in", zmq.NOBLOCK)

    def heard(self):
        """The first frame of a message that has come in."""
        if self.front.poll(0):
            return self.front.recv(copy=False)

    def heard_of_workers(self):
        if self.remote_workers.poll(0):
            return self.remote_workers.recv_multipart(copy=False)[0]


@pytest.fixture
def house(context, tmp_path):
    keys.make(tmp_path / "keys", ["alice"])
    house = House(context, tmp_path / "keys")
    yield house
    house.authenticator.close()


def stranger(house):
    return Keys(house.keys.public, *zmq.curve_keypair())


@pytest.mark.parametrize("who", ["", "alice"])
def test_those_on_the_list_get_in_and_are_known(house, caplog, who):
    own = find(house.directory / who)
    house.knock(own)
    frame = house.until(house.heard, "the message")
    assert house.authenticator.key_of(frame) == own.public.decode()
    assert not caplog.records


def test_the_proxy_gets_in_though_it_is_on_no_list(house):
    house.knock(house.keys.proxy)
    assert house.authenticator.clients.admits(house.authenticator.key_of(house.until(house.heard, "the message")))


def other_server(house):
    own = find(house.directory)
    return Keys(zmq.curve_keypair()[0], own.public, own.secret)


@pytest.mark.parametrize("who, told", [
    (lambda house: None, "it comes without a key"),  # whichever end is the first to hang up
    (stranger, "its key "),
    (other_server, "it expects another server"),
], ids=["none", "stranger", "other server"])
def test_the_others_do_not_get_in_and_the_log_says_why(house, caplog, who, told):
    own = who(house)
    house.knock(own)
    house.until(lambda: caplog.records, "the line")
    assert not house.heard() and house.authenticator.clients.refusals.count
    line = caplog.records[0].getMessage()
    assert line.startswith(("refused 127.0.0.1: ", f"refused {SOMEBODY}: ")) and told in line
    if own is not None:
        assert own.secret.decode() not in caplog.text
        if told == "its key ":
            assert own.public.decode() in line and str(house.directory / "clients") in line


def test_those_who_only_look_are_no_matter_for_the_log(house, caplog):
    for says in (b"", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"):
        with socket.create_connection(("127.0.0.1", house.port)) as connection:
            connection.sendall(says)
            house.step(10_000)
            with contextlib.suppress(ConnectionError):  # to what is no greeting libzmq hangs up itself
                connection.recv(1, socket.MSG_PEEK)     # ours is left unread; before it came, this would be a hang-up
        house.step(10_000 if house.authenticator._addresses else 0)
        house.until(lambda: not house.poller.poll(20), "silence")
    assert not caplog.records and not house.authenticator._addresses


def test_while_nobody_answers_nobody_gets_in(house):
    """Not even those on the list: a door that is closed lets in nobody."""
    house.authenticator.close()
    house.handlers.clear()
    house.poller = zmq.Poller()
    for _ in range(10):  # the first one may still find somebody to ask, who does not answer any more
        house.knock(find(house.directory))
        assert not house.front.poll(30)


def test_who_is_put_on_the_list_gets_in_and_who_is_taken_off_does_not(house, caplog):
    caplog.set_level("INFO")
    house.authenticator.tick(0.0)
    keys.make(house.directory, ["bob"])
    bob = find(house.directory / "bob")
    house.authenticator.tick(module.REFRESH_SECONDS / 2)
    assert not house.authenticator.clients.admits(bob.public.decode()), "not looked at yet"
    house.authenticator.tick(module.REFRESH_SECONDS)
    house.knock(bob)
    frame = house.until(house.heard, "the message")
    (house.directory / "clients" / "bob.key").unlink()
    house.authenticator.tick(2 * module.REFRESH_SECONDS)
    assert not house.authenticator.clients.admits(house.authenticator.key_of(frame))
    refused = house.authenticator.clients.refusals.count
    house.knock(bob)
    house.until(lambda: house.authenticator.clients.refusals.count > refused, "the refusal")
    told = [record.getMessage() for record in caplog.records]
    assert told[:2] == ["client bob is let in from now on", "client bob is not let in any more"]


# ---- workers of other hosts ------------------------------------------------------------------------------------------

def test_a_workers_key_is_let_in_at_its_port_and_known_there(house):
    keys.make(house.directory, ["gpu"], are_workers=True)
    own = find(house.directory / "gpu")
    house.authenticator.tick(0.0)
    house.knock_as_worker(own)
    frame = house.until(house.heard_of_workers, "the message")
    key = house.authenticator.key_of(frame)
    assert key == own.public.decode() and house.authenticator.workers.admits(key)


def test_a_host_that_the_server_has_started_is_let_in_though_it_is_on_no_list(house):
    house.knock_as_worker(house.keys.launched)
    house.until(house.heard_of_workers, "the message")


@pytest.mark.parametrize("who", ["", "alice", "proxy"])
def test_a_client_is_no_worker(house, caplog, who):
    own = house.keys.proxy if who == "proxy" else find(house.directory / who)
    house.knock_as_worker(own)
    house.until(lambda: caplog.records, "the line")
    assert not house.heard_of_workers()
    assert f"its key {own.public.decode()} is not in {house.directory / 'workers'}" in caplog.text


@pytest.mark.parametrize("who", ["gpu", "launched"])
def test_a_worker_is_no_client(house, caplog, who):
    keys.make(house.directory, ["gpu"], are_workers=True)
    house.authenticator.tick(0.0)
    own = house.keys.launched if who == "launched" else find(house.directory / who)
    house.knock(own)
    house.until(lambda: caplog.records, "the line")
    assert not house.heard()
    assert f"its key {own.public.decode()} is not in {house.directory / 'clients'}" in caplog.text


def test_workers_come_and_go_by_their_list(house, caplog):
    caplog.set_level("INFO")
    keys.make(house.directory, ["gpu"], are_workers=True)
    own = find(house.directory / "gpu").public.decode()
    house.authenticator.tick(0.0)
    assert house.authenticator.workers.admits(own) and not house.authenticator.clients.admits(own)
    (house.directory / "workers" / "gpu.key").unlink()
    house.authenticator.tick(module.REFRESH_SECONDS)
    assert not house.authenticator.workers.admits(own)
    assert [line for line in caplog.messages if "gpu" in line] == [
        "worker host gpu is let in from now on", "worker host gpu is not let in any more"]


def test_many_at_once(house):
    """A storm of handshakes is answered in portions, so that others have their turn."""
    own = find(house.directory)
    for _ in range(3 * module.MAX_AT_ONCE):
        house.knock(own)
    heard = []
    house.until(lambda: heard.extend(filter(None, [house.heard()])) or len(heard) == 3 * module.MAX_AT_ONCE,
                "all of them")


def test_an_address_that_is_gone_is_nobodys(house):
    with socket.socket() as closed:
        descriptor = closed.fileno()
    assert module._peer(descriptor) == SOMEBODY


def test_those_on_the_list_and_our_own(tmp_path):
    guests = AllowedKeys(AllowList(tmp_path), "client", "own")
    assert guests.admits("own") and not guests.admits("alice") and not guests.admits("")
    guests.allow_list.names = {"alice": "Alice"}
    assert guests.admits("alice") and not guests.admits("bob") and guests.admits("own")
    assert not AllowedKeys(AllowList(tmp_path), "client").admits(""), "nobody of ours is not whoever has no key"
