"""What is around rows of packed sequences: which arrays and layers they take. Vectors are in backends/test_lite.py."""
import io
import stat

import numpy as np
import pytest

from bert_serving.server.config import PoolingStrategy
from bert_serving.server.engine import positions, rows
from bert_serving.server.engine.base import EngineSettings
from bert_serving.server.engine.spec import WORDS, Attention, Embeddings, EncoderSpec, RotaryPositions


@pytest.mark.parametrize("strategy, more", [
    ("REDUCE_MEAN", []), ("CLS_POOLED", ["pooler/kernel", "pooler/bias"]),
    ("REGRESSION", ["pooler/kernel", "pooler/bias", "head/weights", "head/bias"])])
def test_arrays(strategy, more):
    embeddings = ["embeddings/words", "embeddings/token_types", "embeddings/positions"]
    assert [*rows.arrays_for(EncoderSpec(vocab_size=9), PoolingStrategy[strategy])] == embeddings + more


def test_tables_that_an_encoder_does_not_have_are_not_looked_up():
    spec = EncoderSpec(vocab_size=9, embeddings=Embeddings(token_types=0),
                       positions=RotaryPositions(thetas=(1e4,) * 12, max_length=99))
    assert rows.arrays_for(spec, PoolingStrategy.REDUCE_MEAN) == ("embeddings/words",)


def test_angles_are_made_when_a_sequence_has_so_many_positions():
    """A configuration may speak of ten million, whose angles would take gigabytes of each worker."""
    spec = EncoderSpec(vocab_size=9, hidden_size=16, attention=Attention(heads=2), embeddings=Embeddings(token_types=0),
                       positions=RotaryPositions(thetas=(100.0,) * 12, max_length=10_000_000))
    inputs = rows.Inputs(spec, {WORDS: np.ones((9, 16), np.float32)}, 10_000_000)
    for width in (5, 700, 40):
        found = inputs.of(rows.sample_layout(spec, 1, width, True))
        expected = positions.rotary_table(100.0, 8, width)
        assert np.array_equal(found["cosine_0"], expected[0]) and np.array_equal(found["sine_0"], expected[1])
    assert sum(array.nbytes for pair in inputs._angles for array in pair) < 100_000


def test_arrays_are_written_as_they_are(tiny, tmp_path):
    model = tiny()
    settings = EngineSettings(engine="lite", pooling_strategy="CLS_POOLED")
    rows.write_arrays(tmp_path, settings, model.spec, model.variables.__getitem__)
    names = rows.arrays_for(model.spec, PoolingStrategy.CLS_POOLED)
    assert {path.name for path in tmp_path.iterdir()} == set(map(rows.array_file, names))
    for name in names:
        path = tmp_path / rows.array_file(name)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert np.array_equal(np.load(io.BytesIO(path.read_bytes()), allow_pickle=False), model.variables[name])


@pytest.mark.parametrize("max_seq_len, longest, expected", [(None, 512, True), (129, 512, True), (128, 512, False),
                                                            (None, 128, False)])
def test_has_long(max_seq_len, longest, expected):
    settings = EngineSettings(engine="lite", max_seq_len=max_seq_len, max_position_embeddings=longest)
    assert rows.has_long(settings) is expected


@pytest.mark.parametrize("given, wanted, outputs", [((-1,), [2], [2]), ((-1, 0, -3), [2, 0, 0], [0, 2])])
def test_outputs(tiny, given, wanted, outputs):
    settings = EngineSettings(engine="lite", pooling_layer=given)
    assert rows.wanted_layers(settings, tiny().spec) == wanted and rows.outputs(settings, tiny().spec) == outputs


def test_the_pooler_reads_the_last_layer(tiny):
    settings = EngineSettings(engine="lite", pooling_layer=(0,), pooling_strategy="CLASSIFICATION")
    assert rows.outputs(settings, tiny().spec) == [2]


def test_large_channels_are_shared_out():
    kernel = np.ones((4, 3), np.float32)
    kernel[2] = 9
    largest = np.array([1, 100, 1, 0], np.float32)
    shares = 1 / rows.shared_out(largest, kernel)
    assert np.exp(np.log(shares).mean()) == pytest.approx(1, rel=1e-3), "as a whole inputs stay as large as they are"
    assert shares[1] < shares[0] < shares[2] and shares[0] / shares[1] == pytest.approx(10, rel=1e-4)
    assert np.isfinite(shares).all() and (shares > 0).all()
