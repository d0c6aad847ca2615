"""The encoder for LiteRT, over rows of packed sequences, converted by TensorFlow once.

What is converted takes embeddings and gives the layers that are wanted (see :mod:`rows` for what is around it). Its
shapes are free, so one file, with one copy of the weights, does for all of them.

It is written such that a token's vector is the same to the last bit whatever else is computed along with it: sums over
a row's tokens are matrix products, which add one token after the other, zeros for those of other sentences. TensorFlow
Lite's own softmax adds groups of them, so that a sentence's vector would depend on its place in the row. In wide rows
it is faster, though, and a sentence that fills a row by itself has one place only: for these there is another encoder.
"""
from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .cache import write_file
from .rows import Read, query_key_value
from .spec import POSITIONS, TOKEN_TYPES, WORDS, EncoderSpec
from .tf_encoder import Encoder

if TYPE_CHECKING:
    import tensorflow as tf

FORMAT = 5
"""To be raised with every change to the encoder or to its files."""

ENCODER, ALONE = "encoder.tflite", "encoder-alone.tflite"


def write_encoders(directory: Path, spec: EncoderSpec, read: Read, *, layers: Sequence[int], precision: str,
                   alone: bool = False) -> None:
    """Write the converted encoder into a directory.

    Args:
        layers: the encoder layers wanted, from 0, ascending; those above the last are left out.
        precision: fp32, or int8: the weights of matrix products in 8 bits, and what they are multiplied with brought to
            8 bits token by token.
        alone: write the encoder for sequences that have rows of their own, too.
    """
    largest = observe(spec, read, layers) if precision == "int8" else None
    write_file(directory / ENCODER, convert(spec, read, layers, largest))
    if alone:
        write_file(directory / ALONE, convert(spec, read, layers, largest, alone=True))


def convert(spec: EncoderSpec, read: Read, layers: Sequence[int], largest: dict[str, np.ndarray] | None = None,
            alone: bool = False) -> bytes:
    """The encoder as a TensorFlow Lite model.

    Its inputs are ``embeddings``, float32 [R * C, H], not yet normalized, and ``bias``, float32 [R, 1, C, C], what is
    added to the attention scores; its outputs are the layers, float32 [R * C, H] each.

    Args:
        largest: what :func:`observe` gave, for products in 8 bits; None: in 32.
        alone: one sentence fills a row: ``bias`` is float32 [R, 1, 1, C], the same for all its tokens.
    """
    import tensorflow as tf

    graph = tf.Graph()
    with graph.as_default():
        feeds = _placeholders(spec)
        outputs = RowEncoder(spec, read, largest, alone).layers(feeds[0], feeds[1], layers)
    with tf.compat.v1.Session(graph=graph) as session:
        converter = tf.compat.v1.lite.TFLiteConverter.from_session(session, feeds, outputs)
        if largest is not None:
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
        model: bytes = converter.convert()
    return model


def observe(spec: EncoderSpec, read: Read, layers: Sequence[int]) -> dict[str, np.ndarray]:
    """How large the inputs of matrix products become, float32 [H], by the products' names.

    Which channels are the large ones is the model's nature: any words show it as well as real text does.
    """
    import tensorflow as tf

    rows, width = 16, min(32, spec.max_length)
    words = np.random.default_rng(0).integers(0, spec.vocab_size, rows * width)
    embeddings = read(WORDS)[words]
    if spec.embeddings.token_types:
        embeddings += read(TOKEN_TYPES)[0]
    embeddings += np.tile(read(POSITIONS)[spec.first_position:spec.first_position + width], (rows, 1))
    values = [embeddings, np.zeros((rows, 1, width, width), np.float32)]
    graph = tf.Graph()
    with graph.as_default():
        feeds = _placeholders(spec)
        encoder = RowEncoder(spec, read)
        encoder.layers(feeds[0], feeds[1], layers)
        largest = {name: tf.reduce_max(tf.abs(inputs), axis=0) for name, inputs in encoder.inputs.items()}
    with tf.compat.v1.Session(graph=graph) as session:
        result: dict[str, np.ndarray] = session.run(largest, dict(zip(feeds, values)))
    return result


def _placeholders(spec: EncoderSpec) -> list[tf.Tensor]:
    import tensorflow as tf

    return [tf.compat.v1.placeholder(tf.float32, [None, spec.hidden_size], "embeddings"),
            tf.compat.v1.placeholder(tf.float32, [None, 1, None, None], "bias")]


class RowEncoder(Encoder):
    """The encoder in operations that TensorFlow Lite has, and has fast.

    Args:
        read: the variable of that name, float32.
        largest: as :func:`observe` gives it: these products are to be computed in 8 bits.
        alone: as for :func:`convert`.

    Attributes:
        inputs: the inputs of those products, by name.
    """

    def __init__(self, spec: EncoderSpec, read: Read, largest: dict[str, np.ndarray] | None = None,
                 alone: bool = False) -> None:
        import tensorflow as tf

        super().__init__(spec, lambda name, dtype: tf.constant(read(name), dtype, name=name))
        self._read, self._largest, self._alone = read, largest or {}, alone
        self.inputs: dict[str, tf.Tensor] = {}

    def layers(self, embeddings: tf.Tensor, bias: tf.Tensor, layers: Sequence[int]) -> list[tf.Tensor]:
        """The layers wanted, [R * C, H] each, of embeddings that are not yet normalized."""
        import tensorflow as tf

        # A constant 1 that the converter does not know for one: it would take a factor away from a product's inputs and
        # put it into the weights.
        self._one = bias[:1, 0, 0, 0] * 0.0 + 1.0
        hidden = self._layer_norm(embeddings, "embeddings/norm")
        outputs = []
        for number in range(1 + layers[-1]):
            hidden = self.layer(number, hidden, bias)
            if number in layers:
                outputs.append(tf.identity(hidden, f"layer_{number}"))
        return outputs

    def _attention(self, hidden: tf.Tensor, bias: tf.Tensor, name: str) -> tf.Tensor:
        import tensorflow as tf

        heads, size = self.spec.attention.heads, self.spec.head_size
        rows, width = tf.shape(bias)[0], tf.shape(bias)[3]
        kernel, shift = query_key_value(self._read, name, size)
        projected = self._product(hidden, kernel, shift, name)                                        # [R * C, 3H]
        projected = tf.transpose(tf.reshape(projected, [rows, width, 3 * heads, size]), [0, 2, 1, 3])  # [R, 3A, C, D]
        query, key, value = tf.split(projected, 3, axis=1)                                            # [R, A, C, D]
        scores = tf.matmul(query, key, transpose_b=True) + bias                                       # [R, A, C, C]
        if self._alone:
            context = tf.matmul(tf.nn.softmax(scores), value)                                         # [R, A, C, D]
        else:
            odds = tf.exp(scores - tf.reduce_max(scores, axis=-1, keepdims=True))
            ones = tf.ones_like(bias[:, :, :, :1])                                                    # [R, 1, C, 1]
            context = tf.matmul(odds, value) / tf.matmul(odds, ones)
        return tf.reshape(tf.transpose(context, [0, 2, 1, 3]), [-1, heads * size])

    def _dense(self, inputs: tf.Tensor, name: str) -> tf.Tensor:
        if not name.endswith("/mlp/up"):
            return super()._dense(inputs, name)
        return self._product(inputs, self._read(f"{name}/kernel"), self._read(f"{name}/bias"), name)

    def _product(self, inputs: tf.Tensor, kernel: np.ndarray, bias: np.ndarray, name: str) -> tf.Tensor:
        """A product whose inputs have a few large channels, as normalized ones do.

        In 8 bits these would leave few values to all others. So their size is shared out between inputs and weights, as
        in Xiao et al., "SmoothQuant", 2022 (https://arxiv.org/abs/2211.10438), which halves the error.
        """
        import tensorflow as tf

        self.inputs[name] = inputs
        if name in self._largest:
            scale = np.sqrt(np.maximum(self._largest[name], 1e-6) / np.maximum(np.abs(kernel).max(axis=1), 1e-6))
            scale = (scale / np.exp(np.log(scale).mean())).astype(np.float32)
            inputs, kernel = inputs * (tf.constant(1 / scale) * self._one), kernel * scale[:, None]
        return tf.nn.bias_add(tf.matmul(inputs, tf.constant(kernel)), tf.constant(bias))

    def _layer_norm(self, hidden: tf.Tensor, name: str) -> tf.Tensor:
        import tensorflow as tf

        gamma, beta = (self._constant(f"{name}/{part}", tf.float32) for part in ("gamma", "beta"))
        centred = hidden - tf.reduce_mean(hidden, axis=-1, keepdims=True)
        variance = tf.reduce_mean(centred * centred, axis=-1, keepdims=True)                          # [R * C, 1]
        return centred * tf.math.rsqrt(variance + self.spec.norm.eps) * gamma + beta

    def _activation(self, inputs: tf.Tensor) -> tf.Tensor:
        import tensorflow as tf

        if self.spec.mlp.activation == "gelu":
            return tf.nn.gelu(inputs, approximate=False)
        return super()._activation(inputs)
