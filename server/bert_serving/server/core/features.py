"""What the engine reads: the token ids of one sequence and what goes with them. Built as Google's BERT builds them."""
from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class Features:
    """One sequence, unpadded.

    Attributes:
        input_ids: int32 [n], special tokens included; n is at least 1.
        token_type_ids: int32 [n], 0 through the first [SEP], 1 for the second sentence of a pair.
        input_mask: int32 [n], 0 where -mask_cls_sep hides [CLS] and [SEP] from attention and pooling, else 1.
        tokens: the n tokens as text.
        num_special: how many special tokens a batch of such sequences is widened by: 3 for a pair, else 2.
    """

    input_ids: np.ndarray
    token_type_ids: np.ndarray
    input_mask: np.ndarray
    tokens: list[str]
    num_special: int

    def __len__(self) -> int:
        return len(self.input_ids)
