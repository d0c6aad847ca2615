"""Jina Embeddings v3: Sturua et al., 2024 (https://arxiv.org/abs/2409.10173), without its adapters."""
from __future__ import annotations

from ..spec import TOKEN_TYPES, WORDS, Attention, Embeddings, EncoderSpec, Mlp, Norm, RotaryPositions
from . import bert, roberta
from .base import MAX_LAYERS, MAX_VOCABULARY, QUERY_KEY_VALUE, Architecture, Names, Values, dense, norm


def spec(values: Values) -> EncoderSpec:
    hidden, layers = values.number("hidden_size", 1024), values.number("num_hidden_layers", 24, MAX_LAYERS)
    theta = values.theta("rope_theta", 20_000.0)
    return EncoderSpec(
        vocab_size=values.number("vocab_size", most=MAX_VOCABULARY), hidden_size=hidden, num_layers=layers,
        attention=Attention(heads=values.heads("num_attention_heads", "hidden_size", hidden, 16)),
        mlp=Mlp(size=values.number("intermediate_size", 4096), activation=values.activation("hidden_act")),
        positions=RotaryPositions(thetas=(theta,) * layers, max_length=values.number("max_position_embeddings", 8194)),
        embeddings=Embeddings(token_types=values.count("type_vocab_size", 1)),
        norm=Norm(eps=values.real("layer_norm_eps", 1e-5)), head=None)


LAYER = "encoder.layers.{n}."

ARCHITECTURE = Architecture(
    model_type="jina_embeddings_v3", label="Jina Embeddings v3", spec=spec, template=roberta.TEMPLATE,
    hugging_face=Names(
        (("embeddings.word_embeddings.weight", WORDS), ("embeddings.token_type_embeddings.weight", TOKEN_TYPES),
         *norm("emb_ln", "embeddings/norm"),
         *(row for theirs, ours in (*(("mixer.Wqkv", f"attention/{name}") for name in ("query", "key", "value")),
                                    ("mixer.out_proj", "attention/output"), ("mlp.fc1", "mlp/up"),
                                    ("mlp.fc2", "mlp/down"))
           for row in dense(LAYER + theirs, f"layers/{{n}}/{ours}")),
         *norm(LAYER + "norm1", "layers/{n}/attention/norm"), *norm(LAYER + "norm2", "layers/{n}/mlp/norm"),
         *bert.POOLER),
        encoder=("embeddings.", "emb_ln.", "encoder."), kernels_are_transposed=True, has_prefix=True,
        parts=QUERY_KEY_VALUE))
