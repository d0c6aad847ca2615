"""What the echo engine has to answer, computed beside it: the model that histories are checked against."""
from __future__ import annotations

import numpy as np
from bert_serving.server.core.features import build_features
from bert_serving.server.core.tokenization import WordHashTokenizer
from bert_serving.server.engine.backends import echo
from bert_serving.server.config import PoolingStrategy

from .driver import fingerprints

MAX_SEQ_LEN = 25
HIDDEN_SIZE = 768


class EchoModel:
    """Texts -> fingerprints of the vectors that a server started without further options gives for them."""

    def __init__(self) -> None:
        self.tokenizer = WordHashTokenizer()
        self.table = echo._table(HIDDEN_SIZE)

    def __call__(self, texts: list[str]) -> str:
        return fingerprints(self.vectors(texts))

    def vectors(self, texts: list[str]) -> np.ndarray:
        features = build_features(texts, self.tokenizer, max_length=MAX_SEQ_LEN)
        ids = np.concatenate([sequence.input_ids for sequence in features])
        cu_seqlens = np.cumsum([0, *map(len, features)])
        return echo.echo_vectors(ids, cu_seqlens, None, strategy=PoolingStrategy.REDUCE_MEAN, layers=(-2,),
                                 num_labels=2, fp16=False, table=self.table)
