"""ModernBERT: Warner et al., 2024 (https://arxiv.org/abs/2412.13663). Rotary positions, and windows in most layers."""
from __future__ import annotations

from ..spec import (FINAL_NORM, HEAD, HEAD_DENSE, HEAD_NORM, WORDS, Attention, Embeddings, EncoderSpec, Head, Mlp, Norm,
                    Placement, RotaryPositions)
from .base import (MAX_LAYERS, MAX_VOCABULARY, QUERY_KEY_VALUE, Architecture, Names, Values, dense, fused, norm)


def spec(values: Values) -> EncoderSpec:
    hidden, layers = values.number("hidden_size", 768), values.number("num_hidden_layers", 22, MAX_LAYERS)
    every = values.number("global_attn_every_n_layers", 3)
    sees_all = values.layer_types(layers, lambda layer: layer % every == 0)
    window = values.number("local_attention", 128) // 2
    everywhere = values.theta("global_rope_theta", 160_000.0, "full_attention")
    nearby = values.theta("local_rope_theta", 10_000.0, "sliding_attention")
    mlp_bias = values.flag("mlp_bias", False)
    values.refuse("classifier_pooling", "cls", "mean")
    return EncoderSpec(
        vocab_size=values.number("vocab_size", most=MAX_VOCABULARY), hidden_size=hidden, num_layers=layers,
        attention=Attention(heads=values.heads("num_attention_heads", "hidden_size", hidden, 12),
                            bias=values.flag("attention_bias", False),
                            windows=tuple(None if full else window for full in sees_all)),
        mlp=Mlp(size=values.number("intermediate_size", 1152), gated=True, bias=mlp_bias, down_bias=mlp_bias,
                activation=values.activation("hidden_activation")),
        positions=RotaryPositions(thetas=tuple(everywhere if full else nearby for full in sees_all),
                                  max_length=values.number("max_position_embeddings", 8192)),
        embeddings=Embeddings(token_types=0),
        norm=Norm(eps=values.real("norm_eps", 1e-5), bias=values.flag("norm_bias", False),
                  placement=Placement.BEFORE, first=False, final=True),
        pooler=False,
        head=Head(activation=values.activation("classifier_activation"), norm=True,
                  mean=values.values.get("classifier_pooling", "cls") == "mean",
                  bias=values.flag("classifier_bias", False)))


LAYER = "layers.{n}."

ARCHITECTURE = Architecture(model_type="modernbert", label="ModernBERT", spec=spec, hugging_face=Names(
    (("embeddings.tok_embeddings.weight", WORDS), *norm("embeddings.norm", "embeddings/norm"),
     *(row for theirs, ours in (*(("attn.Wqkv", f"attention/{name}") for name in ("query", "key", "value")),
                                ("attn.Wo", "attention/output"), ("mlp.Wi", "mlp/gate"), ("mlp.Wi", "mlp/up"),
                                ("mlp.Wo", "mlp/down"))
       for row in dense(LAYER + theirs, f"layers/{{n}}/{ours}")),
     *norm(LAYER + "attn_norm", "layers/{n}/attention/norm"), *norm(LAYER + "mlp_norm", "layers/{n}/mlp/norm"),
     *norm("final_norm", FINAL_NORM), *dense("head.dense", HEAD_DENSE), *norm("head.norm", HEAD_NORM),
     ("classifier.weight", HEAD[0]), ("classifier.bias", HEAD[1])),
    encoder=("embeddings.", "layers.", "final_norm."), kernels_are_transposed=True, has_prefix=True,
    parts={**QUERY_KEY_VALUE, **fused("layers/{n}/mlp/gate", "layers/{n}/mlp/up")}))
