"""ELECTRA's discriminator: Clark et al., 2020 (https://arxiv.org/abs/2003.10555). BERT with narrower embeddings."""
from __future__ import annotations

from dataclasses import replace

from ..spec import HEAD, HEAD_DENSE, PROJECTION, EncoderSpec, Head
from . import bert
from .base import Architecture, Names, Values, dense


def spec(values: Values) -> EncoderSpec:
    found = bert.spec(Values({"hidden_size": 256, "num_attention_heads": 4, "intermediate_size": 1024,
                              **values.values}))
    size = values.number("embedding_size", 128)
    return replace(found, embeddings=replace(found.embeddings, size=None if size == found.hidden_size else size),
                   pooler=False, head=Head(activation="gelu"))


ARCHITECTURE = Architecture(model_type="electra", label="ELECTRA", spec=spec, hugging_face=Names(
    (*bert.ENCODER, *dense("embeddings_project", PROJECTION), *dense("classifier.dense", HEAD_DENSE),
     ("classifier.out_proj.weight", HEAD[0]), ("classifier.out_proj.bias", HEAD[1])),
    encoder=("embeddings.", "embeddings_project.", "encoder."),
    ignored=("embeddings.position_ids", "embeddings.token_type_ids"), kernels_are_transposed=True, has_prefix=True))
