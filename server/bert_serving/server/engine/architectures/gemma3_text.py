"""Gemma 3: Gemma Team, 2025 (https://arxiv.org/abs/2503.19786), as EmbeddingGemma has it, which sees to both sides."""
from __future__ import annotations

import math
from dataclasses import replace

from ...core.tokenization import InputTemplate
from ..spec import Embeddings, EncoderSpec, Placement, RotaryPositions
from . import qwen3
from .base import Architecture, Names, Values, norm


def spec(values: Values) -> EncoderSpec:
    values.refuse("attn_logit_softcapping", None)
    causal = not values.flag("use_bidirectional_attention", False)
    # Older Gemmas have hidden_act, too, which nobody reads.
    activation = values.activation("hidden_activation", "gelu_pytorch_tanh")
    found = qwen3.decoder(Values({**values.values, "hidden_act": activation}), causal=causal, qk_norm=True,
                          head_size=256)
    every = values.number("sliding_window_pattern", 6)
    sees_all = values.layer_types(found.num_layers, lambda layer: (layer + 1) % every == 0)
    window = values.number("sliding_window", 4096, most=10_000_000)
    # Of a causal model's window a token itself is part; the others see half of it to either side.
    window = window - 1 if causal else window // 2
    everywhere = values.theta("rope_theta", 1_000_000.0, "full_attention")
    nearby = values.theta("rope_local_base_freq", 10_000.0, "sliding_attention")
    assert isinstance(found.positions, RotaryPositions)
    return replace(
        found, embeddings=Embeddings(token_types=0, norm=False, scale=math.sqrt(found.hidden_size)),
        attention=replace(found.attention, scale=values.real("query_pre_attn_scalar", 256) ** -0.5,
                          windows=tuple(None if full else window for full in sees_all)),
        positions=replace(found.positions, thetas=tuple(everywhere if full else nearby for full in sees_all)),
        norm=replace(found.norm, placement=Placement.AROUND))


NORMS = (*norm(qwen3.LAYER + "input_layernorm", "layers/{n}/attention/norm"),
         *norm(qwen3.LAYER + "post_attention_layernorm", "layers/{n}/attention/output_norm"),
         *norm(qwen3.LAYER + "pre_feedforward_layernorm", "layers/{n}/mlp/norm"),
         *norm(qwen3.LAYER + "post_feedforward_layernorm", "layers/{n}/mlp/output_norm"))

ARCHITECTURE = Architecture(
    model_type="gemma3_text", label="Gemma 3", spec=spec, is_decoder=True,
    template=InputTemplate(before=("<bos>",), between=(), after=("<eos>",), second_type=0),
    hugging_face=Names((*qwen3.TABLE, *NORMS, *qwen3.QK_NORMS), encoder=qwen3.PARTS_OF_ENCODER,
                       kernels_are_transposed=True, has_prefix=True, norm_offset=1.0))
