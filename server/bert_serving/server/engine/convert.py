"""BERT for LiteRT: the encoder over rows of packed sentences, converted by TensorFlow once; the rest as plain arrays.

What is converted takes embeddings and gives the layers that are wanted; looking up embeddings and pooling are NumPy's
(see :mod:`lite`). Its shapes are free, so one file, with one copy of the weights, does for all of them.

It is written such that a token's vector is the same to the last bit whatever else is computed along with it: sums over
a row's tokens are matrix products, which add one token after the other, zeros for those of other sentences. TensorFlow
Lite's own softmax adds groups of them, so that a sentence's vector would depend on its place in the row.
"""
from __future__ import annotations

import io
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..config import PoolingStrategy
from .base import EngineSettings
from .bert import BertConfig, Encoder
from .cache import write_file
from .pooling import HEAD_STRATEGIES, POOLER_STRATEGIES

if TYPE_CHECKING:
    import tensorflow as tf

FORMAT = 1
"""To be raised with every change to the encoder or to its files."""

ENCODER = "encoder.tflite"

EMBEDDINGS = tuple(f"bert/embeddings/{kind}_embeddings" for kind in ("word", "token_type", "position"))
POOLER = ("bert/pooler/dense/kernel", "bert/pooler/dense/bias")
HEAD = ("output_weights", "output_bias")

"""Variables that are looked up, or multiplied with, outside the encoder."""

Read = Callable[[str], np.ndarray]


def arrays_for(strategy: PoolingStrategy) -> tuple[str, ...]:
    """The variables that NumPy needs."""
    return (*EMBEDDINGS, *(POOLER if strategy in POOLER_STRATEGIES else ()),
            *(HEAD if strategy in HEAD_STRATEGIES else ()))


def wanted_layers(settings: EngineSettings, config: BertConfig) -> list[int]:
    """The encoder layers, from 0, whose outputs are pooled, in the order wished for; the pooler reads the last."""
    if PoolingStrategy[settings.pooling_strategy] in POOLER_STRATEGIES:
        return [config.num_hidden_layers - 1]
    return [config.layer_index(layer) for layer in settings.pooling_layer]


def outputs(settings: EngineSettings, config: BertConfig) -> list[int]:
    """The layers that the encoder is to give: those wanted, each once, ascending."""
    return sorted(set(wanted_layers(settings, config)))


def write_lite(directory: Path, config: BertConfig, read: Read, *, layers: Sequence[int], precision: str,
               arrays: Sequence[str]) -> None:
    """Write all that the engine ``lite`` needs into a directory.

    Args:
        read: the variable of that name, float32.
        layers: the encoder layers wanted, from 0, ascending; those above the last are left out.
        precision: fp32, or int8: the weights of matrix products in 8 bits, and what they are multiplied with brought to
            8 bits token by token.
        arrays: variables to write as they are.
    """
    write_file(directory / ENCODER, convert(config, read, layers, precision))
    for name in arrays:
        content = io.BytesIO()
        np.save(content, read(name), allow_pickle=False)
        write_file(directory / array_file(name), content.getbuffer())


def array_file(name: str) -> str:
    """The file in which a variable is kept as it is."""
    return name.replace("/", ".") + ".npy"


def convert(config: BertConfig, read: Read, layers: Sequence[int], precision: str) -> bytes:
    """The encoder as a TensorFlow Lite model.

    Its inputs are ``embeddings``, float32 [R * C, H], not yet normalized, and ``bias``, float32 [R, 1, C, C], what is
    added to the attention scores; its outputs are the layers, float32 [R * C, H] each.
    """
    import tensorflow as tf

    graph = tf.Graph()
    with graph.as_default():
        embeddings = tf.compat.v1.placeholder(tf.float32, [None, config.hidden_size], "embeddings")
        bias = tf.compat.v1.placeholder(tf.float32, [None, 1, None, None], "bias")
        encoder = RowEncoder(config, read)
        hidden = encoder.normalize(embeddings)
        outputs = []
        for number in range(1 + layers[-1]):
            hidden = encoder.layer(number, hidden, bias)
            if number in layers:
                outputs.append(tf.identity(hidden, f"layer_{number}"))
    with tf.compat.v1.Session(graph=graph) as session:
        converter = tf.compat.v1.lite.TFLiteConverter.from_session(session, [embeddings, bias], outputs)
        if precision == "int8":
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
        model: bytes = converter.convert()
    return model


class RowEncoder(Encoder):
    """The encoder in operations that TensorFlow Lite has, and has fast.

    Args:
        read: the variable of that name, float32.
    """

    def __init__(self, config: BertConfig, read: Read) -> None:
        import tensorflow as tf

        super().__init__(config, lambda name, dtype: tf.constant(read(name), dtype, name=name))
        self._read = read

    def normalize(self, embeddings: tf.Tensor) -> tf.Tensor:
        """[R * C, H] -> [R * C, H], what the first layer reads."""
        return self._layer_norm(embeddings, "bert/embeddings")

    def _attention(self, hidden: tf.Tensor, bias: tf.Tensor, name: str) -> tf.Tensor:
        import tensorflow as tf

        heads, size = self.config.num_attention_heads, self.config.hidden_size // self.config.num_attention_heads
        rows, width = tf.shape(bias)[0], tf.shape(bias)[3]
        # Query, key and value in one product; the scores' scale is in the query's weights.
        kernel, shift = (np.concatenate([self._read(f"{name}/query/{part}") * np.float32(1 / math.sqrt(size)),
                                         self._read(f"{name}/key/{part}"), self._read(f"{name}/value/{part}")], axis=-1)
                         for part in ("kernel", "bias"))
        projected = tf.nn.bias_add(tf.matmul(hidden, tf.constant(kernel)), tf.constant(shift))        # [R * C, 3H]
        projected = tf.transpose(tf.reshape(projected, [rows, width, 3 * heads, size]), [0, 2, 1, 3])  # [R, 3A, C, D]
        query, key, value = tf.split(projected, 3, axis=1)                                            # [R, A, C, D]
        scores = tf.matmul(query, key, transpose_b=True) + bias                                       # [R, A, C, C]
        odds = tf.exp(scores - tf.reduce_max(scores, axis=-1, keepdims=True))
        ones = tf.ones_like(bias[:, :, :, :1])                                                        # [R, 1, C, 1]
        context = tf.matmul(odds, value) / tf.matmul(odds, ones)                                      # [R, A, C, D]
        return tf.reshape(tf.transpose(context, [0, 2, 1, 3]), [-1, heads * size])

    def _layer_norm(self, hidden: tf.Tensor, name: str) -> tf.Tensor:
        import tensorflow as tf

        gamma, beta = (self._constant(f"{name}/LayerNorm/{part}", tf.float32) for part in ("gamma", "beta"))
        centred = hidden - tf.reduce_mean(hidden, axis=-1, keepdims=True)
        variance = tf.reduce_mean(centred * centred, axis=-1, keepdims=True)                          # [R * C, 1]
        return centred * tf.math.rsqrt(variance + self.config.layer_norm_eps) * gamma + beta

    def _activation(self, inputs: tf.Tensor) -> tf.Tensor:
        import tensorflow as tf

        if self.config.hidden_act == "gelu":
            return tf.nn.gelu(inputs, approximate=False)
        return super()._activation(inputs)
