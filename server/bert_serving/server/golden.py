"""The golden sentences: texts whose vectors tell whether an engine, a server or another machine computes correctly.

One list for everybody who asks, and one function that compares.
"""
from __future__ import annotations

import numpy as np
from bert_serving.client.pairs import Text, split_text

from .precision import PRECISIONS

SENTENCES = ("First do it", "then do it right, then do it better, and then write down what was done", "a", "42",
             "hello world ||| good day",
             "Whoever exchanges the model of a server gets vectors that do not belong together, unless somebody looks.")
"""Short and long, one token and a pair. The first goes along with each request of a bulk job, so it is short."""

TEXTS: tuple[Text, ...] = tuple(map(split_text, SENTENCES))
"""The same as an engine reads them: the pair as a pair."""

SCALE_SLACK = 0.1
"""How much longer or shorter a vector from elsewhere may be, beside what its precision allows in direction."""


def difference(found: np.ndarray, expected: np.ndarray, precision: str, *, same_engine: bool = False) -> str | None:
    """How vectors differ from those that the same texts had before, in words; None if they do not.

    Args:
        found, expected: float [n, D], of the same texts.
        precision: name of the precision that both were computed in.
        same_engine: one process on one machine computed both, so that they agree but for the last digits. Else they
            may come from another processor or backend, and are compared by direction and norm.
    """
    if found.shape != expected.shape:
        return f"they are {list(found.shape)}, expected {list(expected.shape)}"
    if not (np.isfinite(found).all() and np.isfinite(expected).all()):
        return "some are not finite"
    # Squares of float32 values are finite in float64, whatever they are.
    found, expected = found.astype(np.float64), expected.astype(np.float64)
    if same_engine:
        change = np.abs(found - expected) / np.maximum(1, np.abs(expected))
        if change.max(initial=0.0) > PRECISIONS[precision].tolerance:
            return f"a value differs by {change.max():.3g}, expected {PRECISIONS[precision].tolerance:g} or less"
        return None
    norms = np.linalg.norm(found, axis=1), np.linalg.norm(expected, axis=1)
    product = norms[0] * norms[1]
    empty = product == 0  # rows of tokens that are hidden
    cosine = np.where(empty, norms[0] == norms[1], (found * expected).sum(axis=1) / np.where(empty, 1, product))
    scale = np.where(empty, 1, norms[0] / np.where(empty, 1, norms[1]))
    least, required = float(cosine.min(initial=1.0)), PRECISIONS[precision].least_cosine
    if least < required:
        return f"the least alike have a cosine of {least:.4f}, expected {required} or more"
    slack = 1 + SCALE_SLACK - required
    if ((scale < 1 - slack) | (scale > 1 + slack)).any():
        return "they are longer or shorter"
    return None
