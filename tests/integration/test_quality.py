"""Sentence similarity by the default model, against people's judgement: the figure that users choose models by.

The STS Benchmark's licence does not allow copies here. Get it, and name the directory that holds
``stsb/stsb-en-test.csv`` (sentence, sentence, score from 0 to 5) in BERT_SERVING_TEST_DATA.
"""
from __future__ import annotations

import csv
import os
from pathlib import Path

import numpy as np
import pytest

DATA = os.environ.get("BERT_SERVING_TEST_DATA")

pytestmark = [
    pytest.mark.model, pytest.mark.timeout(300),
    pytest.mark.skipif(not DATA, reason="BERT_SERVING_TEST_DATA names no directory with the STS Benchmark"),
]


def ranks(values: np.ndarray) -> np.ndarray:
    """Ranks from 0, ties sharing their mean."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts) - 1
    return (last - (counts - 1) / 2)[inverse]


@pytest.fixture(scope="module")
def pairs() -> list[list[str]]:
    with open(Path(DATA) / "stsb" / "stsb-en-test.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))
    assert len(rows) == 1379
    return rows


def encode(serve, pairs, *options) -> tuple[np.ndarray, np.ndarray]:
    """The vectors of the first sentences, and of the second."""
    server = serve("-cpu", *options).ready(120)
    with server.client(timeout=250_000, check_length=False) as client:
        left, right = (client.encode([row[side] for row in pairs]) for side in (0, 1))
    assert server.stop() == 0
    return left, right


def cosines(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    left, right = left.astype(np.float64), right.astype(np.float64)
    return (left * right).sum(1) / np.linalg.norm(left, axis=1) / np.linalg.norm(right, axis=1)


def spearman(vectors: tuple[np.ndarray, np.ndarray], pairs) -> float:
    return np.corrcoef(ranks(cosines(*vectors)), ranks(np.array([float(row[2]) for row in pairs])))[0, 1]


@pytest.mark.parametrize("length, layer, expected", [("256", "-1", 0.8203), ("25", "-1", 0.8153), ("25", "-2", 0.6629)])
def test_spearman(serve, pairs, length, layer, expected):
    vectors = encode(serve, pairs, "-max_seq_len", length, "-pooling_layer", layer)
    assert round(spearman(vectors, pairs), 3) == round(expected, 3)


@pytest.fixture(scope="module")
def exact() -> list[tuple[np.ndarray, np.ndarray]]:
    """The vectors in fp32, once there are."""
    return []


@pytest.mark.parametrize("precision, least", [("int8", 0.996), ("bf16", 0.9999), ("fp16", 0.99999)])
def test_precisions_lose_little(serve, pairs, exact, precision, least):
    if not exact:
        exact.append(encode(serve, pairs))
    vectors = encode(serve, pairs, "-precision", precision)
    near = np.concatenate([cosines(*sides) for sides in zip(exact[0], vectors)])
    figure, lost = spearman(vectors, pairs), spearman(exact[0], pairs) - spearman(vectors, pairs)
    print(f"{precision}: Spearman {figure:.4f}, {100 * lost:.2f} points less than fp32; cosine to fp32, least / mean "
          f"of {len(near)}: {near.min():.6f} / {near.mean():.6f}")
    assert near.min() >= least and lost < 0.003


MPNET = os.environ.get("BERT_SERVING_TEST_MPNET")
"""A directory with sentence-transformers/all-mpnet-base-v2, of another architecture and of BERT-base's size."""


@pytest.mark.timeout(900)
@pytest.mark.skipif(not MPNET, reason="BERT_SERVING_TEST_MPNET names no directory with all-mpnet-base-v2")
def test_a_model_of_another_architecture(serve, pairs):
    """0.8342 is what sentence-transformers gives."""
    exact = encode(serve, pairs, "-model_dir", MPNET)
    assert round(spearman(exact, pairs), 3) == 0.834
    for precision, least in (("int8", 0.96), ("bf16", 0.9998)):
        vectors = encode(serve, pairs, "-model_dir", MPNET, "-precision", precision)
        near = np.concatenate([cosines(*sides) for sides in zip(exact, vectors)])
        print(f"{precision}: Spearman {spearman(vectors, pairs):.4f}; cosine to fp32, least / mean of {len(near)}: "
              f"{near.min():.6f} / {near.mean():.6f}")
        assert near.min() >= least and abs(spearman(exact, pairs) - spearman(vectors, pairs)) < 0.003
