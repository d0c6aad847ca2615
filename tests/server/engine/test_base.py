"""What engines are made from, and the self-test that each must pass."""
import json

import numpy as np
import pytest

from bert_serving.server import golden
from bert_serving.server.core.tokenization import Tokenizer, WordHashTokenizer
from bert_serving.server.core.tokenizer_settings import TokenizerSettings
from bert_serving.server.engine import backends, base
from bert_serving.server.engine.base import Engine, EngineSettings
from bert_serving.server.engine.pipeline import Normalize, Truncate
from bert_serving.server.errors import EngineError

SETTINGS = EngineSettings(engine="echo", hidden_size=8)


def test_settings_cross_a_process_border():
    settings = EngineSettings(engine="graph", model_dir="x", pooling_layer=(-1, -2), max_seq_len=None, precision="fp16",
                              tokenizer=TokenizerSettings(file="vocab.txt", prompt="query: "), scores="sigmoid",
                              stages=(Normalize(source="modules.json"), Truncate(size=2)))
    assert EngineSettings.from_json(json.loads(json.dumps(settings.to_json()))) == settings


@pytest.mark.parametrize("given, positions, expected", [(25, 512, 25), (None, 512, 512), (600, 512, 512)])
def test_max_length(given, positions, expected):
    settings = EngineSettings(engine="echo", max_seq_len=given, max_position_embeddings=positions)
    assert settings.max_length == expected


def test_tokenizers(tmp_path):
    (tmp_path / "vocab.txt").write_text("[UNK]\n[CLS]\n[SEP]\nA\n")
    assert isinstance(base.create_tokenizer(SETTINGS), WordHashTokenizer)
    tokenizer = base.create_tokenizer(EngineSettings(
        engine="echo", tokenizer=TokenizerSettings(file=str(tmp_path / "vocab.txt"), do_lower_case=False)))
    assert isinstance(tokenizer, Tokenizer) and tokenizer.encode(["A"], 9) == [[3]]


def test_features_follow_the_settings():
    settings = EngineSettings(engine="echo", max_seq_len=5, mask_cls_sep=True, no_special_token=True)
    raw, given = base.features(["a b c d", list("abcdefg")], WordHashTokenizer(), settings)
    assert raw.tokens == ["[CLS]", "a", "b", "c", "[SEP]"] and raw.input_mask.tolist() == [0, 1, 1, 1, 0]
    assert given.tokens == list("abcde")


# ---- the self-test ---------------------------------------------------------------------------------------------------

class Faulty(Engine):
    """The echo engine, spoilt."""

    def __init__(self, spoil):
        self.echo, self.spoil = backends.create(SETTINGS), spoil

    def encode(self, batch):
        return self.spoil(self.echo.encode(batch).astype(np.float32), len(batch))


def nan(rows, _):
    rows[-1, -1] = np.nan
    return rows


@pytest.mark.parametrize("spoil, message", [
    (nan, "not finite"),
    (lambda rows, _: rows[1:], r"answers float32 \(5, 8\) where float32 \[6, ...\] is expected"),
    (lambda rows, _: rows[0], "is expected"),
    (lambda rows, _: rows.astype(np.float64), "answers float64"),
    (lambda rows, n: rows + 0.1 * n, "depends on the other sentences of its batch: a value differs by 0.5"),
    (lambda rows, n: rows[::-1], "differs by"),
])
def test_a_faulty_engine_does_not_prove_itself(spoil, message):
    with pytest.raises(EngineError, match=message):
        base.prove(Faulty(spoil), WordHashTokenizer(), SETTINGS)


def test_the_speed_of_an_engine(monkeypatch):
    settings = EngineSettings(engine="echo")
    times = iter([10.0, 10.5])
    monkeypatch.setattr(base.time, "perf_counter", lambda: next(times))
    tokens = sum(map(len, base.features(golden.SENTENCES, WordHashTokenizer(), settings)))
    assert base.speed(backends.create(settings), WordHashTokenizer(), settings) == 2 * tokens > 0


@pytest.mark.parametrize("strategy", ["REDUCE_MEAN", "NONE", "CLS_POOLED"])
def test_a_sound_engine_proves_itself(strategy):
    settings = EngineSettings(engine="echo", pooling_strategy=strategy)
    base.prove(backends.create(settings), base.create_tokenizer(settings), settings)
