"""How token vectors become a sentence's vector: each strategy once for NumPy, once for TensorFlow, side by side.

``hidden`` is the chosen layer's output; of several layers, their outputs beside each other on the feature axis.

========================  ==============================================================================
strategy                  formula, m being the mask (0: hidden by -mask_cls_sep, or padding)
========================  ==============================================================================
NONE                      hidden * m, a row per token
REDUCE_MAX                max over tokens of hidden - (1 - m) * 1e30
REDUCE_MEAN               sum over tokens of hidden * m, divided by (sum of m) + 1e-10
REDUCE_MEAN_MAX           the mean, then the max
REDUCE_MEAN_SQRT_LEN      sum over tokens of hidden * m, divided by the square root of (sum of m) + 1e-10
WEIGHTED_MEAN             sum over tokens of hidden * m * p, divided by (sum of m * p) + 1e-10; p: 1, 2, 3 ...
FIRST_TOKEN, CLS_TOKEN    hidden at position 0
LAST_TOKEN, SEP_TOKEN     hidden at the sequence's last position, whatever the mask
CLS_POOLED                BERT's pooler: tanh(dense(last layer at position 0)), whatever the layer
CLASSIFICATION            scores of the logits of a fine-tuned model's head, see spec.Head and heads.SCORES
REGRESSION                the same, with one label
========================  ==============================================================================
"""
from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..config import PoolingStrategy

if TYPE_CHECKING:
    import tensorflow as tf

POOLER_STRATEGIES = frozenset({PoolingStrategy.CLS_POOLED, PoolingStrategy.CLASSIFICATION, PoolingStrategy.REGRESSION})
"""They read the pooler, which reads the last layer: -pooling_layer does not matter to them."""

HEAD_STRATEGIES = frozenset({PoolingStrategy.CLASSIFICATION, PoolingStrategy.REGRESSION})
"""They need a fine-tuned model, which has a head."""

HIDDEN = 1e30
"""Subtracted from hidden tokens before the maximum."""


# ---- NumPy: sequences end to end, no padding -------------------------------------------------------------------------

def no_pooling(hidden: np.ndarray, cu_seqlens: np.ndarray, mask: np.ndarray | None) -> np.ndarray:
    """
    Args:
        hidden: float [T, D], the tokens of all sequences end to end.
        cu_seqlens: int [B+1], where each sequence starts; cu_seqlens[-1] == T. No sequence is empty.
        mask: int or float [T]; None: all ones.
    Returns:
        float [T, D]; the other strategies: [B, D] or [B, 2D].
    """
    return hidden if mask is None else hidden * mask.astype(hidden.dtype)[:, None]


def _sums(hidden: np.ndarray, cu_seqlens: np.ndarray, mask: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """[B, D], of hidden * m; and [B, 1], (sum of m) + 1e-10."""
    starts = cu_seqlens[:-1]
    sums = np.add.reduceat(no_pooling(hidden, cu_seqlens, mask), starts, axis=0)
    count = np.diff(cu_seqlens) if mask is None else np.add.reduceat(mask, starts)
    return sums, (count.astype(hidden.dtype) + hidden.dtype.type(1e-10))[:, None]


def reduce_mean(hidden: np.ndarray, cu_seqlens: np.ndarray, mask: np.ndarray | None) -> np.ndarray:
    sums, count = _sums(hidden, cu_seqlens, mask)
    return sums / count


def reduce_max(hidden: np.ndarray, cu_seqlens: np.ndarray, mask: np.ndarray | None) -> np.ndarray:
    if mask is not None:
        hidden = hidden - (1 - mask.astype(hidden.dtype))[:, None] * hidden.dtype.type(HIDDEN)
    return np.maximum.reduceat(hidden, cu_seqlens[:-1], axis=0)


def reduce_mean_max(hidden: np.ndarray, cu_seqlens: np.ndarray, mask: np.ndarray | None) -> np.ndarray:
    return np.concatenate([reduce_mean(hidden, cu_seqlens, mask), reduce_max(hidden, cu_seqlens, mask)], axis=1)


def reduce_mean_sqrt_len(hidden: np.ndarray, cu_seqlens: np.ndarray, mask: np.ndarray | None) -> np.ndarray:
    sums, count = _sums(hidden, cu_seqlens, mask)
    return sums / np.sqrt(count)


def weighted_mean(hidden: np.ndarray, cu_seqlens: np.ndarray, mask: np.ndarray | None) -> np.ndarray:
    places = np.arange(1, cu_seqlens[-1] + 1) - np.repeat(cu_seqlens[:-1], np.diff(cu_seqlens))       # [T], from 1
    return reduce_mean(hidden, cu_seqlens, places if mask is None else places * mask)


def first_token(hidden: np.ndarray, cu_seqlens: np.ndarray, mask: np.ndarray | None) -> np.ndarray:
    return hidden[cu_seqlens[:-1]]


def last_token(hidden: np.ndarray, cu_seqlens: np.ndarray, mask: np.ndarray | None) -> np.ndarray:
    # The original looks at sum(mask) - 1, which under -mask_cls_sep is the last token but one.
    return hidden[cu_seqlens[1:] - 1]


POOLING: dict[PoolingStrategy, Callable[[np.ndarray, np.ndarray, np.ndarray | None], np.ndarray]] = {
    PoolingStrategy.NONE: no_pooling,
    PoolingStrategy.REDUCE_MAX: reduce_max,
    PoolingStrategy.REDUCE_MEAN: reduce_mean,
    PoolingStrategy.REDUCE_MEAN_MAX: reduce_mean_max,
    PoolingStrategy.FIRST_TOKEN: first_token,
    PoolingStrategy.LAST_TOKEN: last_token,
    PoolingStrategy.REDUCE_MEAN_SQRT_LEN: reduce_mean_sqrt_len,
    PoolingStrategy.WEIGHTED_MEAN: weighted_mean,
}
"""Every strategy that pools token vectors: all but POOLER_STRATEGIES."""


def pool(strategies: Sequence[PoolingStrategy], hidden: np.ndarray, cu_seqlens: np.ndarray,
         mask: np.ndarray | None) -> np.ndarray:
    """What each of the strategies gives, beside each other on the feature axis: float [B, D of all]."""
    pooled = [POOLING[strategy](hidden, cu_seqlens, mask) for strategy in strategies]
    return pooled[0] if len(pooled) == 1 else np.concatenate(pooled, axis=1)


# ---- TensorFlow: sequences padded to one length ----------------------------------------------------------------------

def graph_no_pooling(hidden: tf.Tensor, mask: tf.Tensor, lengths: tf.Tensor) -> tf.Tensor:
    """
    Args:
        hidden: float32 [B, L, D].
        mask: float32 [B, L], 0 for padding too.
        lengths: int32 [B].
    Returns:
        float32 [B, L, D]; the other strategies: [B, D] or [B, 2D].
    """
    return hidden * mask[:, :, None]


def _graph_sums(hidden: tf.Tensor, mask: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """As :func:`_sums`."""
    import tensorflow as tf

    return tf.reduce_sum(hidden * mask[:, :, None], axis=1), tf.reduce_sum(mask, axis=1, keepdims=True) + 1e-10


def graph_reduce_mean(hidden: tf.Tensor, mask: tf.Tensor, lengths: tf.Tensor) -> tf.Tensor:
    sums, count = _graph_sums(hidden, mask)
    return sums / count


def graph_reduce_max(hidden: tf.Tensor, mask: tf.Tensor, lengths: tf.Tensor) -> tf.Tensor:
    import tensorflow as tf

    return tf.reduce_max(hidden - ((1.0 - mask) * HIDDEN)[:, :, None], axis=1)


def graph_reduce_mean_max(hidden: tf.Tensor, mask: tf.Tensor, lengths: tf.Tensor) -> tf.Tensor:
    import tensorflow as tf

    return tf.concat([graph_reduce_mean(hidden, mask, lengths), graph_reduce_max(hidden, mask, lengths)], axis=1)


def graph_reduce_mean_sqrt_len(hidden: tf.Tensor, mask: tf.Tensor, lengths: tf.Tensor) -> tf.Tensor:
    import tensorflow as tf

    sums, count = _graph_sums(hidden, mask)
    return sums / tf.sqrt(count)


def graph_weighted_mean(hidden: tf.Tensor, mask: tf.Tensor, lengths: tf.Tensor) -> tf.Tensor:
    import tensorflow as tf

    return graph_reduce_mean(hidden, mask * tf.cumsum(tf.ones_like(mask), axis=1), lengths)


def graph_first_token(hidden: tf.Tensor, mask: tf.Tensor, lengths: tf.Tensor) -> tf.Tensor:
    return hidden[:, 0]


def graph_last_token(hidden: tf.Tensor, mask: tf.Tensor, lengths: tf.Tensor) -> tf.Tensor:
    import tensorflow as tf

    return tf.gather(hidden, lengths - 1, batch_dims=1)


GRAPH_POOLING: dict[PoolingStrategy, Callable[[tf.Tensor, tf.Tensor, tf.Tensor], tf.Tensor]] = {
    PoolingStrategy.NONE: graph_no_pooling,
    PoolingStrategy.REDUCE_MAX: graph_reduce_max,
    PoolingStrategy.REDUCE_MEAN: graph_reduce_mean,
    PoolingStrategy.REDUCE_MEAN_MAX: graph_reduce_mean_max,
    PoolingStrategy.FIRST_TOKEN: graph_first_token,
    PoolingStrategy.LAST_TOKEN: graph_last_token,
    PoolingStrategy.REDUCE_MEAN_SQRT_LEN: graph_reduce_mean_sqrt_len,
    PoolingStrategy.WEIGHTED_MEAN: graph_weighted_mean,
}


def graph_pool(strategies: Sequence[PoolingStrategy], hidden: tf.Tensor, mask: tf.Tensor,
               lengths: tf.Tensor) -> tf.Tensor:
    """As :func:`pool`."""
    import tensorflow as tf

    pooled = [GRAPH_POOLING[strategy](hidden, mask, lengths) for strategy in strategies]
    return pooled[0] if len(pooled) == 1 else tf.concat(pooled, axis=-1)
