"""Golden sentences: how far their vectors may differ, on one machine and between two."""
import json

import numpy as np
import pytest

from bert_serving.client.protocol import decode_texts
from bert_serving.server.golden import SENTENCES, TEXTS, difference
from bert_serving.server.precision import PRECISIONS

GOLDEN = np.array([[1, 2, 3, 4], [5, 6, 7, 8]], np.float32)


def test_sentences_are_of_many_lengths_and_one_is_a_pair():
    lengths = {len(sentence.split()) for sentence in SENTENCES}
    assert len(lengths) > 3
    assert sum(" ||| " in sentence for sentence in SENTENCES) == 1 and " ||| " not in SENTENCES[0]
    assert list(TEXTS) == decode_texts(json.dumps(SENTENCES).encode()), "engines get what a server makes of them"


# ---- between two engines ---------------------------------------------------------------------------------------------

def turned(cosine):
    """Vectors whose cosine with GOLDEN's is what is asked for, of the same length."""
    lengths = np.linalg.norm(GOLDEN, axis=1, keepdims=True)
    beside = np.array([[0, 0, -4, 3], [0, 0, -8, 7]], np.float32)
    beside *= lengths / np.linalg.norm(beside, axis=1, keepdims=True)
    return (cosine * GOLDEN + np.sqrt(1 - cosine ** 2) * beside).astype(np.float32)


@pytest.mark.parametrize("precision, alike, unlike", [
    ("fp32", 0.99995, 0.9998), ("bf16", 0.9992, 0.998), ("fp16", 0.9992, 0.998), ("int8", 0.992, 0.985)])
def test_vectors_may_differ_as_much_as_the_precision_lets_them(precision, alike, unlike):
    assert difference(GOLDEN, GOLDEN, precision) is None
    assert difference(turned(alike), GOLDEN, precision) is None
    assert "cosine" in difference(turned(unlike), GOLDEN, precision)


@pytest.mark.parametrize("theirs, told", [
    (GOLDEN[:1], r"\[1, 4\], expected \[2, 4\]"), (GOLDEN[:, :3], r"\[2, 3\]"), (-GOLDEN, "-1.0000"),
    (GOLDEN * np.nan, "not finite"), (GOLDEN * np.inf, "not finite"), (GOLDEN * 1.2, "longer or shorter"),
    (GOLDEN * 0.8, "longer or shorter"), (GOLDEN * 0, "cosine"), (GOLDEN[::-1], "cosine")],
    ids=["rows", "width", "turned round", "nan", "inf", "longer", "shorter", "zeros", "another order"])
def test_how_vectors_differ(theirs, told):
    with pytest.raises(AssertionError, match=told):
        raise AssertionError(difference(theirs, GOLDEN, "fp32"))


@pytest.mark.parametrize("same_engine", [False, True])
def test_nothing_is_like_what_is_not_finite(same_engine):
    assert difference(GOLDEN, GOLDEN * np.nan, "fp32", same_engine=same_engine)


def test_rows_of_tokens_that_are_hidden_are_zero_at_both_ends():
    ours = np.concatenate([GOLDEN, np.zeros((1, 4), np.float32)])
    assert difference(ours, ours.copy(), "fp32") is None
    theirs = ours.copy()
    theirs[2, 0] = 1e-3
    assert difference(ours, theirs, "fp32") and difference(theirs, ours, "fp32")


def test_huge_vectors_are_unlike_without_a_warning():
    assert difference(np.full_like(GOLDEN, 3e38), GOLDEN, "fp32")


# ---- of one engine ---------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("precision", PRECISIONS.values(), ids=PRECISIONS)
@pytest.mark.parametrize("size", [1e-3, 1.0, 1e3])
def test_one_engine_repeats_its_values_but_for_the_last_digits(precision, size):
    change = precision.tolerance * max(1.0, size)
    expected = np.full((2, 4), size)
    assert difference(expected + 0.9 * change, expected, precision.name, same_engine=True) is None
    expected_text = f"differs by .*, expected {precision.tolerance:g} or less"
    with pytest.raises(AssertionError, match=expected_text):
        raise AssertionError(difference(expected - 1.1 * change, expected, precision.name, same_engine=True))
