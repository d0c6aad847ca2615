"""The HTTP routes: JSON in, one call of a pooled client, JSON out. Whatever goes wrong is an answer in JSON, too."""
from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from threading import BoundedSemaphore, Event
from typing import Any, Protocol

from bert_serving.client.errors import (BertServingError, DeadlineError, PoolExhaustedError, TooLargeError,
                                        UnavailableError)
from flask import Flask, Response, g, request
from flask_compress import Compress
from flask_cors import CORS
from flask_json import FlaskJSON, FlaskJSONProvider, JsonError, as_json, json_response
from werkzeug.exceptions import HTTPException, RequestEntityTooLarge

logger = logging.getLogger(__name__)


class PooledClient(Protocol):
    """What the routes need of a ConcurrentBertClient made with ``output_fmt='list'``."""

    def encode(self, texts: Any, *, is_tokenized: bool = False) -> list[Any]: ...

    @property
    def status(self) -> dict[str, Any]: ...

    @property
    def server_status(self) -> dict[str, Any]: ...


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


def create_app(client: PooledClient, cors: str = "*", max_connect: int = 10, patience: float = 10,
               max_message_mb: float = 64, stopping: Event | None = None) -> Flask:
    """The WSGI application.

    Args:
        client: answers every request; called from ``max_connect`` threads at a time.
        cors: origin that browsers may call from, or ``*``.
        max_connect: requests that ask the client at the same time; the others wait for their turn.
        patience: how long they wait, in seconds, before they are refused.
        max_message_mb: largest body of a request, in megabytes.
        stopping: once it is set, new requests are refused.
    """
    turns = BoundedSemaphore(max_connect)

    @contextmanager
    def turn() -> Iterator[None]:
        if not turns.acquire(timeout=patience):
            raise PoolExhaustedError(f"Too many concurrent connections: {max_connect} requests are being handled, and "
                                     f"none ended within {patience:g} seconds; try again, or raise -http_max_connect")
        try:
            yield
        finally:
            turns.release()

    app = Flask(__name__, static_folder=None)
    app.config.update(MAX_CONTENT_LENGTH=int(max_message_mb * 1e6), JSON_ADD_STATUS=True)
    CORS(app, origins=cors)
    Compress(app)
    FlaskJSON(app).invalid_json_error(_not_json)
    app.json = StrictJSONProvider(app)

    @app.post("/encode")
    def encode() -> Response:
        call = _encode_call(request.get_json())
        with turn():
            try:
                result = client.encode(call["texts"], is_tokenized=call["is_tokenized"])
            except BertServingError:
                raise
            except (TypeError, ValueError) as error:  # how the client refuses texts, before anything is sent
                raise _bad_request(type(error), str(error)) from error
        # The vectors stand under both names and are made into text once: that is where the time goes.
        vectors, request_id = app.json.dumps(result, separators=(",", ":")), app.json.dumps(call["id"])
        body = f'{{"id":{request_id},"result":{vectors},"results":{vectors},"status":200}}\n'
        return Response(body, mimetype="application/json")

    @app.get("/status/server")
    @as_json
    def server_status() -> dict[str, Any]:
        with turn():
            return {**client.server_status, "status": 200}

    @app.get("/status/client")
    @as_json
    def client_status() -> dict[str, Any]:
        # FlaskJSON writes the identity's bytes and the set of pending requests as lists, as the original did.
        with turn():
            return {**client.status, "status": 200}

    _answer_every_error(app)

    @app.before_request
    def begin() -> None:
        g.begin = time.perf_counter()
        if stopping is not None and stopping.is_set():
            raise UnavailableError("the server is stopping; try again later")

    @app.after_request
    def log_access(response: Response) -> Response:
        milliseconds = (time.perf_counter() - g.begin) * 1000 if "begin" in g else 0.0
        logger.debug("client=%s method=%s path=%s status=%d size=%s ms=%.1f", request.remote_addr, request.method,
                     json.dumps(request.path), response.status_code, response.content_length, milliseconds)
        return response

    return app


def _encode_call(body: Any) -> dict[str, Any]:
    """``id``, ``texts`` and ``is_tokenized`` of a request's body; what the texts are is the client's to check."""
    if type(body) is not dict:
        raise _bad_request(TypeError, f"the body is a JSON {_json_type(body)}; expected an object with id and texts")
    for key in ("id", "texts"):
        if key not in body:
            raise _bad_request(KeyError, repr(key))
    is_tokenized = body.get("is_tokenized")
    if is_tokenized is not None and type(is_tokenized) is not bool:
        raise _bad_request(TypeError, f"is_tokenized is a JSON {_json_type(is_tokenized)}; expected true or false")
    return {"id": body["id"], "texts": body["texts"], "is_tokenized": bool(is_tokenized)}


def _json_type(value: Any) -> str:
    names = {dict: "object", list: "array", str: "string", bool: "boolean", type(None): "null"}
    return names.get(type(value), "number")


# ---- errors ----------------------------------------------------------------------------------------------------------

def _bad_request(kind: type[Exception], description: str) -> JsonError:
    return JsonError(400, description=description, type=kind.__name__, code="bad_request")


def _not_json(error: Exception | None) -> None:
    raise JsonError(400, description="Not a JSON.", type="BadRequest", code="bad_request") from error


def _failure(error: BertServingError) -> Response:
    """The answer for an error of the tree: its HTTP status and its wire code; Retry-After where that helps."""
    status, kind, retry_after = error.http_status, type(error).__name__, error.retry_after
    body = error.to_wire()
    if isinstance(error, PoolExhaustedError):
        # Too many requests at the same time, which no deadline of this one has to do with.
        status, kind, retry_after, body["code"] = 429, "RuntimeError", retry_after or 1.0, "overloaded"
    headers = {} if retry_after is None else {"Retry-After": str(max(1, math.ceil(retry_after)))}
    return json_response(status, headers, description=body.pop("message"), type=kind, **body)


def _answer_every_error(app: Flask) -> None:
    app.register_error_handler(BertServingError, _failure)

    @app.errorhandler(TimeoutError)
    def deadline(error: TimeoutError) -> Response:
        return _failure(DeadlineError(str(error)))

    @app.errorhandler(RequestEntityTooLarge)
    def too_large(error: RequestEntityTooLarge) -> Response:
        most = app.config["MAX_CONTENT_LENGTH"] / 1e6
        return _failure(TooLargeError(f"the body is larger than {most:g} MB; send the texts in several requests"))

    @app.errorhandler(HTTPException)
    def http_error(error: HTTPException) -> Response:
        headers = [header for header in error.get_headers() if header[0] != "Content-Type"]
        return json_response(error.code or 500, headers, description=error.description, type=type(error).__name__)

    @app.errorhandler(Exception)
    def internal_error(error: Exception) -> Response:
        logger.exception("a request failed for a reason of our own")
        return json_response(500, description="the proxy failed; its log says why", type=type(error).__name__,
                             code="internal")
