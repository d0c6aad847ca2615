"""Random encoders of every form that the native library computes, and their computation in float64.

It follows what spec.py says, one sequence and one head at a time; nothing of it is taken from the library.
"""
import math

import numpy as np

from bert_serving.server.engine import positions
from bert_serving.server.engine.spec import (ACTIVATIONS, FINAL_NORM, POSITIONS, PROJECTION, RELATIVE, RELATIVE_NORM,
                                             TOKEN_TYPES, WORDS, Attention, DisentangledPositions, Embeddings,
                                             EncoderSpec, Mlp, Norm, Placement, RelativePositions, RotaryPositions,
                                             TablePositions, variables)

VOCAB = 50
PAD = 1


# ---- random ones -----------------------------------------------------------------------------------------------------

def random_spec(random, length=40, largest=1.0):
    """Sizes are multiples of nothing, and all that there is occurs in some of them.

    Args:
        length: most tokens of a sequence.
        largest: share of the usual ones' greatest sizes.
    """
    def flip(odds=0.5):
        return bool(random.random() < odds)

    def pick(*values):
        return values[random.integers(len(values))]

    heads, layers = int(random.integers(1, 7)), int(random.integers(1, 4))
    hidden = int(random.integers(24, 24 + 177 * largest))
    head_size = int(random.integers(4, 4 + 77 * largest)) if flip(0.7) else None
    if head_size is None:
        hidden = max(hidden // heads, 4) * heads
    kind = pick("table", "offset", "pad", "rotary", "relative", "disentangled")
    is_deberta = kind == "disentangled"                # Norms and products have biases, heads have keys of their own.
    if kind == "rotary":
        place = RotaryPositions(thetas=tuple(pick(1e3, 1e4) for _ in range(layers)), max_length=length)
        head_size = (head_size or hidden // heads) // 2 * 2
    elif kind == "relative":
        place = RelativePositions(rows=length + 2, first=2, buckets=pick(8, 32), max_distance=pick(20, 128))
    elif is_deberta:
        place = DisentangledPositions(buckets=pick(4, 8, 32), max_distance=pick(16, 40, 512), max_length=length)
    else:
        first = 0 if kind == "table" else int(random.integers(1, 4))
        place = TablePositions(rows=length + first, first=first, pad_id=PAD if kind == "pad" else None)
    placement, rms = pick(*Placement), flip(0.3) and not is_deberta
    before = placement is not Placement.AFTER
    return EncoderSpec(
        vocab_size=VOCAB, hidden_size=hidden, num_layers=layers, positions=place,
        embeddings=Embeddings(token_types=pick(0, 1, 2, 3), size=int(random.integers(5, 90)) if flip(0.3) else None,
                              scale=pick(1.0, 1.0, 3.5), norm=flip(0.7)),
        norm=Norm(eps=pick(1e-12, 1e-5), rms=rms, bias=not rms and (flip(0.8) or is_deberta),
                  placement=placement, first=not before or flip(), final=before and flip(0.7)),
        attention=Attention(heads=heads, head_size=head_size, bias=flip(0.7) or is_deberta, causal=flip(0.3),
                            qk_norm=flip(0.3),
                            key_value_heads=pick(*(n for n in range(1, heads + 1)
                                                   if heads % n == 0 and (n == heads or not is_deberta))),
                            scale=pick(None, None, 0.2),
                            windows=tuple(pick(None, 0, 3, 17) for _ in range(layers)) if flip(0.3) else ()),
        mlp=Mlp(size=int(random.integers(20, 20 + 681 * largest)), activation=pick(*ACTIVATIONS), gated=flip(0.4),
                bias=flip(0.7), down_bias=flip(0.7)),
        layer_weights=pick((), ("0",) * layers, tuple(str(n % 2) for n in range(layers))))


def random_arrays(random, spec):
    """The variables of a spec, by name, float32.

    Tables are small: not all specs normalize embeddings, and large scores would show float32's own error alone.
    """
    def array(name, shape):
        values = random.normal(0, 1, shape)
        match name.rpartition("/")[2]:
            case "kernel":
                return values / math.sqrt(shape[0])
            case "gamma":
                return 1 + 0.2 * values
            case "beta" | "bias":
                return 0.1 * values
        return 0.3 * values

    return {name: array(name, shape).astype(np.float32) for name, shape in variables(spec).items()}


def random_sequences(random, lengths):
    """Ids of words."""
    return [random.integers(0, VOCAB, length, np.int32) for length in lengths]


# ---- the computation -------------------------------------------------------------------------------------------------

ACTIVATE = {
    "gelu": lambda x: x * 0.5 * (1 + np.vectorize(math.erf, otypes=[float])(x / math.sqrt(2))),
    "gelu_new": lambda x: 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x ** 3))),
    "relu": lambda x: np.maximum(x, 0), "silu": lambda x: x / (1 + np.exp(-x)), "tanh": np.tanh, "linear": lambda x: x}


def layers(spec, arrays, ids, types=None, seen=None, position_embeddings=True):
    """float64 [T, H] of one sequence, for each layer.

    Args:
        seen: bool [T], tokens that attention does not leave out; a token all of whose keys are left out sees them all.
    """
    w = {name: array.astype(np.float64) for name, array in arrays.items()}
    length, head_size, heads = len(ids), spec.head_size, spec.attention.heads
    group = heads // spec.key_value_heads

    def dense(x, name):
        return x @ w[f"{name}/kernel"] + w.get(f"{name}/bias", 0)

    def norm(x, name):
        if f"{name}/gamma" not in w:
            return x
        if not spec.norm.rms:
            x = x - x.mean(-1, keepdims=True)
        x = x / np.sqrt((x ** 2).mean(-1, keepdims=True) + spec.norm.eps)
        return x * w[f"{name}/gamma"] + w.get(f"{name}/beta", 0)

    def turned(x, theta):
        half = head_size // 2
        angles = np.arange(length)[:, None] * theta ** (-2 * np.arange(half) / head_size)
        left, right = x[:, :half], x[:, half:]
        return np.concatenate([left * np.cos(angles) - right * np.sin(angles),
                               right * np.cos(angles) + left * np.sin(angles)], axis=1)

    def sight(number, scores):
        """Scores of what a token sees; -inf elsewhere."""
        query, key = np.arange(length)[:, None], np.arange(length)
        sees = np.ones((length, length), bool)
        if spec.attention.causal:
            sees &= key <= query
        if spec.window(number) is not None:
            sees &= np.abs(query - key) <= spec.window(number)
        if seen is not None:
            left = sees & np.asarray(seen, bool)
            sees = np.where(left.any(1, keepdims=True), left, sees)
        return np.where(sees, scores, -np.inf)

    def attention(number, x, name):
        query, key, value = (dense(x, f"{name}/{part}").reshape(length, -1, head_size)
                             for part in ("query", "key", "value"))
        if spec.attention.qk_norm:
            query, key = norm(query, f"{name}/query_norm"), norm(key, f"{name}/key_norm")
        if isinstance(spec.positions, DisentangledPositions):
            as_key, as_query = (dense(norm(w[RELATIVE], RELATIVE_NORM), f"{name}/{part}").reshape(-1, heads, head_size)
                                for part in ("key", "query"))
        results = []
        for head in range(heads):
            q, k, v = query[:, head], key[:, head // group], value[:, head // group]
            if isinstance(spec.positions, RotaryPositions):
                q, k = (turned(part, spec.positions.thetas[number]) for part in (q, k))
            scores = q @ k.T
            if isinstance(spec.positions, DisentangledPositions):
                for i in range(length):
                    rows = positions.disentangled_rows(spec.positions, i - np.arange(length))
                    scores[i] += as_key[rows, head] @ q[i] + (k * as_query[rows, head]).sum(1)
            scores = scores * spec.scale
            if isinstance(spec.positions, RelativePositions):
                distance = np.arange(length)[:, None] - np.arange(length)
                scores = scores + w[RELATIVE][positions.buckets(spec.positions, distance), head]
            scores = sight(number, scores)
            odds = np.exp(scores - scores.max(1, keepdims=True))
            results.append(odds / odds.sum(1, keepdims=True) @ v)
        return dense(np.concatenate(results, axis=1), f"{name}/output")

    def mlp(x, name):
        activate, up = ACTIVATE[spec.mlp.activation], dense(x, f"{name}/up")
        return dense(activate(dense(x, f"{name}/gate")) * up if spec.mlp.gated else activate(up), f"{name}/down")

    def added(x, name, compute):
        if spec.norm.placement is Placement.AFTER:
            return norm(x + compute(x), f"{name}/norm")
        result = compute(norm(x, f"{name}/norm"))
        return x + (norm(result, f"{name}/output_norm") if spec.norm.placement is Placement.AROUND else result)

    x = w[WORDS][ids] * spec.embeddings.scale
    if spec.embeddings.token_types:
        x = x + w[TOKEN_TYPES][np.zeros(length, int) if types is None else types]
    if isinstance(spec.positions, TablePositions) and position_embeddings:
        rows, following = [], spec.positions.first
        for word in ids:
            is_pad = word == spec.positions.pad_id
            rows.append(spec.positions.first - 1 if is_pad else following)
            following += not is_pad
        x = x + w[POSITIONS][rows]
    x = norm(x, "embeddings/norm")
    if spec.projects:
        x = dense(x, PROJECTION)
    result = []
    for number in range(spec.num_layers):
        name = f"layers/{spec.weights_of(number)}"
        x = added(x, f"{name}/attention", lambda read: attention(number, read, f"{name}/attention"))
        x = added(x, f"{name}/mlp", lambda read: mlp(read, f"{name}/mlp"))
        is_last = number == spec.num_layers - 1
        result.append(norm(x, FINAL_NORM) if spec.norm.final and is_last else x)
    return result
