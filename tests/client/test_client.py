"""BertClient, against servers that are right, slow, wrong, old or absent."""
import inspect
import json
import os
import subprocess
import sys
import threading
import warnings

import bert_serving.client
import numpy as np
import pytest
from bert_serving.client import BertClient, Response, __version__, calls, protocol
from bert_serving.client.channel import Deadline
from bert_serving.client.curve import Certificate, as_text
from bert_serving.client.errors import (BertServingError, DeadlineError, OverloadedError, RequestError,
                                        UnauthorizedError, UnavailableError, UnprocessableError)
from bert_serving.client.link import context
from bert_serving.client.pairs import Pair
from fake_server import CONFIGS, FakeServer, vectors

STYLES = list(CONFIGS)
CHECKS = {"check_version": False, "check_length": False, "check_token_info": False}


@pytest.fixture(params=STYLES)
def any_server(request):
    """Servers of three ages."""
    with FakeServer(request.param) as server:
        yield server


def open_sockets():
    return sum(not socket.closed for socket in context()._sockets)


def ids(responses):
    return [response.id for response in responses]


# ---- constructor -----------------------------------------------------------------------------------------------------

def test_constructor_takes_what_it_always_took():
    parameters = inspect.signature(BertClient).parameters
    assert {name: parameter.default for name, parameter in parameters.items()} == {
        "ip": "localhost", "port": 5555, "port_out": 5556, "output_fmt": "ndarray", "show_server_config": False,
        "identity": None, "check_version": True, "check_length": True, "check_token_info": True,
        "ignore_all_checks": False, "timeout": -1, "curve_dir": None, "servers": None}
    assert list(parameters)[6:] == ["check_version", "check_length", "check_token_info", "ignore_all_checks",
                                    "timeout", "curve_dir", "servers"], "what is new comes last"


@pytest.mark.parametrize("identity, text", [("news", "news"), ("Zoë", "Zoë"), (b"\xffa", "\\xffa")])
def test_status_is_what_json_can_hold(server, connect, identity, text):
    bc = connect(server, identity=identity)
    server.hold()
    bc.encode(["a"], blocking=False)
    status = json.loads(json.dumps(bc.status))
    assert (status["identity"], status["pending_request"]) == (text, [bc.request_id])
    assert status == bc.status


def test_every_argument_of_the_constructor_is_handed_on_under_its_name(monkeypatch):
    handed_on = {}

    class Told(Exception):
        pass

    def record(self, *by_position, **by_name):
        assert not by_position, "a swap would be silent"
        handed_on.update(by_name)
        raise Told

    monkeypatch.setattr(calls.Calls, "__init__", record)
    given = {name: f"the {name}" for name in inspect.signature(BertClient).parameters}
    with pytest.raises(Told):
        BertClient(**given)
    assert handed_on == given


def test_methods_take_what_they_always_took():
    def arguments(name):
        return str(inspect.signature(getattr(BertClient, name)).replace(return_annotation=inspect.Signature.empty))
    assert arguments("fetch") == "(self, delay: 'float' = 0.0)"
    assert arguments("fetch_all") == "(self, sort: 'bool' = True, concat: 'bool' = False)"
    assert list(inspect.signature(BertClient.encode).parameters) == [
        "self", "texts", "blocking", "is_tokenized", "show_tokens", "input"]
    assert list(inspect.signature(BertClient.encode_async).parameters) == [
        "self", "batch_generator", "max_num_batch", "delay", "kwargs"]


def test_public_attributes(server, connect):
    bc = connect(server, identity="news")
    assert (bc.ip, bc.port, bc.port_out, bc.output_fmt) == ("127.0.0.1", server.port, server.port_out, "ndarray")
    assert (bc.identity, bc.timeout, bc.length_limit, bc.token_info_available) == (b"news", 20_000, 25, False)
    assert (bc.pending_request, dict(bc.pending_response)) == (set(), {})
    assert bc.formatter(7) == 7
    assert bc.context is context()
    assert not bc.sender.closed and not bc.receiver.closed


@pytest.fixture
def clones(connect, monkeypatch):
    """Makes two clients of one identity; the reply to the second one's first question may come before it listens."""
    monkeypatch.setattr(calls, "_FIRST_RETRY", 0.02)
    return lambda server: (connect(server, identity="news"), connect(server, identity="news"))


def test_default_identity_counts_from_one_a_shared_one_from_anywhere(server, connect, clones):
    assert connect(server).request_id == connect(server).request_id == 1
    one, other = clones(server)
    assert abs(one.request_id - other.request_id) > 1000
    assert one.status["num_request"] == 1


def test_unknown_output_fmt_is_refused_before_anything_is_opened(monkeypatch):
    monkeypatch.setattr(calls, "Channel", None)
    with pytest.raises(AttributeError, match="output_fmt is 'json'; expected one of: ndarray, list"):
        BertClient(output_fmt="json")


def test_constructor_closes_its_sockets_when_it_raises():
    with FakeServer(protocol_version=99) as server:
        before = open_sockets()
        with pytest.raises(AttributeError, match="protocol 99") as caught:
            BertClient(**server.address, timeout=20_000)
        assert open_sockets() == before
        del caught  # it kept the client from being collected, which closes it too


@pytest.mark.parametrize("checks", [{}, {"ignore_all_checks": True}])
def test_who_is_not_let_in_is_told_so_however_patient(guarded, checks):
    before = open_sockets()
    for curve_dir, told in ((None, "lets in only clients with a key"),
                            (guarded.door.stranger, "does not know this client's key")):
        with pytest.raises(UnauthorizedError, match=told) as caught:
            with BertClient(**guarded.address, **checks, curve_dir=curve_dir) as bc:  # timeout=-1: for ever
                bc.encode(["a"])
        del caught
    assert open_sockets() == before


def test_keys_that_are_not_there_are_told_before_anything_is_opened(monkeypatch):
    monkeypatch.setattr(calls, "Channel", None)
    with pytest.raises(UnauthorizedError, match="cannot read /no/such/place/client.key_secret"):
        BertClient(curve_dir="/no/such/place")


def test_keys_come_from_the_environment_too(guarded, connect, monkeypatch, tmp_path):
    keys = guarded.door.keys
    (tmp_path / "client.key_secret").touch(0o600)
    (tmp_path / "client.key_secret").write_text(as_text(Certificate(keys.public, keys.secret), "for a test"))
    (tmp_path / "server.key").write_text(as_text(Certificate(keys.server), "for a test"))
    monkeypatch.setenv("BERT_SERVING_CURVE_DIR", str(tmp_path))
    np.testing.assert_array_equal(connect(guarded).encode(["a"]), vectors(["a"]))


@pytest.mark.parametrize("options, asks", [
    ({}, True), (CHECKS, False), ({**CHECKS, "check_length": True}, True), ({**CHECKS, "check_version": True}, True),
    ({**CHECKS, "check_token_info": True}, True), ({**CHECKS, "show_server_config": True}, True),
    ({"ignore_all_checks": True, "show_server_config": True}, False),
])
def test_which_checks_ask_the_server(server, connect, options, asks):
    bc = connect(server, **options)
    bc.encode(["a"])  # asks in any case, lest its result come before the subscription
    assert server.commands() == ["SHOW_CONFIG", None]
    assert bc.length_limit == (25 if options.get("check_length", asks) and asks else 0)


def test_show_server_config(server, connect, capsys):
    connect(server, show_server_config=True)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "server config:"
    assert "                   max_seq_len = 25" in lines


def test_nobody_there_is_a_timeout_that_says_so():
    with pytest.raises(TimeoutError) as caught:
        BertClient("127.0.0.1", 1, 2, timeout=5)
    message = str(caught.value)
    assert "the server at 127.0.0.1, ports 1 and 2," in message and "within 5 ms" in message
    assert "never connected to port 1 and never connected to port 2" in message


@pytest.mark.parametrize("where", [{"port": 1, "port_out": 2}, {"servers": ["127.0.0.1:1:2", "127.0.0.1:3:4"]}],
                         ids=["one", "several"])
def test_who_waits_for_a_server_that_is_not_there_is_told_so(monkeypatch, where):
    monkeypatch.setattr(calls, "_SILENT_SECONDS", 0.01)
    monkeypatch.setattr(calls, "_FIRST_RETRY", 0.01)
    host = {} if "servers" in where else {"ip": "127.0.0.1"}
    with pytest.warns(UserWarning) as told, pytest.raises(TimeoutError):
        BertClient(**host, **where, timeout=500)
    message, = [str(one.message) for one in told]  # once
    assert message.startswith("still waiting for ") and "never connected to port 1" in message
    assert told[0].filename == __file__


def test_exchanged_ports_are_guessed(server):
    with BertClient("127.0.0.1", server.port_out, server.port, ignore_all_checks=True) as bc:
        deadline = Deadline(20_000)
        while "are port and port_out exchanged?" not in bc._channel.waits():
            bc._channel.wait(lambda: None, Deadline(10))
            assert deadline.left()


@pytest.mark.parametrize("option, message", [
    ({"port": "abc"}, "port is 'abc'; expected a number from 1 to 65535"),
    ({"port_out": 65536}, "port_out is 65536; expected a number"),
    ({"port": 0}, "port is 0; expected"),
    ({"timeout": "5"}, "timeout is '5'; expected milliseconds, or -1 for ever"),
])
def test_arguments_that_are_none(option, message):
    with pytest.raises((ValueError, TypeError), match=message):
        BertClient(**option)


def test_a_port_may_be_text_as_it_always_might(server):
    with BertClient("127.0.0.1", str(server.port), str(server.port_out), timeout=20_000) as bc:
        assert len(bc.encode(["a"])) == 1


def test_lost_reply_to_the_first_question_is_asked_for_again(server, connect, monkeypatch):
    monkeypatch.setattr(calls, "_FIRST_RETRY", 0.001)
    asked = []

    def forgetful(request):
        asked.append(request.request_id)
        return server.reply(request) if len(asked) == 3 else []

    server.handler = forgetful
    connect(server)
    assert len(set(asked)) == len(asked) >= 3  # never an id twice


def test_absent_server_is_not_asked_again_and_again(monkeypatch):
    monkeypatch.setattr(calls, "_FIRST_RETRY", 0.0005)
    bc = BertClient("127.0.0.1", 1, 2, ignore_all_checks=True, timeout=20)
    with pytest.raises(TimeoutError):
        bc.server_config
    assert bc.status["num_request"] == 1
    bc.close()


# ---- encode ----------------------------------------------------------------------------------------------------------

def test_encode(any_server, connect):
    embedding = connect(any_server).encode(["First do it", "then do it right"])
    assert np.array_equal(embedding, vectors(["First do it", "then do it right"]))
    assert embedding.dtype == np.float32 and not embedding.flags.writeable


def test_encode_tokenized(any_server, connect):
    embedding = connect(any_server).encode([["first", "do", "it"], ["then"]], is_tokenized=True)
    assert np.array_equal(embedding, vectors([["first", "do", "it"], ["then"]]))


def test_encode_gives_lists(server, connect):
    assert connect(server, output_fmt="list").encode(["ab"]) == [[1.0, 2.0, 195.0]]


@pytest.mark.parametrize("texts, is_tokenized", [("a", False), ([], False), (["a", ""], False), (["a"], True)])
def test_invalid_input_is_not_sent(server, connect, texts, is_tokenized):
    bc = connect(server)
    for blocking in (True, False):
        with pytest.raises((TypeError, ValueError)):
            bc.encode(texts, blocking=blocking, is_tokenized=is_tokenized)
    assert server.commands() == ["SHOW_CONFIG"] and not bc.pending_request


def test_requests_of_any_style_get_their_own_results_in_any_order(any_server, connect):
    any_server.hold()
    bc = connect(any_server)
    bc.encode(["a"], blocking=False)
    bc.encode(["b"], blocking=False)
    outcome = []
    thread = threading.Thread(target=lambda: outcome.append(bc.encode(["blocking"])))
    thread.start()
    first, second, blocking = (any_server.next_held() for _ in range(3))
    for request in (second, first, blocking):
        any_server.answer(request)
    thread.join(20)
    assert np.array_equal(outcome[0], vectors(["blocking"]))
    bc.encode(["c"], blocking=False)
    any_server.answer(any_server.next_held())
    assert np.array_equal(bc.fetch_all(concat=True), vectors(["a", "b", "c"]))


def test_late_reply_is_not_the_next_ones(any_server, connect):
    bc = connect(any_server)
    any_server.hold()
    bc.timeout = 10
    with pytest.raises(TimeoutError, match="connected to port .*; no answer"):
        bc.encode(["late"])
    assert not bc.pending_request
    bc.timeout = 20_000
    bc.encode(["next"], blocking=False)
    late, following = any_server.next_held(), any_server.next_held()
    any_server.answer(late)
    any_server.answer(following)
    assert np.array_equal(bc.fetch_all()[0], vectors(["next"]))
    assert bc.server_config["max_seq_len"] == 25
    assert not bc.pending_request and not bc.pending_response


def test_timeout_goes_to_a_server_that_understands_it(server, connect):
    bc = connect(server, timeout=12_345)
    bc.encode(["a"])
    bc.encode(["b"], blocking=False)  # nobody waits for this one
    bc.fetch_all()
    bc.timeout = -1
    bc.encode(["c"])
    assert [message.frames[4:] for message in server.wait_for(3)] == [[b'{"timeout": 12345}'], [], []]


@pytest.mark.parametrize("style, config", [("1.7.5", {}), ("1.10.0", {}), ("2.0", {"request_options": ["dtype"]}),
                                           ("2.0", {"request_options": ...})])
def test_timeout_does_not_go_to_one_that_does_not(connect, style, config):
    with FakeServer(style, **config) as server:
        connect(server).encode(["a"])
        assert len(server.wait_for(1)[0].frames) == 4


@pytest.mark.parametrize("identity", [b"a#b", b"a@b"])
def test_identity_that_would_stop_an_original_server(connect, identity):
    with FakeServer("1.10.0") as server:
        with pytest.raises(ValueError, match="without # and @"):
            connect(server, identity=identity).encode(["a"])
        assert server.commands() == ["SHOW_CONFIG"]
    with FakeServer() as server:
        assert connect(server, identity=identity).encode(["a"]).shape == (1, 3)


def test_clients_of_a_server_that_matches_by_prefix(connect):
    with FakeServer("1.10.0") as server:
        short, long = connect(server, identity="cli7"), connect(server, identity="cli77")
        server.hold()
        for bc in (short, long):
            bc.encode([bc.identity.decode()], blocking=False)
        for request in (server.next_held(), server.next_held()):
            server.answer(request)
        for bc in (short, long):
            assert np.array_equal(bc.fetch_all(concat=True), vectors([bc.identity.decode()]))


# ---- what the texts are ----------------------------------------------------------------------------------------------

@pytest.mark.parametrize("texts, arguments, payload, options", [
    ([("a", "b\nc"), Pair("d", "e")], {}, [["a", "b\nc"], ["d", "e"]], {"input": "pairs"}),
    ([("a", "b")], {"input": "pairs"}, [["a", "b"]], {"input": "pairs"}),
    ([(["a"], ["b", "c"])], {"is_tokenized": True}, [[["a"], ["b", "c"]]], {"input": "pairs"}),
    (["a ||| b"], {"input": "texts"}, ["a ||| b"], {"input": "texts"}),
    ([["a", "|||"]], {"input": "tokens"}, [["a", "|||"]], {"input": "tokens"}),
    (["a ||| b"], {}, ["a ||| b"], None),
    ([["a", "|||"]], {"is_tokenized": True}, [["a", "|||"]], None),
])
def test_what_the_texts_are_is_said(connect, texts, arguments, payload, options):
    with FakeServer(request_options=["input"]) as server:
        bc = connect(server)
        bc.encode(texts, blocking=False, **arguments)
        next(iter(bc.encode_async([texts], **arguments)))
        for message in server.wait_for(2):
            assert json.loads(message.payload) == payload
            assert [json.loads(frame) for frame in message.frames[4:]] == ([options] if options else [])


@pytest.mark.parametrize("texts, arguments, complaint", [
    ([("a", "b")], {}, "takes no pairs"), (["a", "b ||| c"], {"input": "texts"}, "element 1 holds"),
    ([["|||"]], {"input": "tokens"}, "element 0 holds")])
def test_what_an_older_server_would_misunderstand_is_not_sent(connect, texts, arguments, complaint):
    for style in ("1.10.0", "2.0"):
        with FakeServer(style) as server:
            with pytest.raises(RequestError, match=complaint):
                connect(server).encode(texts, **arguments)
            assert not server.ids()


def test_what_an_older_server_understands_anyway_is_sent_without_options(connect):
    with FakeServer("1.10.0") as server:
        assert connect(server).encode(["a"], input="texts").shape == (1, 3)
        assert len(server.wait_for(1)[0].frames) == 4


@pytest.mark.parametrize("texts, arguments, complaint", [
    (["a"], {"input": "files"}, "expected None or one of: texts, tokens, pairs"),
    (["a"], {"input": "pairs"}, "the texts are no tuples"), (7, {"input": "pairs"}, "the texts are no tuples"),
    ([("a", "b")], {"input": "texts"}, "the texts are tuples"),
    (["a"], {"input": "texts", "is_tokenized": True}, "leave one of them out"),
    ([("a", "b"), "c"], {}, "element 1 is a str, but element 0 is a pair"),
    (["c", ("a", "b")], {}, "element 1 is a tuple; expected a str"),
    ([("a", "b", "c")], {}, "element 0 is a tuple of 3"), ([("a", " ")], {}, "element 0 is empty or blank"),
    ([("a", 7)], {}, "element 0 is an int"), ([(["a"], ["b"])], {}, "element 0 is a list; expected a str"),
    ([(["a"], [])], {"is_tokenized": True}, "element 0 is an empty list")])
def test_what_is_no_pair_is_not_sent(server, connect, texts, arguments, complaint):
    with pytest.raises((TypeError, ValueError), match=complaint):
        connect(server).encode(texts, **arguments)
    assert not server.ids()


def test_a_long_pair_is_warned_of(connect):
    with FakeServer(request_options=["input"]) as server:
        bc = connect(server)
        bc.encode([("a " * 12, "b " * 13)], blocking=False)  # a warning would be an error here
        with pytest.warns(UserWarning, match="max_seq_len=25"):
            bc.encode([("a " * 13, "b " * 13)], blocking=False)
        with pytest.warns(UserWarning, match="max_seq_len=25"):
            bc.encode([(["a"] * 13, ["b"] * 13)], blocking=False, is_tokenized=True)
        server.wait_for(3)


# ---- warnings --------------------------------------------------------------------------------------------------------

def test_one_warning_for_any_number_of_long_texts(server, connect):
    bc = connect(server)
    with pytest.warns(UserWarning, match="max_seq_len=25") as caught:
        bc.encode(["a " * 26] * 3)
    assert len(caught) == 1 and caught[0].filename == __file__
    with pytest.warns(UserWarning, match="max_seq_len=25"):
        bc.encode([["a"] * 26], is_tokenized=True)
    bc.encode(["a " * 25])  # a warning would be an error here


def test_no_warning_without_the_check(server, connect):
    connect(server, check_length=False).encode(["a " * 26])


def test_server_without_a_limit_is_warned_of(connect):
    with FakeServer(max_seq_len=None) as server:
        bc = connect(server)
        assert bc.length_limit is None
        with pytest.warns(UserWarning, match="no max_seq_len"):
            bc.encode(["a"])


def test_tokens(connect):
    with FakeServer("1.10.0", show_tokens_to_client=True) as server:
        bc = connect(server)
        assert bc.token_info_available
        embedding, tokens = bc.encode(["a b"], show_tokens=True)
        assert tokens == [["a", "b"]] and embedding.shape == (1, 3)
        assert isinstance(bc.encode(["a b"]), np.ndarray)
        bc.encode(["a b"], blocking=False)
        assert next(bc.fetch()).tokens == [["a", "b"]]


@pytest.mark.parametrize("checks", [{}, {"ignore_all_checks": True}])
def test_tokens_of_a_server_that_shows_them_on_request(connect, checks):
    with FakeServer(request_options=["tokens"]) as server:
        bc = connect(server, **checks)
        assert bc.token_info_available is not bool(checks)
        embedding, tokens = bc.encode(["a b"], show_tokens=True)
        assert tokens == [["a", "b"]] and embedding.shape == (1, 3)
        assert isinstance(bc.encode(["a b"]), np.ndarray)
        assert [message.frames[4:] for message in server.wait_for(2)] == [[b'{"tokens": true}'], []]


def test_tokens_that_are_not_shown(any_server, connect):
    bc = connect(any_server)
    assert not bc.token_info_available
    with pytest.warns(UserWarning, match="does not show its tokens"):
        assert isinstance(bc.encode(["a b"], show_tokens=True), np.ndarray)


# ---- fetch and fetch_all ---------------------------------------------------------------------------------------------

def test_nothing_pending(server, connect):
    bc = connect(server)
    assert list(bc.fetch()) == [] and bc.fetch_all() is None


def test_fetch_gives_results_as_they_arrive(any_server, connect):
    any_server.hold()
    bc = connect(any_server)
    for text in "abc":
        assert bc.encode([text], blocking=False) is None
    assert len(bc.pending_request) == bc.status["num_pending_request"] == 3
    for request in reversed([any_server.next_held() for _ in "abc"]):
        any_server.answer(request)
    responses = list(bc.fetch())
    assert ids(responses) == [4, 3, 2]
    assert isinstance(responses[0], Response) and responses[0]._fields == ("id", "embedding", "tokens")
    assert np.array_equal(responses[0].embedding, vectors(["c"])) and responses[0].tokens is None
    assert responses[0].content is responses[0].embedding  # as 1.7 called it
    assert not bc.pending_request


@pytest.mark.parametrize("sort, texts", [(True, ["a", "b", "c"]), (False, ["c", "b", "a"])])
@pytest.mark.parametrize("output_fmt", ["ndarray", "list"])
def test_fetch_all(server, connect, sort, texts, output_fmt):
    server.hold()
    bc = connect(server, output_fmt=output_fmt)

    def send():
        for text in "abc":
            bc.encode([text], blocking=False)
        for request in reversed([server.next_held() for _ in "abc"]):
            server.answer(request)

    send()
    single = bc.fetch_all(sort=sort)
    send()
    whole = bc.fetch_all(sort=sort, concat=True)
    assert isinstance(single, list) and type(whole) is {"ndarray": np.ndarray, "list": list}[output_fmt]
    assert np.array_equal(np.concatenate(single), vectors(texts)) and np.array_equal(whole, vectors(texts))
    if output_fmt == "list":
        assert single == [[row] for row in whole]


def test_fetching_late_loses_nothing(server, connect):
    bc = connect(server)
    server.hold()
    for text in "ab":
        bc.encode([text], blocking=False)
    first, second = server.next_held(), server.next_held()
    server.answer(second)
    bc.timeout = 10
    fetched = bc.fetch()
    bc.timeout = 20_000
    assert next(fetched).id == 3
    bc.timeout = 10
    with pytest.raises(DeadlineError, match="did not send the next result"):
        next(fetched)
    with pytest.raises(DeadlineError, match="did not send the other 1 result"):
        bc.fetch_all()
    server.answer(first)
    bc.timeout = 20_000
    assert np.array_equal(bc.fetch_all(concat=True), vectors(["a"]))


def test_fetch_all_that_cannot_concat_loses_nothing(server, connect):
    bc = connect(server)
    server.hold()
    for text in "ab":
        bc.encode([text], blocking=False)
    server.answer(server.next_held())
    server.answer(server.next_held(), shape=[1, 1, 3])
    with pytest.raises(ValueError, match="dimensions"):
        bc.fetch_all(concat=True)
    assert [embedding.shape for embedding in bc.fetch_all()] == [(1, 3), (1, 1, 3)]


# ---- errors from the server ------------------------------------------------------------------------------------------

def test_encode_raises_what_the_server_answered(server, connect):
    bc = connect(server)
    server.handler = lambda request: [protocol.encode_error(
        UnprocessableError("text 0 is poison, to all workers", index=0), request.request_id)]
    with pytest.raises(UnprocessableError, match="text 0 is poison, to all workers") as caught:
        bc.encode(["a"])
    assert (caught.value.index, caught.value.failed_request) == (0, 2)
    server.handler = server.reply
    assert np.array_equal(bc.encode(["b"]), vectors(["b"]))


def fail_the_second_of_three(server, bc):
    server.hold()
    for text in "abc":
        bc.encode([text], blocking=False)
    first, second, third = (server.next_held() for _ in "abc")
    server.answer(first)
    server.fail(second, OverloadedError("full", retry_after=1.5))
    server.answer(third)


def test_fetch_raises_and_the_rest_stays(server, connect):
    bc = connect(server)
    fail_the_second_of_three(server, bc)
    fetched = bc.fetch()
    assert next(fetched).id == 2
    with pytest.raises(OverloadedError) as caught:
        next(fetched)
    assert (caught.value.failed_request, caught.value.retry_after) == (3, 1.5)
    assert ids(bc.fetch()) == [4]
    assert not bc.pending_request


def test_fetch_all_raises_and_the_rest_stays(server, connect):
    bc = connect(server)
    fail_the_second_of_three(server, bc)
    with pytest.raises(OverloadedError):
        bc.fetch_all()
    assert np.array_equal(bc.fetch_all(concat=True), vectors(["a", "c"]))


def test_encode_async_raises_and_the_rest_stays(server, connect):
    bc = connect(server)
    server.hold()
    results = bc.encode_async([["a"], ["b"]])
    first, second = server.next_held(), server.next_held()
    server.fail(first, OverloadedError("full"))
    server.answer(second)
    with pytest.raises(OverloadedError):
        list(results)
    assert np.array_equal(bc.fetch_all(concat=True), vectors(["b"]))


def test_unreadable_answer_is_an_error_not_a_hang(server, connect):
    bc = connect(server)
    server.handler = lambda request: [[b"{", b"", request.request_id]]
    with pytest.raises(BertServingError, match="unreadable"):
        bc.encode(["a"])


def test_rows_that_do_not_fit_are_an_error(server, connect):
    bc = connect(server)
    server.handler = lambda request: [server.result(request, shape=[3, 1])]
    with pytest.raises(BertServingError, match="3 rows where 1"):
        bc.encode(["a"])


def test_refused_command(server, connect):
    bc = connect(server)
    server.handler = lambda request: [protocol.encode_error(UnavailableError("stopping"), request.request_id)]
    with pytest.raises(UnavailableError, match="stopping"):
        bc.server_status


# ---- encode_async ----------------------------------------------------------------------------------------------------

def test_encode_async(any_server, connect):
    bc = connect(any_server)
    responses = list(bc.encode_async(([text] for text in "abcd"), max_num_batch=3))
    assert sorted(ids(responses)) == [2, 3, 4]
    by_id = [response.embedding for response in sorted(responses)]
    assert np.array_equal(np.concatenate(by_id), vectors(["a", "b", "c"]))


def test_encode_async_passes_show_tokens_on(connect):
    with FakeServer(request_options=["tokens"]) as server:
        for wanted, tokens in ((True, [["a", "b"]]), (False, None)):
            response, = connect(server).encode_async([["a b"]], show_tokens=wanted)
            assert response.tokens == tokens


def test_encode_async_passes_is_tokenized_on(server, connect):
    response, = connect(server).encode_async([[["a", "b"]]], is_tokenized=True)
    assert np.array_equal(response.embedding, vectors([["a", "b"]]))
    with pytest.raises(TypeError, match="unknown arguments: tokenized"):
        connect(server).encode_async([], tokenized=True)


def test_encode_async_waits_for_a_slow_generator(server, connect):
    """Each batch is made only after the result before it was taken, so there are moments with nothing under way."""
    bc = connect(server)
    taken = threading.Semaphore(0)

    def batches():
        for text in "abc":
            yield [text]
            assert taken.acquire(timeout=20)

    responses = []
    for response in bc.encode_async(batches(), delay=0):
        responses.append(response)
        taken.release()
    assert len(responses) == 3


def test_slow_generator_is_not_the_servers_fault(server, connect):
    """The client's timeout is far shorter than the generator's pause."""
    bc = connect(server, timeout=20_000)
    bc.timeout = 300
    release = threading.Event()

    def batches():
        yield ["a"]
        release.wait(0.5)
        yield ["b"]

    assert len(list(bc.encode_async(batches()))) == 2


def test_encode_async_raises_what_the_generator_raises_after_its_results(server, connect):
    def batches():
        yield ["a"]
        raise KeyError("no more")

    responses = []
    with pytest.raises(KeyError, match="no more"):
        for response in connect(server).encode_async(batches()):
            responses.append(response)
    assert len(responses) == 1


def test_encode_async_raises_for_a_bad_batch(server, connect):
    with pytest.raises(TypeError, match="element 0 is an int"):
        list(connect(server).encode_async([[1]]))


def test_encode_async_times_out(server, connect):
    bc = connect(server)
    server.hold()
    bc.timeout = 10
    with pytest.raises(DeadlineError, match="answer what was sent .1 batch."):
        list(bc.encode_async([["a"]]))


def test_encode_async_leaves_other_results_alone(server, connect):
    bc = connect(server)
    bc.encode(["mine"], blocking=False)
    assert [response.embedding.tolist() for response in bc.encode_async([["x"]])] == [vectors(["x"]).tolist()]
    assert np.array_equal(bc.fetch_all(concat=True), vectors(["mine"]))


def test_encode_async_results_may_be_fetched_too(server, connect):
    bc = connect(server)
    results = bc.encode_async([["a"], ["b"]])
    server.wait_for(2)
    assert len(list(bc.fetch())) == 2
    assert list(results) == []


def test_encode_async_stops_sending_when_nobody_reads_on(server, connect):
    bc = connect(server)
    produced = []
    go_on = threading.Event()

    def batches():
        for number in range(1000):
            produced.append(number)
            yield ["a"]
            go_on.wait(20)

    results = bc.encode_async(batches())
    next(results)
    thread, = (thread for thread in threading.enumerate() if thread.name == "bert-serving-encode-async")
    assert thread.daemon
    results.close()
    go_on.set()
    thread.join(20)
    assert len(produced) == 2


def test_encode_async_does_not_run_far_ahead(server, connect, monkeypatch):
    monkeypatch.setattr(calls, "MAX_IN_FLIGHT", 2)
    bc = connect(server)
    server.hold()
    taken = []

    def batches():
        for text in "abcdef":
            taken.append(text)
            yield [text]

    results = bc.encode_async(batches())
    for _ in "abcdef":
        assert len(bc.pending_request) <= 2
        server.answer(server.next_held())
        next(results)
    assert list(results) == [] and taken == list("abcdef")


# ---- listen ----------------------------------------------------------------------------------------------------------

def test_listen_hears_what_a_clone_asks_for(any_server, clones):
    speaker, listener = clones(any_server)
    for text in "ab":
        speaker.encode([text])
    heard = list(listener.listen(max_num=2))
    assert np.array_equal(np.concatenate([response.embedding for response in heard]), vectors(["a", "b"]))
    assert ids(heard) == [speaker.request_id - 1, speaker.request_id]
    assert not listener.pending_response and not listener.pending_request


def test_clones_do_not_take_each_others_results(any_server, clones):
    one, other = clones(any_server)
    for _ in range(3):
        assert np.array_equal(one.encode(["one"]), vectors(["one"]))
        assert np.array_equal(other.encode(["other"]), vectors(["other"]))


def test_listen_counts_as_fetching(server, connect):
    bc = connect(server)
    bc.encode(["a"], blocking=False)
    assert ids(bc.listen(max_num=1)) == [2]
    assert bc.fetch_all() is None


def test_listen_times_out(server, connect):
    bc = connect(server)
    bc.timeout = 10
    with pytest.raises(DeadlineError, match="publish a result"):
        next(bc.listen())


def test_listen_ends_when_the_client_is_closed(server, connect):
    bc = connect(server, timeout=-1)
    bc.encode(["a"], blocking=False)
    heard, first = [], threading.Event()

    def listen():
        for response in bc.listen():
            heard.append(response)
            first.set()

    thread = threading.Thread(target=listen)
    thread.start()
    assert first.wait(20)
    bc.close()
    thread.join(20)
    assert not thread.is_alive() and len(heard) == 1


# ---- status ----------------------------------------------------------------------------------------------------------

def test_server_status_never_endangers_an_old_server(any_server, connect):
    bc = connect(any_server)
    assert "num_data_request" in bc.server_status["statistic"]
    assert ("SHOW_STATUS" in any_server.commands()) is (any_server.style == "1.10.0")
    assert bc.server_config["max_seq_len"] == 25


def test_status(server, connect):
    bc = connect(server)
    bc.encode(["a"], blocking=False)
    assert bc.status == {
        "identity": bc.identity.decode(), "num_request": 2, "num_pending_request": 1, "pending_request": [2],
        "output_fmt": "ndarray", "port": server.port, "port_out": server.port_out, "server_ip": "127.0.0.1",
        "client_version": __version__, "timeout": 20_000}
    assert bc.pending_request is bc.pending_request, "the same set for ever"


# ---- a server that goes away and comes back --------------------------------------------------------------------------

def outstanding(bc, texts):
    for text in texts:
        bc.encode([text], blocking=False)


# name -> (texts asked before, how to wait for their vectors). Each must notice on its own.
WAYS_TO_WAIT = {
    "encode": ("", lambda bc: [bc.encode(["a"]), bc.encode(["b"])]),
    "fetch": ("ab", lambda bc: [response.embedding for response in bc.fetch()]),
    "fetch_all": ("ab", lambda bc: bc.fetch_all()),
    "encode_async": ("", lambda bc: [response.embedding for response in bc.encode_async([["a"], ["b"]])]),
    "listen": ("ab", lambda bc: [response.embedding for response in bc.listen(max_num=2)]),
}


@pytest.mark.parametrize("timeout", [20_000, -1])
@pytest.mark.parametrize("way", WAYS_TO_WAIT)
def test_a_restart_is_noticed_by_whoever_waits(server, connect, way, timeout):
    bc = connect(server)
    bc.timeout = timeout
    before, wait = WAYS_TO_WAIT[way]
    server.hold()
    outstanding(bc, before)
    found = []
    waiting = threading.Thread(target=lambda: found.extend(wait(bc)), daemon=True)
    waiting.start()
    server.next_held()
    server.go_on()
    server.restart()
    waiting.join(10)
    assert np.array_equal(sorted(map(np.ravel, found), key=list), vectors(["a", "b"]))  # what is new may be faster
    assert not bc.pending_request


def test_a_question_too_waits_for_a_server_that_comes_back(server, connect):
    bc = connect(server)
    server.stop()
    found = []
    waiting = threading.Thread(target=lambda: found.append(bc.server_status), daemon=True)
    waiting.start()
    server.start()
    waiting.join(10)
    assert found[0]["max_seq_len"] == 25


def test_timeout_runs_on_while_the_server_is_away(server, connect):
    bc = connect(server)
    server.stop()
    bc.timeout = 30
    for call in (lambda: bc.encode(["a"]), lambda: bc.server_config, lambda: list(bc.listen(1))):
        with pytest.raises(DeadlineError, match="within 30 ms"):
            call()
    assert not bc.pending_request


@pytest.mark.parametrize("style", ["1.7.5", "1.10.0"])
def test_an_original_server_gets_nothing_twice(connect, style):
    """It would take both for parts of one, and spoil them."""
    with FakeServer(style) as server:
        bc = connect(server)
        server.hold()
        outstanding(bc, "abc")
        server.wait_for(3)
        server.go_on()
        bc.timeout = 5
        server.cut("port_out")
        while not bc._channel.reconnections():
            with pytest.raises(DeadlineError):
                bc.fetch_all()
        bc.timeout = 20_000
        assert np.array_equal(bc.encode(["new"]), vectors(["new"]))
        assert server.ids() == [2, 3, 4, bc.request_id]


def test_the_server_that_comes_back_may_be_another_one(server, connect):
    bc = connect(server)
    assert np.array_equal(bc.encode(["a"]), vectors(["a"]))
    assert len(server.received[-1].frames) == 5
    server.stop()
    server.config = CONFIGS["1.10.0"]
    server.start()
    while not bc._channel.reconnections():
        bc._channel.wait(lambda: None, Deadline(5))
    server.received.clear()
    bc.encode(["b"])
    assert server.commands() == ["SHOW_CONFIG", None] and len(server.received[-1].frames) == 4
    bc.encode(["c"])
    assert server.commands() == ["SHOW_CONFIG", None, None]
    assert not bc._channel.repeats


# ---- threads, processes, ends ----------------------------------------------------------------------------------------

def test_one_client_for_many_threads(any_server, connect):
    bc = connect(any_server)
    wrong = []

    def work(name):
        for number in range(20):
            text = name * (number + 1)
            if not np.array_equal(bc.encode([text]), vectors([text])):
                wrong.append(text)

    threads = [threading.Thread(target=work, args=(name,)) for name in "abcdefgh"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert not wrong and not any(thread.is_alive() for thread in threads)
    assert not bc.pending_request and bc.request_id == 161


def test_context_manager_closes(server):
    with BertClient(**server.address, timeout=20_000) as bc:
        sender, receiver = bc.sender, bc.receiver
    assert sender.closed and receiver.closed
    for call in (lambda: bc.encode(["a"]), lambda: bc.server_status, lambda: list(bc.fetch()), lambda: bc.sender):
        with pytest.raises(UnavailableError, match="closed"):
            call()
    bc.close()


def run(code):
    """Runs Python code in a process of its own that finds the packages where this one does."""
    return subprocess.run([sys.executable, "-c", code], timeout=30, text=True, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})


def test_close_sends_what_was_only_queued(server):
    done = run("import os\n"
               "from bert_serving.client import BertClient\n"
               f"bc = BertClient(**{server.address!r})\n"
               "for _ in range(200): bc.encode(['a' * 50000], blocking=False)\n"
               "bc.close()\n"
               "os._exit(0)")
    assert done.stderr == ""
    server.wait_for(200)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize("is_closed", [False, True])
def test_child_process_makes_its_own_connection(any_server, connect, is_closed):
    bc = connect(any_server)
    identity = bc.identity
    bc.encode(["of the parent"], blocking=False)
    if is_closed:
        bc.close()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            assert bc.identity != identity and not bc.pending_request
            if is_closed:
                with pytest.raises(UnavailableError):
                    bc.encode(["a"])
            else:
                assert np.array_equal(bc.encode(["child"]), vectors(["child"]))
                bc.close()
            status = 0
        finally:
            os._exit(status)
    assert os.waitpid(pid, 0)[1] == 0
    assert bc.identity == identity
    if not is_closed:
        assert np.array_equal(bc.fetch_all(concat=True), vectors(["of the parent"]))


@pytest.mark.parametrize("code", [
    "bc = BertClient(**address); bc.encode(['x'], blocking=False)",                       # never closed
    "bc = BertClient('127.0.0.1', 1, 2, ignore_all_checks=True, timeout=5)\n"
    "try: bc.encode(['x'])\nexcept TimeoutError: pass",                                   # unsent, never closed
    "for _ in range(5):\n"
    "    try: BertClient('127.0.0.1', 1, 2, timeout=2)\n"
    "    except TimeoutError: pass",                                                      # constructor failed
    "import itertools, threading\n"
    "def batches(): yield ['x']; threading.Event().wait()\n"
    "bc = BertClient(**address); next(bc.encode_async(batches()))",                       # generator stuck
    "import threading\n"
    "bc = BertClient(**address)\n"
    "threading.Thread(target=lambda: list(bc.listen()), daemon=True).start()",            # thread reading
], ids=["unclosed", "unsent", "failed", "async", "reading"])
def test_interpreter_ends(server, code):
    done = run(f"from bert_serving.client import BertClient\naddress = {server.address!r}\n{code}")
    assert (done.returncode, done.stderr) == (0, "")


def test_import_is_light():
    """Beside what NumPy and ZeroMQ import by themselves; an old NumPy takes asyncio."""
    done = run("import sys, numpy, zmq; before = set(sys.modules); import bert_serving.client;"
               "print(*{name.split('.')[0] for name in set(sys.modules) - before})")
    assert "bert_serving" in done.stdout.split()
    assert not {"tensorflow", "flask", "asyncio"} & set(done.stdout.split())


def test_no_warning_where_nothing_is_wrong(server, connect):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        connect(server).encode(["a"])


@pytest.mark.parametrize("ip, said", [("", "ip is empty"), (" ", "ip is blank"), ("*", "ip is '\\*'"),
                                      ("http://host", "give host$"), ("tcp://host:5555", "and 5555 as the port$")])
@pytest.mark.parametrize("kind", ["BertClient", "AsyncBertClient", "ConcurrentBertClient"])
def test_what_is_no_host_is_said_in_a_sentence(kind, ip, said):
    with pytest.raises(ValueError, match=said):
        getattr(bert_serving.client, kind)(ip=ip)
