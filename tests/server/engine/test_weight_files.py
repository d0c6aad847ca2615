"""The weights of a directory are found, or one line says what there is instead and what to do."""
import json
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bert_serving.server.config import ServerConfig
from bert_serving.server.engine.weight_files import (checkpoint_files, find_weights, hint_for, is_hugging_face,
                                                     listing, weight_map, wrong_content)
from bert_serving.server.errors import ModelError

LEFT_OPEN = ServerConfig().ckpt_name
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:" + "0" * 64 + "\nsize 90868376\n"
GOOGLE = ("bert_config.json", "bert_model.ckpt.index", "bert_model.ckpt.data-00000-of-00001", "bert_model.ckpt.meta")


@pytest.fixture
def holds(tmp_path):
    """Makes a directory of such files: names, or name=content."""
    def make(*names, **contents):
        for name, content in {**dict.fromkeys(names, "x" * 100), **contents}.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content if isinstance(content, str) else json.dumps(content))
        return tmp_path
    return make


def index_of(**files):
    return {"metadata": {}, "weight_map": files}


SHARDED = {"model.safetensors.index.json": index_of(a="a.safetensors", b="b.safetensors", c="a.safetensors")}
SHARDED_BIN = {"pytorch_model.bin.index.json": index_of(a="a.bin", b="b.bin")}


def fault(directory, given=LEFT_OPEN):
    with pytest.raises(ModelError) as refused:
        find_weights(directory, given)
    assert refused.value.message.isprintable()
    return refused.value.message.replace(f"{directory}/", "").replace(str(directory), "DIR")


# ---- what is taken ---------------------------------------------------------------------------------------------------

def test_the_usual_weights_in_their_order(holds):
    directory = holds(*GOOGLE, "config.json", "model.safetensors", "pytorch_model.bin", "a.safetensors",
                      "b.safetensors", "a.bin", "b.bin", **SHARDED, **SHARDED_BIN)
    for name in ("bert_model.ckpt", "model.safetensors", "model.safetensors.index.json", "pytorch_model.bin",
                 "pytorch_model.bin.index.json"):
        assert find_weights(directory, LEFT_OPEN) == directory / name
        (directory / ("bert_model.ckpt.index" if name == "bert_model.ckpt" else name)).unlink()
    assert "no supported weights" in fault(directory)


@pytest.mark.parametrize("given", ["model.ckpt-343", "model.ckpt-343.index", "model.ckpt-343.meta",
                                   "model.ckpt-343.data-00000-of-00001"])
def test_any_file_of_a_checkpoint_means_its_prefix(holds, given):
    directory = holds("model.ckpt-343.index", "model.ckpt-343.meta", "model.ckpt-343.data-00000-of-00001")
    assert find_weights(directory, given) == directory / "model.ckpt-343"


@pytest.mark.parametrize("given", ["model.fp16.safetensors", "weights.bin", "weights.pt",
                                   "model.safetensors.index.json"])
def test_a_file_by_its_name(holds, given):
    directory = holds(*GOOGLE, "model.safetensors", "model.fp16.safetensors", "weights.bin", "weights.pt",
                      "a.safetensors", "b.safetensors", **SHARDED)
    assert find_weights(directory, given) == directory / given and is_hugging_face(given)


def test_an_adapter_may_be_overruled_by_hand(holds):
    directory = holds("adapter_config.json", "model.safetensors")
    assert find_weights(directory, "model.safetensors") == directory / "model.safetensors"


def test_all_files_are_listed(holds):
    directory = holds("a.safetensors", "b.safetensors", *GOOGLE, **SHARDED)
    assert [path.name for path in checkpoint_files(directory / "model.safetensors.index.json")] == [
        "model.safetensors.index.json", "a.safetensors", "b.safetensors"]
    assert checkpoint_files(directory / "a.safetensors") == [directory / "a.safetensors"]
    assert [path.name for path in checkpoint_files(directory / "bert_model.ckpt")] == list(GOOGLE[1:3])


# ---- several files ---------------------------------------------------------------------------------------------------

def test_missing_shards_are_named(holds):
    directory = holds("a.safetensors", **SHARDED)
    assert fault(directory) == ("model.safetensors.index.json names 2 files, of which b.safetensors is missing; "
                                "fetch the model again")
    (directory / "a.safetensors").unlink()
    assert "of which a.safetensors, b.safetensors are missing" in fault(directory)


@pytest.mark.parametrize("name", ["../a.safetensors", "/etc/a.safetensors", "..\\a.safetensors", "a\0.safetensors",
                                  "x/a.safetensors", "a.bin", "a", "", "a\n.safetensors/",
                                  "https://host/a.safetensors"])
def test_an_index_leads_nowhere_else(holds, name):
    directory = holds("a.safetensors", "x/a.safetensors", "a.bin",
                      **{"model.safetensors.index.json": index_of(a=name)})
    assert "model.safetensors.index.json names a file " in fault(directory)
    assert "expected one of its own directory that ends in .safetensors" in fault(directory)


def test_torchs_index_names_torchs_files(holds):
    directory = holds("a.bin", "b.bin", **SHARDED_BIN)
    assert weight_map(find_weights(directory, LEFT_OPEN)) == {"a": directory / "a.bin", "b": directory / "b.bin"}
    holds("a.safetensors", **{"pytorch_model.bin.index.json": index_of(a="a.safetensors")})
    assert "ends in .bin or .pt or .pth" in fault(directory)


@pytest.mark.parametrize("content, what", [
    ([], "has no weight_map"), ({}, "has no weight_map"), ({"weight_map": []}, "has no weight_map"),
    ({"weight_map": {}}, "has no weight_map"), ({"weight_map": {"a": 1}}, "has no weight_map"),
    ("{", "cannot read the weights .*it is no JSON"), ("[" * 100_000, "nested too deeply"),
    (POINTER, "is a Git LFS pointer"), ("\ud800", "Lone"),
    (index_of(**{f"v{n}": f"{n}.safetensors" for n in range(201)}), "names 201 files, expected 200 at most"),
    ("x" * 16_000_001, "has 16000001 bytes, expected 16000000 at most")], ids=str)
def test_what_is_no_index(tmp_path, content, what):
    path = tmp_path / "model.safetensors.index.json"
    if what == "Lone":
        path.write_bytes(b"\xff\xfe{")
        what = "cannot read the weights"
    else:
        path.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(ModelError, match=what):
        checkpoint_files(path)


# ---- what there is instead -------------------------------------------------------------------------------------------

@pytest.mark.parametrize("names, message", [
    (["config.json"], "DIR has no supported weights: no model.safetensors or pytorch_model.bin; it holds "
                      "config.json"),
    (["bert_config.json"], "DIR has no supported weights: no model.safetensors or pytorch_model.bin, no checkpoint "
                           "bert_model.ckpt; it holds bert_config.json"),
    (["config.json", "tf_model.h5", "flax_model.msgpack", "onnx/model.onnx"],
     "DIR has no supported weights: no model.safetensors or pytorch_model.bin; onnx/model.onnx (ONNX), "
     "tf_model.h5 (TensorFlow 2 (Keras)), flax_model.msgpack (Flax) are not supported: save the model with "
     "transformers' save_pretrained"),
    (["config.json", "openvino/openvino_model.xml", "openvino/openvino_model.bin"],
     "DIR has no supported weights: no model.safetensors or pytorch_model.bin; openvino/openvino_model.xml "
     "(OpenVINO) is not supported: save the model with transformers' save_pretrained"),
    (["config.json", "openvino_model.xml", "openvino_model.bin"],
     "DIR has no supported weights: no model.safetensors or pytorch_model.bin; openvino_model.xml (OpenVINO) is "
     "not supported: save the model with transformers' save_pretrained"),
    (["config.json", "saved_model/1/saved_model.pb"],
     "DIR has no supported weights: no model.safetensors or pytorch_model.bin; saved_model/1/saved_model.pb "
     "(a TensorFlow SavedModel) is not supported: save the model with transformers' save_pretrained"),
    (["model.q4.gguf"],
     "DIR has no supported weights: no model.safetensors or pytorch_model.bin, no checkpoint bert_model.ckpt; "
     "model.q4.gguf (GGUF) is not supported: save the model with transformers' save_pretrained"),
    (["config.json", "model.fp16.safetensors", "training_args.bin"],
     "DIR has no supported weights: no model.safetensors or pytorch_model.bin; there is model.fp16.safetensors: "
     "give -ckpt_name model.fp16.safetensors"),
    (["bert_config.json", "model.ckpt-1.index", "model.ckpt-2.index"],
     "DIR has no supported weights: no model.safetensors or pytorch_model.bin, no checkpoint bert_model.ckpt; "
     "there is model.ckpt-1, model.ckpt-2: give -ckpt_name model.ckpt-1 or another of them"),
    (["config.json", "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"],
     "DIR has no supported weights: no model.safetensors or pytorch_model.bin; there is "
     "model-00001-of-00002.safetensors, model-00002-of-00002.safetensors, without the index that says what is in them; "
     "fetch the model again"),
    (["bert_model.ckpt.index"], "the checkpoint bert_model.ckpt is incomplete: beside bert_model.ckpt.index there is "
                                "no data file"),
])
def test_what_there_is_instead_of_weights(holds, names, message):
    assert fault(holds(*names)) == message


def test_a_link_to_nothing(holds):
    """As a Hub cache has it whose blobs were removed."""
    directory = holds("config.json")
    (directory / "model.safetensors").symlink_to("../../blobs/abc")
    assert fault(directory) == "model.safetensors is a link to a file that is not there; fetch the model again"


@pytest.mark.parametrize("given, message", [
    ("nope", "-ckpt_name nope: there is no checkpoint nope (no nope.index); DIR holds config.json, model.onnx; give "
             "the prefix of one that is there, or leave it out"),
    ("nope.bin", "-ckpt_name nope.bin: DIR has no such file, and holds config.json, model.onnx; give the name of one "
                 "of them, or leave it out"),
    ("model.onnx", "-ckpt_name model.onnx is ONNX, which is not supported; save the model with transformers' "
                   "save_pretrained, or leave it out"),
])
def test_a_name_that_is_not_there(holds, given, message):
    assert fault(holds("config.json", "model.onnx"), given) == message


ADAPTER = {"adapter_config.json": {"peft_type": "LORA", "base_model_name_or_path": "intfloat/e5-base"}}
MODEL = {"config.json": {"model_type": "bert"}, "model.safetensors": "x"}


def under(folder, files):
    return {f"{folder}/{name}": content for name, content in files.items()}


def test_an_adapter_is_no_model(holds):
    directory = holds("adapter_model.safetensors", "model.safetensors", **ADAPTER)
    assert fault(directory).startswith("DIR is an adapter for intfloat/e5-base, no model; merge the two: PeftModel")
    assert hint_for(directory).startswith("; it is an adapter for intfloat/e5-base, no model; merge the two")
    (directory / "adapter_config.json").write_text("[")
    assert fault(directory).startswith("DIR is an adapter for another model, no model;")


@pytest.mark.parametrize("files, hint", [
    ({}, ""), ({"a/config.json": "{}", "b": "x"}, ""),
    (under("bert", MODEL), "; give DIR/bert"),
    (under("out/bert", MODEL), "; give DIR/out/bert"),
    (under("a", MODEL) | under("b", MODEL), "; it has several models: give one of a, b"),
    ({"bert/bert_config.json": "{}"}, "; give DIR/bert"),
    ({"st/modules.json": "[]", **under("st/0_Transformer", MODEL)}, "; give DIR/st"),
    ({"2_Dense/config.json": {"in_features": 3}, "2_Dense/model.safetensors": "x"}, ""),
    ({"model.gguf": "x"}, "; model.gguf (GGUF) is not supported: save the model with transformers' save_pretrained"),
    ({"a/config.json": "[" * 100_000, "a/model.safetensors": "x"}, ""),
    ({"refs/main": "abc\n", **under("snapshots/abc", MODEL), **under("snapshots/def", MODEL)},
     "; give DIR/snapshots/abc"),
    (under("snapshots/def", MODEL), "; give DIR/snapshots/def"),
    ({"models--a--b/refs/main": "abc", **under("models--a--b/snapshots/abc", MODEL)},
     "; give DIR/models--a--b/snapshots/abc"),
    ({"models--a--b/refs/main": "\xff", **under("models--a--b/snapshots/abc", MODEL),
      **under("models--c--d/snapshots/abc", MODEL)},
     "; it has several models: give one of models--a--b/snapshots/abc, models--c--d/snapshots/abc"),
], ids=str)
def test_a_folder_one_level_too_high(holds, files, hint):
    directory = holds(**files)
    assert hint_for(directory).replace(str(directory), "DIR") == hint
    if hint:
        assert fault(directory).endswith(hint.replace("DIR/", ""))


def test_a_hint_for_nothing(tmp_path):
    assert hint_for(tmp_path / "nowhere") == ""


# ---- what a file is --------------------------------------------------------------------------------------------------

def test_git_lfs_pointers(holds):
    directory = holds("b.safetensors", **{"model.safetensors": POINTER, "config.json": POINTER, "vocab.txt": "a"})
    assert wrong_content(directory / "config.json").startswith("is a Git LFS pointer")
    assert all(wrong_content(path) is None for path in (directory / "vocab.txt", directory / "nowhere", directory))
    assert fault(directory) == "model.safetensors is a Git LFS pointer, not the file itself; run `git lfs pull` in DIR"
    holds("a.safetensors", **{"model.safetensors.index.json": SHARDED["model.safetensors.index.json"],
                              "b.safetensors": POINTER})
    assert fault(directory, "model.safetensors.index.json").startswith("b.safetensors is a Git LFS pointer")


def test_git_lfs_pointers_of_a_checkpoint(holds):
    directory = holds(*GOOGLE, **{GOOGLE[2]: POINTER})
    assert fault(directory).startswith("bert_model.ckpt.data-00000-of-00001 is a Git LFS pointer")


@pytest.mark.parametrize("name, content, what", [
    ("model.safetensors", b"\xef\xbb\xbf\n <!DOCTYPE html><html>", "is a web page, not the file itself; download it"),
    ("pytorch_model.bin", b"<HTML>", "is a web page"),
    ("pytorch_model.bin", b"", "is empty; download it again"),
    ("model.safetensors", b"PK\3\4" + b"\0" * 50, "is torch's, not safetensors; name it pytorch_model.bin, or save"),
    ("model.safetensors", b"\x80\2\x8a\nl", "is torch's, not safetensors"),
    ("pytorch_model.bin", struct.pack("<Q", 256) + b'{"a":{"dtype"', "is safetensors, not torch's; name it model.saf"),
])
def test_what_a_file_is_instead(tmp_path, name, content, what):
    (tmp_path / name).write_bytes(content)
    assert wrong_content(tmp_path / name).startswith(what)
    assert f"{name} {what}" in fault(tmp_path)


@pytest.mark.parametrize("name, content", [
    ("model.safetensors", struct.pack("<Q", 256) + b'{"a":{"dtype"'), ("pytorch_model.bin", b"PK\3\4\0\0"),
    ("model.safetensors", struct.pack("<Q", 640) + b'{"a":{"dtype"'),    # As a pickle begins.
    ("pytorch_model.bin", b"\x80\2\x8a\nl"), ("config.json", b"{}"), ("vocab.txt", b"[PAD]\n")])
def test_what_a_file_is(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    assert wrong_content(tmp_path / name) is None
    assert wrong_content(tmp_path) is None and wrong_content(Path("/nowhere")) is None


def test_names_are_not_trusted_with_the_log():
    assert listing(["a\nb", "c" * 5000, "d", "e", "f"]).isprintable()
    assert len(listing(["c" * 5000])) < 300


@given(names=st.lists(st.sampled_from("abcdefgh"), max_size=9))
def test_listing(names):
    text = listing(names)
    assert text == ", ".join(names) if len(names) <= 4 else text.endswith(f" and {len(names) - 4} more")
