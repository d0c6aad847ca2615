"""Rows of another host that do not fit their job are refused."""
from dataclasses import replace

import numpy as np
import pytest
from bert_serving.client.options import RequestOptions
from bert_serving.server.core.batching import Piece
from bert_serving.server.core.scheduler import Flight
from bert_serving.server.core.remote_messages import MembershipError
from bert_serving.server.core.remote_rows import VectorKind, check_rows

from .conftest import WIDTH, make_pending, rows

PIECE = [Piece(make_pending(1, 2), 0, 2, 6)]
PIECE_WITH_TOKENS = [Piece(replace(make_pending(1, 2), options=RequestOptions(tokens=True)), 0, 2, 6)]
FLIGHT = Flight(1, 0, PIECE, 6, False)
TOKEN_LEVEL = VectorKind(token_level=True, longest=4)


@pytest.mark.parametrize("values, told", [
    ({"array": np.ones((2, 3), np.float32)}, "vectors"), ({"array": np.ones((3, 4), np.float32)}, "vectors"),
    ({"array": np.ones((2, 4), np.float16)}, "vectors"), ({"array": np.ones((2, 4), ">f4")}, "vectors"),
    ({"array": np.ones((2, 4), np.int32)}, "vectors"), ({"array": np.ones(8, np.float32)}, "vectors"),
    ({"array": np.ones((2, 2, 2), np.float32)}, "vectors"),
    ({"counts": [3]}, "counts"), ({"counts": [3, -1]}, "counts"), ({"counts": [3, 1.0]}, "counts"),
    ({"counts": [3, True]}, "counts"), ({"counts": "ab"}, "counts"), ({"counts": [3, 10 ** 400]}, "counts"),
    ({"lengths": [1, 1]}, "NONE"), ({"specials": [1, 1]}, "NONE"), ({"lengths": []}, "NONE"), ({"contents": 0}, "NONE"),
    ({"bad": [2]}, "places"), ({"bad": [-1]}, "places"), ({"bad": ["0"]}, "places"), ({"bad": {"0": 1}}, "places"),
    ({"array": np.array([[1, 2, 3, np.nan], [1, 2, 3, 4]], np.float32)}, "not finite"),
    ({"array": np.array([[1, 2, 3, np.inf], [1, 2, 3, 4]], np.float32), "bad": [1]}, "not finite"),
    ({"num_tokens": 2 ** 20}, "measurements"), ({"num_tokens": -1}, "measurements"),
    ({"num_tokens": 10 ** 400}, "measurements"),
    ({"num_tokens": None}, "measurements"), ({"seconds": {"compute": float("nan")}}, "measurements"),
    ({"seconds": {"compute": float("inf")}}, "measurements"), ({"seconds": {"compute": -1.0}}, "measurements"),
    ({"seconds": {"compute": "1"}}, "measurements"), ({"seconds": [1.0]}, "measurements")], ids=repr)
def test_rows_that_do_not_fit_the_job(values, told):
    check_rows(rows(FLIGHT), PIECE, WIDTH, VectorKind())
    with pytest.raises(MembershipError, match=told):
        check_rows(rows(FLIGHT, **values), PIECE, WIDTH, VectorKind())


def test_rows_in_half_precision():
    check_rows(rows(FLIGHT, array=np.ones((2, 4), np.float16)), PIECE, WIDTH, VectorKind("fp16"))
    with pytest.raises(MembershipError):
        check_rows(rows(FLIGHT), PIECE, WIDTH, VectorKind("fp16"))


@pytest.mark.parametrize("values", [
    {"lengths": None}, {"lengths": [3]}, {"lengths": [3, 2], "contents": None}, {"specials": None},
    {"lengths": [2, 2]}, {"lengths": [4, 2]}, {"contents": [0, 0]}, {"contents": [10 ** 400, 1]}, {"specials": [0, 0]},
    {"lengths": [5, 0], "contents": [5, 0]}, {"lengths": [5, 0], "contents": [3, 0]}, {"lengths": [6, -1]}], ids=repr)
def test_rows_of_tokens_that_do_not_fit_the_job(values):
    right = {"lengths": [3, 2], "contents": [1, 0], "specials": [2, 2], "array": np.ones((5, 4), np.float32)}
    check_rows(rows(FLIGHT, **right), PIECE, WIDTH, TOKEN_LEVEL)
    with pytest.raises(MembershipError):
        check_rows(rows(FLIGHT, **{**right, **values}), PIECE, WIDTH, TOKEN_LEVEL)


@pytest.mark.parametrize("tokens", [None, [["a"]], [["a"], "b"], [["a"], [1]], {"a": []}], ids=repr)
def test_tokens_that_are_wanted_have_to_be_there(tokens):
    check_rows(rows(FLIGHT, tokens=[["a"], []]), PIECE_WITH_TOKENS, WIDTH, VectorKind())
    with pytest.raises(MembershipError, match="the tokens"):
        check_rows(rows(FLIGHT, tokens=tokens), PIECE_WITH_TOKENS, WIDTH, VectorKind())


@pytest.mark.parametrize("tokens", [[["a"]], float("inf"), 7, "ab", [], 0], ids=repr)
def test_tokens_that_nobody_wants_may_be_missing_but_not_anything(tokens):
    check_rows(rows(FLIGHT), PIECE, WIDTH, VectorKind())
    with pytest.raises(MembershipError, match="the tokens"):
        check_rows(rows(FLIGHT, tokens=tokens), PIECE, WIDTH, VectorKind())
