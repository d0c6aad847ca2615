"""RoBERTa: Liu et al., 2019 (https://arxiv.org/abs/1907.11692). BERT whose positions follow the padding token's id."""
from __future__ import annotations

from dataclasses import replace

from ...core.tokenization import InputTemplate
from ..spec import HEAD, HEAD_DENSE, EncoderSpec, Head, TablePositions
from . import bert
from .base import Architecture, Values, dense


def spec(values: Values) -> EncoderSpec:
    found = bert.spec(values)
    assert isinstance(found.positions, TablePositions)
    pad_id = values.count("pad_token_id", 1)
    return replace(found, head=Head(),
                   positions=TablePositions(rows=found.positions.rows, first=pad_id + 1, pad_id=pad_id))


HUGGING_FACE = bert.hugging_face(*bert.POOLER, *dense("classifier.dense", HEAD_DENSE),
                                 ("classifier.out_proj.weight", HEAD[0]), ("classifier.out_proj.bias", HEAD[1]))

TEMPLATE = InputTemplate(before=("<s>",), between=("</s>", "</s>"), after=("</s>",), second_type=0)

ARCHITECTURE = Architecture(model_type="roberta", label="RoBERTa", spec=spec, hugging_face=HUGGING_FACE,
                            template=TEMPLATE)
