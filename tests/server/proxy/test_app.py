"""The HTTP routes, with a pooled client that answers what the test says."""
import gzip
import json
import logging
from concurrent.futures import ThreadPoolExecutor
from threading import Event

import numpy as np
import pytest
from bert_serving.client.errors import (BY_CODE, BertServingError, DeadlineError, OverloadedError, RequestError,
                                        UnprocessableError)
from bert_serving.server.core.tokenizer_settings import TokenizerSettings
from bert_serving.server.proxy.app import create_app
from bert_serving.server.proxy.orders import ServedModel

from .conftest import strict, told


# ---- answers ---------------------------------------------------------------------------------------------------------

def test_encode(http, fake):
    response = http.post("/encode", json={"id": 123, "texts": ["hello", "you"]})
    assert response.status_code == 200
    assert response.mimetype == "application/json"
    vectors = [[5.0, 0.0], [3.0, 1.0]]
    assert strict(response) == {"id": 123, "result": vectors, "results": vectors, "status": 200}
    assert fake.call == {"texts": ["hello", "you"], "is_tokenized": False}


@pytest.mark.parametrize("request_id", [0, -1.5, "", "ünï \" \\ </script>", None, True, [1, [2]], {"a": {"b": None}}])
def test_any_json_value_is_an_id_and_comes_back(http, request_id):
    response = http.post("/encode", json={"id": request_id, "texts": ["a"]})
    assert strict(response)["id"] == request_id


@pytest.mark.parametrize("given, understood", [(True, True), (False, False), (None, False)])
def test_is_tokenized(http, fake, given, understood):
    texts = [["a", "b"]] if understood else ["a b"]
    response = http.post("/encode", json={"id": 1, "texts": texts, "is_tokenized": given})
    assert response.status_code == 200
    assert fake.call["is_tokenized"] is understood


def test_no_number_becomes_null(http, fake):
    fake.encode = lambda texts, is_tokenized: np.array([[1.0, float("nan")], [float("inf"), -float("inf")]])
    response = http.post("/encode", json={"id": float("nan"), "texts": ["a", "b"]})
    assert strict(response) == {"id": None, "result": [[1.0, None], [None, None]],
                                "results": [[1.0, None], [None, None]], "status": 200}


def test_half_precision(http, fake):
    vectors = np.array([[0.1, -65504, 6e-8]], np.float16)
    fake.encode = lambda texts, is_tokenized: vectors
    result = strict(http.post("/encode", json={"id": 1, "texts": ["a"]}))["result"]
    np.testing.assert_array_equal(np.array(result, np.float16), vectors)


def test_the_digits_bring_back_every_float(http, fake):
    vectors = np.random.default_rng(0).integers(0, 2**32, (10, 100), np.uint32).view(np.float32)
    vectors = np.where(np.isfinite(vectors), vectors, 0)
    fake.encode = lambda texts, is_tokenized: vectors
    result = strict(http.post("/encode", json={"id": 1, "texts": ["a"]}))["result"]
    assert np.array(result, np.float32).tobytes() == vectors.tobytes()


def test_token_level_vectors(http, fake):
    fake.encode = lambda texts, is_tokenized: np.arange(6, dtype=np.float32).reshape(1, 3, 2)
    assert strict(http.post("/encode", json={"id": 1, "texts": ["a"]}))["result"] == [[[0, 1], [2, 3], [4, 5]]]


def test_tokenize(http, fake):
    response = http.post("/tokenize", json={"texts": ["hello you", "a"]})
    assert strict(response) == {"tokens": [["[CLS]", "hello", "you", "[SEP]"], ["[CLS]", "a", "[SEP]"]], "ids": None,
                                "status": 200}


def test_tokenize_gives_ids_if_there_is_a_vocabulary(fake, tmp_path):
    (tmp_path / "vocab.txt").write_text("[CLS]\n[SEP]\nhello\n[UNK]\n")
    settings = TokenizerSettings(file=str(tmp_path / "vocab.txt"))
    http = create_app(fake, fake, told(model=ServedModel(tokenizer=settings))).test_client()
    response = http.post("/tokenize", json={"texts": [["hello", "hello"]], "is_tokenized": True})
    assert strict(response)["ids"] == [[0, 2, 2, 1]]
    assert fake.call == {"texts": [["hello", "hello"]], "is_tokenized": True}


@pytest.mark.parametrize("body, said", [
    ({}, "there is no texts; expected an array of sentences"), ({"texts": "a"}, "texts is a string; expected an array"),
    ({"texts": ["a"], "is_tokenized": 1}, "is_tokenized is an integer; expected true or false")])
def test_what_cannot_be_tokenized(http, body, said):
    response = http.post("/tokenize", json=body)
    assert response.status_code == 400
    assert said in strict(response)["description"]


def test_livez_does_not_ask_the_server(http, fake):
    fake.error = OverloadedError("full")
    assert strict(http.get("/livez")) == {"alive": True, "status": 200}


def test_readyz(http, fake):
    body = strict(http.get("/readyz"))
    assert body.pop("seconds") >= 0
    assert body == {"ready": True, "status": 200}


def test_readyz_when_nothing_comes_back(http, fake):
    fake.error = OverloadedError("full", retry_after=3)
    response = http.get("/readyz")
    assert response.status_code == 503
    assert strict(response)["description"] == "golden sentences were not encoded: full"


def test_status_server(http):
    response = http.get("/status/server")
    assert response.status_code == 200
    assert strict(response) == {"server_version": "1.10.0", "statistic": {"num_data_request": 5}, "status": 200}


def test_what_is_private_is_there_but_empty(make):
    answer = strict(make(private=("server_version", "model_dir")).get("/status/server"))
    assert answer == {"server_version": None, "model_dir": None, "statistic": {"num_data_request": 5}, "status": 200}


def test_status_client(http):
    response = http.get("/status/client")
    assert response.status_code == 200
    assert strict(response) == {"identity": "ab", "num_request": 3, "pending_request": [7], "output_fmt": "ndarray",
                                "status": 200}


# ---- errors are answers ----------------------------------------------------------------------------------------------

@pytest.mark.parametrize("body, kind, description", [
    ({"texts": ["a"]}, "KeyError", "'id' is missing; expected a JSON object with id and texts"),
    ({"id": 1}, "KeyError", "'texts' is missing; expected a JSON object with id and texts"),
    ({}, "KeyError", "'id' is missing; expected a JSON object with id and texts"),
    (["a"], "TypeError", "the body is an array; expected a JSON object with id and texts"),
    ("a", "TypeError", "the body is a string; expected a JSON object with id and texts"),
    (None, "TypeError", "the body is null; expected a JSON object with id and texts"),
    ({"id": 1, "texts": ["a"], "is_tokenized": "false"}, "TypeError",
     "is_tokenized is a string; expected true or false"),
    ({"id": 1, "texts": ["a"], "is_tokenized": 0}, "TypeError",
     "is_tokenized is an integer; expected true or false"),
])
def test_wrong_body(http, body, kind, description):
    response = http.post("/encode", data=json.dumps(body), content_type="application/json")
    assert response.status_code == 400
    more = {"expected": "a JSON object with id and texts"} if kind == "KeyError" else {}
    assert strict(response) == {"type": kind, "description": description, "status": 400, "code": "bad_request", **more}


@pytest.mark.parametrize("kwargs", [
    {"data": "{not json", "content_type": "application/json"},
    {"data": b"\xff\xfe", "content_type": "application/json"},
    {"data": '{"id": 1, "texts": ["\xe4"]}'.encode("latin-1"), "content_type": "application/json"},
    {"data": '{"id": 1, "texts": ["a"]}'.encode("utf-16"), "content_type": "application/json"},
    {"data": "[" * 100_000, "content_type": "application/json"},
    {"data": '{"id": ' + "9" * 10_000 + "}", "content_type": "application/json"},
    {"data": '{"id": 1, "texts": ["a"]}', "content_type": "text/plain"},
    {"data": {"id": 1, "texts": "a"}},
    {},
])
def test_body_that_is_not_json(http, kwargs):
    response = http.post("/encode", **kwargs)
    assert response.status_code == 400
    body = strict(response)
    assert body.pop("expected").startswith("a JSON object with id and texts, in UTF-8, with Content-Type: application")
    assert body.pop("found")
    assert body == {"type": "BadRequest", "description": "Not a JSON.", "status": 400, "code": "bad_request"}


@pytest.mark.parametrize("error", [TypeError("texts is a str; expected a list"), ValueError("element 0 is blank")])
def test_what_the_client_refuses_is_a_bad_request(http, fake, error):
    fake.error = error
    response = http.post("/encode", json={"id": 1, "texts": ["a"]})
    assert response.status_code == 400
    assert strict(response) == {"type": type(error).__name__, "description": str(error), "status": 400,
                                "code": "bad_request"}


@pytest.mark.parametrize("code", BY_CODE)
@pytest.mark.parametrize("path", ["/encode", "/status/server", "/status/client"])
def test_every_error_of_the_tree(http, fake, code, path):
    fake.error = BY_CODE[code]("why it failed")
    response = http.post(path, json={"id": 1, "texts": ["a"]}) if path == "/encode" else http.get(path)
    assert response.status_code == BY_CODE[code].http_status
    kind = "ValueError" if BY_CODE[code] is RequestError else BY_CODE[code].__name__  # as the original said
    assert response.headers.get("Retry-After") == ("1" if response.status_code in (429, 503) else None)
    assert strict(response) == {"type": kind, "description": "why it failed",
                                "status": BY_CODE[code].http_status, "code": code}


@pytest.mark.parametrize("texts, kind", [("a", "TypeError"), ([1], "TypeError"), ([], "ValueError"),
                                         ([" "], "ValueError"), ([["a"]], "TypeError"), (None, "TypeError")])
def test_texts_that_are_none(http, texts, kind):
    response = http.post("/encode", json={"id": 1, "texts": texts})
    assert response.status_code == 400
    assert strict(response)["type"] == kind


def test_an_id_that_is_nested_as_deeply_as_can_be_read(http):
    for depth in range(100, 1500, 50):
        data = b'{"texts": ["a"], "id": ' + b"[" * depth + b"]" * depth + b"}"
        assert http.post("/encode", data=data, content_type="application/json").status_code in (200, 400)


def test_nobody_is_asked_for_whom_nobody_waits(http, fake):
    gone = {"waitress.client_disconnected": lambda: True}
    assert http.post("/encode", json={"id": 1, "texts": ["a"]}, environ_overrides=gone).status_code == 499
    assert not hasattr(fake, "call")
    here = {"waitress.client_disconnected": lambda: False}
    assert http.post("/encode", json={"id": 1, "texts": ["a"]}, environ_overrides=here).status_code == 200


def test_index_of_the_guilty_text(http, fake):
    fake.error = UnprocessableError("text 3 kills workers", index=3)
    assert strict(http.post("/encode", json={"id": 1, "texts": ["a"]}))["index"] == 3


@pytest.mark.parametrize("seconds, header", [(0.2, "1"), (2.5, "3"), (7, "7")])
def test_overloaded_says_when_to_come_back(http, fake, seconds, header):
    fake.error = OverloadedError("the queue is full", retry_after=seconds)
    response = http.post("/encode", json={"id": 1, "texts": ["a"]})
    assert response.status_code == 429
    assert response.headers["Retry-After"] == header
    assert strict(response)["retry_after"] == seconds


@pytest.mark.parametrize("path", ["/encode", "/status/server", "/status/client"])
def test_no_turn_within_patience(fake, path):
    begun, gate = Event(), Event()

    def encode(texts, is_tokenized):
        begun.set()
        assert gate.wait(20)
        return np.ones((1, 1))

    fake.encode = encode
    app = create_app(fake, fake, told(http_max_connect=1, patience=0))
    body = {"id": 1, "texts": ["a"]}
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(app.test_client().post, "/encode", json=body)
        assert begun.wait(20)
        response = app.test_client().open(path, method="POST" if path == "/encode" else "GET", json=body)
        gate.set()
        assert first.result(20).status_code == 200
    assert response.status_code == 429
    assert response.headers["Retry-After"] == "1"
    assert strict(response) == {
        "type": "RuntimeError", "status": 429, "code": "overloaded",
        "description": "Too many concurrent connections: 1 request in progress, as many as -http_max_connect "
                       "allows, and none ended within 0 seconds; try again, or raise it"}
    assert app.test_client().open(path, method="POST" if path == "/encode" else "GET", json=body).status_code == 200


def test_a_turn_comes_back_after_an_error(fake):
    http = create_app(fake, fake, told(http_max_connect=1, patience=0)).test_client()
    fake.error = OverloadedError("the queue is full")
    for _ in range(3):
        assert http.post("/encode", json={"id": 1, "texts": ["a"]}).status_code == 429
        assert strict(http.get("/status/server"))["type"] == "OverloadedError"


def test_more_requests_than_turns_wait(fake):
    app = create_app(fake, fake, told(http_max_connect=2, patience=20))
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda number: app.test_client().post("/encode", json={"id": number, "texts": ["a"]}),
                                range(50)))
    assert [strict(answer)["id"] for answer in answers] == list(range(50))


@pytest.mark.parametrize("error", [TimeoutError("no answer"), DeadlineError("no answer")])
def test_no_answer_in_time(http, fake, error):
    fake.error = error
    for response in (http.get("/status/server"), http.post("/encode", json={"id": 1, "texts": ["a"]})):
        assert response.status_code == 504
        assert strict(response) == {"type": "DeadlineError", "description": "no answer", "status": 504,
                                    "code": "deadline"}


@pytest.mark.parametrize("path", ["/encode", "/status/server"])
def test_a_defect_is_an_answer_too_and_logged(http, fake, path, caplog):
    fake.error = ZeroDivisionError("secret")
    response = http.post(path, json={"id": 1, "texts": ["a"]}) if path == "/encode" else http.get(path)
    assert response.status_code == 500
    assert strict(response) == {"type": "ZeroDivisionError", "description": "the proxy failed; its log says why",
                                "status": 500, "code": "internal"}
    assert "ZeroDivisionError: secret" in caplog.text


@pytest.mark.parametrize("method, path, status, kind", [
    ("GET", "/nowhere", 404, "NotFound"), ("POST", "/static/x", 404, "NotFound"),
    ("GET", "/encode", 405, "MethodNotAllowed"), ("POST", "/status/server", 405, "MethodNotAllowed")])
def test_wrong_path_or_method(http, method, path, status, kind):
    response = http.open(path, method=method)
    assert response.status_code == status
    body = strict(response)
    assert (body["status"], body["type"]) == (status, kind)
    assert body["description"]
    if status == 405:
        assert "OPTIONS" in response.headers["Allow"]


def test_body_over_the_limit(fake):
    http = create_app(fake, fake, told(max_message_mb=0.001)).test_client()
    assert http.post("/encode", json={"id": 1, "texts": ["a" * 900]}).status_code == 200
    response = http.post("/encode", json={"id": 1, "texts": ["a" * 1000]})
    assert response.status_code == 413
    assert strict(response) == {
        "type": "TooLargeError", "status": 413, "code": "too_large",
        "description": "the body is larger than 0.001 MB; send the texts in several requests"}


def test_a_stopping_proxy_refuses(fake):
    stopping = Event()
    http = create_app(fake, fake, told(), stopping).test_client()
    assert http.get("/status/server").status_code == 200
    stopping.set()
    assert http.get("/livez").status_code == 200
    assert http.get("/readyz").status_code == 503
    response = http.get("/status/server")
    assert response.status_code == 503
    assert strict(response)["code"] == "unavailable"


# ---- headers ---------------------------------------------------------------------------------------------------------

def test_cors_for_everyone(http):
    assert http.get("/status/server").headers["Access-Control-Allow-Origin"] == "*"
    response = http.options("/encode", headers={"Origin": "http://a.example", "Access-Control-Request-Method": "POST",
                                                "Access-Control-Request-Headers": "content-type"})
    assert response.status_code == 200
    assert response.headers["Access-Control-Allow-Origin"] in ("*", "http://a.example")
    assert "POST" in response.headers["Access-Control-Allow-Methods"]
    assert "content-type" in response.headers["Access-Control-Allow-Headers"]


def test_cors_for_one_origin(fake):
    http = create_app(fake, fake, told(cors="http://a.example")).test_client()
    allowed = http.get("/status/server", headers={"Origin": "http://a.example"})
    assert allowed.headers["Access-Control-Allow-Origin"] == "http://a.example"
    stranger = http.get("/status/server", headers={"Origin": "http://b.example"})
    assert "Access-Control-Allow-Origin" not in stranger.headers


def test_browsers_can_read_errors(http):
    assert http.get("/nowhere").headers["Access-Control-Allow-Origin"] == "*"


def test_large_answers_are_compressed(http):
    texts = ["a"] * 1000
    response = http.post("/encode", json={"id": 1, "texts": texts}, headers={"Accept-Encoding": "gzip"})
    assert response.headers["Content-Encoding"] == "gzip"
    assert len(json.loads(gzip.decompress(response.data))["result"]) == 1000
    plain = http.post("/encode", json={"id": 1, "texts": texts})
    assert "Content-Encoding" not in plain.headers


STRANGERS = ["http://b.example", "http://a.example.evil", "http://a.example:8080", "https://a.example", "null",
             "http://axexample", "http://xa.example", "http://a.example/"]


@pytest.mark.parametrize("origin", STRANGERS)
@pytest.mark.parametrize("cors", ["http://a.example", "http://[::1]:3000,http://a.example"])
def test_other_origins_are_refused(make, cors, origin):
    http = make(cors=cors)
    asking = {"Origin": origin, "Access-Control-Request-Method": "POST"}
    for response in (http.get("/status/server", headers=asking), http.options("/encode", headers=asking)):
        assert not [name for name, _ in response.headers if name.startswith("Access-Control-Allow")]


@pytest.mark.parametrize("origin", ["http://a.example", "HTTP://A.example", "http://[::1]:3000", "null"])
def test_several_origins(make, origin):
    http = make(cors="http://a.example,http://[::1]:3000,null")
    for method, path in (("GET", "/status/server"), ("OPTIONS", "/encode")):
        asking = {"Origin": origin, "Access-Control-Request-Method": "POST"}
        response = http.open(path, method=method, headers=asking)
        assert response.headers["Access-Control-Allow-Origin"] == origin
        assert "Origin" in ", ".join(response.headers.getlist("Vary"))


# ---- keys ------------------------------------------------------------------------------------------------------------

KEYS = ["first-key-of-these-tests", "second-key-of-these-tests"]
CLOSED = [("POST", "/encode"), ("POST", "/tokenize"), ("GET", "/status/server"), ("GET", "/status/client"),
          ("GET", "/metrics"), ("POST", "/v1/embeddings"), ("GET", "/v1/models"), ("GET", "/nowhere"),
          ("PUT", "/livez/"), ("GET", "/encode"), ("HEAD", "/metrics")]
OPENED = ["/", "/index.html", "/app.js", "/docs", "/openapi.json", "/livez", "/readyz"]


@pytest.fixture
def locked(make):
    return make(api_keys=tuple(KEYS))


@pytest.mark.parametrize("headers", [
    {}, {"Authorization": "Bearer wrong"}, {"Authorization": f"Basic {KEYS[0]}"}, {"Authorization": KEYS[0]},
    {"Authorization": f"Bearer {KEYS[0]} {KEYS[0]}"}, {"X-API-Key": ""}, {"X-API-Key": KEYS[0][:-1]},
    {"Authorization": "Bearer \udcff".encode("utf-8", "surrogateescape").decode("latin-1")}])
@pytest.mark.parametrize("method, path", CLOSED)
def test_nothing_without_a_key(locked, fake, method, path, headers):
    response = locked.open(path, method=method, headers=headers, json={"id": 1, "texts": ["a"], "input": "a"})
    assert response.status_code == 401
    assert response.headers["WWW-Authenticate"] == 'Bearer realm="bert-as-service"'
    assert not hasattr(fake, "call")
    if method != "HEAD":
        body = strict(response)
        error = body["error"] if path.startswith("/v1/") else body
        assert error["code"] == "unauthorized"
        assert error["type"] == ("authentication_error" if path.startswith("/v1/") else "UnauthorizedError")
        assert "Authorization: Bearer KEY" in error.get("message", error.get("description"))


@pytest.mark.parametrize("headers", [
    {"Authorization": f"Bearer {KEYS[0]}"}, {"Authorization": f"bearer  {KEYS[1]}"}, {"X-API-Key": KEYS[1]},
    {"X-API-Key": "wrong", "Authorization": f"Bearer {KEYS[0]}"},
    {"X-API-Key": KEYS[0], "Authorization": "Basic of-a-reverse-proxy"}])
@pytest.mark.parametrize("method, path", CLOSED[:4] + CLOSED[5:7])
def test_every_key_opens(locked, method, path, headers):
    response = locked.open(path, method=method, headers=headers, json={"id": 1, "texts": ["a"], "input": "a"})
    assert response.status_code == 200


@pytest.mark.parametrize("path", OPENED)
def test_probes_and_pages_need_no_key(locked, path):
    with locked.get(path) as response:
        assert response.status_code == 200


def test_every_route_is_closed_or_open_on_purpose(locked):
    rules = {rule.rule for rule in locked.application.url_map.iter_rules()}
    pages = {rule for rule in rules if rule.endswith((".js", ".css", ".svg", ".html"))}
    assert rules - pages == {path for _, path in CLOSED if path not in ("/nowhere", "/livez/")} | set(OPENED) - pages


def test_a_browser_may_ask_whether_it_may_send_a_key(make):
    http = make(api_keys=tuple(KEYS), cors="http://a.example")
    origin = {"Origin": "http://a.example"}
    asked = http.options("/encode", headers=origin | {"Access-Control-Request-Method": "POST",
                                                      "Access-Control-Request-Headers": "authorization, content-type"})
    assert asked.status_code == 200
    assert "authorization" in asked.headers["Access-Control-Allow-Headers"].lower()
    refused = http.get("/status/server", headers=origin)
    assert (refused.status_code, refused.headers["Access-Control-Allow-Origin"]) == (401, "http://a.example")


# ---- log -------------------------------------------------------------------------------------------------------------

def test_each_request_is_a_line_of_the_log_without_its_texts(http, caplog):
    caplog.set_level(logging.DEBUG, "bert_serving.server.proxy.app")
    http.post("/encode", json={"id": 1, "texts": ["private words"]})
    http.get("/no%0Awhere")
    http.get("/livez")
    first, second, probe = (record.getMessage() for record in caplog.records if record.name.endswith("proxy.app"))
    assert "method=POST path=\"/encode\" status=200" in first
    assert "path=\"/no\\nwhere\" status=404" in second
    assert "private" not in caplog.text
    levels = [record.levelno for record in caplog.records if record.name.endswith("proxy.app")]
    assert levels == [logging.INFO, logging.INFO, logging.DEBUG], "probes are noise"


def test_the_root_of_the_tree_is_covered():
    assert BY_CODE["internal"] is BertServingError
