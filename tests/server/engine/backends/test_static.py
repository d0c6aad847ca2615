"""Static models, against what sentence-transformers and model2vec answer."""
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from bert_serving.client.pairs import Pair
from bert_serving.server.config import ServerConfig
from bert_serving.server.engine import backends, base
from bert_serving.server.engine.base import EngineSettings
from bert_serving.server.engine.models import resolve
from bert_serving.server.errors import EngineError

GOLDEN = Path(__file__).parents[3] / "data" / "golden" / "static"
TOLERANCE = {"model2vec": 5e-4}
"""model2vec answers in float16 there, as the table is."""


class Running:
    def __init__(self, directory, **options):
        self.model = resolve(ServerConfig(model_dir=str(directory), **options))
        self.settings = EngineSettings.from_json(json.loads(json.dumps(self.model.settings.to_json())))
        self.engine, self.tokenizer = backends.create(self.settings), base.create_tokenizer(self.settings)

    def encode(self, texts):
        return self.engine.encode(base.features(texts, self.tokenizer, self.settings))


@pytest.fixture(scope="module")
def reference():
    with np.load(GOLDEN / "reference.npz", allow_pickle=False) as arrays:
        return {name: arrays[name] for name in arrays.files}


@pytest.fixture(scope="module")
def texts(reference):
    return json.loads(str(reference["texts"]))


@pytest.mark.parametrize("name", sorted(path.name for path in GOLDEN.iterdir() if path.is_dir()))
def test_vectors_are_those_of_the_libraries(reference, texts, name):
    running = Running(GOLDEN / name)
    vectors = running.encode(texts)
    assert vectors.dtype == np.float32
    assert np.abs(vectors - reference[f"{name}/vectors"]).max() < TOLERANCE.get(name, 1e-6)
    assert running.settings.engine == "static" and running.engine.describe().startswith("a table of 700 tokens")
    base.prove(running.engine, running.tokenizer, running.settings)


def test_a_vector_does_not_depend_on_its_batch(texts):
    running = Running(GOLDEN / "sentence-transformers")
    together = running.encode(texts)
    for text, vector in zip(texts, together):
        assert (running.encode([text])[0] == vector).all()


def test_a_text_without_tokens_is_zero(texts):
    running = Running(GOLDEN / "sentence-transformers")
    assert not running.encode(["", "  ", "\u200b"]).any()
    assert running.encode(["hello", ""])[0].any()


def test_tokens_and_pairs():
    running = Running(GOLDEN / "sentence-transformers")
    one, other, tokens, pair = running.encode(["hello", "world", ["hello"], Pair("hello", "world")])
    ids = [len(features) for features in base.features(["hello", "world"], running.tokenizer, running.settings)]
    assert np.allclose(pair, (one * ids[0] + other * ids[1]) / sum(ids), atol=1e-6)
    known, = running.tokenizer.lookup(["hello"])
    table = load_file(GOLDEN / "sentence-transformers" / "model.safetensors")["embedding.weight"]
    assert (tokens == table[known]).all()


@pytest.mark.parametrize("dtype", ["float32", "float16", "float64", "bfloat16"])
def test_the_types_of_a_table(tmp_path, texts, reference, dtype):
    directory = tmp_path / "model"
    shutil.copytree(GOLDEN / "sentence-transformers", directory)
    table = load_file(directory / "model.safetensors")["embedding.weight"]
    if dtype == "bfloat16":
        _write_bfloat16(directory / "model.safetensors", table)
    else:
        save_file({"embedding.weight": table.astype(dtype)}, directory / "model.safetensors")
    error = np.abs(Running(directory).encode(texts) - reference["sentence-transformers/vectors"]).max()
    assert error < {"float16": 2e-3, "bfloat16": 2e-2}.get(dtype, 1e-6)


def _write_bfloat16(path, table):
    header = json.dumps({"embedding.weight": {"dtype": "BF16", "shape": table.shape,
                                              "data_offsets": [0, 2 * table.size]}}).encode()
    halves = (table.view(np.uint32) >> 16).astype("<u2")
    path.write_bytes(len(header).to_bytes(8, "little") + header + halves.tobytes())


def test_the_table_is_mapped_and_not_read():
    table = Running(GOLDEN / "sentence-transformers").engine._table
    assert isinstance(table._rows.base, np.memmap) and not table._rows.flags.writeable


def test_a_table_that_is_gone_ends_the_worker_with_a_line(tmp_path):
    settings = replace(Running(GOLDEN / "model2vec").settings, checkpoint=str(tmp_path / "model.safetensors"))
    with pytest.raises(EngineError, match="model.safetensors"):
        backends.create(settings)


def test_memory_is_that_of_the_file():
    settings = Running(GOLDEN / "model2vec").settings
    footprint = backends.backend("static").footprint(settings)
    assert footprint.libraries == (GOLDEN / "model2vec" / "model.safetensors").stat().st_size
