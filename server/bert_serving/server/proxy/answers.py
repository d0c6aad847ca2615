"""JSON in and out, and errors as answers: what every route has in common."""
from __future__ import annotations

import json
import logging
import math
from typing import Any

import numpy as np
import orjson
from bert_serving.client.errors import (BertServingError, DeadlineError, PoolExhaustedError, RequestError,
                                        TooLargeError)
from bert_serving.client.words import json_kind
from flask import Flask, Response, request
from flask_json import FlaskJSONProvider
from werkzeug.exceptions import HTTPException, RequestEntityTooLarge

logger = logging.getLogger(__name__)

OPENAI_PATHS = "/v1/"
"""Errors below this path have the shape that OpenAI's clients read."""

OPENAI_TYPES = {401: "authentication_error", 429: "rate_limit_error"}
"""HTTP status -> OpenAI's ``type`` of error; others are ``invalid_request_error`` or, from 500, ``server_error``."""

REALM = "bert-as-service"
"""What a 401 says that a key is wanted for."""

CLIENT_GONE = 499
"""Status of requests whose sender has hung up, for log and metrics: nobody reads the answer."""


class WrongBody(RequestError):
    """The request's body is not what its route takes.

    Attributes:
        kind: name of the exception that the original would have raised.
        param: the key that is wrong; None if it is the whole body.
        more: further keys of the answer.
    """

    def __init__(self, message: str, kind: str = "TypeError", param: str | None = None, **more: Any) -> None:
        super().__init__(message)
        self.kind, self.param, self.more = kind, param, more


# ---- JSON in ---------------------------------------------------------------------------------------------------------

def read_object(expected: str) -> dict[str, Any]:
    """The body of the request, a JSON object.

    Args:
        expected: what the route takes, for the error's text.
    Raises:
        WrongBody: it is something else.
        RequestEntityTooLarge: it is too large.
    """
    data = request.get_data(cache=False)
    if not request.is_json:
        raise not_json(f"a body of type {request.mimetype or 'unknown'}", expected)
    try:
        body = json.loads(data.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise not_json(f"byte {error.start} of the body is not UTF-8", expected) from error
    except (ValueError, RecursionError) as error:
        raise not_json(str(error)[:100], expected) from error
    if type(body) is not dict:
        raise WrongBody(f"the body is {json_kind(body)}; expected {expected}")
    return body


def not_json(found: str, expected: str) -> WrongBody:
    """The original's words, and under other keys what is wrong."""
    return WrongBody("Not a JSON.", "BadRequest", found=found,
                     expected=f"{expected}, in UTF-8, with Content-Type: application/json")


def boolean(body: dict[str, Any], key: str) -> bool:
    """True, or false; also if it is not there, or null."""
    value = body.get(key)
    if value is not None and type(value) is not bool:
        raise WrongBody(f"{key} is {json_kind(value)}; expected true or false", param=key)
    return bool(value)


# ---- JSON out --------------------------------------------------------------------------------------------------------

class StrictJSONProvider(FlaskJSONProvider):
    """JSON as the standard has it: a number that is none (NaN, infinity) becomes null."""

    sort_keys = False

    def dumps(self, obj: Any, **kwargs: Any) -> str:
        try:
            return super().dumps(obj, allow_nan=False, **kwargs)
        except ValueError:
            return super().dumps(_finite(obj), allow_nan=False, **kwargs)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, (list, tuple)) else value


def dump(value: Any) -> bytes:
    """JSON of a value that may hold arrays, fast: that is where the time goes.

    A number has as many digits as bring back its float32. Arrays are float32 or float64; see ``plain``.
    """
    return orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY)


def plain(vectors: Any) -> np.ndarray:
    """The vectors as ``dump`` takes them: half precision becomes float32, which holds the same numbers."""
    array = np.asarray(vectors)
    return np.ascontiguousarray(array, np.float32 if array.dtype.itemsize < 4 else None)


def answer(body: bytes) -> Response:
    return Response(body, mimetype="application/json")


# ---- errors ----------------------------------------------------------------------------------------------------------

def failure(error: BertServingError) -> Response:
    """The answer for an error of the tree: its HTTP status and its wire code; Retry-After where that helps."""
    status, kind, retry_after = error.http_status, type(error).__name__, error.retry_after
    wire = error.to_wire()
    if isinstance(error, PoolExhaustedError):
        # Too many requests at the same time, which no deadline of this one has to do with.
        status, kind, retry_after, wire["code"] = 429, "RuntimeError", retry_after or 1.0, "overloaded"
    elif isinstance(error, WrongBody):
        kind = error.kind
        wire.update(error.more)
    elif type(error) is RequestError:
        kind = "ValueError"  # which it is, too; the original said so
    headers = {}
    if status == 401:
        headers["WWW-Authenticate"] = f'Bearer realm="{REALM}"'
    if status in (429, 503):
        headers["Retry-After"] = str(max(1, math.ceil(retry_after or 1)))
    return error_answer(status, kind, wire, headers, getattr(error, "param", None))


def error_answer(status: int, kind: str, wire: dict[str, Any], headers: dict[str, str] | None = None,
                 param: str | None = None) -> Response:
    """An error in the shape of the path that was asked for."""
    response = answer(json.dumps(error_body(request.path, status, kind, wire, param)).encode("ascii"))
    response.status_code = status
    response.headers.update(headers or {})
    return response


def error_body(path: str, status: int, kind: str, wire: dict[str, Any], param: str | None = None) -> dict[str, Any]:
    """
    Args:
        path: what was asked for.
        kind: name of an exception.
        wire: ``message``, ``code`` if there is one, and further keys.
        param: the key of the request that is wrong, if it is one.
    """
    message = wire.pop("message")
    if not path.startswith(OPENAI_PATHS):
        return {"description": message, "type": kind, "status": status, **wire}
    if "found" in wire:
        message = f"{message} Found {wire['found']}; expected {wire['expected']}."
    default = "server_error" if status >= 500 else "invalid_request_error"
    return {"error": {"message": message, "type": OPENAI_TYPES.get(status, default), "param": param,
                      "code": wire.get("code")}}


def answer_every_error(app: Flask) -> None:
    """Whatever goes wrong in a route of ``app`` becomes JSON with its status code."""
    app.register_error_handler(BertServingError, failure)

    @app.errorhandler(TimeoutError)
    def deadline(error: TimeoutError) -> Response:
        return failure(DeadlineError(str(error)))

    @app.errorhandler(RequestEntityTooLarge)
    def too_large(error: RequestEntityTooLarge) -> Response:
        return failure(body_too_large(app.config["MAX_CONTENT_LENGTH"]))

    @app.errorhandler(HTTPException)
    def http_error(error: HTTPException) -> Response:
        headers = dict(header for header in error.get_headers() if header[0] != "Content-Type")
        wire: dict[str, Any] = {"message": error.description or error.name}
        if error.code == 404:
            wire["message"] = f"there is no {request.path[:100]!r} here; /docs lists what there is"
        elif error.code == 405:
            wire["message"] = f"{request.path} does not take {request.method}; it takes {headers.get('Allow')}"
        return error_answer(error.code or 500, type(error).__name__, wire, headers)

    @app.errorhandler(Exception)
    def internal_error(error: Exception) -> Response:
        logger.exception("a request failed for a reason of our own")
        return error_answer(500, type(error).__name__, {"message": "the proxy failed; its log says why",
                                                        "code": "internal"})


def body_too_large(most: float) -> TooLargeError:
    return TooLargeError(f"the body is larger than {most / 1e6:g} MB; send the texts in several requests")
