"""A directory as today's libraries save it, served with no option, against what they compute of it themselves.

The models and the arrays are in tests/data/golden/architectures; its README says how they were made. Each model has a
server of its own, which is asked in every way that there is.
"""
from __future__ import annotations

import json
import os
import re
from pathlib import Path

import numpy as np
import pytest

from bert_serving.server.bulk.command import main as encode_file

from ..conftest import RunningServer
from .test_http import ask

ROOT = Path(__file__).parents[1] / "data" / "golden" / "architectures"
EVERY_MODEL = sorted(path.parent.name for path in ROOT.glob("*/reference.npz"))
SAMPLE = {"bert-unigram", "distilbert", "qwen3", "bert-rerank", "modernbert-classify"}
"""A default prompt, a Dense module, a decoder, one label, and three labels that transformers saved."""
MODELS = [name for name in EVERY_MODEL if os.environ.get("BERT_SERVING_TEST_ALL") or name in SAMPLE]
GIVEN = json.loads((ROOT / "texts.json").read_text(encoding="utf-8"))
TEXTS = [text for text in GIVEN["texts"] if text.strip()]
"""Clients refuse what is blank."""
PAIRS = [tuple(pair) for pair in GIVEN["pairs"]]
ASKED = [number for number, (first, _) in enumerate(PAIRS) if first]
"""Nor a half that is blank."""
TOLERANCE = 2e-5
"""Of a number, or of its share where it is above 1: float32 on both sides, and weights that are large on purpose."""

pytestmark = pytest.mark.timeout(180)


class Served:
    """A model, its server, and what the libraries compute."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.arrays = dict(np.load(ROOT / name / "reference.npz"))
        self.server = RunningServer("-model_dir", str(ROOT / name), "-port", "0", "-port_out", "0", "-http_port", "0")

    @property
    def has_head(self) -> bool:
        return "pair_logits" in self.arrays

    def of_texts(self, array: np.ndarray) -> np.ndarray:
        """The rows of the texts that are not blank."""
        return array[[number for number, text in enumerate(GIVEN["texts"]) if text.strip()]]

    def vectors(self) -> np.ndarray:
        """What SentenceTransformer(DIR).encode gives, or transformers' pipeline for a text."""
        if self.has_head:
            return self.of_texts(self.scores(self.arrays["text_logits"]))
        return self.of_texts(next(self.arrays[key] for key in ("pooled_default", "pooled", "pooled_float64")
                                  if key in self.arrays))

    def scores(self, logits: np.ndarray) -> np.ndarray:
        """What the model's own files say is made of logits; for pairs it is what CrossEncoder.predict gives."""
        if logits.shape[1] > 1:
            odds = np.exp(logits - logits.max(axis=1, keepdims=True))
            return odds / odds.sum(axis=1, keepdims=True)
        # The reference has the one and the other of pairs.
        pairs = self.arrays["pair_scores"].reshape(-1, 1)
        return logits if np.allclose(pairs, self.arrays["pair_logits"], atol=1e-5) else 1 / (1 + np.exp(-logits))

    def ids(self) -> list[list[int]]:
        """Of the texts, as the libraries' tokenizer gives them, with the default prompt."""
        prefix = "prompt/passage/" if "pooled_default" in self.arrays else ""
        every = np.split(self.arrays[f"{prefix}input_ids"], self.arrays[f"{prefix}offsets"][1:-1])
        return [one.tolist() for one, text in zip(every, GIVEN["texts"]) if text.strip()]


@pytest.fixture(scope="module")
def started():
    """All servers, which start side by side."""
    servers = {name: Served(name) for name in MODELS}
    yield servers
    for served in servers.values():
        served.server.close()


@pytest.fixture(params=MODELS)
def served(request, started):
    found = started[request.param]
    if not hasattr(found.server, "port"):
        found.server.ready(150)
    return found


@pytest.fixture
def embeds(served):
    """A model that gives vectors."""
    if served.has_head:
        pytest.skip("it gives scores")
    return served


@pytest.fixture
def scores(served):
    """A model that gives scores."""
    if not served.has_head:
        pytest.skip("it gives vectors")
    return served


def check(found, expected) -> None:
    found, expected = np.asarray(found, np.float32), np.asarray(expected, np.float32)
    assert found.shape == expected.shape
    assert (np.abs(found - expected) / np.maximum(1, np.abs(expected))).max() < TOLERANCE


def post(served, path, **body):
    status, _, answer = ask(served.server, path, body)
    assert status == 200, answer
    return answer


def embedded(served, given) -> list[list[float]]:
    return [one["embedding"] for one in post(served, "/v1/embeddings", input=given)["data"]]


# ---- every model -----------------------------------------------------------------------------------------------------

def test_the_client(served):
    with served.server.client() as client:
        with pytest.warns(UserWarning, match="longer than the max_seq_len=64"):
            check(client.encode(TEXTS), served.vectors())
        check(client.encode(TEXTS[:1]), served.vectors()[:1])


def test_http(served):
    check(post(served, "/encode", id=1, texts=TEXTS)["result"], served.vectors())


def test_tokens(served):
    assert post(served, "/tokenize", texts=TEXTS)["ids"] == served.ids()


def test_files(served, tmp_path):
    source, output = tmp_path / "in.jsonl", tmp_path / "out.npy"
    source.write_text("\n".join(json.dumps({"text": text}) for text in TEXTS), encoding="utf-8")
    assert encode_file([str(source), str(output), "-ip", "127.0.0.1", "-port", str(served.server.port),
                        "-port_out", str(served.server.port_out)]) == 0
    check(np.load(output), served.vectors())


def test_nothing_is_odd(served):
    assert not [line for line in served.server.lines if re.match(r"[WE] \d", line)]


# ---- vectors ---------------------------------------------------------------------------------------------------------

def test_embeddings(embeds):
    expected = embeds.vectors()
    check(embedded(embeds, TEXTS), expected / np.linalg.norm(expected, axis=1, keepdims=True))


def test_embeddings_of_token_ids(embeds):
    # Of a text that holds the mark between two texts, the ids are those of a pair.
    plain = [number for number, text in enumerate(TEXTS) if not any(mark in text for mark in ("[SEP]", "</s>"))]
    found = embedded(embeds, [embeds.ids()[number] for number in plain])
    check(found, embedded(embeds, [TEXTS[number] for number in plain]))


# ---- scores ----------------------------------------------------------------------------------------------------------

def test_pairs(scores):
    expected = scores.scores(scores.arrays["pair_logits"])
    if expected.shape[1] == 1:
        check(expected[:, 0], scores.arrays["pair_scores"].ravel())
    pairs, expected = [PAIRS[number] for number in ASKED], expected[ASKED]
    written = [" ||| ".join(pair) for pair in pairs]
    with scores.server.client(check_length=False) as client:
        check(client.encode(pairs), expected)
        check(client.encode(written), expected)
    check(post(scores, "/encode", id=1, texts=written)["result"], expected)


def test_scores_are_no_embeddings(scores):
    status, _, answer = ask(scores.server, "/v1/embeddings", {"input": "a"})
    assert status == 400
    assert answer["error"]["message"] == "this server's model gives scores, not embeddings; use /encode"
    assert answer["error"]["type"] == "invalid_request_error"
