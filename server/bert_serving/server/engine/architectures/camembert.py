"""CamemBERT: Martin et al., 2019 (https://arxiv.org/abs/1911.03894). RoBERTa for French."""
from __future__ import annotations

from . import roberta
from .base import Architecture

ARCHITECTURE = Architecture(model_type="camembert", label="CamemBERT", spec=roberta.spec,
                            hugging_face=roberta.HUGGING_FACE, template=roberta.TEMPLATE)
