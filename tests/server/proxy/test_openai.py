"""``/v1/embeddings`` and ``/v1/models``; with OpenAI's own client in tests/integration/test_openai.py."""
from base64 import b64decode

import numpy as np
import pytest
from bert_serving.server.core.tokenizer_settings import TokenizerSettings
from bert_serving.server.proxy.app import create_app
from bert_serving.server.proxy.openai import unit
from bert_serving.server.proxy.orders import ServedModel

from .conftest import strict, told


@pytest.fixture
def embed(http):
    """Asks for embeddings."""
    return lambda given, **more: http.post("/v1/embeddings", json={"input": given, **more})


def vectors_of(response):
    assert response.status_code == 200, response.data
    data = strict(response)["data"]
    assert [one["index"] for one in data] == list(range(len(data)))
    assert all(one["object"] == "embedding" for one in data)
    return [one["embedding"] for one in data]


def test_one_text(embed, fake):
    response = embed("hello you", model="whatever")
    assert fake.call == {"texts": ["hello you"], "is_tokenized": False, "input": "texts"}
    assert strict(response) == {
        "object": "list", "data": [{"object": "embedding", "index": 0, "embedding": [1.0, 0.0]}], "model": "echo",
        "usage": {"prompt_tokens": 4, "total_tokens": 4}}


def test_several_texts(embed):
    response = embed(["abcd", "abc"], user="me", unknown=[1])
    np.testing.assert_allclose(vectors_of(response), [[1, 0], [3 / 10**.5, 1 / 10**.5]], rtol=1e-6)
    assert strict(response)["usage"] == {"prompt_tokens": 6, "total_tokens": 6}


def test_base64_is_the_same_in_little_endian_float32(embed):
    texts = ["abcd", "abc", "a"]
    floats = vectors_of(embed(texts, encoding_format="float"))
    coded = vectors_of(embed(texts, encoding_format="base64"))
    assert [np.frombuffer(b64decode(one), "<f4").tolist() for one in coded] == [
        np.array(one, np.float32).tolist() for one in floats]


@pytest.mark.parametrize("dimensions, expected", [(1, [[1], [1]]), (2, [[1, 0], [.6, .8]]), (None, [[1, 0], [.6, .8]])])
def test_dimensions(embed, fake, dimensions, expected):
    fake.encode = lambda texts, input=None, **_: (np.array([[5, 0], [3, 4]], np.float32), [["a"], ["b"]])
    np.testing.assert_allclose(vectors_of(embed(["a", "b"], dimensions=dimensions)), expected, rtol=1e-6)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_length_one_whatever_the_length_was(dtype):
    vectors = np.array([[0, 0, 0], [60000, 60000, 0], [6e-8, 0, 6e-8]], dtype)
    lengths = np.linalg.norm(unit(vectors, None), axis=1)
    np.testing.assert_allclose(lengths, [0, 1, 1], rtol=1e-6)
    assert unit(vectors, 2).dtype == np.float32 and unit(vectors, 2).flags.c_contiguous


@pytest.mark.parametrize("body, param, said", [
    ({}, "input", "there is no input; expected a string, an array"),
    ({"input": None}, "input", "input is null; expected a string, or an array"),
    ({"input": 5}, "input", "input is an integer"),
    ({"input": ""}, "input", "element 0 is empty or blank"),
    ({"input": []}, "input", "input is an empty array"),
    ({"input": ["a", " "]}, "input", "element 1 is empty or blank"),
    ({"input": ["a", 5]}, "input", "element 1 is an integer"),
    ({"input": [5, "a"]}, "input", "element 0 of input is no array of token ids"),
    ({"input": [[5], "a"]}, "input", "element 1 of input is no array of token ids"),
    ({"input": [[5, True]]}, "input", "element 0 of input is no array of token ids"),
    ({"input": [{}]}, "input", "element 0 of input is no array of token ids"),
    ({"input": [[]]}, "input", "element 0 of input is empty"),
    ({"input": [1, 2]}, "input", "this server's model has no vocabulary"),
    ({"input": "a", "encoding_format": "hex"}, "encoding_format", "encoding_format is 'hex'; expected float or base64"),
    ({"input": "a", "encoding_format": {}}, "encoding_format", "encoding_format is an object"),
    ({"input": "a", "dimensions": 0}, "dimensions", "dimensions is 0; expected a whole number from 1"),
    ({"input": "a", "dimensions": "2"}, "dimensions", "dimensions is '2'"),
    ({"input": "a", "dimensions": True}, "dimensions", "dimensions is a boolean"),
    ({"input": "a", "dimensions": 3}, "dimensions", "dimensions is 3; this server's vectors have 2"),
    ({"input": "a", "model": 3}, "model", "model is an integer"),
])
def test_what_is_wrong_is_named(http, body, param, said):
    response = http.post("/v1/embeddings", json=body)
    assert response.status_code == 400
    error = strict(response)["error"]
    assert said in error["message"]
    assert (error["type"], error["param"], error["code"]) == ("invalid_request_error", param, "bad_request")


@pytest.fixture
def with_vocabulary(fake, tmp_path):
    (tmp_path / "vocab.txt").write_text("[CLS]\n[SEP]\nhello\nyou\n[UNK]\n")
    settings = TokenizerSettings(file=str(tmp_path / "vocab.txt"))
    return create_app(fake, fake, told(model=ServedModel(tokenizer=settings))).test_client()


@pytest.mark.parametrize("given, texts", [([2, 3], [["hello", "you"]]), ([[0, 2, 1], [3]], [["hello"], ["you"]])])
def test_token_ids(with_vocabulary, fake, given, texts):
    response = with_vocabulary.post("/v1/embeddings", json={"input": given})
    assert len(vectors_of(response)) == len(texts)
    assert fake.call == {"texts": texts, "is_tokenized": True}


def test_token_ids_of_another_vocabulary(with_vocabulary):
    response = with_vocabulary.post("/v1/embeddings", json={"input": [2, 15339]})
    assert response.status_code == 400
    assert "15339 is no token id of the served model, which has 5" in strict(response)["error"]["message"]


def test_token_level_servers_have_no_embeddings(fake):
    http = create_app(fake, fake, told(model=ServedModel(token_level=True))).test_client()
    response = http.post("/v1/embeddings", json={"input": "a"})
    assert response.status_code == 400
    assert "-pooling_strategy is NONE" in strict(response)["error"]["message"]


def test_scores_are_no_embeddings(fake):
    http = create_app(fake, fake, told(model=ServedModel(gives_scores=True))).test_client()
    response = http.post("/v1/embeddings", json={"input": "a"})
    assert response.status_code == 400
    assert strict(response)["error"] == {
        "message": "this server's model gives scores, not embeddings; use /encode", "type": "invalid_request_error",
        "param": None, "code": "bad_request"}
    assert http.post("/encode", json={"id": 1, "texts": ["a"]}).status_code == 200


def test_models(fake):
    http = create_app(fake, fake, told(model=ServedModel(name="my-bert", created=1700000000))).test_client()
    assert strict(http.get("/v1/models")) == {"object": "list", "data": [
        {"id": "my-bert", "object": "model", "created": 1700000000, "owned_by": "bert-as-service"}]}
