"""Each strategy's formula by eye, its two implementations against each other, and that none is missing."""
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bert_serving.server.config import PoolingStrategy
from bert_serving.server.engine.pooling import (GRAPH_POOLING, HEAD_STRATEGIES, POOLER_STRATEGIES, POOLING, graph_pool,
                                                pool)

HIDDEN = np.array([[1, -1], [2, 5], [3, 0], [7, 7], [9, -9]], np.float32)  # two sequences of three and two tokens
CU_SEQLENS = np.array([0, 3, 5])
MASK = np.array([0, 1, 0, 0, 0])                       # as -mask_cls_sep makes it; the second has nothing else


@pytest.mark.parametrize("name, expected, masked", [
    ("NONE", HIDDEN, [[0, 0], [2, 5], [0, 0], [0, 0], [0, 0]]),
    ("REDUCE_MEAN", [[2, 4 / 3], [8, -1]], [[2, 5], [0, 0]]),
    ("REDUCE_MAX", [[3, 5], [9, 7]], [[2, 5], [-1e30, -1e30]]),
    ("REDUCE_MEAN_MAX", [[2, 4 / 3, 3, 5], [8, -1, 9, 7]], [[2, 5, 2, 5], [0, 0, -1e30, -1e30]]),
    ("CLS_TOKEN", [[1, -1], [7, 7]], [[1, -1], [7, 7]]),
    ("SEP_TOKEN", [[3, 0], [9, -9]], [[3, 0], [9, -9]]),
    ("REDUCE_MEAN_SQRT_LEN", [[6 / 3 ** .5, 4 / 3 ** .5], [16 / 2 ** .5, -2 / 2 ** .5]], [[2, 5], [0, 0]]),
    ("WEIGHTED_MEAN", [[14 / 6, 9 / 6], [25 / 3, -11 / 3]], [[2, 5], [0, 0]]),
])
def test_formulas(name, expected, masked):
    pool = POOLING[PoolingStrategy[name]]
    assert np.allclose(pool(HIDDEN, CU_SEQLENS, None), expected)
    assert np.allclose(pool(HIDDEN, CU_SEQLENS, np.ones(5, int)), expected)
    rows = pool(HIDDEN, CU_SEQLENS, MASK)
    assert np.allclose(rows, masked) and rows.dtype == np.float32


def test_several_are_joined_in_their_order():
    import tensorflow as tf
    chosen = [PoolingStrategy.LAST_TOKEN, PoolingStrategy.REDUCE_MEAN]
    rows = pool(chosen, HIDDEN[:3], CU_SEQLENS[:2], None)
    assert np.allclose(rows, [[3, 0, 2, 4 / 3]])
    assert np.array_equal(pool(chosen[:1], HIDDEN, CU_SEQLENS, None), [[3, 0], [9, -9]])
    assert np.allclose(graph_pool(chosen, tf.constant(HIDDEN[None, :3]), tf.ones((1, 3)), tf.constant([3])), rows)


def test_none_is_missing():
    assert set(POOLING) == set(GRAPH_POOLING) == set(PoolingStrategy) - POOLER_STRATEGIES
    assert HEAD_STRATEGIES < POOLER_STRATEGIES


@settings(max_examples=20, deadline=None)
@given(lengths=st.lists(st.integers(1, 6), min_size=1, max_size=5), masked=st.booleans(),
       seed=st.integers(0, 1000))
@pytest.mark.parametrize("strategy", GRAPH_POOLING, ids=str)
def test_tensorflow_equals_numpy(strategy, lengths, masked, seed):
    """NumPy has the tokens end to end, TensorFlow padded; what is in the padding must not matter."""
    import tensorflow as tf
    random = np.random.default_rng(seed)
    cu_seqlens = np.concatenate([[0], np.cumsum(lengths)])
    hidden = random.normal(0, 1, (cu_seqlens[-1], 4)).astype(np.float32)
    mask = random.integers(0, 2, cu_seqlens[-1]) if masked else np.ones(cu_seqlens[-1], int)
    inside = np.arange(7) < np.array(lengths)[:, None]                             # [B, L]
    padded = np.full((*inside.shape, 4), 1e6, np.float32)
    padded[inside] = hidden
    padded_mask = np.zeros(inside.shape, np.float32)
    padded_mask[inside] = mask
    rows = GRAPH_POOLING[strategy](tf.constant(padded), tf.constant(padded_mask), tf.constant(lengths)).numpy()
    if strategy is PoolingStrategy.NONE:
        assert not rows[~inside].any()
        rows = rows[inside]
    assert np.allclose(rows, POOLING[strategy](hidden, cu_seqlens, mask), atol=1e-6)
