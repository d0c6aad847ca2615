"""XLM-RoBERTa: Conneau et al., 2019 (https://arxiv.org/abs/1911.02116). RoBERTa for a hundred languages."""
from __future__ import annotations

from . import roberta
from .base import Architecture

ARCHITECTURE = Architecture(model_type="xlm-roberta", label="XLM-RoBERTa", spec=roberta.spec,
                            hugging_face=roberta.HUGGING_FACE, template=roberta.TEMPLATE)
