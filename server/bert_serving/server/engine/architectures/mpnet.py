"""MPNet: Song et al., 2020 (https://arxiv.org/abs/2004.09297). BERT with a bias of the scores by distance."""
from __future__ import annotations

from dataclasses import replace

from ..spec import HEAD, HEAD_DENSE, POSITIONS, RELATIVE, WORDS, Embeddings, EncoderSpec, Head, RelativePositions
from . import bert, roberta
from .base import Architecture, Names, Values, dense, norm

BUCKETS = 32
"""The implementation that models are trained with takes no other number, whatever the configuration says."""

PAD_ID = 1


def spec(values: Values) -> EncoderSpec:
    values.refuse("relative_attention_num_buckets", BUCKETS)
    found = bert.spec(values)
    rows = values.number("max_position_embeddings", 512)
    return replace(found, embeddings=Embeddings(token_types=0), head=Head(),
                   positions=RelativePositions(rows=rows, first=PAD_ID + 1, pad_id=PAD_ID, buckets=BUCKETS))


LAYER = "encoder.layer.{n}."

ARCHITECTURE = Architecture(model_type="mpnet", label="MPNet", spec=spec, template=roberta.TEMPLATE, hugging_face=Names(
    (("embeddings.word_embeddings.weight", WORDS), ("embeddings.position_embeddings.weight", POSITIONS),
     ("encoder.relative_attention_bias.weight", RELATIVE), *norm("embeddings.LayerNorm", "embeddings/norm"),
     *(row for theirs, ours in (("attention.attn.q", "attention/query"), ("attention.attn.k", "attention/key"),
                                ("attention.attn.v", "attention/value"), ("attention.attn.o", "attention/output"),
                                ("intermediate.dense", "mlp/up"), ("output.dense", "mlp/down"))
       for row in dense(LAYER + theirs, f"layers/{{n}}/{ours}")),
     *norm(LAYER + "attention.LayerNorm", "layers/{n}/attention/norm"),
     *norm(LAYER + "output.LayerNorm", "layers/{n}/mlp/norm"),
     *bert.POOLER, *dense("classifier.dense", HEAD_DENSE),
     ("classifier.out_proj.weight", HEAD[0]), ("classifier.out_proj.bias", HEAD[1])),
    encoder=("embeddings.", "encoder."), ignored=("embeddings.position_ids",), kernels_are_transposed=True,
    has_prefix=True))
