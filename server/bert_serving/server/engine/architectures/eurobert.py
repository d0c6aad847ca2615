"""EuroBERT: Boizard et al., 2025 (https://arxiv.org/abs/2503.05500). A decoder's layers that see to both sides."""
from __future__ import annotations

from ...core.tokenization import InputTemplate
from ..spec import EncoderSpec
from . import qwen3
from .base import Architecture, Names, Values


def spec(values: Values) -> EncoderSpec:
    return qwen3.decoder(values, causal=False, qk_norm=False, theta=250_000.0, eps=1e-5)


ARCHITECTURE = Architecture(
    model_type="eurobert", label="EuroBERT", spec=spec, reads_own_code=True,
    template=InputTemplate(before=("<|begin_of_text|>",), between=(), after=("<|end_of_text|>",), second_type=0),
    hugging_face=Names((*qwen3.TABLE, *qwen3.NORMS), encoder=qwen3.PARTS_OF_ENCODER, kernels_are_transposed=True,
                       has_prefix=True))
