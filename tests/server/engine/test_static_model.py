"""What a static model's directory says, and what options go with it."""
import json
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from bert_serving.server.config import PoolingStrategy, ServerConfig
from bert_serving.server.engine.models import resolve
from bert_serving.server.engine.static_model import Table
from bert_serving.server.errors import ConfigError, ModelError

from .backends.test_static import GOLDEN


@pytest.fixture
def copy(tmp_path):
    """A copy of one of the golden models, its arrays replaced if so asked."""
    def make(name, **arrays):
        shutil.copytree(GOLDEN / name, tmp_path / name)
        if arrays:
            file = tmp_path / name / "model.safetensors"
            save_file({**load_file(file), **arrays}, file)
        return tmp_path / name
    return make


def start(directory, **options):
    return resolve(ServerConfig(model_dir=str(directory), **options))


@pytest.mark.parametrize("name, length, source, normalize", [
    ("sentence-transformers", None, "a static model has no positions", False),
    ("stages", 6, "tokenizer.json", False),            # What is normalized is cut to 5 dimensions then.
    ("model2vec", 512, "config.json", True), ("model2vec-quantized", 9, "config.json", False),
    ("model2vec-int8", None, "config.json", True), ("model2vec-modules", 9, "tokenizer.json", True)])
def test_what_the_directory_decides(name, length, source, normalize):
    model = start(GOLDEN / name)
    assert (model.config.max_seq_len, model.provenance["max_seq_len"]) == (length, source)
    assert model.config.normalize == normalize and model.settings.hidden_size == 8
    assert (model.config.pooling_strategy, model.config.pooling_layer) == (PoolingStrategy.REDUCE_MEAN, [-1])
    table = 40 * 8 if name in ("model2vec-quantized", "model2vec-modules") else 700 * 8
    assert (model.config.engine, model.layers_kept, model.num_parameters) == ("static", 1, table)


def test_options_rule():
    model = start(GOLDEN / "model2vec", max_seq_len=7, normalize=False, engine="static")
    assert (model.config.max_seq_len, model.settings.stages) == (7, ())
    assert model.settings.tokenizer.static.max_characters % 7 == 0
    assert start(GOLDEN / "stages", prompt_name="document").settings.tokenizer.prompt == ""


@pytest.mark.parametrize("options, message", [
    ({"engine": "lite"}, "-engine lite is for encoders, and .* is a static model .modules.json.; leave it out"),
    ({"engine": "echo"}, "-engine echo is for encoders"),
    ({"precision": "bf16"}, "is a static model .*, and the engine for those has no -precision bf16; leave that out"),
    ({"device_map": [0]}, "the engine for those is for CPUs"),
    ({"xla": True}, "the engine for those does without -xla"),
    ({"pooling_strategy": PoolingStrategy.NONE}, "-pooling_strategy NONE is for encoders, .* averaged"),
    ({"pooling_strategy": PoolingStrategy.CLS_TOKEN}, "REDUCE_MEAN"),
    ({"pooling_layer": [-1, -1]}, "-pooling_layer -1 -1 is for encoders"),
    ({"pooling_layer": [-2]}, "-pooling_layer -2 does not exist in a model of 1 layer"),
    ({"tuned_model_dir": "x"}, "-tuned_model_dir x is for encoders"),
    ({"config_name": "config.json"}, "-config_name config.json is for encoders"),
    ({"ckpt_name": "model.safetensors"}, "-ckpt_name model.safetensors is for encoders"),
    ({"no_position_embeddings": True}, "-no_position_embeddings"), ({"prompt_name": "q"}, "no such prompt")], ids=str)
def test_options_of_encoders_are_refused(options, message):
    with pytest.raises(ConfigError, match=message) as error:
        start(GOLDEN / "sentence-transformers", **options)
    assert "\n" not in str(error.value)


def test_the_engine_of_static_models_refuses_encoders(tiny_dir, has_native):
    able = "-engine native or -engine lite" if has_native else "-engine lite"
    with pytest.raises(ConfigError, match="-engine static is for static models, and this is an encoder; leave that "
                                          f"out, or give {able} or -engine graph"):
        start(tiny_dir, engine="static")


# ---- damaged and hostile files ---------------------------------------------------------------------------------------

@pytest.mark.parametrize("arrays, message", [
    ({"embedding.weight": np.zeros(700, np.float32)}, r"embedding.weight is \[700\], expected \[tokens, dimensions\]"),
    ({"embedding.weight": np.zeros((0, 8), np.float32)}, r"embedding.weight is \[0, 8\]"),
    ({"embedding.weight": np.zeros((1, 70000), np.float32)}, "of at most 65536 dimensions"),
    ({"embedding.weight": np.full((700, 8), np.nan, np.float32)}, "holds values that are not finite"),
    ({"embedding.weight": np.full((700, 8), 1e300)}, "holds values that are not finite"),
    ({"embedding.weight": np.zeros((700, 8), np.int64)}, "is of type I64, expected"),
    ({"embedding.weight": np.zeros((9, 8), np.float32)}, "ids up to 699, but the model's vocab_size is 9"),
    ({"bias": np.zeros(8, np.float32)}, "also holds bias")], ids=lambda value: "")
def test_a_damaged_table_ends_the_start_with_a_line(copy, arrays, message):
    directory = copy("sentence-transformers", **arrays)
    with pytest.raises(ModelError, match=message) as error:
        start(directory)
    assert "\n" not in str(error.value) and str(directory) in str(error.value)


@pytest.mark.parametrize("arrays, message", [
    ({"mapping": np.full(700, 40)}, "expected for each token the number of one of the 40 embeddings"),
    ({"mapping": np.full(700, -1)}, "expected for each token"),
    ({"mapping": np.zeros((7, 7), int)}, "mapping is int64"),
    ({"mapping": np.zeros(700, np.float32)}, "mapping is float32"),
    ({"mapping": np.zeros(9, int), "weights": np.ones(9)}, "ids up to 699, but the model's vocab_size is 9"),
    ({"weights": np.ones(9)}, "expected a finite number for each of 700 tokens"),
    ({"weights": np.full(700, np.inf)}, "expected a finite number")], ids=lambda value: "")
def test_a_damaged_mapping_ends_the_start_with_a_line(copy, arrays, message):
    with pytest.raises(ModelError, match=message):
        start(copy("model2vec-quantized", **arrays))


@pytest.mark.parametrize("file", ["model.safetensors", "tokenizer.json"])
def test_a_missing_or_broken_file_is_named(copy, file):
    directory = copy("sentence-transformers")
    (directory / file).write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 1\n")
    with pytest.raises(ModelError, match=f"{file} is a Git LFS pointer"):
        start(directory)
    (directory / file).write_bytes(b"{" * 1000)
    with pytest.raises(ModelError, match=file):
        start(directory)
    (directory / file).unlink()
    with pytest.raises(ModelError, match=f"has no {file}, which a static model needs"):
        start(directory)


def test_other_weights_are_no_table(tmp_path):
    save_file({"encoder.weight": np.zeros((2, 2), np.float32)}, tmp_path / "model.safetensors")
    with pytest.raises(ModelError, match="holds encoder.weight; expected embedding.weight, or model2vec's"):
        Table(tmp_path / "model.safetensors")


@pytest.mark.parametrize("values, message", [
    ({"normalize": "yes"}, "normalize is 'yes'; expected true or false"), ({"max_length": 0}, "max_length is 0"),
    ({"max_length": True}, "max_length is True"), ({"max_length": 1e9}, "max_length is 1000000000.0")])
def test_a_config_of_model2vec_that_makes_no_sense(copy, values, message):
    directory = copy("model2vec")
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps({**config, **values}))
    with pytest.raises(ModelError, match=message):
        start(directory)


def test_texts_that_are_cut_on_the_left_are_refused(copy):
    directory = copy("stages")
    tokenizer = json.loads((directory / "tokenizer.json").read_text())
    tokenizer["truncation"]["direction"] = "Left"
    (directory / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(ModelError, match="cuts off the left end"):
        start(directory)


def test_a_file_of_torch_is_read(copy, torch_file):
    directory = copy("sentence-transformers")
    table = load_file(directory / "model.safetensors")["embedding.weight"]
    torch_file(directory / "pytorch_model.bin", {"embedding.weight": table})
    (directory / "model.safetensors").unlink()
    assert start(directory).settings.checkpoint.endswith("pytorch_model.bin")
    assert (Table(directory / "pytorch_model.bin").vectors(np.arange(700)) == table).all()
