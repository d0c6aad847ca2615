"""The HTTP routes, put together: JSON in, one call of a pooled client, JSON out."""
from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Sequence
from pathlib import Path
from threading import Event
from typing import Any, cast

from bert_serving.client.errors import UnauthorizedError, UnavailableError
from flask import Flask, Response, g, request
from flask_compress import Compress
from flask_cors import CORS
from flask_json import FlaskJSON, as_json

from ..api_keys import ApiKeys
from . import openai, pages
from .answers import (CLIENT_GONE, StrictJSONProvider, WrongBody, answer, answer_every_error, boolean, dump,
                      error_answer, plain, read_object)
from .gate import ClientGoneError, Gate, PooledClient
from .health import ProbeClient, Readiness
from .metrics import Metrics
from .orders import ProxyOrders
from .vocabulary import Vocabulary

logger = logging.getLogger(__name__)

PROBES = ("/livez", "/readyz", "/metrics")
"""What programs ask all the time: answered without waiting behind requests, and logged only if something is wrong."""

OPEN = ("/livez", "/readyz")
"""Needs no key, beside the pages, which hold nothing of this server's: what asks them can often keep no secret."""

COMPRESSION = {"COMPRESS_LEVEL": 1, "COMPRESS_BR_LEVEL": 1, "COMPRESS_ZSTD_LEVEL": 1, "COMPRESS_DEFLATE_LEVEL": 1}
"""Digits of vectors hardly get smaller with more effort, which takes longer than computing them does."""


def create_app(client: PooledClient | None, probe: ProbeClient | None, orders: ProxyOrders,
               stopping: Event | None = None, dashboard: Path = pages.DASHBOARD) -> Flask:
    """The WSGI application.

    Args:
        client: answers every request; called from ``http_max_connect`` threads at a time.
        probe: another one, for questions of health.
        stopping: once it is set, new requests are refused.
        dashboard: folder of the page at ``/``.
    """
    app = Flask(__name__, static_folder=None)
    app.config.update(COMPRESSION, MAX_CONTENT_LENGTH=int(orders.options.max_message_mb * 1e6), JSON_ADD_STATUS=True)
    CORS(app, origins=_origins(orders.options.cors), expose_headers=("Retry-After", "WWW-Authenticate"))
    Compress(app)
    FlaskJSON(app)
    app.json = StrictJSONProvider(app)
    answer_every_error(app)

    gate = Gate(cast(PooledClient, client), orders.options.http_max_connect, orders.patience)
    vocabulary = Vocabulary(orders.model.tokenizer) if orders.model.tokenizer else None
    readiness = Readiness(cast(ProbeClient, probe))
    _watch(app, Metrics(lambda: cast(ProbeClient, probe).server_status, readiness.check), stopping or Event())
    _lock(app, ApiKeys(orders.api_keys))
    _answer_readiness(app, readiness)
    _encode(app, gate, vocabulary, orders.private)
    app.register_blueprint(openai.blueprint(gate, orders.model, vocabulary))
    app.register_blueprint(pages.blueprint(dashboard))
    return app


def _origins(cors: str) -> str | list[re.Pattern[str]]:
    """What flask_cors takes: left to itself, it would look for ``[::1]`` as a pattern, and for a pattern at the start
    of an origin alone."""
    listed = cors.split(",")
    return "*" if "*" in listed else [re.compile(re.escape(origin) + r"\Z", re.IGNORECASE) for origin in listed]


def _lock(app: Flask, keys: ApiKeys) -> None:
    """Refuse who has no key, if there are keys, whatever was asked for: an unknown path says nothing to strangers."""

    @app.before_request
    def check_key() -> None:
        # A browser asks without a key whether it may ask with one.
        is_open = request.method == "OPTIONS" or request.path in OPEN or request.blueprint == pages.NAME
        if not is_open and not keys.accept(request.headers.get("Authorization", ""),
                                           request.headers.get("X-API-Key", "")):
            raise UnauthorizedError("this server wants a key, and got none that it knows; send the header "
                                    "'Authorization: Bearer KEY'")


def _encode(app: Flask, gate: Gate, vocabulary: Vocabulary | None, private: Sequence[str]) -> None:
    """The original's routes, and the tokens."""

    @app.post("/encode")
    def encode() -> Response:
        expected = "a JSON object with id and texts"
        body = read_object(expected)
        for key in ("id", "texts"):
            if key not in body:
                raise WrongBody(f"{key!r} is missing; expected {expected}", "KeyError", key, expected=expected)
        is_tokenized, request_id = boolean(body, "is_tokenized"), _dump_id(app, body["id"])
        # The vectors stand under both names and are made into text once: that is where the time goes.
        vectors = dump(plain(gate.encode(body["texts"], is_tokenized)))
        return answer(b'{"id":%b,"result":%b,"results":%b,"status":200}\n' % (request_id, vectors, vectors))

    @app.post("/tokenize")
    def tokenize() -> Response:
        body = read_object("a JSON object with texts")
        if "texts" not in body:
            raise WrongBody("there is no texts; expected an array of sentences", "KeyError", "texts")
        _, tokens = gate.encode_with_tokens(body["texts"], boolean(body, "is_tokenized"))
        ids = None if vocabulary is None else [vocabulary.to_ids(sequence) for sequence in tokens]
        return answer(json.dumps({"tokens": tokens, "ids": ids, "status": 200}, separators=(",", ":")).encode("ascii"))

    @app.get("/status/server")
    @as_json
    def server_status() -> dict[str, Any]:
        with gate.turn() as client:
            return {**client.server_status, **dict.fromkeys(private), "status": 200}

    @app.get("/status/client")
    @as_json
    def client_status() -> dict[str, Any]:
        with gate.turn() as client:
            return {**client.status, "status": 200}


def _dump_id(app: Flask, request_id: Any) -> bytes:
    try:
        return app.json.dumps(request_id, separators=(",", ":")).encode("ascii")
    except RecursionError as error:
        raise WrongBody("id is nested too deeply", param="id") from error


def _answer_readiness(app: Flask, readiness: Readiness) -> None:
    @app.get("/livez")
    @as_json
    def livez() -> dict[str, Any]:
        return {"alive": True}

    @app.get("/readyz")
    @as_json
    def readyz() -> dict[str, Any]:
        return {"ready": True, "seconds": round(readiness.check(), 6)}


def _watch(app: Flask, metrics: Metrics, stopping: Event) -> None:
    """What happens to every request, beside being answered: it is refused at the end, logged and counted."""

    @app.get("/metrics")
    def numbers() -> Response:
        page, content_type = metrics.page(request.headers.get("Accept", ""))
        return Response(page, content_type=content_type)

    @app.errorhandler(ClientGoneError)
    def client_gone(error: ClientGoneError) -> Response:
        return error_answer(CLIENT_GONE, "ClientGoneError", {"message": "nobody waits for this"})

    @app.before_request
    def begin() -> None:
        g.begin = time.perf_counter()
        if stopping.is_set() and request.path != "/livez":
            raise UnavailableError("the server is stopping; try again later")

    @app.after_request
    def end(response: Response) -> Response:
        seconds = time.perf_counter() - g.begin if "begin" in g else 0.0
        route = request.url_rule.rule if request.url_rule else "none"
        metrics.request(request.method if request.url_rule else "any", route, response.status_code, seconds)
        level = logging.DEBUG if request.path in PROBES and response.status_code == 200 else logging.INFO
        logger.log(level, "client=%s method=%s path=%s status=%d size=%s ms=%.1f", request.remote_addr,
                   json.dumps(request.method)[1:-1], json.dumps(request.path), response.status_code,
                   response.content_length, seconds * 1000)
        return response
