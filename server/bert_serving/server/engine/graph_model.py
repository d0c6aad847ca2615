"""The encoder as a TensorFlow graph from token ids to vectors, for the backend that runs one.

In the comments on shapes, B, L, T, H, I, A and D are as in :mod:`spec`, E and K as in :mod:`tf_encoder`.
"""
from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce
from typing import TYPE_CHECKING

import numpy as np

from ..config import Pooling
from . import positions
from .heads import read_by_head
from .pooling import POOLER_STRATEGIES, graph_pool
from .spec import (POSITIONS, RELATIVE, TOKEN_TYPES, WORDS, DisentangledPositions, EncoderSpec, RelativePositions,
                   TablePositions)
from .tf_encoder import Encoder

if TYPE_CHECKING:
    import tensorflow as tf

MASKED = -10000.0
"""Added to the attention scores of tokens that -mask_cls_sep hides, as BERT does for all masked tokens."""

PADDED = -30000.0
"""Added to those of padding, which no sequence may see, not even one whose tokens are all hidden."""

INPUTS = {**dict.fromkeys(("input_ids", "token_type_ids", "position_ids", "input_mask", "pool_mask", "places"), 1),
          "tokens": 2, "lengths": 1}
"""Name of each of the graph's placeholders -> its dimensions; :func:`build_graph` says what they hold."""

FORMS = {"fp32": ("vectors",), "bf16": ("vectors", "fused", "float32"), "fp16": ("vectors", "unfused", "float32")}
"""Precision -> the ways to compute that its graph holds; the worker chooses one, see :mod:`.graph`.

- ``vectors``: dense layers and attention in that precision, with fp16 the activation too. For GPUs and XLA.
- ``fused``: with bf16 the activation too, which TensorFlow then makes a part of the product before it: exact, and much
  faster on processors that have bf16.
- ``unfused``: only the products of dense layers are in fp16, so that TensorFlow can make nothing else a part of them.
- ``float32``: all of it in float32, with weights of its own. It takes what fp32 takes, on every processor.
"""


def build_graph(spec: EncoderSpec, constant: Callable[..., tf.Tensor], *, pooling: Pooling,
                layers: Sequence[int], position_embeddings: bool = True, precision: str = "fp32") -> tf.Graph:
    """The graph from token ids to vectors, without the layers that the strategy does not need.

    Its INPUTS, int32 placeholders, describe B sequences of T tokens in all, the longest one of L:

    - ``input_ids``, ``token_type_ids``, ``position_ids``, ``input_mask``, ``pool_mask`` [T]: the sequences end to end;
      positions are rows of the table where there is one, else they count from 0; the masks are 0 where attention, or
      pooling, leaves a token out
    - ``lengths`` [B]: tokens of each
    - ``tokens`` [B, L]: the sequences beside each other, as indices into the T tokens; any index for padding
    - ``places`` [T]: where each token is among those B * L

    Its result is [B, D], or [B, L, D] for strategy NONE; float16 with precision fp16, else float32. For
    POOLER_STRATEGIES it is what the pooler or the head reads, which are computed by NumPy.
    A graph has one such result for each of the precision's FORMS, named after it.

    Args:
        constant: as for :class:`tf_encoder.Encoder`.
        layers: as -pooling_layer.
    """
    import tensorflow as tf

    strategies = pooling.strategies
    if strategies[0] in POOLER_STRATEGIES:
        strategies, layers = (read_by_head(spec, strategies[0]),), [-1]
    graph = tf.Graph()
    with graph.as_default():
        inputs = {name: tf.compat.v1.placeholder(tf.int32, [None] * rank, name) for name, rank in INPUTS.items()}
        tokens, lengths = inputs["tokens"], inputs["lengths"]
        is_token = tf.sequence_mask(lengths, tf.shape(tokens)[1], tf.float32)                             # [B, L]
        mask, pooled = (tf.gather(tf.cast(inputs[name], tf.float32), tokens) * is_token
                        for name in ("input_mask", "pool_mask"))
        encoder = GraphEncoder(spec, constant, precision)
        encoder.arrange(tokens, inputs["places"], inputs["position_ids"], mask, lengths)
        embeddings = encoder.embed(inputs["input_ids"], inputs["token_type_ids"], position_embeddings)
        for form in FORMS[precision]:
            encoder.form = form
            hidden, outputs = encoder.enter(embeddings), []
            for number in range(spec.layers_needed(layers, False)):
                hidden = encoder.layer(number, hidden)
                outputs.append(encoder.output(number, hidden))
            chosen = [tf.gather(outputs[spec.layer_index(layer)], tokens) for layer in layers]            # [B, L, H]
            vectors = graph_pool(strategies, tf.concat(chosen, axis=-1), pooled, lengths)
            if precision == "fp16":                    # The maximum over no token, -1e30, would become infinite.
                limit = float(tf.float16.max)
                vectors = tf.cast(tf.clip_by_value(vectors, -limit, limit), tf.float16)
            tf.identity(vectors, form)
    return graph


class GraphEncoder(Encoder):
    """The encoder with sequences padded to one length, for attention alone.

    With precision fp16 or bf16 matrix products are in that type, and the activation between two of them, as FORMS says;
    all else, the sums over many numbers and over layers, is in float32.

    Attributes:
        form: one of the precision's FORMS.
    """

    form = "vectors"

    def __init__(self, spec: EncoderSpec, constant: Callable[..., tf.Tensor], precision: str = "fp32") -> None:
        import tensorflow as tf

        super().__init__(spec, constant)
        self._dtype = {"fp32": tf.float32, "bf16": tf.bfloat16, "fp16": tf.float16}[precision]

    @property
    def dtype(self) -> tf.DType:
        """Of the products of dense layers, and of their weights."""
        import tensorflow as tf

        return tf.float32 if self.form == "float32" else self._dtype

    # ---- what the batch is -------------------------------------------------------------------------------------------

    def arrange(self, tokens: tf.Tensor, places: tf.Tensor, position_ids: tf.Tensor, mask: tf.Tensor,
                lengths: tf.Tensor) -> None:
        """Say where tokens are.

        Args:
            tokens, places, position_ids, lengths: as the graph's INPUTS. mask: float32 [B, L].
        """
        import tensorflow as tf

        self._tokens, self._places, self._position_ids = tokens, places, position_ids
        self._length = tf.shape(tokens)[1]
        self._seen = self._token_bias(mask, lengths)
        if isinstance(self.spec.positions, RelativePositions):
            self._seen += self._relative_bias(self.spec.positions)
        self.place()

    def embed(self, input_ids: tf.Tensor, token_type_ids: tf.Tensor, position_embeddings: bool) -> tf.Tensor:
        """
        Args:
            input_ids, token_type_ids: int32 [T].
            position_embeddings: add those of the table, if there is one.
        Returns:
            float32 [T, E], the sum of the tables.
        """
        import tensorflow as tf

        hidden = tf.gather(self._constant(WORDS, tf.float32), input_ids)                                  # [T, E]
        if self.spec.embeddings.scale != 1:
            hidden *= self.spec.embeddings.scale
        if self.spec.embeddings.token_types:
            hidden += tf.gather(self._constant(TOKEN_TYPES, tf.float32), token_type_ids)
        if position_embeddings and isinstance(self.spec.positions, TablePositions):
            hidden += tf.gather(self._constant(POSITIONS, tf.float32), self._position_ids)
        return hidden

    def _token_bias(self, mask: tf.Tensor, lengths: tf.Tensor) -> tf.Tensor:
        """What is added to the scores of hidden tokens and of padding, float32 [B, 1, 1, L]."""
        import tensorflow as tf

        padding = 1.0 - tf.sequence_mask(lengths, tf.shape(mask)[1], tf.float32)
        # Where all tokens are hidden, MASKED would change no probability, only cost their scores three digits.
        hidden = tf.reduce_max(mask, axis=1, keepdims=True) - mask
        return (hidden * MASKED + padding * PADDED)[:, None, None, :]

    def _relative_bias(self, relative: RelativePositions) -> tf.Tensor:
        """The table's biases, float32 [1, A, L, L]."""
        import tensorflow as tf

        farthest = self.spec.max_length - 1
        rows = positions.buckets(relative, np.arange(-farthest, farthest + 1))
        rows = tf.gather(tf.constant(rows), self._distances() + farthest)
        return tf.transpose(tf.gather(self._constant(RELATIVE, tf.float32), rows), [2, 0, 1])[None]

    def _distances(self) -> tf.Tensor:
        """int32 [L, L], position of the query less position of the key."""
        import tensorflow as tf

        token = tf.range(self._length)
        return token[:, None] - token

    # ---- for the encoder ---------------------------------------------------------------------------------------------

    def split(self, projected: tf.Tensor, heads: int) -> tf.Tensor:
        import tensorflow as tf

        batch = tf.shape(self._tokens)[0]
        beside = tf.reshape(tf.gather(projected, self._tokens), [batch, self._length, heads, self.spec.head_size])
        return tf.transpose(beside, [0, 2, 1, 3])

    def merge(self, context: tf.Tensor) -> tf.Tensor:
        import tensorflow as tf

        width = self.spec.attention.heads * self.spec.head_size
        context = tf.reshape(tf.transpose(context, [0, 2, 1, 3]), [-1, width])                            # [B * L, A*D]
        return tf.gather(context, self._places)

    def bias(self, window: int | None) -> tf.Tensor:
        import tensorflow as tf

        distances = self._distances()
        beyond = [distances < 0] if self.spec.attention.causal else []
        beyond += [tf.abs(distances) > window] if window is not None else []
        return self._seen + tf.where(reduce(tf.logical_or, beyond), PADDED, 0.0) if beyond else self._seen

    def angles(self, number: int) -> tuple[tf.Tensor, tf.Tensor]:
        import tensorflow as tf

        frequencies = positions.inverse_frequencies(positions.thetas(self.spec)[number], self.spec.head_size)
        angles = tf.cast(tf.gather(self._position_ids, self._tokens), tf.float32)[:, None, :, None] * frequencies
        return tf.cos(angles), tf.sin(angles)

    def relative_rows(self) -> tf.Tensor:
        import tensorflow as tf

        assert isinstance(self.spec.positions, DisentangledPositions)
        longest = self.spec.max_length
        rows = positions.disentangled_rows(self.spec.positions, np.arange(longest - 1, -longest, -1))
        return tf.constant(rows)[longest - self._length:longest + self._length - 1]

    def attend(self, scores: tf.Tensor, value: tf.Tensor) -> tf.Tensor:
        import tensorflow as tf

        odds = tf.cast(tf.nn.softmax(scores), value.dtype)
        return self.ungroup(tf.matmul(self.group(odds), value))

    def _inner(self, inputs: tf.Tensor) -> tf.Tensor:
        import tensorflow as tf

        return tf.cast(inputs, tf.float32) if self.dtype == tf.bfloat16 and self.form != "fused" else inputs

    def _product_of(self, product: tf.Tensor) -> tf.Tensor:
        return self._full(product) if self.form == "unfused" else product
