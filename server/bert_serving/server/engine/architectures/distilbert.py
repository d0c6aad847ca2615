"""DistilBERT: Sanh et al., 2019 (https://arxiv.org/abs/1910.01108). BERT without token types and without a pooler."""
from __future__ import annotations

from ..spec import POSITIONS, WORDS, Attention, Embeddings, EncoderSpec, Mlp, TablePositions
from .base import Architecture, Names, Values, dense, norm


def spec(values: Values) -> EncoderSpec:
    hidden = values.number("dim", 768)
    return EncoderSpec(
        vocab_size=values.number("vocab_size", 30522, most=10_000_000), hidden_size=hidden,
        num_layers=values.number("n_layers", 6, most=1000),
        attention=Attention(heads=values.heads("n_heads", "dim", hidden, 12)),
        mlp=Mlp(size=values.number("hidden_dim", 3072), activation=values.activation("activation")),
        positions=TablePositions(rows=values.number("max_position_embeddings", 512)),
        embeddings=Embeddings(token_types=0), pooler=False)


LAYER = "transformer.layer.{n}."

ARCHITECTURE = Architecture(model_type="distilbert", label="DistilBERT", spec=spec, hugging_face=Names(
    (("embeddings.word_embeddings.weight", WORDS),
     ("embeddings.position_embeddings.weight", POSITIONS),
     *norm("embeddings.LayerNorm", "embeddings/norm"),
     *(row for theirs, ours in (("attention.q_lin", "attention/query"), ("attention.k_lin", "attention/key"),
                                ("attention.v_lin", "attention/value"), ("attention.out_lin", "attention/output"),
                                ("ffn.lin1", "mlp/up"), ("ffn.lin2", "mlp/down"))
       for row in dense(LAYER + theirs, f"layers/{{n}}/{ours}")),
     *norm(LAYER + "sa_layer_norm", "layers/{n}/attention/norm"),
     *norm(LAYER + "output_layer_norm", "layers/{n}/mlp/norm")),
    encoder=("embeddings.", "transformer."), ignored=("embeddings.position_ids",),
    kernels_are_transposed=True, has_prefix=True))
