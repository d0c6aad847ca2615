"""Weights of every format come out the same; what is wrong with a file is named."""
import json
import re
import struct

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from bert_serving.server.engine import weights
from bert_serving.server.engine.architectures import from_file
from bert_serving.server.engine.architectures.bert import ARCHITECTURE
from bert_serving.server.engine.spec import variables
from bert_serving.server.engine.weight_files import checkpoint_files, tensorflow_checkpoint_files
from bert_serving.server.engine.weights import HuggingFaceCheckpoint
from bert_serving.server.errors import EngineError, ModelError


def expected_of(model, **how):
    return variables(model.spec, **how)


def open_checkpoint(path):
    return weights.open_checkpoint(path, ARCHITECTURE)


def assert_same(checkpoint, model):
    checkpoint.check(expected_of(model, pooler=True, num_labels=model.num_labels))
    for name, array in model.variables.items():
        read = checkpoint.read(name)
        assert read.dtype == np.float32 and np.array_equal(read, array), name


# ---- formats ---------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("num_labels", [None, 3])
def test_tensorflow(tiny, tmp_path, num_labels):
    """With optimizer slots, the global step and the heads of pretraining."""
    model = tiny(num_labels=num_labels)
    model.write_tensorflow(tmp_path, "model.ckpt-343")
    assert_same(open_checkpoint(tmp_path / "model.ckpt-343"), model)


@pytest.mark.parametrize("prefix", ["", "bert.", "model.encoder."])
@pytest.mark.parametrize("old_names", [False, True], ids=["weight/bias", "gamma/beta"])
def test_hugging_face(tiny, tmp_path, prefix, old_names):
    model = tiny(num_labels=3)
    model.write_hugging_face(tmp_path, prefix=prefix, old_names=old_names)
    assert_same(open_checkpoint(tmp_path / "model.safetensors"), model)


def test_half_precision_is_widened(tiny, tmp_path):
    model = tiny()
    model.write_hugging_face(tmp_path, dtype=np.float16)
    checkpoint = HuggingFaceCheckpoint(tmp_path / "model.safetensors", ARCHITECTURE)
    array = checkpoint.read("layers/0/mlp/down/kernel")
    assert array.dtype == np.float32
    assert np.array_equal(array, model.weights["bert/encoder/layer_0/output/dense/kernel"].astype(np.float16))


def test_bfloat16_is_widened(tmp_path):
    import json
    import struct
    values = np.array([[1.0, -2.5], [3.25, 0.0], [-0.125, 7.0]], np.float32)
    header = json.dumps({"pooler.dense.weight": {"dtype": "BF16", "shape": [3, 2], "data_offsets": [0, 12]}}).encode()
    halves = (values.view(np.uint32) >> 16).astype("<u2")
    (tmp_path / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + halves.tobytes())
    checkpoint = HuggingFaceCheckpoint(tmp_path / "model.safetensors", ARCHITECTURE)
    assert np.array_equal(checkpoint.read("pooler/kernel"), values.T)


def shard(path, parts=3):
    """Cuts a safetensors file into several with an index, as save_pretrained does."""
    variables, names = load_file(path), {}
    for number in range(parts):
        name = f"model-{number + 1:05d}-of-{parts:05d}.safetensors"
        part = dict(list(sorted(variables.items()))[number::parts])
        names |= dict.fromkeys(part, name)
        save_file(part, str(path.with_name(name)))
    path.unlink()
    path = path.with_name("model.safetensors.index.json")
    path.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": names}))
    return path


def test_several_files(tiny, tmp_path):
    model = tiny(num_labels=3)
    path = shard(model.write_hugging_face(tmp_path, prefix="bert.") / "model.safetensors")
    assert_same(open_checkpoint(path), model)
    assert len(checkpoint_files(path)) == 4


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "before 1.6"])
@pytest.mark.parametrize("prefix", ["", "0.auto_model.", "bert."])
def test_torchs_files(tiny, tmp_path, torch_file, legacy, prefix):
    model = tiny(num_labels=3)
    model.write_hugging_face(tmp_path, prefix=prefix)
    torch_file(tmp_path / "pytorch_model.bin", load_file(tmp_path / "model.safetensors"), legacy=legacy)
    assert_same(open_checkpoint(tmp_path / "pytorch_model.bin"), model)


def test_variables_that_torchs_file_lacks_are_named(tiny, tmp_path, torch_file):
    model = tiny()
    variables = load_file(model.write_hugging_face(tmp_path) / "model.safetensors")
    del variables["encoder.layer.0.output.dense.weight"]
    torch_file(tmp_path / "pytorch_model.bin", variables)
    with pytest.raises(ModelError, match=r"pytorch_model.bin lacks encoder.layer.0.output.dense.weight$"):
        open_checkpoint(tmp_path / "pytorch_model.bin").check(expected_of(model))


@pytest.mark.parametrize("names", [ARCHITECTURE.hugging_face, ARCHITECTURE.tensorflow], ids=["safetensors", "TF1"])
def test_names_go_both_ways(tiny, names):
    for name in variables(tiny().spec, pooler=True, num_labels=2):
        assert names.ours([names.theirs(name)]) == {name: names.theirs(name)}


# ---- what can be wrong -----------------------------------------------------------------------------------------------

@pytest.fixture(params=["tensorflow", "hugging-face"])
def write(request, tmp_path):
    """Writes a model in either format and opens it."""
    def do(model):
        if request.param == "tensorflow":
            return open_checkpoint(model.write_tensorflow(tmp_path) / "bert_model.ckpt")
        return open_checkpoint(model.write_hugging_face(tmp_path) / "model.safetensors")
    return do


def test_missing_variables_are_named(tiny, write):
    model = tiny()
    for name in list(model.weights):
        if "/layer_1/" in name:
            del model.weights[name]
    checkpoint = write(model)
    name = re.escape(checkpoint.own_name("layers/1/attention/query/kernel"))
    with pytest.raises(ModelError, match=rf"lacks {name}, .* and 12 more$"):
        checkpoint.check(expected_of(model))


def test_misshapen_variables_are_named(tiny, write):
    model = tiny()
    checkpoint = write(model)
    model.words.append("more")
    name = re.escape(checkpoint.own_name("embeddings/words"))
    with pytest.raises(ModelError, match=rf"another shape: {name} is \[16, 32\], expected \[17, 32\]"):
        checkpoint.check(expected_of(model))


def test_a_product_that_is_not_three(golden, tmp_path):
    """Query, key and value in one: of so many rows as one of them has, a third could be read."""
    arrays = load_file(golden / "architectures" / "nomic_bert" / "model.safetensors")
    name = "encoder.layers.0.attn.Wqkv.weight"
    arrays[name] = arrays[name][:64].copy()
    save_file(arrays, str(tmp_path / "model.safetensors"))
    architecture, spec = from_file(golden / "architectures" / "nomic_bert" / "config.json")
    checkpoint = HuggingFaceCheckpoint(tmp_path / "model.safetensors", architecture)
    with pytest.raises(ModelError, match=rf"of another shape: {name} is \[64, 64\], expected \[192, 64\]$"):
        checkpoint.check(variables(spec))


def test_layers_too_many_are_named(tiny, write):
    model = tiny(num_hidden_layers=4)
    checkpoint = write(model)
    model.num_hidden_layers = 3
    name = re.escape(checkpoint.own_name("layers/3/attention/query/kernel")[:20])
    with pytest.raises(ModelError, match=rf"no place for: {name}.* and 12 more"):
        checkpoint.check(expected_of(model))


def test_shapes_are_those_of_the_file(tiny, tmp_path):
    """Its matrices are [out, in]; whoever looks into the file finds what the message says."""
    model = tiny()
    checkpoint = open_checkpoint(model.write_hugging_face(tmp_path, prefix="bert.") / "model.safetensors")
    model.intermediate_size = 50
    with pytest.raises(ModelError, match=r"bert.encoder.layer.0.intermediate.dense.weight is \[48, 32\], "
                                         r"expected \[50, 32\]"):
        checkpoint.check(expected_of(model))


def test_what_is_no_encoder_may_be_left_over(tiny, write):
    model = tiny(num_labels=2)
    model.weights["bert/encoder/layer_0/output/dense/kernel/LAMB_1"] = np.zeros(2, np.float32)
    model.weights["something/else"] = np.zeros(2, np.float32)
    write(model).check(expected_of(model))


def test_the_pooler_may_be_missing(tiny, write):
    model = tiny()
    for part in ("kernel", "bias"):
        del model.weights[f"bert/pooler/dense/{part}"]
    checkpoint = write(model)
    checkpoint.check(expected_of(model))
    kernel, bias = (re.escape(checkpoint.own_name(f"pooler/{part}")) for part in ("kernel", "bias"))
    with pytest.raises(ModelError, match=f"lacks {kernel}, {bias}$"):
        checkpoint.check(expected_of(model, pooler=True))


def test_another_kind_of_model(tmp_path, tiny):
    save_file({"h.0.attn.weight": np.zeros((2, 2), np.float32)}, str(tmp_path / "model.safetensors"))
    with pytest.raises(ModelError, match=r"lacks .*; are these the weights of a BERT model\?"):
        open_checkpoint(tmp_path / "model.safetensors").check(expected_of(tiny()))


def test_two_encoders_in_a_file(tiny, tmp_path):
    """The vectors would be those of the one whose name is first."""
    arrays = load_file(tiny().write_hugging_face(tmp_path, prefix="question.") / "model.safetensors")
    save_file(arrays | {name.replace("question.", "passage."): array for name, array in arrays.items()},
              str(tmp_path / "model.safetensors"))
    with pytest.raises(ModelError, match=r"holds 2 encoders \(.* begin with passage., question.\), expected one; save"):
        open_checkpoint(tmp_path / "model.safetensors")


def test_a_tensorflow_2_checkpoint(tmp_path, tiny):
    import tensorflow as tf
    tf.train.Checkpoint(v=tf.Variable([1.0])).write(str(tmp_path / "bert_model.ckpt"))
    with pytest.raises(ModelError, match="TensorFlow 2 object checkpoint"):
        open_checkpoint(tmp_path / "bert_model.ckpt").check(expected_of(tiny()))


@pytest.mark.parametrize("spoil", [lambda data: data[:-1], lambda data: data[:4], lambda data: b"",
                                   lambda data: b"\xff" * 99], ids=["short", "tiny", "empty", "noise"])
def test_damaged_safetensors(tiny, tmp_path, spoil):
    path = tiny().write_hugging_face(tmp_path) / "model.safetensors"
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(ModelError, match="model.safetensors(: | is empty| are cut off)"):
        open_checkpoint(path)


def safetensors_of(header, data=b"\0" * 64, size=None):
    """A file with that header, and perhaps another length of it than it has."""
    header = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(header) if size is None else size) + header + data


NAME = "embeddings.word_embeddings.weight"


def one(dtype="F32", shape=(2, 8), offsets=(0, 64)):
    return {NAME: {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}}


HOSTILE = {
    "a header of 2**64 bytes": safetensors_of(one(), size=2 ** 64 - 1),
    "a header of 16 GB": safetensors_of(one(), size=2 ** 34),
    "a header longer than the file": safetensors_of(one(), size=1000),
    "a header that is cut off": safetensors_of(one(), size=10),
    "negative offsets": safetensors_of(one(offsets=(-64, 0))),
    "offsets that are turned round": safetensors_of(one(offsets=(64, 0))),
    "offsets beyond the file": safetensors_of(one(offsets=(0, 2 ** 40))),
    "offsets of another size": safetensors_of(one(offsets=(0, 32))),
    "offsets that overlap": safetensors_of({**one(), "b": one()[NAME]}),
    "a gap": safetensors_of(one(shape=(1, 8), offsets=(32, 64))),
    "a shape that overflows": safetensors_of(one(shape=(2 ** 32, 2 ** 32), offsets=(0, 0))),
    "a shape of terabytes": safetensors_of(one(shape=(2 ** 20, 2 ** 20))),
    "a negative shape": safetensors_of(one(shape=(-2, -8))),
    "an unknown type": safetensors_of(one(dtype="OBJECT")),
    "a type of another size": safetensors_of(one(dtype="F64")),
    "deep JSON": safetensors_of(b"[" * 100_000),
    "deep metadata": safetensors_of(b'{"__metadata__":' + b'{"a":' * 50_000 + b"1" + b"}" * 50_001),
    "no JSON": safetensors_of(b"\xff" * 50),
    "no object": safetensors_of(b"[1, 2]"),
    "a pickle": b"\x80\x04\x95\x1a\0\0\0\0\0\0\0\x8c\x05posix\x94\x8c\x06system\x94\x93\x94.",
    "no header": b"\0" * 8,
    "more data than is described": safetensors_of(one(), data=b"\0" * 100),
}


@pytest.mark.parametrize("content", HOSTILE.values(), ids=HOSTILE)
def test_hostile_safetensors_are_refused_in_a_line(tmp_path, content):
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(ModelError) as refused:
        checkpoint = open_checkpoint(tmp_path / "model.safetensors")
        checkpoint.check({"embeddings/words": (100, 32)})
    assert "\n" not in refused.value.message and len(refused.value.message) < 1000


def test_names_of_variables_are_not_trusted_with_the_log(tmp_path):
    nasty = {f"encoder.{'x' * 5000}": one()[NAME], "encoder.a\nI 00:00:00.000 SERVER all set\x1b[2J": {
        "dtype": "F32", "shape": [1], "data_offsets": [64, 68]}}
    (tmp_path / "model.safetensors").write_bytes(safetensors_of({**nasty}, data=b"\0" * 68))
    with pytest.raises(ModelError) as refused:
        open_checkpoint(tmp_path / "model.safetensors").check({})
    assert refused.value.message.isprintable() and len(refused.value.message) < 1000


@pytest.mark.parametrize("seed", range(3))
def test_random_damage_to_a_tensorflow_checkpoint_is_a_model_error_or_harmless(tiny, tmp_path, seed):
    """TensorFlow's reader is C++; it gets bits that are turned, in the index and in the data, forty times."""
    model = tiny(num_hidden_layers=1)
    model.write_tensorflow(tmp_path)
    random = np.random.default_rng(seed)
    for file in ("bert_model.ckpt.index", "bert_model.ckpt.data-00000-of-00001"):
        right = (tmp_path / file).read_bytes()
        for _ in range(20):
            wrong = bytearray(right)
            for place in random.integers(0, len(wrong), 1 + random.integers(8)):
                wrong[place] ^= 1 << random.integers(8)
            (tmp_path / file).write_bytes(wrong[:random.integers(len(wrong))] if random.random() < 0.2 else wrong)
            try:
                checkpoint = open_checkpoint(tmp_path / "bert_model.ckpt")
                checkpoint.check({name: array.shape for name, array in model.variables.items()})
                for name in model.variables:
                    checkpoint.read_as(name)
            except ModelError as error:
                assert "\n" not in error.message
        (tmp_path / file).write_bytes(right)


@pytest.mark.parametrize("file", ["bert_model.ckpt.index", "bert_model.ckpt.data-00000-of-00001"])
@pytest.mark.parametrize("spoil", [lambda data: data[:len(data) // 4], lambda data: b"",
                                   lambda data: b"\xff" * len(data)], ids=["short", "empty", "noise"])
def test_damaged_tensorflow_checkpoint(tiny, tmp_path, file, spoil):
    model = tiny()
    model.write_tensorflow(tmp_path)
    (tmp_path / file).write_bytes(spoil((tmp_path / file).read_bytes()))
    with pytest.raises(ModelError, match="cannot read the checkpoint .*bert_model.ckpt"):
        checkpoint = open_checkpoint(tmp_path / "bert_model.ckpt")
        for name in model.variables:
            checkpoint.read(name)


def test_no_checkpoint(tmp_path):
    (tmp_path / "model.ckpt-343.meta").touch()
    with pytest.raises(ModelError, match=r"no checkpoint .*bert_model.ckpt \(no bert_model.ckpt.index\); "
                                         r".* holds model.ckpt-343.meta"):
        open_checkpoint(tmp_path / "bert_model.ckpt")
    with pytest.raises(ModelError, match="holds nothing"):
        open_checkpoint(tmp_path / "nowhere" / "bert_model.ckpt")


def test_an_incomplete_checkpoint(tmp_path):
    for name in ("index", "data-00000-of-00002"):
        (tmp_path / f"bert_model.ckpt.{name}").touch()
    with pytest.raises(ModelError, match="is incomplete: beside .* there is bert_model.ckpt.data-00000-of-00002"):
        checkpoint_files(tmp_path / "bert_model.ckpt")
    (tmp_path / "bert_model.ckpt.data-00001-of-00002").touch()
    assert len(tensorflow_checkpoint_files(tmp_path / "bert_model.ckpt")) == 3


def test_a_tensorflow_checkpoint_without_tensorflow(tmp_path, monkeypatch):
    def missing():
        raise ModuleNotFoundError("No module named 'tensorflow'")
    (tmp_path / "model.ckpt.index").touch()
    (tmp_path / "model.ckpt.data-00000-of-00001").touch()
    monkeypatch.setattr(weights, "import_tensorflow", missing)
    with pytest.raises(EngineError, match=r"without TensorFlow .*; install './server\[cpu\]', or convert it where"):
        open_checkpoint(tmp_path / "model.ckpt")
