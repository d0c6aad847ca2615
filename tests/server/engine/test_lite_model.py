"""The converted encoder: what it takes and gives, in which shapes, and what is kept beside it."""
import dataclasses
import stat
from collections import Counter

import numpy as np
import pytest

from bert_serving.server.config import PoolingStrategy
from bert_serving.server.engine import lite_model, rows
from bert_serving.server.engine.architectures import from_file
from bert_serving.server.engine.architectures.bert import ARCHITECTURE

INTERPRETER = "ai_edge_litert.interpreter"


@pytest.fixture(scope="module")
def encoder(tiny_dir):
    """The encoder of a tiny model, both outer layers asked for."""
    from bert_serving.server.engine.weights import HuggingFaceCheckpoint
    checkpoint = HuggingFaceCheckpoint(tiny_dir / "model.safetensors", ARCHITECTURE)
    _, spec = from_file(tiny_dir / "config.json")
    largest = lite_model.observe(spec, checkpoint.read_as, [0, 2])
    return {"fp32": lite_model.convert(spec, checkpoint.read_as, [0, 2]),
            "int8": lite_model.convert(spec, checkpoint.read_as, [0, 2], largest),
            "alone": lite_model.convert(spec, checkpoint.read_as, [0, 2], alone=True)}


def load(model, rows, width, hidden_size=32, bias=None):
    interpreter = pytest.importorskip(INTERPRETER).Interpreter(model_content=model)
    inputs = {detail["name"].partition(":")[0]: detail["index"] for detail in interpreter.get_input_details()}
    interpreter.resize_tensor_input(inputs["embeddings"], [rows * width, hidden_size])
    interpreter.resize_tensor_input(inputs["bias"], bias or [rows, 1, width, width])
    interpreter.allocate_tensors()
    return interpreter, inputs


def run(interpreter, inputs, embeddings, bias):
    interpreter.set_tensor(inputs["embeddings"], embeddings)
    interpreter.set_tensor(inputs["bias"], bias)
    interpreter.invoke()
    return [interpreter.get_tensor(detail["index"]) for detail in interpreter.get_output_details()]


@pytest.mark.parametrize("rows, width", [(1, 1), (1, 7), (3, 5), (2, 40)])
def test_any_shape(encoder, tiny, rows, width):
    random = np.random.default_rng(0)
    embeddings = random.normal(size=(rows * width, 32)).astype(np.float32)
    outputs = run(*load(encoder["fp32"], rows, width), embeddings, np.zeros((rows, 1, width, width), np.float32))
    assert [output.shape for output in outputs] == [(rows * width, 32)] * 2
    assert np.abs(outputs[0] - outputs[1]).max() > 0.1


@pytest.mark.parametrize("rows, width", [(1, 1), (1, 37), (3, 5)])
def test_alone_is_the_same_for_rows_of_one_sentence(encoder, rows, width):
    embeddings = np.random.default_rng(0).normal(size=(rows * width, 32)).astype(np.float32)
    hidden = np.zeros((rows, 1, 1, width), np.float32)
    hidden[..., -1] = -30000
    expected = run(*load(encoder["fp32"], rows, width), embeddings, np.repeat(hidden, width, axis=2))
    outputs = run(*load(encoder["alone"], rows, width, bias=[rows, 1, 1, width]), embeddings, hidden)
    assert len(outputs) == 2
    for one, other in zip(outputs, expected):
        assert np.abs(one - other).max() < 1e-5


def test_int8_is_near_and_smaller(encoder):
    embeddings = np.random.default_rng(0).normal(size=(12, 32)).astype(np.float32)
    bias = np.zeros((1, 1, 12, 12), np.float32)
    exact, near = (run(*load(encoder[precision], 1, 12), embeddings, bias) for precision in ("fp32", "int8"))
    for one, other in zip(exact, near):
        assert 0 < np.abs(one - other).max() < 0.5
    assert len(encoder["int8"]) < len(encoder["fp32"])


def test_large_channels_do_not_cost_int8_its_accuracy(tiny):
    """As in real models: a few channels are much larger than all others, whatever the token."""
    model = tiny(hidden_size=64)
    model.weights["bert/embeddings/word_embeddings"][:, [3, 17]] += [30, -30]
    spec, read = model.spec, model.variables.__getitem__
    words = np.random.default_rng(1).integers(0, len(model.words), 16)
    tables = rows.arrays_for(spec, PoolingStrategy.REDUCE_MEAN)
    embeddings = sum(read(name)[words if "word" in name else np.zeros(16, int)] for name in tables)

    def outputs(largest):
        interpreter, inputs = load(lite_model.convert(spec, read, [0], largest), 1, 16, 64)
        return run(interpreter, inputs, embeddings, np.zeros((1, 1, 16, 16), np.float32))[0]

    exact = outputs(None)
    error = np.abs(outputs(lite_model.observe(spec, read, [0])) - exact).mean()
    without = np.abs(outputs({}) - exact).mean()
    assert error < without / 1.3, (error, without)


def test_weights_are_there_once(encoder, tiny):
    weights = sum(array.nbytes for name, array in tiny().weights.items() if "/encoder/" in name)
    assert weights < len(encoder["fp32"]) < weights * 1.2 + 50_000


@pytest.mark.parametrize("kind, bias", [("int8", [2, 1, 8, 8]), ("alone", [2, 1, 1, 8])])
def test_hardly_anything_is_left_to_slow_operations(encoder, kind, bias):
    """XNNPACK takes all but the reshapes; each of those ends a part that it has taken."""
    interpreter, _ = load(encoder[kind], 2, 8, bias=bias)
    operations = Counter(operation["op_name"] for operation in interpreter._get_ops_details())
    assert operations["DELEGATE"] <= 1 + 2 * 3 + 1
    assert set(operations) <= {"ADD", "SUB", "MUL", "DIV", "EXP", "RSQRT", "MEAN", "GELU", "REDUCE_MAX", "BATCH_MATMUL",
                               "FULLY_CONNECTED", "SOFTMAX", "TRANSPOSE", "SPLIT", "RESHAPE", "DELEGATE", "SHAPE",
                               "PACK", "FILL", "STRIDED_SLICE", "SLICE", "BROADCAST_TO", "CONCATENATION"}


@pytest.mark.parametrize("alone", [False, True])
def test_files(tiny, tmp_path, alone):
    model = tiny(num_hidden_layers=1)
    lite_model.write_encoders(tmp_path, model.spec, model.variables.__getitem__, layers=[0], precision="fp32",
                              alone=alone)
    assert {path.name for path in tmp_path.iterdir()} == {
        lite_model.ENCODER, *([lite_model.ALONE] if alone else [])}
    assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()} == {0o600}


@pytest.mark.parametrize("case", ["modernbert", "qwen3"])
def test_head_by_head_is_the_same(golden, case):
    """Models for many tokens compute long sequences so; here grouped heads, windows and causal ones, too."""
    from bert_serving.server.engine.weights import HuggingFaceCheckpoint
    directory = golden / "architectures" / case
    architecture, spec = from_file(directory / "config.json")
    read = HuggingFaceCheckpoint(directory / "model.safetensors", architecture).read_as
    many = dataclasses.replace(spec, positions=dataclasses.replace(
        spec.positions, max_length=lite_model.MANY_TOKENS + 9))
    arrays = {name: read(name) for name in rows.arrays_for(spec, PoolingStrategy.NONE)}
    inputs = rows.Inputs(spec, arrays, 40).of(rows.sample_layout(spec, 1, 40, alone=True))
    layer = [spec.num_layers - 1]
    together, apart = (lite_model.convert(found, read, layer, alone=True) for found in (spec, many))
    assert len(apart) != len(together), "nothing is unrolled"
    results = []
    for model in (together, apart):
        interpreter = pytest.importorskip(INTERPRETER).Interpreter(model_content=model)
        for detail in interpreter.get_input_details():
            interpreter.resize_tensor_input(detail["index"], inputs[detail["name"].partition(":")[0]].shape)
        interpreter.allocate_tensors()
        for detail in interpreter.get_input_details():
            interpreter.set_tensor(detail["index"], inputs[detail["name"].partition(":")[0]])
        interpreter.invoke()
        results.append(interpreter.get_tensor(interpreter.get_output_details()[0]["index"]))
    assert np.abs(results[0] - results[1]).max() < 1e-5 * np.abs(results[0]).max()
