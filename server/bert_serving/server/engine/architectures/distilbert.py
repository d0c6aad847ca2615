"""DistilBERT: Sanh et al., 2019 (https://arxiv.org/abs/1910.01108). BERT without token types and without a pooler."""
from __future__ import annotations

from ...core.tokenization import InputTemplate
from ..spec import HEAD, HEAD_DENSE, POSITIONS, WORDS, Attention, Embeddings, EncoderSpec, Head, Mlp, TablePositions
from .base import MAX_LAYERS, MAX_VOCABULARY, Architecture, Names, Values, dense, norm


def spec(values: Values) -> EncoderSpec:
    hidden = values.number("dim", 768)
    heads, layers = values.heads("n_heads", "dim", hidden, 12), values.number("n_layers", 6, most=MAX_LAYERS)
    for key, value in (("hidden_size", hidden), ("num_attention_heads", heads), ("num_hidden_layers", layers)):
        values.refuse(key, value)                      # Other spellings, which the reference reads as well.
    return EncoderSpec(
        vocab_size=values.number("vocab_size", 30522, most=MAX_VOCABULARY), hidden_size=hidden,
        num_layers=layers, attention=Attention(heads=heads),
        mlp=Mlp(size=values.number("hidden_dim", 3072), activation=values.activation("activation")),
        positions=TablePositions(rows=values.number("max_position_embeddings", 512)),
        embeddings=Embeddings(token_types=0), pooler=False, head=Head(activation="relu"))


LAYER = "transformer.layer.{n}."

ARCHITECTURE = Architecture(model_type="distilbert", label="DistilBERT", spec=spec, template=InputTemplate(
    second_type=0), hugging_face=Names(
    (("embeddings.word_embeddings.weight", WORDS),
     ("embeddings.position_embeddings.weight", POSITIONS),
     *norm("embeddings.LayerNorm", "embeddings/norm"),
     *(row for theirs, ours in (("attention.q_lin", "attention/query"), ("attention.k_lin", "attention/key"),
                                ("attention.v_lin", "attention/value"), ("attention.out_lin", "attention/output"),
                                ("ffn.lin1", "mlp/up"), ("ffn.lin2", "mlp/down"))
       for row in dense(LAYER + theirs, f"layers/{{n}}/{ours}")),
     *norm(LAYER + "sa_layer_norm", "layers/{n}/attention/norm"),
     *norm(LAYER + "output_layer_norm", "layers/{n}/mlp/norm"),
     *dense("pre_classifier", HEAD_DENSE), ("classifier.weight", HEAD[0]), ("classifier.bias", HEAD[1])),
    encoder=("embeddings.", "transformer."), ignored=("embeddings.position_ids",),
    kernels_are_transposed=True, has_prefix=True))
