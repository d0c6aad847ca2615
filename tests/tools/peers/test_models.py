import json
from pathlib import Path

import numpy as np
import pytest
from tools.peers import exports, models
from tools.peers.environments import PeerError
from tools.peers.models import Forms, RandomCheckpoint, model_directory, random_model
from bert_serving.server.config import ServerConfig
from bert_serving.server.engine.architectures import from_file, from_values
from bert_serving.server.engine.models import resolve
from bert_serving.server.errors import ModelError

TINY = {"model_type": "bert", "vocab_size": 8, "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2,
        "intermediate_size": 16, "max_position_embeddings": 16}


@pytest.fixture
def directory(tmp_path):
    vocabulary = tmp_path / "vocab.txt"
    vocabulary.write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\nb\nc\n")
    (tmp_path / "tiny").mkdir()
    random_model(TINY, vocabulary, tmp_path / "tiny")
    return tmp_path / "tiny"


@pytest.fixture
def steps(monkeypatch):
    """Programs that would have been run in peers' environments: they leave a file for each that they should write."""
    steps = []

    def run(command, log, timeout):
        python, program, step, *arguments = command
        assert program == exports.__file__ and python.startswith("python of ")
        steps.append((python, step))
        if step == "calibrate":
            steps.append(json.loads(Path(arguments[1]).read_text()))
        if step == "ctranslate2":
            Path(arguments[1]).mkdir()
        for argument in arguments:
            if argument.endswith((".onnx", ".xml")):
                Path(argument).touch()

    monkeypatch.setattr(models, "run", run)
    monkeypatch.setattr(models, "prepare", lambda environment, folder: f"python of {environment.name}")
    return steps


def test_random_weights_are_always_the_same():
    names = list(RandomCheckpoint(TINY).shapes)
    first, second = RandomCheckpoint(TINY), RandomCheckpoint(TINY)
    read = {name: first.read(name) for name in names}
    assert all((second.read(name) == read[name]).all() for name in reversed(names))
    gamma = read["embeddings/norm/gamma"]
    assert gamma.shape == (8,) and abs(gamma.mean() - 1) < 0.1
    assert np.std(read["layers/0/mlp/up/kernel"]) == pytest.approx(0.04, rel=0.3)


def test_a_random_model_can_be_served(directory):
    model = resolve(ServerConfig(model_dir=str(directory)))
    assert (model.spec, model.spec.num_layers) == (from_values(TINY)[1], 2)


def test_model_directory(directory, tmp_path, monkeypatch):
    assert model_directory(str(directory), tmp_path) == directory
    with pytest.raises(ModelError):
        model_directory(str(tmp_path / "nowhere"), tmp_path)
    monkeypatch.setattr(models, "BASE", TINY)
    monkeypatch.setattr(models, "locate", lambda name: directory)
    made = model_directory("base", tmp_path)
    assert from_file(made / "config.json") == from_values(TINY)
    before = (made / "model.safetensors").stat().st_mtime_ns
    assert model_directory("base", tmp_path) == made
    assert (made / "model.safetensors").stat().st_mtime_ns == before


def test_forms_are_made_once(directory, tmp_path, steps):
    forms = Forms(directory, tmp_path / "cache")
    assert forms.path("") == directory
    for form in ("fused/fp32.onnx", "fused/int8.onnx", "exported/model.onnx"):
        assert forms.path(form).is_file()
    assert forms.path("ctranslate2/model").is_dir()
    assert steps == [("python of pytorch", name) for name in ("onnx", "optimize", "ctranslate2")]


def test_other_texts_calibrate_anew(directory, tmp_path, steps):
    forms = Forms(directory, tmp_path)
    paths = []
    for sequences in ([[1, 2]], [[3]], [[1, 2]]):
        forms.calibrate_with(sequences)
        paths.append(forms.path("calibrated/int8.xml"))
    assert paths[0] == paths[2] != paths[1]
    assert [step for step in steps if isinstance(step, list)] == [[[1, 2]], [[3]]]


def test_a_step_that_fails_leaves_nothing(directory, tmp_path, monkeypatch):
    def fail(*arguments):
        raise PeerError("no")

    monkeypatch.setattr(models, "prepare", fail)
    forms = Forms(directory, tmp_path)
    for _ in range(2):
        with pytest.raises(PeerError):
            forms.path("exported/model.onnx")
    assert not [path for path in (tmp_path / "models").rglob("*") if path.is_file()]


def test_a_model_that_the_original_does_not_compute_is_named(directory, tmp_path, monkeypatch):
    def convert(*arguments, **options):
        raise ModelError("TensorFlow 1 checkpoints are BERT's")

    monkeypatch.setattr(models, "convert", convert)
    with pytest.raises(PeerError, match="TensorFlow 1 checkpoints are BERT's"):
        Forms(directory, tmp_path).path("tensorflow/model")


def test_the_checkpoint_of_the_original(directory, tmp_path):
    path = Forms(directory, tmp_path).path("tensorflow/model")
    assert {"bert_config.json", "bert_model.ckpt.index", "vocab.txt"} <= {file.name for file in path.iterdir()}
