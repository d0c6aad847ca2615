"""The cache of frozen graphs: what names one, when it is trusted, and the program that makes it."""
import dataclasses
import json
import os
import shutil
import stat
import subprocess
import sys
from importlib import metadata

import pytest

from bert_serving.client import checks
from bert_serving.server.config import PoolingStrategy, ServerConfig
from bert_serving.server.core.tokenizer_settings import TokenizerSettings
from bert_serving.server.engine import artefact, quiet
from bert_serving.server.engine.backends import BACKENDS, backend, graph
from bert_serving.server.engine.base import VECTOR_OPTIONS, EngineSettings
from bert_serving.server.engine.cache import read_manifest
from bert_serving.server.engine.models import resolve
from bert_serving.server.engine.pipeline import Normalize
from bert_serving.server.errors import EngineError, ModelError


def settings_of(model_dir, engine="graph", **options):
    return resolve(ServerConfig(model_dir=str(model_dir), engine=engine, **options)).settings


def program(settings, cache_dir, **variables):
    orders = json.dumps({"settings": settings.to_json(), "cache_dir": str(cache_dir)})
    return subprocess.run([sys.executable, "-m", "bert_serving.server.engine.artefact"], input=orders + "\n", text=True,
                          capture_output=True, timeout=55, env={**os.environ, **variables})


def test_program(tiny_dir, tmp_path):
    settings = settings_of(tiny_dir)
    assert artefact.cached(settings, tmp_path) is None
    done = program(settings, tmp_path, TF_CPP_MIN_LOG_LEVEL="0")
    answer, = done.stdout.splitlines()
    answer = json.loads(answer)
    assert done.returncode == 0
    assert set(answer) == {"path", "layers_kept", "layers", "seconds", "bytes"}
    assert (answer["layers_kept"], answer["layers"]) == (2, 3)
    path = artefact.cached(settings, tmp_path)
    assert answer["path"] == str(path)
    assert answer["bytes"] == sum(file.stat().st_size for file in path.iterdir() if file.name != "manifest.json")
    assert (read_manifest(path)["layers_kept"], read_manifest(path)["layers"]) == (2, 3)
    assert stat.S_IMODE(path.stat().st_mode) == 0o700
    assert {stat.S_IMODE(file.stat().st_mode) for file in path.iterdir()} == {0o600}


def test_program_says_what_is_wrong_with_the_model(tiny, tmp_path):
    model = tiny()
    del model.weights["bert/encoder/layer_1/output/dense/bias"]
    model.write_tensorflow(tmp_path / "model")
    done = program(settings_of(tmp_path / "model"), tmp_path / "cache")
    assert done.returncode == 1
    assert json.loads(done.stdout) == {"error": {"name": "ModelError", "message":
                                                 f"{tmp_path}/model/bert_model.ckpt lacks "
                                                 "bert/encoder/layer_1/output/dense/bias"}}
    assert not (tmp_path / "cache").exists()


def test_whatever_libraries_print_the_answer_is_alone():
    code = ("import os\n"
            "from bert_serving.server.engine import artefact\n"
            "def chatty(settings, cache_dir, cache_mb):\n"
            "    print('chatter')\n"
            "    os.write(1, b'deep chatter')\n"
            "    return {'path': cache_dir}\n"
            "artefact.make = chatty\n"
            "raise SystemExit(artefact.main())\n")
    orders = json.dumps({"settings": {"engine": "graph", "pooling_layer": [-2]}, "cache_dir": "here"})
    done = subprocess.run([sys.executable, "-c", code], input=orders + "\n", text=True, capture_output=True, timeout=55)
    assert (done.returncode, done.stdout) == (0, '{"path": "here"}\n')
    assert "chatter" in done.stderr and "deep chatter" in done.stderr


def test_program_survives_odd_orders(tmp_path):
    done = subprocess.run([sys.executable, "-m", "bert_serving.server.engine.artefact"], input='{"settings": {}}\n',
                          text=True, capture_output=True, timeout=55)
    assert done.returncode == 1
    assert json.loads(done.stdout)["error"] == {
        "name": "ConfigError", "message": "ArtefactOrders.cache_dir is missing; expected settings, cache_dir, cache_mb"}


def test_a_cache_that_cannot_be_written(tiny_dir, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(EngineError, match="cannot write the converted model to .*; see -graph_tmp_dir"):
        artefact.make(settings_of(tiny_dir), tmp_path / "file")


def test_a_damaged_graph_is_made_again(tiny_dir, tmp_path):
    settings = settings_of(tiny_dir)
    path = artefact.make(settings, tmp_path)["path"]
    file = artefact.cached(settings, tmp_path) / graph.GRAPH
    content = file.read_bytes()
    file.write_bytes(content[:-1] + b"\0")
    assert artefact.cached(settings, tmp_path) is None
    assert artefact.make(settings, tmp_path)["path"] == path
    assert artefact.cached(settings, tmp_path) and file.read_bytes() == content


# ---- what a graph depends on -----------------------------------------------------------------------------------------

@pytest.mark.parametrize("options", [
    {"pooling_layer": [-1]}, {"pooling_layer": [-2, -1]}, {"pooling_strategy": PoolingStrategy.REDUCE_MAX},
    {"fp16": True}, {"precision": "bf16"}, {"no_position_embeddings": True}], ids=str)
def test_other_options_other_graph(tiny_dir, tmp_path, options):
    assert artefact.artefact_path(settings_of(tiny_dir), tmp_path) != artefact.artefact_path(
        settings_of(tiny_dir, **options), tmp_path)


@pytest.mark.parametrize("options", [
    {"max_seq_len": 12}, {"mask_cls_sep": True}, {"do_lower_case": False}, {"xla": True}, {"no_special_token": True},
    {"pooling_layer": [1]}], ids=str)
def test_options_that_do_not_matter_to_the_graph(tiny_dir, tmp_path, options):
    expected = options != {"pooling_layer": [1]}       # The same layer by another number: a graph too many, no harm.
    assert (artefact.artefact_path(settings_of(tiny_dir), tmp_path) == artefact.artefact_path(
        settings_of(tiny_dir, **options), tmp_path)) == expected


def test_other_content_other_graph(tiny, tmp_path, monkeypatch):
    def path():
        return artefact.artefact_path(settings_of(tmp_path / "model"), tmp_path)

    tiny().write_hugging_face(tmp_path / "model")
    first = path()
    tiny(seed=1).write_hugging_face(tmp_path / "model")
    other_weights = path()
    tiny(seed=1, hidden_act="relu").write_hugging_face(tmp_path / "model")
    other_config = path()
    monkeypatch.setattr(graph, "tensorflow_version", lambda: "9.9")
    other_version = path()
    monkeypatch.setattr(graph, "FORMAT", 999)
    assert len({first, other_weights, other_config, other_version, path()}) == 5


def test_the_same_model_elsewhere_is_the_same_graph(tiny_dir, tmp_path):
    shutil.copytree(tiny_dir, tmp_path / "copy")
    assert artefact.artefact_path(settings_of(tiny_dir), tmp_path) == artefact.artefact_path(
        settings_of(tmp_path / "copy"), tmp_path)


def test_the_cache_is_looked_up_without_tensorflow(tiny_dir, tmp_path):
    code = ("import json, sys\n"
            "sys.modules['tensorflow'] = None\n"
            "from bert_serving.server.engine import artefact, base, quiet\n"
            "settings = base.EngineSettings.from_json(json.load(sys.stdin))\n"
            "print(artefact.cached(settings, sys.argv[1]), quiet.tensorflow_version())\n")
    import tensorflow as tf
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], text=True, capture_output=True, check=True,
                          input=json.dumps(settings_of(tiny_dir).to_json()))
    assert done.stdout == f"None {tf.__version__}\n"


def test_no_tensorflow(monkeypatch):
    def version(name):
        raise metadata.PackageNotFoundError(name)
    monkeypatch.setattr(metadata, "version", version)
    with pytest.raises(EngineError, match="TensorFlow is not installed"):
        quiet.tensorflow_version()


# ---- what a model must have ------------------------------------------------------------------------------------------

def test_weights_that_are_not_finite(tiny, tmp_path):
    model = tiny()
    model.weights["bert/encoder/layer_0/output/dense/kernel"][3, 4] = float("nan")
    with pytest.raises(ModelError, match="layer.0.output.dense.weight of .* holds values that are not finite$"):
        artefact.make(settings_of(model.write_hugging_face(tmp_path / "model")), tmp_path)


def test_weights_too_large_for_half_precision(tiny, tmp_path):
    model = tiny()
    model.weights["bert/encoder/layer_0/output/dense/bias"][0] = 1e6
    settings = settings_of(model.write_hugging_face(tmp_path / "model"), fp16=True)
    with pytest.raises(ModelError, match="not finite in half precision"):
        artefact.make(settings, tmp_path)
    artefact.make(dataclasses.replace(settings, precision="fp32"), tmp_path)


@pytest.mark.parametrize("num_labels, strategy, message", [
    (None, "CLASSIFICATION", "lacks output_weights; strategy CLASSIFICATION needs .* -tuned_model_dir"),
    (5, "CLASSIFICATION", "has 5 classes; give -num_labels 5"),
    (2, "REGRESSION", r"output_weights is \[2, 32\], expected \[1, 32\]"),
])
def test_heads(tiny, tmp_path, num_labels, strategy, message):
    model = tiny(num_labels=num_labels)
    model.write_tensorflow(tmp_path / "model")
    settings = settings_of(tmp_path / "model", pooling_strategy=PoolingStrategy[strategy])
    with pytest.raises(ModelError, match=message):
        artefact.make(settings, tmp_path)


# ---- every field of the settings says what depends on it -------------------------------------------------------------

OTHER = {
    "engine": "graph", "pooling_layer": (-1,), "pooling_strategy": "CLS_POOLED", "num_labels": 3, "precision": "int8",
    "max_seq_len": 100, "no_position_embeddings": True, "max_position_embeddings": 128, "model_dir": "elsewhere",
    "tokenizer": TokenizerSettings(file="other.txt"), "include_prompt": False, "stages": (Normalize(),),
    "scores": "identity", "hidden_size": 9, "mask_cls_sep": True, "no_special_token": True,
    "xla": True, "artefact": "there", "device": 3, "gpu_memory_fraction": 0.1, "num_threads": 7,
}
"""Another value for each field; the content of config_file and checkpoint is changed instead."""

EXCUSED = {
    **dict.fromkeys(("include_prompt", "scores"),
                    "the model's, which model_name and the golden sentences tell apart"), "xla": "only how, not what",
    "artefact": "what all of this is about", "device": "only where", "gpu_memory_fraction": "only where",
    "num_threads": "only how fast"}


@pytest.mark.parametrize("field", dataclasses.fields(EngineSettings), ids=lambda field: field.name)
def test_an_artefacts_key_holds_the_fields_that_say_so_and_no_other(tiny, tmp_path, field):
    model = tiny(max_position_embeddings=200, num_labels=2)
    base = settings_of(model.write_hugging_face(tmp_path / "model"), "lite", max_seq_len=None)
    if field.name == "num_labels":
        base = dataclasses.replace(base, pooling_strategy="CLASSIFICATION")

    def paths():
        """With each backend, for a field may matter to one of them alone."""
        return [artefact.artefact_path(dataclasses.replace(settings, **({} if field.name == "engine" else {
            "engine": name})), tmp_path) for name in BACKENDS if backend(name).encodes]

    settings = base
    before = paths()
    if field.name in ("config_file", "checkpoint"):
        other = tiny(max_position_embeddings=200, num_labels=2, seed=1, hidden_act="relu")
        other.write_hugging_face(tmp_path / "model")
    else:
        settings = dataclasses.replace(base, **{field.name: OTHER[field.name]})
    changed = any(path != other for path, other in zip(before, paths()))
    assert changed == bool(field.metadata.get("artefact"))
    assert field.metadata.get("artefact") or field.metadata.get("vectors") or field.name in EXCUSED


def test_what_is_excused_is_there():
    assert set(EXCUSED) <= {field.name for field in dataclasses.fields(EngineSettings)}


def test_clients_compare_the_options_that_change_vectors():
    assert sorted(checks.VECTOR_OPTIONS) == sorted(VECTOR_OPTIONS)
