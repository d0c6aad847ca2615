"""What broker and worker say to each other survives the way, in frames that libzmq carries safely."""
import json
import struct

import numpy as np
import pytest
from bert_serving.client.errors import RequestError
from bert_serving.client.options import RequestOptions
from bert_serving.client.pairs import Pair
from bert_serving.server.core import messages
from bert_serving.server.core.messages import Fault, Job, Ready, Rows, Stop
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

slots = st.integers(0, 2**32 - 1)
longs = st.integers(0, 2**64 - 1)
any_text = st.text(st.characters())  # lone surrogates too: json.loads lets them through
texts = st.one_of(any_text, st.lists(any_text), st.builds(Pair, any_text, any_text),
                  st.builds(Pair, st.lists(any_text), st.lists(any_text)))
options = st.builds(RequestOptions, timeout=st.none() | st.integers(0, 10**6), tokens=st.booleans())


@given(st.builds(Job, slots, longs, longs, st.lists(texts), options) | st.builds(Stop, slots, longs))
def test_to_worker(message):
    assert messages.decode_to_worker(messages.encode_to_worker(message)) == message


@given(slots, longs, longs, options)
def test_a_message_for_another_worker_keeps_the_rest(slot, incarnation, job, options):
    head, *rest = messages.encode_to_worker(Job(1, 2, 3, ["a"], options))
    assert messages.decode_to_worker([messages.readdress(head, slot, incarnation, job), *rest]) \
        == Job(slot, incarnation, job, ["a"], options)


@given(texts, texts)
def test_only_equal_texts_are_equal_bytes(one, other):
    assert (messages.dump(one) == messages.dump(other)) == (one == other)
    assert messages.dump(Pair("a", "b")) != messages.dump(["a", "b"])


@pytest.mark.parametrize("frames", [
    [], [b""], [messages.HEAD.pack(9, 0, 0, 0), b"[]"], [messages.HEAD.pack(1, 0, 0, 0) + b"{", b"[]"],
    [messages.HEAD.pack(1, 0, 0, 0) + b'{"x":1}', b"[]"], [messages.HEAD.pack(1, 0, 0, 0), b"["],
    [messages.HEAD.pack(1, 0, 0, 0), b'[{"first": "a"}]']], ids=range(7))
def test_what_is_no_message_to_a_worker(frames):
    with pytest.raises((ValueError, KeyError, IndexError, RequestError, struct.error)):
        messages.decode_to_worker(frames)


@given(st.builds(Ready, slots, longs, st.dictionaries(any_text, st.integers() | any_text))
       | st.builds(Fault, slots, longs, longs, any_text, any_text, st.none() | st.integers(0, 10**6)))
def test_from_worker(message):
    assert messages.decode_from_worker(messages.encode_from_worker(message)) == message


@given(slots, longs, longs,
       npst.arrays(st.sampled_from([np.float32, np.float16]), npst.array_shapes(min_dims=1, max_dims=2, min_side=0)))
def test_rows_keep_type_shape_and_bits(slot, incarnation, job, array):
    message = Rows(slot, incarnation, job, array, num_tokens=3, seconds={"compute": 0.5})
    frames = [bytes(frame) for frame in messages.encode_from_worker(message)]
    decoded = messages.decode_from_worker(frames)
    assert (decoded.slot, decoded.incarnation, decoded.job) == (slot, incarnation, job)
    assert decoded.array.dtype == array.dtype and decoded.array.shape == array.shape
    assert decoded.array.tobytes() == array.tobytes()  # NaN too
    assert (decoded.num_tokens, decoded.seconds) == (3, {"compute": 0.5})
    assert decoded.lengths is decoded.contents is decoded.specials is decoded.tokens is None and decoded.bad == []


def test_rows_keep_what_goes_with_them():
    message = Rows(0, 1, 2, np.zeros((3, 2), np.float32), [1, 2], [0, 1], [2, 3], [["[CLS]"], ["ä", "\ud800"]], bad=[1],
                   counts=[4, 5])
    decoded = messages.decode_from_worker(messages.encode_from_worker(message))
    assert (decoded.lengths, decoded.contents, decoded.specials) == ([1, 2], [0, 1], [2, 3])
    assert decoded.tokens == [["[CLS]"], ["ä", "\ud800"]] and decoded.bad == [1]
    assert decoded.counts == [4, 5]


def test_rows_of_a_transposed_array_are_in_order():
    array = np.arange(6, dtype=np.float32).reshape(3, 2).T
    decoded = messages.decode_from_worker(messages.encode_from_worker(Rows(0, 0, 1, array)))
    np.testing.assert_array_equal(decoded.array, array)


def test_rows_are_not_copied():
    array = np.arange(4, dtype=np.float32).reshape(2, 2)
    frames = messages.encode_from_worker(Rows(0, 0, 1, array))
    assert np.shares_memory(np.frombuffer(frames[-1], np.float32), array)
    assert np.shares_memory(messages.decode_from_worker(frames).array, array)


def test_the_big_frame_is_the_last():
    """libzmq aborts if a connection goes while a multipart with a large inner frame is half sent."""
    array = np.zeros((1000, 100), np.float32)
    *small, big = messages.encode_from_worker(Rows(0, 0, 1, array))
    assert len(big) == array.nbytes and sum(map(len, small)) < 1000
    *small, big = messages.encode_to_worker(Job(0, 0, 1, ["text"] * 1000))
    assert len(big) > 6000 and sum(map(len, small)) < 100


def test_nothing_on_the_way_is_pickled():
    head, meta = messages.encode_from_worker(Fault(1, 2, 3, "internal", "message"))
    assert struct.unpack("<BIQQ", head)[1:] == (1, 2, 3)
    assert json.loads(meta)["code"] == "internal"


def test_unknown_kinds_are_refused():
    with pytest.raises(ValueError, match="kind 9"):
        messages.decode_from_worker([messages.HEAD.pack(9, 0, 0, 0), b"{}"])
