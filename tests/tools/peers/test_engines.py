import io
import json
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from tools.peers import engines, report
from tools.peers.catalogue import PEERS
from bert_serving.server.engine.cache import new_directory, write_manifest
from bert_serving.server.engine.native.layout import KINDS

SEQUENCES = [[5, 6], [7], [8, 9, 10], [11, 12]]


def test_batches_by_length():
    found = [indices.tolist() for indices in engines.batches([2, 1, 3, 2], 3, by_length=True)]
    assert found == [[2, 0, 3], [1]]
    assert [indices.tolist() for indices in engines.batches([2, 1, 3], 2, by_length=False)] == [[0, 1], [2]]


def test_padded():
    ids, mask = engines.padded([[5, 6], [7]], 3)
    assert ids.tolist() == [[5, 6, 0], [7, 0, 0]] and mask.tolist() == [[1, 1, 0], [1, 0, 0]]
    assert ids.dtype == mask.dtype == np.int64


def test_mean_leaves_padding_out():
    hidden = np.array([[[1, 2], [3, 4], [9, 9]], [[5, 6], [9, 9], [9, 9]]], np.float32)
    assert engines.mean(hidden, np.array([[1, 1, 0], [1, 0, 0]])).tolist() == [[2, 3], [5, 6]]


@pytest.mark.parametrize("to_most, widths", [(False, [3, 2]), (True, [4, 4])])
def test_vectors_come_in_the_order_of_the_sequences(to_most, widths):
    seen = []

    def compute(ids, mask):
        seen.append(ids.shape[1])
        return (ids * mask).sum(1, keepdims=True).astype(np.float32)

    engine = engines.Padding(compute, size=2, to_most=to_most)
    assert engine.encode(engine.prepare(SEQUENCES, 4)).tolist() == [[11], [7], [27], [23]]
    assert seen == widths


def test_own_engine_gets_jobs_as_a_worker_does():
    class Engine:
        sizes = []

        def encode(self, batch):
            self.sizes.append(len(batch))
            return np.array([[len(features)] for features in batch], np.float32)

    own = engines.Own(Engine(), lambda ids: ids)
    vectors = own.encode(own.prepare([[1] * (1 + i % 7) for i in range(300)], 9))
    assert vectors[:, 0].tolist() == [1 + i % 7 for i in range(300)]
    assert Engine.sizes == [256, 44]


def test_requests_and_answers(tmp_path):
    class Engine:
        def prepare(self, sequences, max_seq_len):
            return sequences, max_seq_len

        def encode(self, prepared):
            return np.array([[len(ids), prepared[1]] for ids in prepared[0]], np.float64)

    (tmp_path / "in.json").write_text(json.dumps(SEQUENCES))
    requests = [{"do": "load", "name": "a", "file": str(tmp_path / "in.json"), "max_seq_len": 8},
                {"do": "write", "name": "a", "file": str(tmp_path / "out.npy")},
                {"do": "run", "name": "a", "repeat": 2}]
    answers = []
    ticks = iter([0, 1, 10, 13])
    engines.serve(Engine(), io.StringIO("".join(json.dumps(request) + "\n" for request in requests)), answers.append,
                  clock=lambda: next(ticks))
    assert answers == [{}, {}, {"seconds": [1, 3]}]
    vectors = np.load(tmp_path / "out.npy")
    assert vectors.dtype == np.float32 and vectors.tolist() == [[2, 8], [1, 8], [3, 8], [2, 8]]


def test_as_a_program_it_says_what_is_wrong():
    done = subprocess.run([sys.executable, engines.__file__, "own", '{"file": "/nowhere", "precision": "fp32"}'],
                          input="", capture_output=True, text=True, timeout=50)
    assert done.returncode == 1
    error, = map(json.loads, done.stdout.splitlines())
    assert error["error"].startswith("ModelError: -model_dir /nowhere: there is no such directory")


@pytest.mark.model
def test_the_own_engine_computes(tmp_path):
    vectors = []
    for backend in ("lite", "auto"):
        engine, about, precision = engines.own({"file": None, "precision": "fp32", "threads": 1, "backend": backend})
        vectors.append(engine.encode(engine.prepare([[101, 7592, 102], [101, 2088, 2003, 102]], 25)))
        assert vectors[-1].shape == (2, 384) and precision.partition(" as ")[0] == "fp32"
        assert "LiteRT" in about or backend == "auto"
    np.testing.assert_allclose(*vectors, atol=1e-4)


@pytest.mark.parametrize("kind, precision", [
    ("fp32", "fp32"), ("bf16", "bf16"), ("int16", "int16"), ("int8", "int8"), ("split", "fp32 as 2 x bf16"),
    ("strict", "fp32 as 3 x bf16")])
def test_native_is_what_its_artefact_holds(kind, precision, tmp_path):
    with new_directory(tmp_path / "made") as directory:
        write_manifest(directory, {"kind": kind})
    assert engines.stated(engines.WEIGHT_TYPES["native"](tmp_path / "made")) == precision


def test_every_kind_of_numbers_has_its_class():
    assert {report.precision_class(engines.stated([kind])) for kind in KINDS} == {"fp32", "bf16", "int8"}


def test_every_peer_has_its_engine():
    assert {peer.engine for peer in PEERS.values()} == set(engines.ENGINES)


# ---- precision, as the runtimes say ----------------------------------------------------------------------------------

@pytest.mark.parametrize("types, precision", [
    (["f32"] * 3, "fp32"), (["torch.bfloat16", "torch.bfloat16"], "bf16"), (["i8", "u8", "f32"], "int8+fp32"),
    (["float32", "int8", "float32"], "fp32+int8"), (["f4e2m1"], "f4e2m1")])
def test_types_become_a_precision(types, precision):
    assert engines.stated(types) == precision


def test_a_runtime_that_says_nothing_is_an_error():
    with pytest.raises(ValueError, match="reports no matrix product"):
        engines.stated([])


class Operation:
    def __init__(self, kind, precision):
        self.info = {"layerType": kind, "runtimePrecision": precision}

    def get_rt_info(self):
        return self.info


@pytest.mark.parametrize("asked", [("fp32",), ("bf16",), ("int8",), ("int8", "bf16")])
@pytest.mark.parametrize("executed, precision", [("f32", "fp32"), ("bf16", "bf16"), ("f16", "fp16"), ("i8", "int8")])
def test_openvino_is_what_it_executes(asked, executed, precision, monkeypatch):
    """Whatever it is asked for; the hint that asks for bf16 is passed on."""
    asked_for = {}

    class Compiled:
        def create_infer_request(self):
            hidden = [np.ones((1, 3, 2), np.float32)]
            return SimpleNamespace(infer=lambda inputs, share_inputs, share_outputs: hidden)

        def get_runtime_model(self):
            operations = [Operation("FullyConnected", executed), Operation("Eltwise", "f64"), Operation("Input", "i64")]
            return SimpleNamespace(get_ops=lambda: operations)

    def compile_model(file, device, settings):
        asked_for.update(settings)
        return Compiled()

    monkeypatch.setitem(sys.modules, "openvino", SimpleNamespace(
        __version__="2026.1-x", Core=lambda: SimpleNamespace(compile_model=compile_model)))
    _, about, said = engines.openvino({"file": "m.onnx", "threads": 1, **dict(zip(("precision", "hint"), asked))})
    assert (about, said) == ("openvino 2026.1", precision)
    assert asked_for["INFERENCE_PRECISION_HINT"] == ("bf16" if "bf16" in asked else "f32")


@pytest.mark.parametrize("loaded, precision", [("int8_float32", "int8"), ("float32", "fp32"), ("bfloat16", "bf16")])
def test_ctranslate2_is_what_it_has_loaded(loaded, precision, monkeypatch):
    monkeypatch.setitem(sys.modules, "ctranslate2", SimpleNamespace(
        __version__="4", Encoder=lambda *a, **k: SimpleNamespace(compute_type=loaded)))
    _, about, said = engines.ctranslate2({"file": "m", "threads": 1, "precision": "int8"})
    assert (about, said) == ("ctranslate2 4", precision)


def test_onnx_runtime_is_what_its_profile_shows(monkeypatch):
    events = [{"name": "session"}, {"args": {"op_name": "Add", "input_type_shape": [{"float": [2, 2]}]}},
              {"args": {"op_name": "MatMul", "input_type_shape": [{"float": [1, 3, 8]}, {"float": [8, 8]}]}},
              *[{"args": {"op_name": "DynamicQuantizeMatMul", "input_type_shape": [
                  {"float": [1, 3, 8]}, {"float": [8]}, {"int32": [1]}, {"int8": [8]}]}}] * 2]

    class Session:
        def __init__(self, file, settings, providers):
            self.settings = settings

        def run(self, outputs, inputs):
            return [np.ones((1, 3, 2), np.float32)]

        def end_profiling(self):
            path = self.settings.profile_file_prefix + ".json"
            with open(path, "w") as file:
                json.dump(events, file)
            return path

    monkeypatch.setitem(sys.modules, "onnxruntime", SimpleNamespace(
        __version__="1", SessionOptions=SimpleNamespace, InferenceSession=Session))
    _, _, said = engines.onnxruntime({"file": "m.onnx", "threads": 1, "precision": "fp32"})
    assert said == "int8+fp32"
