"""Arrays of one file or of several, of every type that weights have."""
import json
import struct

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from bert_serving.server.engine.tensors import open_tensors
from bert_serving.server.errors import ModelError

VALUES = np.array([[1.0, -2.5, 0.0], [3.25, -0.125, 7.0]], np.float32)


def bfloat16(array):
    return (array.view(np.uint32) >> 16).astype("<u2")


@pytest.fixture(params=["model.safetensors", "pytorch_model.bin", "legacy.bin"])
def write(request, tmp_path, torch_file):
    """Writes arrays in either format; uint16 is bfloat16."""
    def do(**arrays):
        path = tmp_path / request.param
        if request.param.endswith(".bin"):
            return torch_file(path, arrays, legacy=request.param == "legacy.bin")
        names = {"uint16": "BF16", "float16": "F16", "float32": "F32", "float64": "F64", "int64": "I64"}
        header, data = {}, b""
        for name, array in arrays.items():
            header[name] = {"dtype": names[array.dtype.name], "shape": array.shape,
                            "data_offsets": [len(data), len(data) + array.nbytes]}
            data += array.tobytes()
        header = json.dumps(header).encode()
        path.write_bytes(struct.pack("<Q", len(header)) + header + data)
        return path
    return do


def test_every_type_of_weights_becomes_float32(write):
    file = open_tensors(write(f32=VALUES, f16=VALUES.astype(np.float16), f64=VALUES.astype(np.float64),
                              bf16=bfloat16(VALUES)))
    assert file.shapes == dict.fromkeys(("f32", "f16", "f64", "bf16"), (2, 3))
    for name in file.shapes:
        assert file.read(name).dtype == np.float32 and np.array_equal(file.read(name), VALUES), name


def test_float64_is_rounded_and_may_overflow(write):
    assert np.array_equal(open_tensors(write(a=np.array([0.1, 1e300]))).read("a"), np.float32([0.1, np.inf]))


def test_integers_are_no_weights(write):
    path = write(a=np.arange(3))
    with pytest.raises(ModelError, match="a of the weights .* is int64, expected float32, float16, bfloat16 or "):
        open_tensors(path).read("a")
    assert np.array_equal(open_tensors(path).array("a"), [0, 1, 2])


@pytest.mark.parametrize("dtype, size", [("F8_E4M3", 1), ("F8_E5M2", 1), ("I8", 1), ("U8", 1), ("BOOL", 1)])
def test_quantized_weights_are_refused(tmp_path, dtype, size):
    header = json.dumps({"a": {"dtype": dtype, "shape": [4], "data_offsets": [0, 4 * size]}}).encode()
    (tmp_path / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + b"\0" * 4 * size)
    with pytest.raises(ModelError, match="^a of the weights .* is .*expected .*; a quantized model cannot be served"):
        open_tensors(tmp_path / "model.safetensors").read("a")


def test_half_a_file_says_so(tmp_path):
    path = tmp_path / "model.safetensors"
    save_file({"a": np.zeros(1000, np.float32)}, str(path))
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    with pytest.raises(ModelError, match=rf"are cut off: the file has {len(whole) - 1} bytes, and its header describes "
                                         rf"{len(whole)}; download it again"):
        open_tensors(path)
    path.write_bytes(whole[:20])
    with pytest.raises(ModelError, match="cannot read the weights .*model.safetensors"):
        open_tensors(path)


# ---- several files ---------------------------------------------------------------------------------------------------

@pytest.fixture
def shards(tmp_path):
    save_file({"a": VALUES, "b": VALUES + 1}, str(tmp_path / "1.safetensors"))
    save_file({"c": VALUES + 2, "more": VALUES}, str(tmp_path / "2.safetensors"))

    def index(**names):
        path = tmp_path / "model.safetensors.index.json"
        path.write_text(json.dumps({"weight_map": {name: f"{file}.safetensors" for name, file in names.items()}}))
        return path
    return index


def test_shards_are_one_file(shards):
    """What a file has beside the index's variables is there too, as in transformers."""
    file = open_tensors(shards(a=1, b=1, c=2))
    assert set(file.shapes) == {"a", "b", "c", "more"}
    assert np.array_equal(file.read("b"), VALUES + 1) and np.array_equal(file.read("c"), VALUES + 2)


def test_of_two_variables_of_one_name_the_index_chooses(shards, tmp_path):
    save_file({"a": VALUES + 9, "c": VALUES}, str(tmp_path / "2.safetensors"))
    file = open_tensors(shards(a=2, b=1, c=2))
    assert np.array_equal(file.read("a"), VALUES + 9)
    assert np.array_equal(open_tensors(shards(a=1, b=1, c=2)).read("a"), VALUES)


def test_a_shard_without_its_variable(shards):
    with pytest.raises(ModelError, match="index.json says that c is in 1.safetensors, which lacks it; the files are of "
                                         "different models$"):
        open_tensors(shards(a=1, c=1, more=2))
    with pytest.raises(ModelError, match="says that d, e are in 2.safetensors, which lacks them"):
        open_tensors(shards(a=1, d=2, e=2))


def test_a_damaged_shard_is_named(shards, tmp_path):
    (tmp_path / "2.safetensors").write_bytes((tmp_path / "2.safetensors").read_bytes()[:-1])
    with pytest.raises(ModelError, match="2.safetensors are cut off"):
        open_tensors(shards(a=1, c=2))


def test_torchs_shards(tmp_path, torch_file):
    torch_file(tmp_path / "1.bin", {"a": VALUES})
    torch_file(tmp_path / "2.bin", {"b": bfloat16(VALUES)}, legacy=True)
    path = tmp_path / "pytorch_model.bin.index.json"
    path.write_text(json.dumps({"weight_map": {"a": "1.bin", "b": "2.bin"}}))
    file = open_tensors(path)
    assert np.array_equal(file.read("a"), VALUES) and np.array_equal(file.read("b"), VALUES)


def test_arrays_are_those_of_the_library(tmp_path):
    path = tmp_path / "model.safetensors"
    save_file({"a": VALUES, "b": np.arange(3)}, str(path))
    for name, array in load_file(str(path)).items():
        assert np.array_equal(open_tensors(path).array(name), array)
