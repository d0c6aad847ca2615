"""GTE of 2024: Zhang et al., 2024 (https://arxiv.org/abs/2407.19669). Rotary positions and a gated MLP."""
from __future__ import annotations

from ..spec import TOKEN_TYPES, WORDS, Attention, Embeddings, EncoderSpec, Mlp, Norm, RotaryPositions
from . import roberta
from .base import MAX_LAYERS, MAX_VOCABULARY, QUERY_KEY_VALUE, Architecture, Names, Values, dense, fused, norm


def spec(values: Values) -> EncoderSpec:
    for key, allowed in (("position_embedding_type", "rope"), ("layer_norm_type", "layer_norm"),
                         ("logn_attention_scale", False)):    # Keys of the first release.
        values.refuse(key, allowed, None)
    hidden, layers = values.number("hidden_size", 768), values.number("num_hidden_layers", 12, MAX_LAYERS)
    theta = values.theta("rope_theta", 160_000.0)
    return EncoderSpec(
        vocab_size=values.number("vocab_size", most=MAX_VOCABULARY), hidden_size=hidden, num_layers=layers,
        attention=Attention(heads=values.heads("num_attention_heads", "hidden_size", hidden, 12)),
        mlp=Mlp(size=values.number("intermediate_size", 3072), activation=values.activation("hidden_act"), gated=True,
                bias=False),
        positions=RotaryPositions(thetas=(theta,) * layers, max_length=values.number("max_position_embeddings", 8192)),
        embeddings=Embeddings(token_types=values.count("type_vocab_size", 1)),
        norm=Norm(eps=values.real("layer_norm_eps", 1e-12)), pooler=False, head=None)


LAYER = "encoder.layer.{n}."

ARCHITECTURE = Architecture(
    model_type="gte", label="GTE", spec=spec, template=roberta.TEMPLATE, reads_own_code=True,
    hugging_face=Names(
        (("embeddings.word_embeddings.weight", WORDS), ("embeddings.token_type_embeddings.weight", TOKEN_TYPES),
         *norm("embeddings.LayerNorm", "embeddings/norm"),
         *(row for theirs, ours in (*(("attention.qkv_proj", f"attention/{name}")
                                      for name in ("query", "key", "value")),
                                    ("attention.o_proj", "attention/output"), ("mlp.up_gate_proj", "mlp/up"),
                                    ("mlp.up_gate_proj", "mlp/gate"), ("mlp.down_proj", "mlp/down"))
           for row in dense(LAYER + theirs, f"layers/{{n}}/{ours}")),
         *norm(LAYER + "attn_ln", "layers/{n}/attention/norm"), *norm(LAYER + "mlp_ln", "layers/{n}/mlp/norm")),
        encoder=("embeddings.", "encoder."), ignored=("embeddings.position_ids",), kernels_are_transposed=True,
        has_prefix=True, parts={**QUERY_KEY_VALUE, **fused("layers/{n}/mlp/up", "layers/{n}/mlp/gate")}))
