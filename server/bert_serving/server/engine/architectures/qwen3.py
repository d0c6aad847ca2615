"""Qwen3: Yang et al., 2025 (https://arxiv.org/abs/2505.09388), a decoder that also makes embeddings, of its last token.

:func:`spec` and NAMES are also for other models of this form, that of Touvron et al., "Llama", 2023
(https://arxiv.org/abs/2302.13971).
"""
from __future__ import annotations

from ...core.tokenization import InputTemplate
from ..spec import (FINAL_NORM, WORDS, Attention, Embeddings, EncoderSpec, Mlp, Norm, Placement, RotaryPositions)
from .base import MAX_LAYERS, MAX_VOCABULARY, Architecture, Names, Values, dense, norm


def decoder(values: Values, *, causal: bool, qk_norm: bool, head_size: int | None = None,
            theta: float = 10_000.0, eps: float = 1e-6) -> EncoderSpec:
    """
    Args:
        head_size: where the configuration does not say; None: hidden_size / heads.
        theta, eps: where the configuration does not say.
    """
    hidden, layers = values.number("hidden_size"), values.number("num_hidden_layers", most=MAX_LAYERS)
    heads, mlp_bias = values.number("num_attention_heads"), values.flag("mlp_bias", False)
    size = values.number("head_dim", head_size or max(1, hidden // heads))
    shared = values.number("num_key_value_heads", heads)
    if heads % shared:
        raise ValueError(f"num_attention_heads {heads} is not a multiple of num_key_value_heads {shared}")
    return EncoderSpec(
        vocab_size=values.number("vocab_size", most=MAX_VOCABULARY), hidden_size=hidden, num_layers=layers,
        attention=Attention(heads=heads, key_value_heads=shared, head_size=size, causal=causal, qk_norm=qk_norm,
                            bias=values.flag("attention_bias", False)),
        mlp=Mlp(size=values.number("intermediate_size"), activation=values.activation("hidden_act", "silu"), gated=True,
                bias=mlp_bias, down_bias=mlp_bias),
        positions=RotaryPositions(thetas=(values.theta("rope_theta", theta),) * layers,
                                  max_length=values.number("max_position_embeddings", most=10_000_000)),
        embeddings=Embeddings(token_types=0, norm=False),
        norm=Norm(eps=values.real("rms_norm_eps", eps), rms=True, bias=False, placement=Placement.BEFORE, final=True),
        pooler=False, head=None)


def spec(values: Values) -> EncoderSpec:
    values.refuse("use_sliding_window", False)
    return decoder(values, causal=True, qk_norm=True, head_size=128)


LAYER = "layers.{n}."

TABLE = (
    ("embed_tokens.weight", WORDS),
    *(row for theirs, ours in (*((f"self_attn.{name[0]}_proj", f"attention/{name}")
                                 for name in ("query", "key", "value", "output")),
                               *((f"mlp.{name}_proj", f"mlp/{name}") for name in ("gate", "up", "down")))
      for row in dense(LAYER + theirs, f"layers/{{n}}/{ours}")),
    *norm("norm", FINAL_NORM))

NORMS = (*norm(LAYER + "input_layernorm", "layers/{n}/attention/norm"),
         *norm(LAYER + "post_attention_layernorm", "layers/{n}/mlp/norm"))

QK_NORMS = (*norm(LAYER + "self_attn.q_norm", "layers/{n}/attention/query_norm"),
            *norm(LAYER + "self_attn.k_norm", "layers/{n}/attention/key_norm"))

PARTS_OF_ENCODER = ("embed_tokens.", "layers.", "norm.")

TEMPLATE = InputTemplate(before=(), between=(), after=("<|endoftext|>",), second_type=0)

ARCHITECTURE = Architecture(
    model_type="qwen3", label="Qwen3", spec=spec, template=TEMPLATE, is_decoder=True,
    hugging_face=Names((*TABLE, *NORMS, *QK_NORMS), encoder=PARTS_OF_ENCODER, kernels_are_transposed=True,
                       has_prefix=True))
