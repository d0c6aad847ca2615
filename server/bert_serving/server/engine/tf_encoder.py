"""The encoder as a TensorFlow graph, for the backends that run one or make theirs of one.

In the comments on shapes, B, L, T, H, I, A and D are as in :mod:`spec`.
"""
from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from ..config import PoolingStrategy
from .pooling import GRAPH_POOLING, HEAD_STRATEGIES, POOLER_STRATEGIES
from .spec import HEAD, POSITIONS, TOKEN_TYPES, WORDS, Departure, EncoderSpec

if TYPE_CHECKING:
    import tensorflow as tf

COMPUTES = frozenset({Departure.NO_TOKEN_TYPES})
"""What :class:`Encoder` can do beside BERT's own form."""

# ---- the graph -------------------------------------------------------------------------------------------------------

MASKED = -10000.0
"""Added to the attention scores of tokens that -mask_cls_sep hides, as BERT does for all masked tokens."""

PADDED = -30000.0
"""Added to those of padding, which no sequence may see, not even one whose tokens are all hidden."""

INPUTS = {"input_ids": 1, "token_type_ids": 1, "position_ids": 1, "input_mask": 1, "places": 1, "tokens": 2,
          "lengths": 1}
"""Name of each of the graph's placeholders -> its dimensions; :func:`build_graph` says what they hold."""

FORMS = {"fp32": ("vectors",), "bf16": ("vectors", "fused", "float32"), "fp16": ("vectors", "unfused", "float32")}
"""Precision -> the ways to compute that its graph holds; the worker chooses one, see :mod:`.graph`.

- ``vectors``: dense layers and attention in that precision, with fp16 the activation too. For GPUs and XLA.
- ``fused``: with bf16 the activation too, which TensorFlow then makes a part of the product before it: exact, and much
  faster on processors that have bf16.
- ``unfused``: only the products of dense layers are in fp16, so that TensorFlow can make nothing else a part of them.
- ``float32``: all of it in float32, with weights of its own. It takes what fp32 takes, on every processor.
"""


def build_graph(spec: EncoderSpec, constant: Callable[..., tf.Tensor], *, strategy: PoolingStrategy,
                layers: Sequence[int], position_embeddings: bool = True, precision: str = "fp32") -> tf.Graph:
    """The graph from token ids to vectors, without the layers that the strategy does not need.

    Its INPUTS, int32 placeholders, describe B sequences of T tokens in all, the longest one of L:

    - ``input_ids``, ``token_type_ids``, ``position_ids``, ``input_mask`` [T]: the sequences end to end
    - ``lengths`` [B]: tokens of each
    - ``tokens`` [B, L]: the sequences beside each other, as indices into the T tokens; any index for padding
    - ``places`` [T]: where each token is among those B * L

    Its result is [B, D], or [B, L, D] for strategy NONE; float16 with precision fp16, else float32.
    A graph has one such result for each of the precision's FORMS, named after it.

    Args:
        constant: as for :class:`Encoder`.
        layers: as -pooling_layer.
    """
    import tensorflow as tf

    graph = tf.Graph()
    with graph.as_default():
        inputs = {name: tf.compat.v1.placeholder(tf.int32, [None] * rank, name) for name, rank in INPUTS.items()}
        tokens, lengths = inputs["tokens"], inputs["lengths"]
        mask = tf.gather(tf.cast(inputs["input_mask"], tf.float32), tokens)
        mask *= tf.sequence_mask(lengths, tf.shape(tokens)[1], tf.float32)                                # [B, L]
        encoder = Encoder(spec, constant, precision)
        encoder.arrange(tokens, inputs["places"])
        embeddings = encoder.embed(inputs["input_ids"], inputs["token_type_ids"],
                                   inputs["position_ids"] if position_embeddings else None)
        bias = encoder.attention_bias(mask, lengths)
        for form in FORMS[precision]:
            encoder.form = form
            hidden, outputs = embeddings, []
            for number in range(spec.layers_needed(layers, strategy in POOLER_STRATEGIES)):
                hidden = encoder.layer(number, hidden, bias)
                outputs.append(hidden)
            if strategy in POOLER_STRATEGIES:
                vectors = encoder.pooler(tf.gather(outputs[-1], tokens[:, 0]))
                if strategy in HEAD_STRATEGIES:
                    logits = encoder.logits(vectors)
                    vectors = tf.sigmoid(logits) if strategy is PoolingStrategy.REGRESSION else tf.nn.softmax(logits)
            else:
                chosen = [tf.gather(outputs[spec.layer_index(layer)], tokens) for layer in layers]      # [B, L, H]
                vectors = GRAPH_POOLING[strategy](tf.concat(chosen, axis=-1), mask, lengths)
            if precision == "fp16":                    # The maximum over no token, -1e30, would become infinite.
                limit = float(tf.float16.max)
                vectors = tf.cast(tf.clip_by_value(vectors, -limit, limit), tf.float16)
            tf.identity(vectors, form)
    return graph


class Encoder:
    """The encoder's computation, in the order in which it happens: :meth:`embed`, then :meth:`layer` by layer.

    All but attention works on the tokens of all sequences as one long list, so that padding costs nothing there.
    With precision fp16 or bf16 matrix products are in that type, and the activation between two of them, as FORMS says;
    all else, the sums over many numbers and over layers, is in float32.

    Args:
        constant: ``constant(name, dtype, *beside)`` gives a tensor of the variable of that name, in that dtype, and of
            those named after it, joined at their last axis.

    Attributes:
        form: one of the precision's FORMS.
    """

    form = "vectors"

    def __init__(self, spec: EncoderSpec, constant: Callable[..., tf.Tensor], precision: str = "fp32") -> None:
        import tensorflow as tf

        self.spec = spec
        self._dtype = {"fp32": tf.float32, "bf16": tf.bfloat16, "fp16": tf.float16}[precision]
        self._constant = constant

    @property
    def dtype(self) -> tf.DType:
        """Of the products of dense layers, and of their weights."""
        import tensorflow as tf

        return tf.float32 if self.form == "float32" else self._dtype

    def arrange(self, tokens: tf.Tensor, places: tf.Tensor) -> None:
        """Say how tokens are brought together for attention.

        Args:
            tokens: int32 [B, L], indices of tokens. places: int32 [T], where they are in there, row after row.
        """
        self._tokens, self._places = tokens, places

    def embed(self, input_ids: tf.Tensor, token_type_ids: tf.Tensor, position_ids: tf.Tensor | None) -> tf.Tensor:
        """
        Args:
            input_ids, token_type_ids, position_ids: int32 [T]; None: there are no position embeddings.
        Returns:
            float32 [T, H]
        """
        import tensorflow as tf

        hidden = tf.gather(self._constant(WORDS, tf.float32), input_ids)                                  # [T, H]
        if self.spec.embeddings.token_types:
            hidden += tf.gather(self._constant(TOKEN_TYPES, tf.float32), token_type_ids)
        if position_ids is not None:
            hidden += tf.gather(self._constant(POSITIONS, tf.float32), position_ids + self.spec.first_position)
        return self._layer_norm(hidden, "embeddings/norm")

    def attention_bias(self, mask: tf.Tensor, lengths: tf.Tensor) -> tf.Tensor:
        """What is added to the attention scores.

        Args:
            mask: float32 [B, L]. lengths: int32 [B].
        Returns:
            float32 [B, 1, 1, L]
        """
        import tensorflow as tf

        padding = 1.0 - tf.sequence_mask(lengths, tf.shape(mask)[1], tf.float32)
        # Where all tokens are hidden, MASKED would change no probability, only cost their scores three digits.
        hidden = tf.reduce_max(mask, axis=1, keepdims=True) - mask
        return (hidden * MASKED + padding * PADDED)[:, None, None, :]

    def layer(self, number: int, hidden: tf.Tensor, bias: tf.Tensor) -> tf.Tensor:
        """
        Args:
            hidden: float32 [T, H]. bias: float32 [B, 1, 1, L].
        Returns:
            float32 [T, H]
        """
        import tensorflow as tf

        name = f"layers/{number}"
        context = self._attention(hidden, bias, f"{name}/attention")                                 # [T, H]
        attended = tf.cast(self._dense(context, f"{name}/attention/output"), tf.float32) + hidden
        hidden = self._layer_norm(attended, f"{name}/attention/norm")
        inner = self._dense(hidden, f"{name}/mlp/up")                                         # [T, I]
        if self.dtype == tf.bfloat16 and self.form != "fused":
            inner = tf.cast(inner, tf.float32)
        inner = self._activation(inner)
        output = tf.cast(self._dense(inner, f"{name}/mlp/down"), tf.float32) + hidden
        return self._layer_norm(output, f"{name}/mlp/norm")

    def pooler(self, first: tf.Tensor) -> tf.Tensor:
        """
        Args:
            first: float32 [B, H], the last layer at position 0.
        Returns:
            float32 [B, H]
        """
        import tensorflow as tf

        return tf.tanh(tf.cast(self._dense(first, "pooler"), tf.float32))

    def logits(self, pooled: tf.Tensor) -> tf.Tensor:
        """The classification head of a fine-tuned model: float32 [B, H] -> [B, num_labels]."""
        import tensorflow as tf

        weights, bias = (self._constant(name, tf.float32) for name in HEAD)
        return tf.nn.bias_add(tf.matmul(pooled, weights, transpose_b=True), bias)

    def _attention(self, hidden: tf.Tensor, bias: tf.Tensor, name: str) -> tf.Tensor:
        import tensorflow as tf

        heads, size = self.spec.attention.heads, self.spec.head_size
        batch, length = tf.shape(bias)[0], tf.shape(bias)[3]
        projected = self._denses(hidden, [f"{name}/query", f"{name}/key", f"{name}/value"])               # [T, 3H]
        projected = tf.reshape(tf.gather(projected, self._tokens), [batch, length, 3, heads, size])
        query, key, value = tf.unstack(tf.transpose(projected, [2, 0, 3, 1, 4]))                          # [B, A, L, D]
        scores = tf.cast(tf.matmul(query, key, transpose_b=True), tf.float32)                             # [B, A, L, L]
        weights = tf.nn.softmax(scores * (1.0 / math.sqrt(size)) + bias)
        context = tf.matmul(tf.cast(weights, value.dtype), value)                                         # [B, A, L, D]
        context = tf.reshape(tf.transpose(context, [0, 2, 1, 3]), [-1, heads * size])                     # [B * L, H]
        return tf.gather(context, self._places)

    def _dense(self, inputs: tf.Tensor, name: str) -> tf.Tensor:
        """In ``dtype``, but for what is added to an unfused product."""
        return self._denses(inputs, [name])

    def _denses(self, inputs: tf.Tensor, names: Sequence[str]) -> tf.Tensor:
        """Several of them in one product, their results beside each other."""
        import tensorflow as tf

        kernel, bias = (self._constant(f"{names[0]}/{part}", self.dtype, *(f"{name}/{part}" for name in names[1:]))
                        for part in ("kernel", "bias"))
        product = tf.matmul(tf.cast(inputs, self.dtype), kernel)
        if self.form == "unfused":
            product, bias = tf.cast(product, tf.float32), tf.cast(bias, tf.float32)
        return tf.nn.bias_add(product, bias)

    def _layer_norm(self, hidden: tf.Tensor, name: str) -> tf.Tensor:
        import tensorflow as tf

        gamma, beta = (self._constant(f"{name}/{part}", tf.float32) for part in ("gamma", "beta"))
        mean, variance = tf.nn.moments(hidden, [-1], keepdims=True)                                       # [T, 1]
        return tf.nn.batch_normalization(hidden, mean, variance, beta, gamma, self.spec.norm.eps)

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
            case "tanh":
                return tf.tanh(inputs)
        return inputs
