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


def spearman_on_the_sts_benchmark(serve, *options) -> float:
    with open(Path(DATA) / "stsb" / "stsb-en-test.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))
    assert len(rows) == 1379
    server = serve("-cpu", *options).ready(120)
    with server.client(timeout=200_000, check_length=False) as client:
        left, right = (client.encode([row[side] for row in rows]) for side in (0, 1))
    cosines = (left * right).sum(1) / np.linalg.norm(left, axis=1) / np.linalg.norm(right, axis=1)
    return np.corrcoef(ranks(cosines), ranks(np.array([float(row[2]) for row in rows])))[0, 1]


@pytest.mark.parametrize("length, layer, expected", [("256", "-1", 0.8203), ("25", "-1", 0.8153), ("25", "-2", 0.6629)])
def test_spearman(serve, length, layer, expected):
    spearman = spearman_on_the_sts_benchmark(serve, "-max_seq_len", length, "-pooling_layer", layer)
    assert round(spearman, 3) == round(expected, 3)


def test_int8_loses_little(serve):
    spearman = spearman_on_the_sts_benchmark(serve, "-engine", "lite", "-precision", "int8")
    print(f"int8: {spearman:.4f}")
    assert abs(spearman - 0.8203) < 0.003
