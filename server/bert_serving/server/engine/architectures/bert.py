"""BERT: Devlin et al., 2018 (https://arxiv.org/abs/1810.04805), as Google and Hugging Face save it."""
from __future__ import annotations

from ..spec import HEAD, POSITIONS, TOKEN_TYPES, WORDS, Attention, Embeddings, EncoderSpec, Mlp, Norm, TablePositions
from .base import MAX_LAYERS, MAX_VOCABULARY, Architecture, Names, Values, dense, norm


def spec(values: Values) -> EncoderSpec:
    values.refuse("position_embedding_type", "absolute")
    values.refuse("is_decoder", False)
    vocab_size = values.number("vocab_size", most=MAX_VOCABULARY)
    hidden = values.number("hidden_size", 768)
    layers = values.number("num_hidden_layers", 12, MAX_LAYERS)
    return EncoderSpec(
        vocab_size=vocab_size, hidden_size=hidden, num_layers=layers,
        attention=Attention(heads=values.heads("num_attention_heads", "hidden_size", hidden, 12)),
        mlp=Mlp(size=values.number("intermediate_size", 3072), activation=values.activation("hidden_act")),
        positions=TablePositions(rows=values.number("max_position_embeddings", 512)),
        embeddings=Embeddings(token_types=values.number("type_vocab_size", 2)),
        norm=Norm(eps=values.real("layer_norm_eps", 1e-12)))


SELF_ATTENTION = tuple((f"attention.self.{name}", f"attention/{name}") for name in ("query", "key", "value"))

LAYER = "encoder.layer.{n}."

ENCODER = (
    ("embeddings.word_embeddings.weight", WORDS),
    ("embeddings.token_type_embeddings.weight", TOKEN_TYPES),
    ("embeddings.position_embeddings.weight", POSITIONS),
    *norm("embeddings.LayerNorm", "embeddings/norm"),
    *(row for theirs, ours in (*SELF_ATTENTION, ("attention.output.dense", "attention/output"),
                               ("intermediate.dense", "mlp/up"), ("output.dense", "mlp/down"))
      for row in dense(LAYER + theirs, f"layers/{{n}}/{ours}")),
    *norm(LAYER + "attention.output.LayerNorm", "layers/{n}/attention/norm"),
    *norm(LAYER + "output.LayerNorm", "layers/{n}/mlp/norm"))

POOLER = dense("pooler.dense", "pooler")


def hugging_face(*more: tuple[str, str]) -> Names:
    """The names of an encoder that is called as BERT's is."""
    return Names((*ENCODER, *more), encoder=("embeddings.", "encoder."),
                 ignored=("embeddings.position_ids", "embeddings.token_type_ids"), kernels_are_transposed=True,
                 has_prefix=True)


HUGGING_FACE = hugging_face(*POOLER, ("classifier.weight", HEAD[0]), ("classifier.bias", HEAD[1]))


def _google(name: str) -> str:
    """Google's name of what Hugging Face calls by that name."""
    if name.startswith("classifier."):
        return {"classifier.weight": "output_weights", "classifier.bias": "output_bias"}[name]
    name = "bert/" + name.replace(".layer.{n}.", "/layer_{n}/").replace(".", "/")
    if name.endswith("_embeddings/weight"):
        return name.removesuffix("/weight")
    return name.replace("LayerNorm/weight", "LayerNorm/gamma").replace("LayerNorm/bias", "LayerNorm/beta") \
        .replace("/weight", "/kernel")


TENSORFLOW = Names(tuple((_google(theirs), ours) for theirs, ours in HUGGING_FACE.table
                         if not theirs.endswith((".gamma", ".beta"))),
                   encoder=("bert/embeddings/", "bert/encoder/"))

ARCHITECTURE = Architecture(model_type="bert", label="BERT", spec=spec, hugging_face=HUGGING_FACE,
                            tensorflow=TENSORFLOW, unnamed_defaults={"type_vocab_size": 16})
