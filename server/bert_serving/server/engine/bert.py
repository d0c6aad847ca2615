"""BERT's encoder as a TensorFlow graph, and the configuration that describes it.

Devlin et al., "BERT: Pre-training of Deep Bidirectional Transformers for Language Understanding", 2018
(https://arxiv.org/abs/1810.04805). Names are the paper's, the checkpoint's and the configuration file's. In the
comments on shapes:

    B = sequences of the batch      H = hidden_size               A = num_attention_heads
    L = tokens of the longest one   I = intermediate_size         D = H / A, size of one head
    T = tokens of all of them
"""
from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bert_serving.client.words import counted

from ..config import PoolingStrategy
from ..core.files import read_json
from ..errors import ModelError
from .pooling import GRAPH_POOLING, HEAD_STRATEGIES, POOLER_STRATEGIES

if TYPE_CHECKING:
    import tensorflow as tf

ACTIVATIONS = ("gelu", "gelu_new", "relu", "tanh", "linear")
"""Values of hidden_act. "gelu" is the exact one, with erf; "gelu_new" is its approximation with tanh."""


LARGEST_SIZE = 100_000
LARGEST = {"num_hidden_layers": 1000, "vocab_size": 10_000_000}
"""Of the numbers in a configuration: far more than any model has, and little enough to count with."""


# ---- configuration ---------------------------------------------------------------------------------------------------

@dataclass(frozen=True, kw_only=True)
class BertConfig:
    """The shape of a BERT model, under the names of ``bert_config.json`` and of Hugging Face's ``config.json``."""

    vocab_size: int
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    max_position_embeddings: int = 512
    type_vocab_size: int = 16
    layer_norm_eps: float = 1e-12

    @classmethod
    def from_file(cls, path: str | Path) -> BertConfig:
        """
        Raises:
            ModelError: the file cannot be read, or does not describe a BERT model.
        """
        try:
            values = read_json(path)
        except OSError as error:
            raise ModelError(f"cannot read the model's configuration {path}: {error.strerror}") from error
        except ValueError as error:
            raise ModelError(f"the model's configuration {path} is not JSON: {error}") from error
        if not isinstance(values, dict):
            raise ModelError(f"the model's configuration {path} is not a JSON object")
        try:
            return cls.from_values(values)
        except ValueError as error:
            raise ModelError(f"{path}: {error}") from error

    @classmethod
    def from_values(cls, values: Mapping[str, Any]) -> BertConfig:
        """Unknown keys are ignored.

        Raises:
            ValueError: naming the key that is missing or whose value cannot be.
        """
        if values.get("model_type", "bert") != "bert":
            raise ValueError(f"model_type is {values['model_type']!r}; only 'bert' models can be served")
        if values.get("position_embedding_type", "absolute") != "absolute":
            raise ValueError(f"position_embedding_type is {values['position_embedding_type']!r}, expected 'absolute'")
        known: dict[str, Any] = {}
        if "model_type" in values:                     # Hugging Face's own default differs from Google's here.
            known["type_vocab_size"] = 2
        for f in fields(cls):
            if f.name not in values:
                if f.default is MISSING:
                    raise ValueError(f"{f.name} is missing")
                continue
            value = values[f.name]
            if f.name == "hidden_act":
                if value not in ACTIVATIONS:
                    raise ValueError(f"hidden_act is {value!r}; choose from {', '.join(ACTIVATIONS)}")
            elif isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf:
                raise ValueError(f"{f.name} is {value!r}, expected a number above 0")
            elif f.name != "layer_norm_eps":
                if value != int(value):
                    raise ValueError(f"{f.name} is {value!r}, expected a whole number")
                if value > LARGEST.get(f.name, LARGEST_SIZE):
                    raise ValueError(f"{f.name} is {value!r}, expected {LARGEST.get(f.name, LARGEST_SIZE)} at most")
                value = int(value)
            known[f.name] = value
        config = cls(**known)
        if config.hidden_size % config.num_attention_heads:
            raise ValueError(f"hidden_size {config.hidden_size} is not a multiple of num_attention_heads "
                             f"{config.num_attention_heads}")
        return config

    def layer_index(self, layer: int) -> int:
        """The encoder layer, from 0, that -pooling_layer means by this number, which counts from the end below 0.

        Raises:
            ValueError: the model has no such layer.
        """
        layers = self.num_hidden_layers
        if not -layers <= layer < layers:
            raise ValueError(f"-pooling_layer {layer} does not exist in a model of {counted(layers, 'layer')}; "
                             f"expected {-layers} (first) to -1 (last), or 0 (first) to {layers - 1} (last)")
        return layer % layers


def layers_needed(config: BertConfig, layers: Sequence[int], pooler: bool) -> int:
    """How many encoder layers, from the first, must be computed; the pooler reads the last."""
    return config.num_hidden_layers if pooler else 1 + max(config.layer_index(layer) for layer in layers)


def variables(config: BertConfig, *, pooler: bool = False,
              num_labels: int | None = None) -> dict[str, tuple[int, ...]]:
    """Name -> shape of every variable that a model of this configuration has, as in Google's checkpoints.

    Args:
        num_labels: rows of a fine-tuned model's output_weights; None: it has none.
    """
    hidden, inner = config.hidden_size, config.intermediate_size
    shapes: dict[str, tuple[int, ...]] = {
        "bert/embeddings/word_embeddings": (config.vocab_size, hidden),
        "bert/embeddings/token_type_embeddings": (config.type_vocab_size, hidden),
        "bert/embeddings/position_embeddings": (config.max_position_embeddings, hidden),
    }
    denses: list[tuple[str, int, int]] = []
    norms = ["bert/embeddings"]
    for number in range(config.num_hidden_layers):
        layer = f"bert/encoder/layer_{number}"
        denses += [(f"{layer}/attention/self/{name}", hidden, hidden) for name in ("query", "key", "value")]
        denses += [(f"{layer}/attention/output/dense", hidden, hidden),
                   (f"{layer}/intermediate/dense", hidden, inner), (f"{layer}/output/dense", inner, hidden)]
        norms += [f"{layer}/attention/output", f"{layer}/output"]
    if pooler:
        denses.append(("bert/pooler/dense", hidden, hidden))
    for name, rows, columns in denses:
        shapes[f"{name}/kernel"] = (rows, columns)
        shapes[f"{name}/bias"] = (columns,)
    for name in norms:
        shapes[f"{name}/LayerNorm/gamma"] = shapes[f"{name}/LayerNorm/beta"] = (hidden,)
    if num_labels is not None:
        shapes["output_weights"] = (num_labels, hidden)
        shapes["output_bias"] = (num_labels,)
    return shapes


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


def build_graph(config: BertConfig, constant: Callable[..., tf.Tensor], *, strategy: PoolingStrategy,
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
        encoder = Encoder(config, constant, precision)
        encoder.arrange(tokens, inputs["places"])
        embeddings = encoder.embed(inputs["input_ids"], inputs["token_type_ids"],
                                   inputs["position_ids"] if position_embeddings else None)
        bias = encoder.attention_bias(mask, lengths)
        for form in FORMS[precision]:
            encoder.form = form
            hidden, outputs = embeddings, []
            for number in range(layers_needed(config, layers, strategy in POOLER_STRATEGIES)):
                hidden = encoder.layer(number, hidden, bias)
                outputs.append(hidden)
            if strategy in POOLER_STRATEGIES:
                vectors = encoder.pooler(tf.gather(outputs[-1], tokens[:, 0]))
                if strategy in HEAD_STRATEGIES:
                    logits = encoder.logits(vectors)
                    vectors = tf.sigmoid(logits) if strategy is PoolingStrategy.REGRESSION else tf.nn.softmax(logits)
            else:
                chosen = [tf.gather(outputs[config.layer_index(layer)], tokens) for layer in layers]      # [B, L, H]
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

    def __init__(self, config: BertConfig, constant: Callable[..., tf.Tensor], precision: str = "fp32") -> None:
        import tensorflow as tf

        self.config = config
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

        name = "bert/embeddings"
        hidden = tf.gather(self._constant(f"{name}/word_embeddings", tf.float32), input_ids)              # [T, H]
        hidden += tf.gather(self._constant(f"{name}/token_type_embeddings", tf.float32), token_type_ids)
        if position_ids is not None:
            hidden += tf.gather(self._constant(f"{name}/position_embeddings", tf.float32), position_ids)
        return self._layer_norm(hidden, name)

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

        name = f"bert/encoder/layer_{number}"
        context = self._attention(hidden, bias, f"{name}/attention/self")                                 # [T, H]
        attended = tf.cast(self._dense(context, f"{name}/attention/output/dense"), tf.float32) + hidden
        hidden = self._layer_norm(attended, f"{name}/attention/output")
        inner = self._dense(hidden, f"{name}/intermediate/dense")                                         # [T, I]
        if self.dtype == tf.bfloat16 and self.form != "fused":
            inner = tf.cast(inner, tf.float32)
        inner = self._activation(inner)
        output = tf.cast(self._dense(inner, f"{name}/output/dense"), tf.float32) + hidden
        return self._layer_norm(output, f"{name}/output")

    def pooler(self, first: tf.Tensor) -> tf.Tensor:
        """
        Args:
            first: float32 [B, H], the last layer at position 0.
        Returns:
            float32 [B, H]
        """
        import tensorflow as tf

        return tf.tanh(tf.cast(self._dense(first, "bert/pooler/dense"), tf.float32))

    def logits(self, pooled: tf.Tensor) -> tf.Tensor:
        """The classification head of a fine-tuned model: float32 [B, H] -> [B, num_labels]."""
        import tensorflow as tf

        weights, bias = (self._constant(name, tf.float32) for name in ("output_weights", "output_bias"))
        return tf.nn.bias_add(tf.matmul(pooled, weights, transpose_b=True), bias)

    def _attention(self, hidden: tf.Tensor, bias: tf.Tensor, name: str) -> tf.Tensor:
        import tensorflow as tf

        heads, size = self.config.num_attention_heads, self.config.hidden_size // self.config.num_attention_heads
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

        gamma, beta = (self._constant(f"{name}/LayerNorm/{part}", tf.float32) for part in ("gamma", "beta"))
        mean, variance = tf.nn.moments(hidden, [-1], keepdims=True)                                       # [T, 1]
        return tf.nn.batch_normalization(hidden, mean, variance, beta, gamma, self.config.layer_norm_eps)

    def _activation(self, inputs: tf.Tensor) -> tf.Tensor:
        import tensorflow as tf

        match self.config.hidden_act:
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
