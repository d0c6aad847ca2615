"""The encoder in TensorFlow's operations, for the backends that run a graph of it or make theirs of one.

It computes every :class:`spec.EncoderSpec`. In the comments on shapes, B, L, T, H, I, A and D are as in :mod:`spec`;
E is the width of the embeddings' tables, and K the number of heads of keys and values.
"""
from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from . import positions
from .spec import (FINAL_NORM, PROJECTION, RELATIVE, RELATIVE_NORM, Departure, DisentangledPositions, EncoderSpec,
                   Placement, RotaryPositions, variables)

if TYPE_CHECKING:
    import tensorflow as tf

COMPUTES = frozenset(Departure)
"""What :class:`Encoder` can do beside BERT's own form: all that there is."""


class Encoder(ABC):
    """The computation in the order in which it happens: :meth:`enter`, then :meth:`layer` and :meth:`output` by layer.

    All but attention works on the tokens of all sequences as one long list, so that padding costs nothing there.

    Args:
        constant: ``constant(name, dtype, *beside)`` gives a tensor of the variable of that name, in that dtype, and of
            those named after it, joined at their last axis.
    """

    def __init__(self, spec: EncoderSpec, constant: Callable[..., tf.Tensor]) -> None:
        self.spec = spec
        self._constant = constant
        self._known = variables(spec)

    @property
    def dtype(self) -> tf.DType:
        """Of the products of dense layers, and of their weights."""
        import tensorflow as tf

        return tf.float32

    # ---- what a subclass knows ---------------------------------------------------------------------------------------

    @abstractmethod
    def split(self, projected: tf.Tensor, heads: int) -> tf.Tensor:
        """[T, heads * D] -> [B, heads, L, D], the sequences beside each other."""

    @abstractmethod
    def merge(self, context: tf.Tensor) -> tf.Tensor:
        """[B, A, L, D] -> [T, A * D]"""

    @abstractmethod
    def bias(self, window: int | None) -> tf.Tensor:
        """What is added to the attention scores of layers with that window, float32, of a shape that goes with
        [B, A, L, L]."""

    @abstractmethod
    def angles(self, number: int) -> tuple[tf.Tensor, tf.Tensor]:
        """Cosine and sine of the tokens' angles for one of :func:`positions.thetas`, float32 [B, 1, L, D / 2]."""

    @abstractmethod
    def relative_rows(self) -> tf.Tensor:
        """int32 [2 * L - 1], rows of the table of relative positions for the distances L - 1, the query being on the
        right of the key, down to 1 - L."""

    @abstractmethod
    def attend(self, scores: tf.Tensor, value: tf.Tensor) -> tf.Tensor:
        """Softmax of scores that are biased already, float32 [B, A, L, L], times values, [B, K, L, D]: [B, A, L, D]."""

    # ---- the computation ---------------------------------------------------------------------------------------------

    def place(self) -> None:
        """Compute, once for all layers, what depends on where tokens are: the subclass knows it by now."""
        self._biases = {window: self.bias(window) for window in dict.fromkeys(map(self.spec.window,
                                                                                  range(self.spec.num_layers)))}
        self._angles = {theta: self.angles(number) for number, theta in enumerate(positions.thetas(self.spec))}

    def enter(self, embeddings: tf.Tensor) -> tf.Tensor:
        """What the first layer reads, float32 [T, H], of the sum of the tables, [T, E]."""
        hidden = self._norm(embeddings, "embeddings/norm") if self.spec.embeddings.norm else embeddings
        return self._full(self._dense(hidden, PROJECTION)) if self.spec.projects else hidden

    def layer(self, number: int, hidden: tf.Tensor) -> tf.Tensor:
        """float32 [T, H] -> [T, H]"""
        name = f"layers/{self.spec.weights_of(number)}"
        hidden = self._add(hidden, f"{name}/attention",
                           lambda read: self._attention(number, read, f"{name}/attention"))
        return self._add(hidden, f"{name}/mlp", lambda read: self._mlp(read, f"{name}/mlp"))

    def output(self, number: int, hidden: tf.Tensor) -> tf.Tensor:
        """A layer as it leaves the encoder: the last one through the final norm, if there is one."""
        is_last = number == self.spec.num_layers - 1
        return self._norm(hidden, FINAL_NORM) if self.spec.norm.final and is_last else hidden

    def _add(self, hidden: tf.Tensor, name: str, compute: Callable[[tf.Tensor], tf.Tensor]) -> tf.Tensor:
        """Attention or MLP, added to what it reads, with norms where the spec has them."""
        placement = self.spec.norm.placement
        if placement is Placement.AFTER:
            return self._norm(self._full(compute(hidden)) + hidden, f"{name}/norm")
        has_norm = f"{name}/norm/gamma" in self._known
        result = self._full(compute(self._norm(hidden, f"{name}/norm") if has_norm else hidden))
        return hidden + (self._norm(result, f"{name}/output_norm") if placement is Placement.AROUND else result)

    def _mlp(self, hidden: tf.Tensor, name: str) -> tf.Tensor:
        if not self.spec.mlp.gated:
            return self._dense(self._activation(self._inner(self._dense(hidden, f"{name}/up"))), f"{name}/down")
        inner = self._activation(self._inner(self._dense(hidden, f"{name}/gate")))                        # [T, I]
        return self._dense(inner * self._inner(self._dense(hidden, f"{name}/up")), f"{name}/down")

    def _attention(self, number: int, hidden: tf.Tensor, name: str) -> tf.Tensor:
        query, key, value = self._query_key_value(number, hidden, name)
        return self._dense(self.merge(self._context(number, query, key, value, name)), f"{name}/output")

    def _context(self, number: int, query: tf.Tensor, key: tf.Tensor, value: tf.Tensor, name: str) -> tf.Tensor:
        """What tokens take from each other, [B, A, L, D]."""
        import tensorflow as tf

        scores = self._full(self.ungroup(tf.matmul(self.group(query), key, transpose_b=True)))
        if isinstance(self.spec.positions, DisentangledPositions):
            scores += self._disentangled(query, key, name)
        return self.attend(self._scale(scores) + self._biases[self.spec.window(number)], value)

    def _query_key_value(self, number: int, hidden: tf.Tensor, name: str) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """[B, A, L, D], and twice [B, K, L, D]: normalized and turned as the spec says."""
        import tensorflow as tf

        heads, shared = self.spec.attention.heads, self.spec.key_value_heads
        projected = self.split(self._project(hidden, name), heads + 2 * shared)
        query, key, value = tf.split(projected, 3 if shared == heads else [heads, shared, shared], axis=1)
        if self.spec.attention.qk_norm:
            query, key = (self._norm(self._full(part), f"{name}/{which}_norm")
                          for part, which in ((query, "query"), (key, "key")))
        if isinstance(self.spec.positions, RotaryPositions):
            cosine, sine = self._angles[self.spec.positions.thetas[number]]
            query, key = (rotate(self._full(part), cosine, sine) for part in (query, key))
        return tf.cast(query, value.dtype), tf.cast(key, value.dtype), value

    def _disentangled(self, query: tf.Tensor, key: tf.Tensor, name: str) -> tf.Tensor:
        """Scores of content with positions and of positions with content, float32 [B, A, L, L]."""
        import tensorflow as tf

        rows = self.relative_rows()
        as_keys, as_queries = (tf.gather(self._relative(f"{name}/{which}"), rows, axis=1)                 # [A, 2L-1, D]
                               for which in ("key", "query"))
        content = with_table(query, tf.cast(as_keys, query.dtype))
        # Seen from the keys, distances run the other way.
        placed = with_table(key, tf.cast(tf.reverse(as_queries, [1]), key.dtype))
        return self._full(skew(content)) + tf.transpose(self._full(skew(placed)), [0, 1, 3, 2])

    def _relative(self, name: str) -> tf.Tensor:
        """The table of relative positions as keys, or as queries, [A, rows, D]."""
        import tensorflow as tf

        table = self._norm(self._constant(RELATIVE, tf.float32), RELATIVE_NORM)
        projected = tf.reshape(self._dense(table, name), [-1, self.spec.attention.heads, self.spec.head_size])
        return tf.transpose(projected, [1, 0, 2])

    # ---- heads that share keys and values ----------------------------------------------------------------------------

    def group(self, inputs: tf.Tensor) -> tf.Tensor:
        """[B, A, L, X] -> [B, K, A / K * L, X], those that share keys one below the other."""
        import tensorflow as tf

        shared = self.spec.key_value_heads
        if shared == self.spec.attention.heads:
            return inputs
        shape = tf.shape(inputs)
        return tf.reshape(inputs, [shape[0], shared, self.spec.attention.heads // shared * shape[2], shape[3]])

    def ungroup(self, grouped: tf.Tensor) -> tf.Tensor:
        """The way back from :meth:`group`."""
        import tensorflow as tf

        heads, shared = self.spec.attention.heads, self.spec.key_value_heads
        if shared == heads:
            return grouped
        shape = tf.shape(grouped)
        return tf.reshape(grouped, [shape[0], heads, shape[2] // (heads // shared), shape[3]])

    # ---- steps, which subclasses may take in another way -------------------------------------------------------------

    def _full(self, inputs: tf.Tensor) -> tf.Tensor:
        """In float32."""
        import tensorflow as tf

        return tf.cast(inputs, tf.float32)

    def _inner(self, inputs: tf.Tensor) -> tf.Tensor:
        """What is between the products of the MLP, in the type in which it is activated."""
        return inputs

    def _scale(self, scores: tf.Tensor) -> tf.Tensor:
        return scores * self.spec.scale

    def _project(self, hidden: tf.Tensor, name: str) -> tf.Tensor:
        """Queries, keys and values beside each other, [T, (A + 2 * K) * D]."""
        return self._denses(hidden, [f"{name}/query", f"{name}/key", f"{name}/value"])

    def _dense(self, inputs: tf.Tensor, name: str) -> tf.Tensor:
        return self._denses(inputs, [name])

    def _denses(self, inputs: tf.Tensor, names: Sequence[str]) -> tf.Tensor:
        """Several products in one, their results beside each other."""
        import tensorflow as tf

        kernel, bias = (self._constant(f"{names[0]}/{part}", self.dtype, *(f"{name}/{part}" for name in names[1:]))
                        if f"{names[0]}/{part}" in self._known else None for part in ("kernel", "bias"))
        product = self._product_of(tf.matmul(tf.cast(inputs, self.dtype), kernel))
        return product if bias is None else tf.nn.bias_add(product, tf.cast(bias, product.dtype))

    def _product_of(self, product: tf.Tensor) -> tf.Tensor:
        """A product of matrices, in the type in which its bias is added."""
        return product

    def _norm(self, hidden: tf.Tensor, name: str) -> tf.Tensor:
        import tensorflow as tf

        gamma, beta = (self._constant(f"{name}/{part}", tf.float32) if f"{name}/{part}" in self._known else None
                       for part in ("gamma", "beta"))
        if not self.spec.norm.rms:
            return self._layer_norm(hidden, gamma, beta)
        mean_square = tf.reduce_mean(hidden * hidden, axis=-1, keepdims=True)
        return hidden * tf.math.rsqrt(mean_square + self.spec.norm.eps) * gamma

    def _layer_norm(self, hidden: tf.Tensor, gamma: tf.Tensor, beta: tf.Tensor | None) -> tf.Tensor:
        import tensorflow as tf

        # Not tf.nn.batch_normalization: that subtracts two products, and loses digits where the mean is large.
        centred = hidden - tf.reduce_mean(hidden, axis=-1, keepdims=True)
        variance = tf.reduce_mean(centred * centred, axis=-1, keepdims=True)                              # [T, 1]
        normalized = centred * tf.math.rsqrt(variance + self.spec.norm.eps) * gamma
        return normalized if beta is None else normalized + beta

    def _activation(self, inputs: tf.Tensor) -> tf.Tensor:
        import tensorflow as tf

        match self.spec.mlp.activation:
            case "gelu":
                # TensorFlow knows this form; see test_graph.py.
                return inputs * (0.5 * (1.0 + tf.math.erf(inputs * math.sqrt(0.5))))
            case "gelu_new":
                return tf.nn.gelu(inputs, approximate=True)
            case "relu":
                return tf.nn.relu(inputs)
            case "silu":
                return inputs * tf.sigmoid(inputs)
            case "tanh":
                return tf.tanh(inputs)
        return inputs


def rotate(inputs: tf.Tensor, cosine: tf.Tensor, sine: tf.Tensor) -> tf.Tensor:
    """Pairs of numbers, half a head apart, turned by angles: [..., D], the angles being [..., D / 2]."""
    import tensorflow as tf

    left, right = tf.split(inputs, 2, axis=-1)
    return tf.concat([left * cosine - right * sine, right * cosine + left * sine], axis=-1)


def with_table(inputs: tf.Tensor, table: tf.Tensor) -> tf.Tensor:
    """Products of each token with the rows of a table, which is the same for all sequences.

    Args:
        inputs: [B, A, L, D].
        table: [A, R, D].
    Returns:
        [B, A, L, R]
    """
    import tensorflow as tf

    # TensorFlow 2.21 with oneDNN writes where it must not if the table of a single head is for several sequences.
    single = table.shape[0] == 1
    return tf.matmul(inputs, tf.tile(table[None], [tf.shape(inputs)[0], 1, 1, 1]) if single else table,
                     transpose_b=True)


def skew(by_distance: tf.Tensor) -> tf.Tensor:
    """[B, A, L, 2 * L - 1] -> [B, A, L, L]: of row i what begins at column L - 1 - i.

    A column more, then read as rows that are one shorter, and every row begins one later, as in Huang et al., "Music
    Transformer", 2018 (https://arxiv.org/abs/1809.04281).
    """
    import tensorflow as tf

    shape = tf.shape(by_distance)
    batch, heads, length = shape[0], shape[1], shape[2]
    flat = tf.reshape(tf.pad(by_distance, [[0, 0], [0, 0], [0, 0], [0, 1]]), [batch, heads, 2 * length * length])
    flat = flat[:, :, length - 1:2 * length * length - 1]
    return tf.reshape(flat, [batch, heads, length, 2 * length - 1])[:, :, :, :length]
