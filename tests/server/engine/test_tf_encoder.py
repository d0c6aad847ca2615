"""Steps of the encoder that stand by themselves; whole encoders are compared in architectures/test_reference.py."""
import numpy as np
import pytest

from bert_serving.server.engine import tf_encoder


@pytest.mark.parametrize("length", [1, 2, 5])
def test_skew(length):
    """Row i of the result is what distances i - 0, i - 1 ... have, which lie in descending order."""
    by_distance = np.random.default_rng(0).normal(size=(2, 3, length, 2 * length - 1)).astype(np.float32)
    found = tf_encoder.skew(by_distance).numpy()
    for query in range(length):
        for key in range(length):
            assert np.array_equal(found[:, :, query, key], by_distance[:, :, query, length - 1 - (query - key)])


def test_rotate():
    """A turn of the plane: pairs of numbers as complex ones."""
    random = np.random.default_rng(0)
    inputs, angles = random.normal(size=(4, 6)), random.normal(size=(4, 3))
    turned = (inputs[:, :3] + 1j * inputs[:, 3:]) * np.exp(1j * angles)
    found = tf_encoder.rotate(inputs, np.cos(angles), np.sin(angles)).numpy()
    assert np.abs(found - np.concatenate([turned.real, turned.imag], 1)).max() < 1e-12


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("heads, size", [(1, 7), (2, 7), (4, 16)])
def test_products_with_a_table(heads, size):
    """With one head, TensorFlow's own broadcasting ended the process within some twenty of such batches."""
    import tensorflow as tf

    with tf.Graph().as_default() as graph:
        inputs = tf.compat.v1.placeholder(tf.float32, [None, heads, None, size])
        table = tf.compat.v1.placeholder(tf.float32, [heads, None, size])
        result = tf_encoder.with_table(inputs, table)
    random = np.random.default_rng(0)
    with tf.compat.v1.Session(graph=graph) as session:
        for _ in range(60):
            sequences, length = random.integers(1, 24), random.integers(4, 64)
            given = random.normal(size=(sequences, heads, length, size)).astype(np.float32)
            rows = random.normal(size=(heads, 2 * length - 1, size)).astype(np.float32)
            found = session.run(result, {inputs: given, table: rows})
            np.testing.assert_allclose(found, given @ rows.transpose(0, 2, 1), atol=1e-5)
