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
from .quiet import import_tensorflow
from .rows import Read, input_shapes, query_key_value, sample_inputs, shared_out
from .spec import EncoderSpec, RotaryPositions, TablePositions
from .tf_encoder import Encoder

if TYPE_CHECKING:
    import tensorflow as tf

FORMAT = 8
"""To be raised with every change to the encoder or to its files."""

ENCODER, ALONE = "encoder.tflite", "encoder-alone.tflite"

MANY_TOKENS = 1024
"""Models that take more of them compute long sequences head by head: the scores of one head at a time are in memory,
which is a quarter of a gigabyte for 8192 tokens."""

POSITIONS = (TablePositions, RotaryPositions)
"""What such models have, and whose scores are the same for all heads."""


def write_encoders(directory: Path, spec: EncoderSpec, read: Read, *, layers: Sequence[int], precision: str,
                   alone: bool = False) -> None:
    """Write the converted encoder into a directory.

    Args:
        layers: the encoder layers wanted, from 0, ascending; those above the last are left out.
        precision: fp32, or int8: the weights of matrix products in 8 bits, and what they are multiplied with brought to
            8 bits token by token.
        alone: write the encoder for sequences that have rows of their own, too.
    """
    import_tensorflow()                                # Here, without what it has to say.
    largest = observe(spec, read, layers) if precision == "int8" else None
    write_file(directory / ENCODER, convert(spec, read, layers, largest))
    if alone:
        write_file(directory / ALONE, convert(spec, read, layers, largest, alone=True))


def convert(spec: EncoderSpec, read: Read, layers: Sequence[int], largest: dict[str, np.ndarray] | None = None,
            alone: bool = False) -> bytes:
    """The encoder as a TensorFlow Lite model.

    Its inputs are those of :func:`rows.input_shapes`; its outputs are the layers, float32 [R * C, H] each.

    Args:
        largest: what :func:`observe` gave, for products in 8 bits; None: in 32.
        alone: one sentence fills a row: no token is kept from another one's.
    """
    import tensorflow as tf

    graph = tf.Graph()
    with graph.as_default():
        feeds = _placeholders(spec)
        outputs = RowEncoder(spec, read, feeds, largest, alone).layers(layers)
    with tf.compat.v1.Session(graph=graph) as session:
        converter = tf.compat.v1.lite.TFLiteConverter.from_session(session, list(feeds.values()), outputs)
        if largest is not None:
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
        model: bytes = converter.convert()
    return model


def observe(spec: EncoderSpec, read: Read, layers: Sequence[int]) -> dict[str, np.ndarray]:
    """How large the inputs of matrix products become, float32 [H], by the products' names.

    Which channels are the large ones is the model's nature: any words show it as well as real text does.
    """
    import tensorflow as tf

    values = sample_inputs(spec, read)
    graph = tf.Graph()
    with graph.as_default():
        feeds = _placeholders(spec)
        encoder = RowEncoder(spec, read, feeds)
        encoder.layers(layers)
        largest = {name: tf.reduce_max(tf.abs(inputs), axis=0) for name, inputs in encoder.inputs.items()}
    with tf.compat.v1.Session(graph=graph) as session:
        result: dict[str, np.ndarray] = session.run(largest, {feeds[name]: values[name] for name in feeds})
    return result


def _placeholders(spec: EncoderSpec) -> dict[str, tf.Tensor]:
    import tensorflow as tf

    return {name: tf.compat.v1.placeholder(dtype, shape, name)
            for name, (dtype, shape) in input_shapes(spec).items()}


class RowEncoder(Encoder):
    """The encoder in operations that TensorFlow Lite has, and has fast.

    Args:
        read: the variable of that name, float32.
        feeds: the inputs of :func:`rows.input_shapes`, by name.
        largest: as :func:`observe` gives it: these products are to be computed in 8 bits.
        alone: as for :func:`convert`.

    Attributes:
        inputs: the inputs of those products, by name.
    """

    def __init__(self, spec: EncoderSpec, read: Read, feeds: dict[str, tf.Tensor],
                 largest: dict[str, np.ndarray] | None = None, alone: bool = False) -> None:
        import tensorflow as tf

        super().__init__(spec, lambda name, dtype: tf.constant(read(name), dtype, name=name))
        self._read, self._feeds, self._largest, self._alone = read, feeds, largest or {}, alone
        self.inputs: dict[str, tf.Tensor] = {}

    def layers(self, layers: Sequence[int]) -> list[tf.Tensor]:
        """The layers wanted, [R * C, H] each."""
        import tensorflow as tf

        bias = self._feeds["bias"]
        self._rows, self._width = tf.shape(bias)[0], tf.shape(bias)[3]
        # A constant 1 that the converter does not know for one: it would take a factor away from a product's inputs and
        # put it into the weights.
        self._one = bias[:1, 0, 0, 0] * 0.0 + 1.0
        self.place()
        hidden = self.enter(self._feeds["embeddings"])
        outputs = []
        for number in range(1 + layers[-1]):
            hidden = self.layer(number, hidden)
            if number in layers:
                outputs.append(tf.identity(self.output(number, hidden), f"layer_{number}"))
        return outputs

    # ---- where tokens are --------------------------------------------------------------------------------------------

    def split(self, projected: tf.Tensor, heads: int) -> tf.Tensor:
        import tensorflow as tf

        beside = tf.reshape(projected, [self._rows, self._width, heads, self.spec.head_size])
        return tf.transpose(beside, [0, 2, 1, 3])

    def merge(self, context: tf.Tensor) -> tf.Tensor:
        import tensorflow as tf

        width = self.spec.attention.heads * self.spec.head_size
        return tf.reshape(tf.transpose(context, [0, 2, 1, 3]), [-1, width])

    def bias(self, window: int | None) -> tf.Tensor:
        bias = self._feeds["bias" if window is None else f"bias_{window}"]
        return bias + self._feeds["relative"] if "relative" in self._feeds else bias

    def angles(self, number: int) -> tuple[tf.Tensor, tf.Tensor]:
        import tensorflow as tf

        shape = [self._rows, 1, self._width, self.spec.head_size // 2]
        cosine, sine = (tf.reshape(self._feeds[f"{name}_{number}"], shape) for name in ("cosine", "sine"))
        return cosine, sine

    def relative_rows(self) -> tf.Tensor:
        return self._feeds["relative_rows"]

    def attend(self, scores: tf.Tensor, value: tf.Tensor) -> tf.Tensor:
        import tensorflow as tf

        if self._alone:
            return self.ungroup(tf.matmul(self.group(tf.nn.softmax(scores)), value))                      # [R, A, C, D]
        odds = tf.exp(scores - tf.reduce_max(scores, axis=-1, keepdims=True))
        ones = tf.ones_like(self._feeds["bias"][:, :, :, :1])                                            # [R, 1, C, 1]
        return self.ungroup(tf.matmul(self.group(odds), value)) / tf.matmul(odds, ones)

    def _context(self, number: int, query: tf.Tensor, key: tf.Tensor, value: tf.Tensor, name: str) -> tf.Tensor:
        import tensorflow as tf

        if not (self._alone and self.spec.max_length > MANY_TOKENS and type(self.spec.positions) in POSITIONS):
            return super()._context(number, query, key, value, name)
        shared = self.spec.key_value_heads
        contexts: list[tf.Tensor] = []
        for of_query, of_key, of_value in zip(*(tf.split(part, shared, axis=1) for part in (query, key, value))):
            if contexts:                               # The next one waits for the one before, or all would be there.
                of_query = of_query + contexts[-1] * (self._one - 1.0)
            scores = tf.matmul(of_query, of_key, transpose_b=True) + self._biases[self.spec.window(number)]
            contexts.append(tf.matmul(tf.nn.softmax(scores), of_value))
        return tf.concat(contexts, axis=1)

    # ---- products and norms ------------------------------------------------------------------------------------------

    def _scale(self, scores: tf.Tensor) -> tf.Tensor:
        return scores                                  # It is in the queries.

    def _project(self, hidden: tf.Tensor, name: str) -> tf.Tensor:
        return self._product(hidden, *query_key_value(self._read, name, self.spec), name)

    def _relative(self, name: str) -> tf.Tensor:
        # Of constants alone, so that the converter computes it.
        return super()._relative(name) * (self.spec.scale if name.endswith("/query") else 1.0)

    def _norm(self, hidden: tf.Tensor, name: str) -> tf.Tensor:
        if not name.endswith("/query_norm"):
            return super()._norm(hidden, name)
        return super()._norm(hidden, name) * self.spec.scale

    def _dense(self, inputs: tf.Tensor, name: str) -> tf.Tensor:
        if not name.endswith(("/mlp/up", "/mlp/gate")):
            return super()._dense(inputs, name)
        bias = self._read(f"{name}/bias") if f"{name}/bias" in self._known else None
        return self._product(inputs, self._read(f"{name}/kernel"), bias, name)

    def _product(self, inputs: tf.Tensor, kernel: np.ndarray, bias: np.ndarray | None, name: str) -> tf.Tensor:
        """A product whose inputs have a few large channels, as normalized ones do.

        In 8 bits their size is shared out between inputs and weights, which halves the error.
        """
        import tensorflow as tf

        self.inputs[name] = inputs
        if name in self._largest:
            scale = shared_out(self._largest[name], kernel)
            inputs, kernel = inputs * (tf.constant(1 / scale) * self._one), kernel * scale[:, None]
        product = tf.matmul(inputs, tf.constant(kernel))
        return product if bias is None else tf.nn.bias_add(product, tf.constant(bias))

    def _activation(self, inputs: tf.Tensor) -> tf.Tensor:
        import tensorflow as tf

        if self.spec.mlp.activation == "gelu":
            return tf.nn.gelu(inputs, approximate=False)
        return super()._activation(inputs)
