"""NomicBERT: Nussbaum et al., 2024 (https://arxiv.org/abs/2402.01613). Rotary positions and a gated MLP.

Its ``config.json`` has the keys of transformers, or those of the model's first release, which are GPT-2's.
"""
from __future__ import annotations

from ..spec import TOKEN_TYPES, WORDS, Attention, Embeddings, EncoderSpec, Mlp, Norm, RotaryPositions
from .base import MAX_LAYERS, MAX_VOCABULARY, QUERY_KEY_VALUE, Architecture, Names, Values, dense, norm

FIRST_KEYS = {"n_embd": "hidden_size", "n_layer": "num_hidden_layers", "n_head": "num_attention_heads",
              "n_inner": "intermediate_size", "n_positions": "max_position_embeddings",
              "layer_norm_epsilon": "layer_norm_eps", "activation_function": "hidden_act",
              "rotary_emb_base": "rope_theta"}
"""Key of the first release -> transformers'."""


def spec(values: Values) -> EncoderSpec:
    values.refuse("num_experts", 0, None)
    if "n_embd" in values.values:
        for key, allowed in (("activation_function", "swiglu"), ("rotary_emb_fraction", 1.0), ("prenorm", False),
                             ("rotary_emb_interleaved", False), ("rotary_emb_scale_base", None),
                             ("rotary_scaling_factor", None), ("qkv_proj_bias", False), ("mlp_fc1_bias", False),
                             ("mlp_fc2_bias", False), ("use_rms_norm", None), ("parallel_block", False)):
            values.refuse(key, allowed, *((False,) if allowed is None else ()))
        values = Values({FIRST_KEYS.get(key, key): value for key, value in values.values.items()})
    hidden, layers = values.number("hidden_size", 768), values.number("num_hidden_layers", 12, MAX_LAYERS)
    heads = values.heads("num_attention_heads", "hidden_size", hidden, 12)
    values.refuse("head_dim", hidden // heads, None)
    theta = values.theta("rope_theta", 1000.0)
    return EncoderSpec(
        vocab_size=values.number("vocab_size", most=MAX_VOCABULARY), hidden_size=hidden, num_layers=layers,
        attention=Attention(heads=heads, bias=False),
        mlp=Mlp(size=values.number("intermediate_size", 3072), activation=values.activation("hidden_act", "silu"),
                gated=True, bias=False, down_bias=False),
        positions=RotaryPositions(thetas=(theta,) * layers, max_length=values.number("max_position_embeddings", 2048)),
        embeddings=Embeddings(token_types=values.count("type_vocab_size", 2)),
        norm=Norm(eps=values.real("layer_norm_eps", 1e-12)), pooler=False, head=None)


LAYER = "encoder.layers.{n}."

ARCHITECTURE = Architecture(
    model_type="nomic_bert", label="NomicBERT", spec=spec, reads_own_code=True,
    hugging_face=Names(
        (("embeddings.word_embeddings.weight", WORDS), ("embeddings.token_type_embeddings.weight", TOKEN_TYPES),
         *norm("emb_ln", "embeddings/norm"),
         *(row for theirs, ours in (*(("attn.Wqkv", f"attention/{name}") for name in ("query", "key", "value")),
                                    ("attn.out_proj", "attention/output"), ("mlp.fc11", "mlp/up"),
                                    ("mlp.fc12", "mlp/gate"), ("mlp.fc2", "mlp/down"))
           for row in dense(LAYER + theirs, f"layers/{{n}}/{ours}")),
         *norm(LAYER + "norm1", "layers/{n}/attention/norm"), *norm(LAYER + "norm2", "layers/{n}/mlp/norm")),
        encoder=("embeddings.", "emb_ln.", "encoder."), kernels_are_transposed=True, has_prefix=True,
        parts=QUERY_KEY_VALUE))
