"""Threads share one pair of sockets: each gets its own replies, and closing wakes them all."""
import threading

import pytest
from bert_serving.client import channel as channel_module, protocol
from bert_serving.client.channel import Channel, Deadline
from bert_serving.client.errors import DeadlineError, UnauthorizedError, UnavailableError
from bert_serving.client.exchange import Exchange

PATIENCE_MS = 20_000


@pytest.fixture
def channel(server):
    channel = Channel("127.0.0.1", server.port, server.port_out, Exchange(b"me"), max_unread=0)
    yield channel
    channel.close()


def ask(channel, text="a", patience_ms=PATIENCE_MS):
    with channel.changing() as exchange:
        request_id = exchange.number()
    frames = protocol.encode_request(b"me", request_id, [text])
    channel.post(request_id, frames, Deadline(patience_ms), size=1)
    return request_id


def answer(channel, request_id, patience_ms=PATIENCE_MS):
    return channel.wait(lambda: channel.exchange.take(request_id), Deadline(patience_ms))


def test_patience():
    assert Deadline(-1).left() == Deadline(None).left() == float("inf")
    assert Deadline(0).left() == 0
    assert 0 < Deadline(PATIENCE_MS).left() <= PATIENCE_MS / 1000
    deadline = Deadline(0.001)
    deadline.restart()
    assert deadline.left() <= 0.001


def test_nothing_is_opened_before_it_is_needed(server):
    channel = Channel("127.0.0.1", server.port, server.port_out, Exchange(b"me"), 0)
    assert channel._links is None
    channel.close()
    assert channel._links is None


def test_question_and_answer(channel):
    request_id = ask(channel)
    assert answer(channel, request_id).request_id == request_id
    assert channel.is_connected()


def test_no_patience_still_looks_at_what_is_there(channel, server):
    server.hold()
    ask(channel)
    assert answer(channel, 99, patience_ms=0) is None


def test_readers_take_turns(channel, server):
    """Each thread's reply comes while another one reads; whoever is served first hands the reading on."""
    server.hold()
    results = {}

    def call(text):
        request_id = ask(channel, text)
        results[text] = answer(channel, request_id).embedding.tolist()

    texts = [chr(ord("a") + number) * (number + 1) for number in range(8)]
    threads = [threading.Thread(target=call, args=(text,)) for text in texts]
    for thread in threads:
        thread.start()
    for request in reversed([server.next_held() for _ in texts]):
        server.answer(request)
    for thread in threads:
        thread.join(20)
    assert results == {text: [[1.0, len(text), sum(map(ord, text))]] for text in texts}


def test_close_wakes_those_who_wait(channel, server):
    server.hold()
    errors = []

    def call():
        try:
            answer(channel, ask(channel), patience_ms=-1)
        except UnavailableError as error:
            errors.append(error)

    threads = [threading.Thread(target=call) for _ in range(3)]
    for thread in threads:
        thread.start()
    for _ in threads:
        server.next_held()
    channel.close()
    for thread in threads:
        thread.join(20)
    assert len(errors) == 3


def test_closed_for_good(channel):
    channel.close()
    channel.close()
    with pytest.raises(UnavailableError, match="closed"):
        ask(channel)
    with pytest.raises(UnavailableError, match="closed"):
        channel.wait(lambda: None, Deadline(-1))


def test_full_socket_runs_into_the_deadline_and_the_request_is_forgotten(channel, monkeypatch):
    sender, _ = channel.links()
    monkeypatch.setattr(sender, "send", lambda frames: False)
    with pytest.raises(DeadlineError, match="did not take a request within 5 ms"):
        ask(channel, patience_ms=5)
    assert not channel.exchange.pending


def test_results_are_read_while_the_socket_is_full(channel, server, monkeypatch):
    """A server that waits for its results to be read takes no more requests until they are."""
    server.hold()
    first = ask(channel)
    server.answer(server.next_held())
    sender, _ = channel.links()
    really_send = sender.send
    monkeypatch.setattr(sender, "send", lambda frames: bool(channel.exchange.answered) and really_send(frames))
    second = ask(channel)
    assert channel.exchange.answered.keys() == {first}
    server.answer(server.next_held())
    assert answer(channel, second).request_id == second


def test_waiting_senders_run_into_their_own_deadline(channel):
    channel.links()
    with channel._outbox, pytest.raises(DeadlineError, match="take a request"):
        ask(channel, patience_ms=5)


# ---- a server that does not let us in --------------------------------------------------------------------------------

@pytest.fixture
def guarded_channel(guarded):
    """Makes channels to a server that lets in only who has the right keys."""
    channels = []

    def make(keys):
        channels.append(Channel("127.0.0.1", guarded.port, guarded.port_out, Exchange(b"me"), max_unread=0, keys=keys))
        return channels[-1]

    yield make
    for channel in channels:
        channel.close()


def test_with_the_right_keys(guarded, guarded_channel):
    channel = guarded_channel(guarded.door.keys)
    request_id = ask(channel)
    assert answer(channel, request_id).request_id == request_id and not channel.unauthorized


@pytest.mark.parametrize("who", ["nobody", "stranger"])
def test_who_is_not_let_in_waits_no_longer(guarded, guarded_channel, who):
    """None of those who wait, and none who comes later; though none of them ever has too little patience."""
    channel = guarded_channel(guarded.door.stranger if who == "stranger" else None)
    told = []

    def call():
        try:
            answer(channel, ask(channel), patience_ms=-1)
        except UnauthorizedError as error:
            told.append(str(error))

    threads = [threading.Thread(target=call) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    call()
    lines = {link.unauthorized for link in channel.links()}  # each port's own
    assert len(told) == 4 and "" not in told and lines.issuperset(told)
    assert not guarded.received


def test_a_full_socket_is_not_waited_for_either(guarded, guarded_channel, monkeypatch):
    channel = guarded_channel(guarded.door.stranger)
    sender, _ = channel.links()
    monkeypatch.setattr(sender, "send", lambda frames: False)
    with pytest.raises(UnauthorizedError, match="does not know this client's key"):
        ask(channel, patience_ms=-1)
    assert not channel.exchange.pending


def test_the_steadfast_wait_on(guarded, guarded_channel):
    channel = guarded_channel(guarded.door.stranger)
    with pytest.raises(UnauthorizedError):
        answer(channel, ask(channel), patience_ms=-1)
    assert channel.wait(lambda: None, Deadline(1), steadfast=True) is None


# ---- a connection that was lost and is there again -------------------------------------------------------------------

@pytest.fixture(params=["restart", "port", "port_out"])
def interrupt(request, server):
    """Interrupts the connection: by a restart of the server, or on one port."""
    return server.restart if request.param == "restart" else lambda: server.cut(request.param)


def hold_five(channel, server):
    """Five requests of which the server has answered the second and the fourth; (ids, ids without answer)."""
    server.hold()
    ids = [ask(channel) for _ in range(5)]
    held = [server.next_held() for _ in ids]
    for number in (1, 3):
        server.answer(held[number])
        assert answer(channel, ids[number])
    server.go_on()
    return ids, ids[::2]


def test_what_is_unanswered_is_sent_again_once_and_in_order(channel, server, interrupt):
    channel.repeats = True
    ids, unanswered = hold_five(channel, server)
    for turn in range(1, 3):
        server.received.clear()
        interrupt()
        for request_id in unanswered:
            assert answer(channel, request_id).request_id == request_id
        assert channel.reconnections() == turn
        new = ask(channel)
        assert answer(channel, new)
        assert server.ids() == unanswered + [new]
        ids, unanswered = hold_five(channel, server)


def test_nothing_is_sent_again_to_a_server_that_would_do_it_twice(channel, server, interrupt):
    assert not channel.repeats
    ids, _ = hold_five(channel, server)
    server.received.clear()
    interrupt()
    while not channel.reconnections():
        answer(channel, ids[0], patience_ms=5)
    new = ask(channel)
    assert answer(channel, new)
    assert server.ids() == [new]


@pytest.mark.parametrize("given_up", [[0], [2], [0, 4]])
def test_what_was_given_up_is_not_sent_again(channel, server, given_up):
    channel.repeats = True
    ids, _ = hold_five(channel, server)
    server.received.clear()
    channel.abandon(ids[number] for number in given_up)
    left = [ids[number] for number in (0, 2, 4) if number not in given_up]
    server.hold()
    server.restart()
    while not channel.reconnections():
        answer(channel, ids[0], patience_ms=5)
    new = ask(channel)
    server.wait_for(len(left) + 1)
    assert server.ids() == left + [new]


def test_the_first_connection_is_no_reconnection(server):
    server.stop()
    channel = Channel("127.0.0.1", server.port, server.port_out, Exchange(b"me"), max_unread=0)
    channel.repeats = True
    ids = [ask(channel) for _ in range(3)]
    assert answer(channel, ids[0], patience_ms=5) is None
    server.start()
    assert answer(channel, ids[2])
    assert channel.reconnections() == 0
    assert server.ids() == ids
    channel.close()


def test_a_server_that_stays_away_for_long(channel, server):
    """What is asked meanwhile waits too."""
    channel.repeats = True
    ids, unanswered = hold_five(channel, server)
    server.stop()
    unanswered.append(ask(channel))
    assert answer(channel, unanswered[0], patience_ms=5) is None
    assert "lost the connection" in str(channel.timeout_error("do it", Deadline(5)))
    server.start()
    assert [answer(channel, request_id).request_id for request_id in unanswered] == unanswered


def test_all_who_wait_notice_and_none_by_looking_now_and_then(channel, server, interrupt, monkeypatch):
    monkeypatch.setattr(channel_module, "_SLICE", 60)
    channel.repeats = True
    server.hold()
    results = {}

    def call(text):
        results[text] = answer(channel, ask(channel, text), 50_000).embedding.tolist()

    texts = [chr(ord("a") + number) for number in range(8)]
    threads = [threading.Thread(target=call, args=(text,), daemon=True) for text in texts]
    for thread in threads:
        thread.start()
    for _ in texts:
        server.next_held()
    server.go_on()
    interrupt()
    for thread in threads:
        thread.join(20)
    assert results == {text: [[1.0, 1.0, ord(text)]] for text in texts}


@pytest.mark.parametrize("refusals", [[False], [False, True, False], [True, False, False, True]])
def test_room_is_waited_for_before_sending_again(channel, server, refusals, monkeypatch):
    channel.repeats = True
    ids, unanswered = hold_five(channel, server)
    server.received.clear()
    sender, _ = channel.links()
    really_send, answers = sender.send, list(refusals)
    monkeypatch.setattr(sender, "send", lambda frames: (answers.pop(0) if answers else True) and really_send(frames))
    server.restart()
    assert answer(channel, ids[4])
    assert server.ids() == unanswered and not answers


def test_what_is_due_again_goes_before_what_is_new(channel, server, monkeypatch):
    """Also when it is a sender that finds room, and nobody waits for a reply."""
    channel.repeats = True
    ids, unanswered = hold_five(channel, server)
    server.received.clear()
    sender, _ = channel.links()
    monkeypatch.setattr(sender, "send", lambda frames: False)
    server.restart()
    while not channel.reconnections():
        assert answer(channel, ids[0], patience_ms=5) is None
    monkeypatch.undo()
    new = ask(channel)
    server.wait_for(4)
    assert server.ids() == unanswered + [new]


def test_nothing_new_goes_before_what_is_due_again(channel, server, monkeypatch):
    """Not even when there is room again a moment after there was none."""
    channel.repeats = True
    ids, unanswered = hold_five(channel, server)
    server.received.clear()
    sender, _ = channel.links()
    really_send = sender.send
    monkeypatch.setattr(sender, "send", lambda frames: False)
    server.restart()
    while not channel.reconnections():
        assert answer(channel, ids[0], patience_ms=5) is None
    answers = [False]
    monkeypatch.setattr(sender, "send", lambda frames: answers.pop() if answers else really_send(frames))
    new = ask(channel)
    server.wait_for(4)
    assert server.ids() == unanswered + [new]


def test_what_is_new_is_sent_once(channel, server):
    """Though nobody had looked at the connection since it was lost and there again."""
    channel.repeats = True
    ids, unanswered = hold_five(channel, server)
    server.received.clear()
    server.restart()
    links = channel.links()
    while any(link.connections < 2 for link in links):
        for link in links:
            link._monitor.poll(1)
            link.update()
    new = ask(channel)
    for request_id in unanswered + [new]:
        assert answer(channel, request_id)
    last = ask(channel)
    assert answer(channel, last)
    assert server.ids() == unanswered + [new, last]


def test_results_are_read_while_there_is_no_room_to_send_again(channel, server, monkeypatch):
    channel.repeats = True
    server.hold()
    first, second = ask(channel), ask(channel)
    request = server.next_held()
    server.next_held()
    sender, _ = channel.links()
    really_send = sender.send
    monkeypatch.setattr(sender, "send", lambda frames: bool(channel.exchange.answered) and really_send(frames))
    server.cut("port")
    while not channel.reconnections():
        answer(channel, first, patience_ms=5)
    server.go_on()
    server.answer(request)
    assert answer(channel, second).request_id == second
    assert answer(channel, first).request_id == first


def test_patience_goes_on_while_it_is_sent_again(channel, server, monkeypatch):
    channel.repeats = True
    ids, _ = hold_five(channel, server)
    sender, _ = channel.links()
    monkeypatch.setattr(sender, "send", lambda frames: False)
    server.restart()
    while not channel.reconnections():
        assert answer(channel, ids[0], patience_ms=5) is None
    with pytest.raises(DeadlineError, match="take a request"):
        ask(channel, patience_ms=5)
    assert answer(channel, ids[0], patience_ms=5) is None


def test_the_late_double_is_dropped(channel, server):
    channel.repeats = True
    server.hold()
    request_id = ask(channel)
    server.next_held()
    server.go_on()
    server.handler = lambda request: [server.result(request)] * 2
    server.restart()
    assert answer(channel, request_id).request_id == request_id
    assert answer(channel, ask(channel)).request_id == request_id + 1
    assert not channel.exchange.answered and not channel.exchange.pending


def test_late_says_what_was_seen(channel):
    answer(channel, ask(channel))
    message = str(channel.timeout_error("do it", Deadline(7)))
    sender, receiver = channel.links()
    assert "did not do it within 7 ms" in message
    assert f"connected to port {sender.port} and connected to port {receiver.port}; no answer" in message
    channel.close()
    assert "the client was closed" in str(channel.timeout_error("do it", Deadline(7)))


def test_disowned_channel_is_closed_but_its_sockets_are_not(channel):
    links = channel.links()
    with channel._inbox, channel._outbox:  # as held by a thread that a forked child does not have
        channel.disown()
        with pytest.raises(UnavailableError):
            channel.links()
    assert not any(link.socket.closed for link in links)
