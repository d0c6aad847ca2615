"""Errors in both shapes, and vectors as text."""
import json

import numpy as np
import pytest
from bert_serving.client.errors import BY_CODE, OverloadedError, PoolExhaustedError
from bert_serving.server.proxy.answers import WrongBody, dump, plain

from .conftest import strict


@pytest.mark.parametrize("code, kind", [
    ("bad_request", "invalid_request_error"), ("unauthorized", "authentication_error"),
    ("too_large", "invalid_request_error"), ("unprocessable", "invalid_request_error"),
    ("overloaded", "rate_limit_error"), ("internal", "server_error"), ("unavailable", "server_error"),
    ("worker_lost", "server_error"), ("deadline", "server_error")])
def test_every_error_of_the_tree_as_openai_s_clients_read_it(http, fake, code, kind):
    fake.error = BY_CODE[code]("why it failed")
    response = http.post("/v1/embeddings", json={"input": "a"})
    assert response.status_code == BY_CODE[code].http_status
    assert strict(response) == {"error": {"message": "why it failed", "type": kind, "code": code,
                                          "param": "input" if code == "bad_request" else None}}


def test_every_code_is_in_that_test():
    marks = test_every_error_of_the_tree_as_openai_s_clients_read_it.pytestmark
    assert {code for code, _ in marks[0].args[1]} == set(BY_CODE)


@pytest.mark.parametrize("error, seconds", [(OverloadedError("full", retry_after=2.1), "3"),
                                            (PoolExhaustedError("busy"), "1")])
def test_both_shapes_say_when_to_come_back(http, fake, error, seconds):
    fake.error = error
    for path in ("/encode", "/v1/embeddings"):
        response = http.post(path, json={"input": "a", "id": 1, "texts": ["a"]})
        assert (response.status_code, response.headers["Retry-After"]) == (429, seconds)


@pytest.mark.parametrize("method, path, status", [("GET", "/v1/nowhere", 404), ("GET", "/v1/embeddings", 405)])
def test_wrong_path_or_method_below_v1(http, method, path, status):
    response = http.open(path, method=method)
    assert response.status_code == status
    error = strict(response)["error"]
    assert error["type"] == "invalid_request_error" and path in error["message"]


def test_what_is_allowed_is_said(http):
    response = http.get("/encode")
    assert response.headers["Allow"] == "OPTIONS, POST" or response.headers["Allow"] == "POST, OPTIONS"
    assert strict(response)["description"] == f"/encode does not take GET; it takes {response.headers['Allow']}"


def test_no_json_below_v1(http):
    response = http.post("/v1/embeddings", data=b"\xff", content_type="application/json")
    assert response.status_code == 400
    assert strict(response)["error"]["message"] == (
        "Not a JSON. Found byte 0 of the body is not UTF-8; expected a JSON object with input and model, in UTF-8, "
        "with Content-Type: application/json.")


def test_a_wrong_body_names_the_key():
    error = WrongBody("texts is a str", "TypeError", "texts", expected="a list")
    assert (error.code, error.http_status, error.param, error.more) == ("bad_request", 400, "texts",
                                                                        {"expected": "a list"})


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int64"])
def test_vectors_as_text(dtype):
    vectors = np.array([[0, 1, -2], [100, 7, 0]], dtype)
    assert json.loads(dump(plain(vectors))) == vectors.tolist()
    assert json.loads(dump(plain(vectors.T))) == vectors.T.tolist()


def test_numbers_that_are_none():
    assert dump(plain(np.array([np.nan, np.inf, -np.inf, 0], np.float16))) == b"[null,null,null,0.0]"
