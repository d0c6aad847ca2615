"""The backend of ONNX Runtime, against the same computation in float64 without a library."""
import numpy as np
import pytest

from bert_serving.client.pairs import Pair
from bert_serving.server.config import PoolingStrategy
from bert_serving.server.core.packing import LONG
from bert_serving.server.engine import base
from bert_serving.server.engine.backends import backend, onnx
from bert_serving.server.engine.base import EngineSettings
from bert_serving.server.errors import EngineError

pytest.importorskip("onnxruntime")

TEXTS = ["the quick brown fox", "unwanted running", "a", Pair("the, the", "quick fox."), "fox " * 30]


@pytest.fixture
def check(run):
    def compare(model, directory, texts=TEXTS, **options):
        running = run(directory, "onnx", **options)
        strategy = options.get("pooling_strategy", PoolingStrategy.REDUCE_MEAN).name
        vectors = [model.vector(features, strategy, options.get("pooling_layer", [-2]),
                                not options.get("no_position_embeddings"))
                   for features in running.features(texts)]
        expected = np.concatenate(vectors) if strategy == "NONE" else np.stack(vectors)
        np.testing.assert_allclose(running.encode(texts), expected, rtol=0, atol=2e-5)
        return running
    return compare


@pytest.mark.parametrize("options", [{"pooling_layer": [0, -1]}, {"no_position_embeddings": True},
                                     {"max_seq_len": None}], ids=str)
def test_options(tiny, tmp_path, check, options):
    model = tiny()
    check(model, model.write_hugging_face(tmp_path), **options)


def test_sequences_with_rows_of_their_own(tiny, tmp_path, check):
    model = tiny(max_position_embeddings=2 * LONG)
    running = check(model, model.write_hugging_face(tmp_path), texts=["the " * (LONG + 20), "fox"], max_seq_len=None)
    base.prove(running.engine, running.tokenizer, running.settings)
    assert running.engine.describe() == f"ONNX Runtime {onnx.BACKEND.version()} on CPU, 1 thread, fp32"


def test_a_damaged_graph(tiny_dir, run, tmp_path):
    running = run(tiny_dir, "onnx")
    (tmp_path / "bad").mkdir()
    with pytest.raises(EngineError, match="is not used"):
        onnx.OnnxEngine(EngineSettings(**{**running.settings.to_json(), "artefact": str(tmp_path / "bad"),
                                          "pooling_layer": (-2,)}))


def test_it_is_not_taken_unless_it_is_asked_for():
    assert not backend("onnx").is_automatic
