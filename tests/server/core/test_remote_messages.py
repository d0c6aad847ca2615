"""What broker and remote hosts say to each other arrives as it was said, and nonsense is told from it."""
import json

import numpy as np
import pytest
from bert_serving.client.options import RequestOptions
from bert_serving.server.core import remote_messages
from bert_serving.server.core.messages import Job, decode_to_worker
from bert_serving.server.core.remote_messages import (ALIVE, ANSWER, BYE, GONE, JOB, JOIN, KILL, LEAVE, READY, REFUSED,
                                                      WELCOME, WHO, MembershipError, Welcome, decode, decode_job,
                                                      decode_proof, encode, encode_job, encode_proof,
                                                      readable)

from .conftest import GOLDEN, about, who


@pytest.mark.parametrize("kind, values", [
    (JOIN, who()), (ALIVE, {}), (READY, about()), (GONE, {"worker": 3, "how": "ended"}), (LEAVE, {}), (WHO, {}),
    (WELCOME, {"options": {"pooling_layer": [-2]}, "timeout": 10.0}), (REFUSED, {"reason": "nö"}),
    (KILL, {"worker": 1}), (BYE, {"reason": ""})])
def test_words_arrive_as_they_were_said(kind, values):
    frames = encode(kind, **values)
    assert decode(frames) == (kind, values)
    assert decode([memoryview(frame) for frame in frames]) == (kind, values)


@pytest.mark.parametrize("frames", [
    [], [b""], [b"\x0c"], [b"\xff"], [JOIN, b"{}", b"{}"], [JOB, b"{}"], [ANSWER], [b"\0\0"], [JOIN, b""],
    [JOIN, b"[]"], [JOIN, b"7"], [JOIN, b"{"], [JOIN, b"\xff"], [JOIN, b"[" * 100_000],
    [JOIN, b" " * (remote_messages.MAX_WORDS + 1)]], ids=lambda frames: f"{len(frames)}")
def test_what_is_no_word(frames):
    with pytest.raises(MembershipError):
        decode(frames)


@pytest.mark.parametrize("values, told", [
    ({"largest_job": 1, "timeout": 8.0}, "Welcome.options is missing; expected options, largest_job, timeout"),
    ({"options": {}, "largest_job": 1, "timeout": 8.0, "a\n": 1}, r"Welcome.a\\n is unknown"),
    ({"options": {}, "largest_job": 1, "timeout": "8"}, "Welcome.timeout is a string; expected a number"),
    ({"options": {}, "largest_job": 1, "timeout": 0.0}, "a welcome without a timeout: 0.0")])
def test_what_is_no_welcome(values, told):
    with pytest.raises(MembershipError, match=told):
        Welcome.read(values)


def test_a_job_arrives_as_it_was_sent():
    frames = encode_job(3, Job(9, 2, 17, ["a", "b"], RequestOptions(tokens=True)))
    assert frames[0] == JOB
    number, head, rest = decode_job(frames)
    assert (number, decode_to_worker([head, *rest])) == (3, Job(9, 2, 17, ["a", "b"], RequestOptions(tokens=True)))


@pytest.mark.parametrize("place, frame", [(1, b""), (1, b"\0" * 5), (2, b""), (2, b"\0" * 20), (3, None), (4, b"")])
def test_what_is_no_job(place, frame):
    frames = encode_job(0, Job(0, 1, 1, ["a"]))
    frames[place:place + 1] = [] if frame is None else [frame]
    with pytest.raises(MembershipError):
        decode_job(frames)


@pytest.mark.parametrize("array", [GOLDEN, GOLDEN.astype(np.float16), GOLDEN[:, ::2], np.zeros((3, 0), np.float32)])
def test_a_proof_arrives_as_it_was_made(array):
    np.testing.assert_array_equal(decode_proof(json.loads(json.dumps(encode_proof(array)))), array)


@pytest.mark.parametrize("proof", [
    None, 7, [], {}, {"rows": ""}, {"rows": "AAAA", "shape": [1, 1]}, {"rows": "?", "shape": [1, 1]},
    {"rows": "AAAAAA==", "shape": [1]}, {"rows": "AAAAAA==", "shape": [2, 2]},
    {"rows": "AAAAAA==", "shape": [1e99, 1]}, {"rows": "AAAAAA==", "shape": [None, 1]}, {"rows": 7, "shape": [1, 1]},
    {"rows": "é", "shape": [1, 1]}, {"rows": "AAAAAA==", "shape": [float("nan"), 1]}], ids=repr)
def test_what_is_no_proof(proof):
    with pytest.raises(MembershipError, match="golden"):
        decode_proof(proof)


@pytest.mark.parametrize("value, told", [
    ("plain", "plain"), ("two\nlines\x1b[1m", "two\\nlines\\x1b[1m"), ("ü" * 100, "\\xfc" * 64), ("\ud800", "\\ud800"),
    (None, "null"), ({"a": 1}, "an object")], ids=repr)
def test_what_others_say_is_made_fit_for_the_log(value, told):
    assert readable(value) == told
