"""Frames: what is encoded is decoded, and nothing but ProtocolError comes of anything else."""
import json

import numpy as np
import pytest
from bert_serving.client import protocol
from bert_serving.client.errors import OverloadedError, RequestError
from bert_serving.client.options import DEFAULT, RequestOptions
from bert_serving.client.pairs import Pair
from bert_serving.client.protocol import Command, Failure, ProtocolError, Request, Result, Status
from hypothesis import example, given
from hypothesis import strategies as st

identities = st.binary(min_size=1, max_size=protocol.MAX_IDENTITY).filter(lambda identity: b"\0" not in identity)
ids = st.integers(0, 10 ** protocol.MAX_DIGITS - 1)
texts = st.lists(st.text(), min_size=1, max_size=4) | st.lists(st.lists(st.text(), max_size=3), min_size=1, max_size=4)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3), max_leaves=5)


# ---- client to server ------------------------------------------------------------------------------------------------

@given(identities, ids, texts, st.sampled_from([DEFAULT, RequestOptions(timeout=5), RequestOptions(tokens=True)]))
def test_request_round_trip(identity, request_id, texts, options):
    frames = protocol.encode_request(identity, request_id, texts, options)
    request = protocol.decode_request(frames)
    assert isinstance(request, Request)
    assert (request.identity, int(request.request_id), request.texts) == (identity, request_id, texts)
    assert request.options == options and len(frames) == 4 + (options != DEFAULT)
    assert request.nbytes == len(frames[1])


@given(identities, ids, st.sampled_from([protocol.SHOW_CONFIG, protocol.SHOW_STATUS]))
def test_command_round_trip(identity, request_id, name):
    command = protocol.decode_request(protocol.encode_command(identity, name, request_id))
    assert command == Command(identity, b"%d" % request_id, name)


@pytest.mark.parametrize("frames", [
    [b"sample-client-0001", b"SHOW_CONFIG", b"0", b"0"],
    [b"sample-client-0001", b"SHOW_STATUS", b"12", b"0"],
    [b"sample-client-0001", b'["First do it","then do it right"]', b"1", b"2"],
    [b"sample-client-0001", b'[["first", "do", "it"]]', b"3", b"1"],
    [b"sample-client-0001", b'["\\u6211\\u7231\\u5317\\u4eac","caf\\u00e9 \\ud83d\\ude00"]', b"4", b"2"],
])
def test_what_original_clients_were_seen_to_send(frames):
    decoded = protocol.decode_request(frames)
    assert (decoded.identity, decoded.request_id) == (frames[0], frames[2])


def test_we_send_what_original_clients_send():
    assert protocol.encode_request(b"sample-client-0001", 1, ["First do it", "then do it right"]) == [
        b"sample-client-0001", b'["First do it", "then do it right"]', b"1", b"2"]
    assert protocol.encode_command(b"sample-client-0001", protocol.SHOW_CONFIG, 1) == [
        b"sample-client-0001", b"SHOW_CONFIG", b"1", b"0"]


@pytest.mark.parametrize("frames", [protocol.encode_termination(), [b"", b"TERMINATION", b"", b""]])
def test_termination_of_all_ages(frames):
    assert protocol.decode_request(frames).name == protocol.TERMINATION


@given(identities, ids, st.sampled_from([st.text(), st.lists(st.text(), max_size=3)]).flatmap(
    lambda half: st.lists(st.builds(Pair, half, half), min_size=1, max_size=3)))
def test_pairs_round_trip(identity, request_id, pairs):
    frames = protocol.encode_request(identity, request_id, pairs, RequestOptions(input="pairs"))
    request = protocol.decode_request(frames)
    assert request.texts == pairs and request.options.input == "pairs"


@given(st.lists(st.text(st.sampled_from("a |\n\\u07c")), min_size=1, max_size=3), st.sampled_from([str, list]))
def test_text_is_text_if_it_is_said_to_be(words, kind):
    texts, name = (words, "texts") if kind is str else ([words], "tokens")
    assert protocol.decode_texts(json.dumps(texts).encode(), name) == texts


@pytest.mark.parametrize("payload, texts", [
    (b'["a ||| b", "c"]', [Pair("a", "b"), "c"]), (b'["a ||| b\\nc"]', ["a ||| b\nc"]),
    (b'[["a", "|||", "b"], ["c"]]', [Pair(["a"], ["b"]), ["c"]]),
    (b'["a |\\u007c| b"]', [Pair("a", "b")]), (b'["a \\u007C\\u007C\\u007C b"]', [Pair("a", "b")]),
    (b'["a \\\\u007c|| b"]', ["a \\u007c|| b"])])
def test_pairs_among_the_texts_of_original_clients(payload, texts):
    assert protocol.decode_texts(payload) == texts


def test_lone_surrogate_survives():
    assert protocol.decode_request(protocol.encode_request(b"i", 1, ["\ud800"])).texts == ["\ud800"]


@pytest.mark.parametrize("frames, complaint", [
    ([], "identity of 0 bytes"),
    ([b"", b"[]", b"1", b"1"], "identity of 0 bytes"),
    ([b"a\0", b"[]", b"1", b"1"], "without NUL"),
    ([b"a" * 256, b"[]", b"1", b"1"], "identity of 256 bytes"),
    ([b"a", b'["x"]', b"1"], "3 frames"),
    ([b"a", b'["x"]', b"1", b"1", b"{}", b"x"], "6 frames"),
    ([b"a", b'["x"]', b"one", b"1"], "request id"),
    ([b"a", b'["x"]', b"9" * 5000, b"1"], "request id"),
    ([b"a", b'["x"]', b"1", b"-1"], "length frame is not"),
    ([b"a", b'["x"]', b"1", b"2"], "says 2 sentences but the payload holds 1"),
    ([b"a", b"[]", b"1", b"0"], "empty array"),
    ([b"a", b"{}", b"1", b"0"], "payload is an object"),
    ([b"a", b"\xff", b"1", b"1"], "not UTF-8 JSON"),
    ([b"a", b"[" * 100000, b"1", b"1"], "not UTF-8 JSON"),
    ([b"a", b"[1]", b"1", b"1"], "element 0 is an integer"),
    ([b"a", b'["a", ["b"]]', b"1", b"2"], "element 1 is an array"),
    ([b"a", b'[["a"], ["b", 1]]', b"1", b"2"], "element 1 holds an integer"),
    ([b"a", b'["x"]', b"1", b"1", b"[]"], "options frame is an array"),
    ([b"a", b'["x"]', b"1", b"1", b"{"], "options frame is not JSON"),
    ([b"a", b'["x"]', b"1", b"1", b""], "options frame is not JSON"),
    ([b"a", b'["x"]', b"1", b"1", b'{"normalise": 1}'], 'unknown option "normalise"'),
    ([b"a", b'["x"]', b"1", b"1", b'{"input": "tokens"}'], "element 0 is a string; .* tokens, an array"),
    ([b"a", b'[["x"]]', b"1", b"1", b'{"input": "texts"}'], "element 0 is an array; .* texts, a string"),
    ([b"a", b"{}", b"1", b"1", b'{"input": "pairs"}'], "payload is an object; expected an array of pairs"),
    ([b"a", b"[]", b"1", b"0", b'{"input": "pairs"}'], "payload is an empty array; expected an array of pairs"),
    ([b"a", b'["x"]', b"1", b"1", b'{"input": "pairs"}'], "element 0 is a string; expected a pair"),
    ([b"a", b'[["x", "y"], ["x"]]', b"1", b"2", b'{"input": "pairs"}'], "element 1 is an array of 1; expected a pair"),
    ([b"a", b'[["x", "y"], ["x", 1]]', b"1", b"2", b'{"input": "pairs"}'], "pair 1: element 3 is an integer"),
    ([b"a", b'[["x", "y"], ["x", ["y"]]]', b"1", b"2", b'{"input": "pairs"}'], "pair 1: element 3 is an array"),
])
def test_what_is_no_request_says_why(frames, complaint):
    with pytest.raises(ProtocolError, match=complaint):
        protocol.decode_request(frames)


def test_protocol_error_says_whom_to_answer():
    with pytest.raises(ProtocolError) as caught:
        protocol.decode_request([b"me", b"{", b"7", b"1"])
    assert (caught.value.identity, caught.value.request_id) == (b"me", b"7")


@given(st.lists(st.binary(max_size=20), max_size=7))
@example([b"i", b"[NaN]", b"1", b"1"])
@example([b"i", b'["x"]', "\u00b2".encode(), b"1"])
def test_arbitrary_requests(frames):
    try:
        assert isinstance(protocol.decode_request(frames), (Request, Command))
    except ProtocolError:
        pass


@given(json_values)
def test_arbitrary_payloads(value):
    try:
        assert protocol.decode_texts(json.dumps(value).encode()) == value
    except RequestError:
        pass


# ---- server to client ------------------------------------------------------------------------------------------------

@given(ids, st.sampled_from(["float32", "float16"]), st.lists(st.integers(0, 4), min_size=1, max_size=3),
       st.none() | st.just([["[CLS]", "a"]]))
def test_result_round_trip(request_id, dtype, shape, tokens):
    vectors = np.random.default_rng(0).normal(size=shape).astype(dtype)
    frames = protocol.encode_result(dtype, vectors.shape, vectors.tobytes(), b"%d" % request_id, tokens)
    result = protocol.decode_reply([b"topic", *frames])
    assert isinstance(result, Result)
    assert (result.request_id, result.tokens, result.embedding.dtype) == (request_id, tokens, np.dtype(dtype))
    assert np.array_equal(result.embedding, vectors)
    assert not result.embedding.flags.writeable


def test_status_round_trip():
    frames = protocol.encode_status({"max_seq_len": None, "text": "\u00e9"}, b"3")
    assert protocol.decode_reply([b"topic", *frames]) == Status(3, {"max_seq_len": None, "text": "\u00e9"})


def test_error_round_trip():
    frames = protocol.encode_error(OverloadedError("full, come back", retry_after=0.5), b"3")
    failure = protocol.decode_reply([b"topic", *frames])
    assert isinstance(failure, Failure) and failure.request_id == 3
    assert (type(failure.error), str(failure.error), failure.error.retry_after) == (
        OverloadedError, "full, come back", 0.5)


@given(st.text())
@example("a, b")
@example("i4")
def test_original_clients_raise_the_error_as_a_type_error(message):
    header = json.loads(protocol.encode_error(RequestError(message), b"1")[0])
    with pytest.raises(TypeError, match="bert-serving error bad_request"):  # what they do with a header
        np.frombuffer(b"", dtype=header["dtype"]).reshape(header["shape"])


@pytest.mark.parametrize("tokens", [b"", b',"tokens":""'])
def test_results_of_original_servers(tokens):
    header = b'{"dtype":"float32","shape":[2,2]%s}' % tokens
    result = protocol.decode_reply([b"sample-client-0001", header, bytes(16), b"1"])
    assert result.embedding.shape == (2, 2) and result.tokens is None


@pytest.mark.parametrize("frames, complaint", [
    ([], "0 frames"),
    ([b"t", b"{}"], "2 frames"),
    ([b"t", b"{}", b"x"], "without a request id"),
    ([b"t", b"{", b"1"], "not JSON"),
    ([b"t", b"[]", b"1"], "header of a reply is an array"),
    ([b"t", b"{}", b"", b"1"], "dtype"),
    ([b"t", b'{"dtype": "float32"}', b"", b"1"], "shape"),
    ([b"t", b'{"dtype": "float32", "shape": [3]}', b"1234", b"1"], "cannot reshape"),
    ([b"t", b'{"dtype": "float32", "shape": [1]}', b"123", b"1"], "buffer size"),
    ([b"t", b'{"dtype": "object", "shape": [1]}', b"12345678", b"1"], "expected the name of a number type"),
    ([b"t", b'{"dtype": "(1,", "shape": [1]}', b"12345678", b"1"], "expected the name of a number type"),
    ([b"t", b'{"dtype": "float32", "shape": [-1]}', b"1234", b"1"], "list of sizes"),
    ([b"t", b'{"dtype": "float32", "shape": [1e400]}', b"1234", b"1"], "list of sizes"),
    ([b"t", b'{"dtype": "float32", "shape": [99999999999999999999]}', b"1234", b"1"], "list of sizes"),
])
def test_what_is_no_reply_says_why(frames, complaint):
    with pytest.raises(ProtocolError, match=complaint):
        protocol.decode_reply(frames)


def test_unreadable_reply_still_names_its_request():
    with pytest.raises(ProtocolError) as caught:
        protocol.decode_reply([b"t", b"{", b"", b"42"])
    assert caught.value.request_id == b"42"


headers = st.fixed_dictionaries({}, optional={
    "dtype": json_values | st.sampled_from(["float32", "O", "V0", "S", "i4,i4", "(2,)i4", "float8", "{}", "float128"]),
    "shape": json_values | st.lists(st.integers(), max_size=3), "tokens": json_values, "error": json_values})


@given(st.lists(st.binary(max_size=20), max_size=3), headers, st.lists(st.binary(max_size=20), max_size=2))
@example([], {"dtype": "float8", "shape": [1]}, [b"", b"1"])
def test_arbitrary_replies(before, header, after):
    for frames in ([b"t", json.dumps(header).encode(), *after, b"1"], before + after):
        try:
            assert isinstance(protocol.decode_reply(frames), (Result, Status, Failure))
        except ProtocolError:
            pass
