"""What an encoder computes, as data: architectures make an :class:`EncoderSpec`, backends read it.

Devlin et al., "BERT: Pre-training of Deep Bidirectional Transformers for Language Understanding", 2018
(https://arxiv.org/abs/1810.04805), is the form that all defaults describe. Whatever differs from it is one of the
:class:`Departure`, so that a backend can say which ones it computes, and none is ignored.

Shapes in comments, here and in the backends:

    B = sequences of the batch      H = hidden_size               A = attention.heads
    L = tokens of the longest one   I = mlp.size                  D = attention.head_size
    T = tokens of all of them
"""
from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum

from bert_serving.client.words import counted

ACTIVATIONS = ("gelu", "gelu_new", "relu", "silu", "tanh", "linear")
"""Of an MLP or a head. "gelu" is the exact one, with erf; "gelu_new" is its approximation with tanh."""


class Departure(Enum):
    """In what an encoder differs from BERT; the value is how the log says it."""

    NO_TOKEN_TYPES = "no token types"
    PROJECTED_EMBEDDINGS = "projected embeddings"
    SCALED_EMBEDDINGS = "scaled embeddings"
    UNNORMALIZED_EMBEDDINGS = "embeddings without a norm"
    POSITION_OFFSET = "positions that do not begin at 0"
    ROTARY_POSITIONS = "rotary positions"
    RELATIVE_POSITIONS = "relative position buckets"
    DISENTANGLED_POSITIONS = "disentangled positions"
    RMS_NORM = "RMS norm"
    NORM_WITHOUT_BIAS = "norms without bias"
    NORM_BEFORE = "norms before attention and MLP"
    NORM_AROUND = "norms before and after attention and MLP"
    NO_FIRST_NORM = "no norm before the first attention"
    FINAL_NORM = "a norm after the last layer"
    GROUPED_HEADS = "grouped key-value heads"
    HEAD_SIZE = "heads of another size than hidden_size / heads"
    ATTENTION_WITHOUT_BIAS = "attention without bias"
    ATTENTION_SCALE = "attention scores of another scale"
    CAUSAL = "causal attention"
    WINDOWS = "local attention windows"
    QK_NORM = "norms on queries and keys"
    GATED_MLP = "a gated MLP"
    MLP_WITHOUT_BIAS = "an MLP without bias"
    MLP_WITHOUT_DOWN_BIAS = "an MLP without bias on its second product"
    SHARED_LAYERS = "layers that share weights"


@dataclass(frozen=True, kw_only=True)
class Embeddings:
    """
    Attributes:
        token_types: rows of the table of token types; 0: there is none.
        size: of an embedding, which is then projected to hidden_size; None: it is that, and not projected.
        scale: what word embeddings are multiplied with.
        norm: whether their sum is normalized.
    """

    token_types: int = 2
    size: int | None = None
    scale: float = 1.0
    norm: bool = True


@dataclass(frozen=True, kw_only=True)
class TablePositions:
    """A table of learned positions, added to the embeddings.

    Attributes:
        rows: of the table.
        first: row of a sequence's first token.
        pad_id: a token of this id, which only somebody who writes it can bring, reads the row before ``first`` and is
            not counted, as RoBERTa has it; None: it is a token as any other.
    """

    rows: int = 512
    first: int = 0
    pad_id: int | None = None


@dataclass(frozen=True, kw_only=True)
class RotaryPositions:
    """Su et al., "RoFormer", 2021 (https://arxiv.org/abs/2104.09864).

    Attributes:
        thetas: base of the angles, for each layer.
        max_length: tokens that a sequence can have.
    """

    thetas: tuple[float, ...]
    max_length: int


@dataclass(frozen=True, kw_only=True)
class RelativePositions(TablePositions):
    """Beside that table, a bias of the scores by the distance of two tokens, the same for all layers.

    Raffel et al., "T5", 2019 (https://arxiv.org/abs/1910.10683), with distances to both sides.

    Attributes:
        buckets: of distances.
        max_distance: beyond it all distances share a bucket.
    """

    buckets: int = 32
    max_distance: int = 128


@dataclass(frozen=True, kw_only=True)
class DisentangledPositions:
    """Scores of content with positions and of positions with content, beside those of content with content.

    He et al., "DeBERTa", 2020 (https://arxiv.org/abs/2006.03654), with the buckets of its second version.

    Attributes:
        buckets: of distances to either side.
        max_distance: beyond it all distances share a bucket.
        max_length: tokens that a sequence can have.
    """

    buckets: int
    max_distance: int
    max_length: int


Positions = TablePositions | RotaryPositions | DisentangledPositions


class Placement(Enum):
    """Where norms are, f being attention or MLP."""

    AFTER = "norm(x + f(x))"
    BEFORE = "x + f(norm(x))"
    AROUND = "x + norm(f(norm(x)))"


@dataclass(frozen=True, kw_only=True)
class Norm:
    """
    Attributes:
        rms: it divides by the root mean square instead of the standard deviation around the mean.
        first: the first layer's attention has a norm before it, as all others.
        final: there is one after the last layer.
    """

    eps: float = 1e-12
    rms: bool = False
    bias: bool = True
    placement: Placement = Placement.AFTER
    first: bool = True
    final: bool = False


@dataclass(frozen=True, kw_only=True)
class Attention:
    """
    Attributes:
        key_value_heads: heads of keys and values, each for several queries; None: as many as heads.
        head_size: None: hidden_size / heads.
        scale: of the scores; None: 1 / sqrt(head_size).
        windows: for each layer how far a token sees to either side; None: to the ends. Empty: all see all.
        qk_norm: queries and keys are normalized, head by head.
    """

    heads: int = 12
    key_value_heads: int | None = None
    head_size: int | None = None
    bias: bool = True
    scale: float | None = None
    causal: bool = False
    windows: tuple[int | None, ...] = ()
    qk_norm: bool = False


@dataclass(frozen=True, kw_only=True)
class Mlp:
    """
    Attributes:
        size: between its two products.
        activation: one of ACTIVATIONS.
        gated: the product that is activated is another one, which the first is multiplied with.
        bias, down_bias: of the first products, and of the last one.
    """

    size: int = 3072
    activation: str = "gelu"
    gated: bool = False
    bias: bool = True
    down_bias: bool = True


@dataclass(frozen=True, kw_only=True)
class Head:
    """What a fine-tuned model computes of the last layer: logits = dense(activation(dense(pooled))).

    Attributes:
        pooler: the first product is the encoder's pooler.
        mean: it reads the mean of all tokens instead of the first one.
        bias: of the first product.
        norm: what is activated is normalized.
    """

    pooler: bool = False
    activation: str = "tanh"
    mean: bool = False
    bias: bool = True
    norm: bool = False


@dataclass(frozen=True, kw_only=True)
class EncoderSpec:
    """An encoder, from token ids to layers.

    Attributes:
        layer_weights: for each layer the number of the weights that it uses, which may be of several parts, as "0.1";
            empty: each layer has its own.
        pooler: whether such a model can have BERT's pooler, tanh(dense(last layer at position 0)).
        head: of such a model that is fine-tuned to classify; None: there are none.
    """

    vocab_size: int
    hidden_size: int = 768
    num_layers: int = 12
    embeddings: Embeddings = field(default_factory=Embeddings)
    positions: Positions = field(default_factory=TablePositions)
    norm: Norm = field(default_factory=Norm)
    attention: Attention = field(default_factory=Attention)
    mlp: Mlp = field(default_factory=Mlp)
    layer_weights: tuple[str, ...] = ()
    pooler: bool = True
    head: Head | None = Head(pooler=True)

    @property
    def head_size(self) -> int:
        return self.attention.head_size or self.hidden_size // self.attention.heads

    @property
    def max_length(self) -> int:
        """Tokens that a sequence can have."""
        if isinstance(self.positions, TablePositions):
            return self.positions.rows - self.positions.first
        return self.positions.max_length

    @property
    def first_position(self) -> int:
        """Row of the position table that a sequence's first token reads."""
        return self.positions.first if isinstance(self.positions, TablePositions) else 0

    @property
    def has_only_a_position_table(self) -> bool:
        """Whether positions are a table, and nothing else."""
        return type(self.positions) is TablePositions

    @property
    def key_value_heads(self) -> int:
        return self.attention.key_value_heads or self.attention.heads

    @property
    def scale(self) -> float:
        """What attention scores are multiplied with."""
        return self.attention.scale or self.head_size ** -0.5

    @property
    def projects(self) -> bool:
        """Whether embeddings, once normalized, are projected to hidden_size."""
        return bool(self.embeddings.size)

    def weights_of(self, layer: int) -> str:
        """The number of the weights that a layer, from 0, uses."""
        return self.layer_weights[layer] if self.layer_weights else str(layer)

    def window(self, layer: int) -> int | None:
        """How far a token sees to either side in a layer; None: to the ends."""
        return self.attention.windows[layer] if self.attention.windows else None

    @property
    def departures(self) -> frozenset[Departure]:
        """In what this encoder differs from BERT."""
        return frozenset(departure for departure, differs in self._differences() if differs)

    def _differences(self) -> Iterator[tuple[Departure, bool]]:
        embeddings, norm, attention, mlp = self.embeddings, self.norm, self.attention, self.mlp
        yield Departure.NO_TOKEN_TYPES, not embeddings.token_types
        yield Departure.PROJECTED_EMBEDDINGS, self.projects
        yield Departure.SCALED_EMBEDDINGS, embeddings.scale != 1
        yield Departure.UNNORMALIZED_EMBEDDINGS, not embeddings.norm
        yield Departure.POSITION_OFFSET, self.first_position != 0
        yield Departure.ROTARY_POSITIONS, isinstance(self.positions, RotaryPositions)
        yield Departure.RELATIVE_POSITIONS, isinstance(self.positions, RelativePositions)
        yield Departure.DISENTANGLED_POSITIONS, isinstance(self.positions, DisentangledPositions)
        yield Departure.RMS_NORM, norm.rms
        yield Departure.NORM_WITHOUT_BIAS, not norm.bias
        yield Departure.NORM_BEFORE, norm.placement is Placement.BEFORE
        yield Departure.NORM_AROUND, norm.placement is Placement.AROUND
        yield Departure.NO_FIRST_NORM, not norm.first
        yield Departure.FINAL_NORM, norm.final
        yield Departure.GROUPED_HEADS, attention.key_value_heads not in (None, attention.heads)
        yield Departure.HEAD_SIZE, self.head_size * attention.heads != self.hidden_size
        yield Departure.ATTENTION_WITHOUT_BIAS, not attention.bias
        yield Departure.ATTENTION_SCALE, attention.scale is not None
        yield Departure.CAUSAL, attention.causal
        yield Departure.WINDOWS, any(window is not None for window in attention.windows)
        yield Departure.QK_NORM, attention.qk_norm
        yield Departure.GATED_MLP, mlp.gated
        yield Departure.MLP_WITHOUT_BIAS, not mlp.bias
        yield Departure.MLP_WITHOUT_DOWN_BIAS, not mlp.down_bias
        yield Departure.SHARED_LAYERS, self.layer_weights not in ((), tuple(map(str, range(self.num_layers))))

    def layer_index(self, layer: int) -> int:
        """The encoder layer, from 0, that -pooling_layer means by this number, which counts from the end below 0.

        Raises:
            ValueError: the model has no such layer.
        """
        layers = self.num_layers
        if not -layers <= layer < layers:
            raise ValueError(f"-pooling_layer {layer} does not exist in a model of {counted(layers, 'layer')}; "
                             f"expected {-layers} (first) to -1 (last), or 0 (first) to {layers - 1} (last)")
        return layer % layers

    def layers_needed(self, layers: Sequence[int], pooler: bool) -> int:
        """How many layers, from the first, must be computed for these of -pooling_layer; the pooler reads the last."""
        return self.num_layers if pooler else 1 + max(self.layer_index(layer) for layer in layers)


# ---- variables -------------------------------------------------------------------------------------------------------

WORDS, TOKEN_TYPES, POSITIONS = "embeddings/words", "embeddings/token_types", "embeddings/positions"
PROJECTION = "embeddings/projection"
RELATIVE, RELATIVE_NORM = "relative_positions", "relative_positions/norm"
FINAL_NORM = "final_norm"
POOLER = ("pooler/kernel", "pooler/bias")
HEAD_DENSE, HEAD_NORM = "head/dense", "head/norm"
HEAD = ("head/weights", "head/bias")


def variables(spec: EncoderSpec, *, pooler: bool = False, num_labels: int | None = None) -> dict[str, tuple[int, ...]]:
    """Name -> shape of every variable that a model of this form has. The names are those of this package, whatever
    file the variables are in; ``kernel`` is [in, out].

    Args:
        pooler: those of the pooler, too.
        num_labels: rows of a fine-tuned model's head; None: it has none.
    """
    hidden = spec.hidden_size
    size = spec.embeddings.size or hidden
    shapes: dict[str, tuple[int, ...]] = {WORDS: (spec.vocab_size, size)}
    if spec.embeddings.token_types:
        shapes[TOKEN_TYPES] = (spec.embeddings.token_types, size)
    if isinstance(spec.positions, TablePositions):
        shapes[POSITIONS] = (spec.positions.rows, size)
    norms = [("embeddings/norm", size)] if spec.embeddings.norm else []
    if isinstance(spec.positions, RelativePositions):
        shapes[RELATIVE] = (spec.positions.buckets, spec.attention.heads)
    elif isinstance(spec.positions, DisentangledPositions):
        shapes[RELATIVE] = (2 * spec.positions.buckets, hidden)
        norms.append((RELATIVE_NORM, hidden))
    denses = [(PROJECTION, size, hidden, True)] if spec.projects else []
    for number in dict.fromkeys(spec.weights_of(layer) for layer in range(spec.num_layers)):
        of_layer = _layer_variables(spec, number)
        norms += of_layer[0]
        denses += of_layer[1]
    if spec.norm.final:
        norms.append((FINAL_NORM, hidden))
    head = spec.head if num_labels is not None else None
    if pooler or head is not None and head.pooler:
        denses.append(("pooler", hidden, hidden, True))
    if head is not None and not head.pooler:
        denses.append((HEAD_DENSE, hidden, hidden, head.bias))
        norms += [(HEAD_NORM, hidden)] if head.norm else []
    for name, rows, columns, has_bias in denses:
        shapes[f"{name}/kernel"] = (rows, columns)
        if has_bias:
            shapes[f"{name}/bias"] = (columns,)
    for name, width in norms:
        shapes[f"{name}/gamma"] = (width,)
        if spec.norm.bias:
            shapes[f"{name}/beta"] = (width,)
    if num_labels is not None:
        shapes[HEAD[0]], shapes[HEAD[1]] = (num_labels, hidden), (num_labels,)
    return shapes


def _layer_variables(spec: EncoderSpec, number: str) -> tuple[list[tuple[str, int]],
                                                              list[tuple[str, int, int, bool]]]:
    """Norms (name, width) and products (name, rows, columns, whether it has a bias) of one layer's weights."""
    name, hidden, attention, mlp = f"layers/{number}", spec.hidden_size, spec.attention, spec.mlp
    queries, keys = attention.heads * spec.head_size, spec.key_value_heads * spec.head_size
    denses = [(f"{name}/attention/query", hidden, queries, attention.bias),
              (f"{name}/attention/key", hidden, keys, attention.bias),
              (f"{name}/attention/value", hidden, keys, attention.bias),
              (f"{name}/attention/output", queries, hidden, attention.bias),
              (f"{name}/mlp/up", hidden, mlp.size, mlp.bias), (f"{name}/mlp/down", mlp.size, hidden, mlp.down_bias)]
    if mlp.gated:
        denses.append((f"{name}/mlp/gate", hidden, mlp.size, mlp.bias))
    norms = [(f"{name}/mlp/norm", hidden)]
    if number != "0" or spec.norm.first:
        norms.append((f"{name}/attention/norm", hidden))
    if spec.norm.placement is Placement.AROUND:
        norms += [(f"{name}/attention/output_norm", hidden), (f"{name}/mlp/output_norm", hidden)]
    if attention.qk_norm:
        norms += [(f"{name}/attention/{part}_norm", spec.head_size) for part in ("query", "key")]
    return norms, denses


def layer_of(name: str) -> int | None:
    """The number of the layer that a variable belongs to; None: to none."""
    kind, _, rest = name.partition("/")
    return int(re.split("[./]", rest)[0]) if kind == "layers" else None


def is_of_head(name: str) -> bool:
    """Whether a variable belongs to a fine-tuned model's head, not to its encoder."""
    return name.startswith("head/")
