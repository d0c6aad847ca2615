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

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum

from bert_serving.client.words import counted

ACTIVATIONS = ("gelu", "gelu_new", "relu", "tanh", "linear")
"""Of the MLP. "gelu" is the exact one, with erf; "gelu_new" is its approximation with tanh."""


class Departure(Enum):
    """In what an encoder differs from BERT; the value is how the log says it."""

    NO_TOKEN_TYPES = "no token types"
    PROJECTED_EMBEDDINGS = "embeddings of another size than the layers"
    SCALED_EMBEDDINGS = "scaled embeddings"
    UNNORMALIZED_EMBEDDINGS = "embeddings without a norm"
    POSITION_OFFSET = "positions that do not begin at 0"
    ROTARY_POSITIONS = "rotary positions"
    RELATIVE_POSITIONS = "relative position buckets"
    ALIBI_POSITIONS = "ALiBi positions"
    RMS_NORM = "RMS norm"
    NORM_WITHOUT_BIAS = "norms without bias"
    NORM_BEFORE = "norms before attention and MLP"
    FINAL_NORM = "a norm after the last layer"
    GROUPED_HEADS = "grouped key-value heads"
    HEAD_SIZE = "heads of another size than hidden_size / heads"
    ATTENTION_WITHOUT_BIAS = "attention without bias"
    CAUSAL = "causal attention"
    WINDOWS = "local attention windows"
    QK_NORM = "norms on queries and keys"
    GATED_MLP = "a gated MLP"
    MLP_WITHOUT_BIAS = "an MLP without bias"
    SHARED_LAYERS = "layers that share weights"


@dataclass(frozen=True, kw_only=True)
class Embeddings:
    """
    Attributes:
        token_types: rows of the table of token types; 0: there is none.
        size: of an embedding, which is then projected to hidden_size; None: it is hidden_size.
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
    """

    rows: int = 512
    first: int = 0


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
class RelativePositions:
    """A table of learned positions, and a bias of the scores by the distance of two tokens, one table for all layers.

    Attributes:
        rows, first: see :class:`TablePositions`.
        buckets: of distances.
        max_distance: beyond it all distances share a bucket.
    """

    rows: int = 512
    first: int = 0
    buckets: int = 32
    max_distance: int = 128


@dataclass(frozen=True, kw_only=True)
class AlibiPositions:
    """Press et al., "Train Short, Test Long", 2021 (https://arxiv.org/abs/2108.12409).

    Attributes:
        slopes: of each head.
        max_length: tokens that a sequence can have.
    """

    slopes: tuple[float, ...]
    max_length: int


Positions = TablePositions | RotaryPositions | RelativePositions | AlibiPositions


@dataclass(frozen=True, kw_only=True)
class Norm:
    """
    Attributes:
        rms: it divides by the root mean square instead of the standard deviation around the mean.
        before: attention and MLP read normalized values, and their results are added as they are.
        final: there is one after the last layer.
    """

    eps: float = 1e-12
    rms: bool = False
    bias: bool = True
    before: bool = False
    final: bool = False


@dataclass(frozen=True, kw_only=True)
class Attention:
    """
    Attributes:
        key_value_heads: heads of keys and values, each for several queries; None: as many as heads.
        head_size: None: hidden_size / heads.
        windows: for each layer how far a token sees to either side; None: to the ends. Empty: all see all.
        qk_norm: queries and keys are normalized, head by head.
    """

    heads: int = 12
    key_value_heads: int | None = None
    head_size: int | None = None
    bias: bool = True
    causal: bool = False
    windows: tuple[int | None, ...] = ()
    qk_norm: bool = False


@dataclass(frozen=True, kw_only=True)
class Mlp:
    """
    Attributes:
        size: between its two products.
        activation: one of ACTIVATIONS.
        gated: what is activated is multiplied with another product of the same input.
    """

    size: int = 3072
    activation: str = "gelu"
    gated: bool = False
    bias: bool = True


@dataclass(frozen=True, kw_only=True)
class EncoderSpec:
    """An encoder, from token ids to layers.

    Attributes:
        layer_weights: for each layer the number of the weights that it uses; empty: each has its own.
        pooler: whether such a model can have BERT's pooler, tanh(dense(last layer at position 0)).
    """

    vocab_size: int
    hidden_size: int = 768
    num_layers: int = 12
    embeddings: Embeddings = field(default_factory=Embeddings)
    positions: Positions = field(default_factory=TablePositions)
    norm: Norm = field(default_factory=Norm)
    attention: Attention = field(default_factory=Attention)
    mlp: Mlp = field(default_factory=Mlp)
    layer_weights: tuple[int, ...] = ()
    pooler: bool = True

    @property
    def head_size(self) -> int:
        return self.attention.head_size or self.hidden_size // self.attention.heads

    @property
    def max_length(self) -> int:
        """Tokens that a sequence can have."""
        if isinstance(self.positions, (TablePositions, RelativePositions)):
            return self.positions.rows - self.positions.first
        return self.positions.max_length

    @property
    def first_position(self) -> int:
        """Row of the position table that a sequence's first token reads."""
        return self.positions.first if isinstance(self.positions, (TablePositions, RelativePositions)) else 0

    @property
    def departures(self) -> frozenset[Departure]:
        """In what this encoder differs from BERT."""
        return frozenset(departure for departure, differs in self._differences() if differs)

    def _differences(self) -> Iterator[tuple[Departure, bool]]:
        embeddings, norm, attention, mlp = self.embeddings, self.norm, self.attention, self.mlp
        yield Departure.NO_TOKEN_TYPES, not embeddings.token_types
        yield Departure.PROJECTED_EMBEDDINGS, embeddings.size not in (None, self.hidden_size)
        yield Departure.SCALED_EMBEDDINGS, embeddings.scale != 1
        yield Departure.UNNORMALIZED_EMBEDDINGS, not embeddings.norm
        yield Departure.POSITION_OFFSET, self.first_position != 0
        yield Departure.ROTARY_POSITIONS, isinstance(self.positions, RotaryPositions)
        yield Departure.RELATIVE_POSITIONS, isinstance(self.positions, RelativePositions)
        yield Departure.ALIBI_POSITIONS, isinstance(self.positions, AlibiPositions)
        yield Departure.RMS_NORM, norm.rms
        yield Departure.NORM_WITHOUT_BIAS, not norm.bias
        yield Departure.NORM_BEFORE, norm.before
        yield Departure.FINAL_NORM, norm.final
        yield Departure.GROUPED_HEADS, attention.key_value_heads not in (None, attention.heads)
        yield Departure.HEAD_SIZE, self.head_size * attention.heads != self.hidden_size
        yield Departure.ATTENTION_WITHOUT_BIAS, not attention.bias
        yield Departure.CAUSAL, attention.causal
        yield Departure.WINDOWS, any(window is not None for window in attention.windows)
        yield Departure.QK_NORM, attention.qk_norm
        yield Departure.GATED_MLP, mlp.gated
        yield Departure.MLP_WITHOUT_BIAS, not mlp.bias
        yield Departure.SHARED_LAYERS, self.layer_weights not in ((), tuple(range(self.num_layers)))

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
POOLER = ("pooler/kernel", "pooler/bias")
HEAD = ("head/weights", "head/bias")


def variables(spec: EncoderSpec, *, pooler: bool = False, num_labels: int | None = None) -> dict[str, tuple[int, ...]]:
    """Name -> shape of every variable that a model of this form has. The names are those of this package, whatever
    file the variables are in; ``kernel`` is [in, out].

    Args:
        num_labels: rows of a fine-tuned model's head; None: it has none.
    """
    hidden = spec.hidden_size
    size = spec.embeddings.size or hidden
    shapes: dict[str, tuple[int, ...]] = {WORDS: (spec.vocab_size, size)}
    if spec.embeddings.token_types:
        shapes[TOKEN_TYPES] = (spec.embeddings.token_types, size)
    if isinstance(spec.positions, (TablePositions, RelativePositions)):
        shapes[POSITIONS] = (spec.positions.rows, size)
    if isinstance(spec.positions, RelativePositions):
        shapes["relative_positions"] = (spec.positions.buckets, spec.attention.heads)
    norms = [("embeddings/norm", size)] if spec.embeddings.norm else []
    denses = []
    if size != hidden:
        denses.append(("embeddings/projection", size, hidden, True))
    queries, keys = (heads * spec.head_size for heads in
                     (spec.attention.heads, spec.attention.key_value_heads or spec.attention.heads))
    for number in sorted(set(spec.layer_weights)) or range(spec.num_layers):
        layer, inner = f"layers/{number}", spec.mlp.size
        denses += [(f"{layer}/attention/{name}", rows, columns, spec.attention.bias) for name, rows, columns in
                   (("query", hidden, queries), ("key", hidden, keys), ("value", hidden, keys),
                    ("output", queries, hidden))]
        denses += [(f"{layer}/mlp/{name}", rows, columns, spec.mlp.bias) for name, rows, columns in
                   (("up", hidden, inner), *((("gate", hidden, inner),) if spec.mlp.gated else ()),
                    ("down", inner, hidden))]
        norms += [(f"{layer}/attention/norm", hidden), (f"{layer}/mlp/norm", hidden)]
        if spec.attention.qk_norm:
            norms += [(f"{layer}/attention/{name}_norm", spec.head_size) for name in ("query", "key")]
    if spec.norm.final:
        norms.append(("final_norm", hidden))
    if pooler:
        denses.append(("pooler", hidden, hidden, True))
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


def layer_of(name: str) -> int | None:
    """The number of the layer that a variable belongs to; None: to none."""
    kind, _, rest = name.partition("/")
    return int(rest.partition("/")[0]) if kind == "layers" else None
