"""The part of OpenAI's API that has to do with embeddings: ``/v1/embeddings`` and ``/v1/models``."""
from __future__ import annotations

from base64 import b64encode
from dataclasses import dataclass
from typing import Any

import numpy as np
from bert_serving.client.options import TEXTS
from bert_serving.client.words import json_kind
from flask import Blueprint, Response

from .answers import WrongBody, answer, dump, plain, read_object
from .gate import Gate
from .orders import ServedModel
from .vocabulary import Vocabulary

FORMATS = ("float", "base64")


@dataclass(frozen=True)
class Call:
    """A request for embeddings, checked."""

    texts: list[Any]
    is_tokenized: bool
    encoding: str
    dimensions: int | None


def blueprint(gate: Gate, model: ServedModel, vocabulary: Vocabulary | None) -> Blueprint:
    """The routes."""
    routes = Blueprint("openai", __name__)

    @routes.post("/v1/embeddings")
    def embeddings() -> Response:
        call = read_call(read_object("a JSON object with input and model"), model, vocabulary)
        # Text is text here, bars and all. Token ids name no bar: one among the tokens is the pair's that they were.
        vectors, tokens = gate.encode_with_tokens(call.texts, call.is_tokenized, "input",
                                                  None if call.is_tokenized else TEXTS)
        rows = unit(plain(vectors), call.dimensions)
        num_tokens = sum(map(len, tokens))
        return answer(dump({
            "object": "list",
            "data": [{"object": "embedding", "index": index,
                      "embedding": b64encode(row).decode("ascii") if call.encoding == "base64" else row}
                     for index, row in enumerate(rows)],
            "model": model.name,
            "usage": {"prompt_tokens": num_tokens, "total_tokens": num_tokens}}))

    @routes.get("/v1/models")
    def models() -> Response:
        return answer(dump({"object": "list", "data": [
            {"id": model.name, "object": "model", "created": model.created, "owned_by": "bert-as-service"}]}))

    return routes


def read_call(body: dict[str, Any], model: ServedModel, vocabulary: Vocabulary | None) -> Call:
    """What a body asks for.

    Raises:
        WrongBody: it asks for what there is not.
    """
    if model.token_level:
        raise WrongBody("this server's -pooling_strategy is NONE, which gives a vector for each token; an embedding is "
                        "one vector for each text; use /encode", "ValueError")
    if model.gives_scores:
        # At length 1, as embeddings are here, a score would be 1 whatever the text.
        raise WrongBody("this server's model gives scores, not embeddings; use /encode", "ValueError")
    if "input" not in body:
        raise WrongBody("there is no input; expected a string, an array of strings, an array of token ids, or an "
                        "array of arrays of token ids", "KeyError", "input")
    encoding = body.get("encoding_format", "float")
    if encoding not in FORMATS:
        raise WrongBody(f"encoding_format is {_shown(encoding)}; expected float or base64", "ValueError",
                        "encoding_format")
    dimensions = body.get("dimensions")
    if dimensions is not None and (type(dimensions) is not int or dimensions < 1):
        raise WrongBody(f"dimensions is {_shown(dimensions)}; expected a whole number from 1", "ValueError",
                        "dimensions")
    name = body.get("model")
    if name is not None and type(name) is not str:
        raise WrongBody(f"model is {json_kind(name)}; expected a string", param="model")
    texts, is_tokenized = _texts(body["input"], model, vocabulary)
    return Call(texts, is_tokenized, encoding, dimensions)


def _texts(given: Any, model: ServedModel, vocabulary: Vocabulary | None) -> tuple[list[Any], bool]:
    """``input`` as (texts, whether they are tokenized); what strings are worth is the client's to check."""
    if type(given) is str:
        return [given], False
    if type(given) is not list:
        raise WrongBody(f"input is {json_kind(given)}; expected a string, or an array", param="input")
    if not given:
        raise WrongBody("input is an empty array; expected at least one text", "ValueError", "input")
    if type(given[0]) is str:
        return given, False
    sequences = [given] if type(given[0]) is int else given
    for index, sequence in enumerate(sequences):
        if type(sequence) is not list or any(type(number) is not int for number in sequence):
            raise WrongBody(f"element {index} of input is no array of token ids; expected all strings, or all token "
                            "ids, or all arrays of token ids", param="input")
        if not sequence:
            raise WrongBody(f"element {index} of input is empty; expected at least one token id", "ValueError", "input")
    if vocabulary is None:
        raise WrongBody("this server's model has no vocabulary, so it does not know token ids; send text",
                        "ValueError", "input")
    return [vocabulary.to_tokens(sequence, not model.adds_special) for sequence in sequences], True


def unit(vectors: np.ndarray, dimensions: int | None) -> np.ndarray:
    """The first ``dimensions`` of each vector (None: all), at length 1, as OpenAI's are.

    Args:
        vectors: float [n, D].
    Returns:
        float32 [n, dimensions]
    Raises:
        WrongBody: there are not so many.
    """
    if dimensions is not None:
        if dimensions > vectors.shape[1]:
            raise WrongBody(f"dimensions is {dimensions}; this server's vectors have {vectors.shape[1]}", "ValueError",
                            "dimensions")
        vectors = vectors[:, :dimensions]
    # A vector of zeros has no direction, and stays as it is. In float64, for squares of large numbers.
    lengths = np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
    return np.ascontiguousarray(vectors / np.where(lengths > 0, lengths, 1), np.float32)


def _shown(value: Any) -> str:
    return repr(value)[:50] if type(value) in (str, int, float) else f"{json_kind(value)}"
