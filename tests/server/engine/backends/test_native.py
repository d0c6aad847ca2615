"""The backend of our own: what it makes of a model, what is mapped, and that it gives what engine lite gives."""
import json
import os
import shutil
import struct
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from bert_serving.client.pairs import Pair
from bert_serving.server.config import PoolingStrategy, ServerConfig, pooling_strategy
from bert_serving.server.engine import artefact, backends, base
from bert_serving.server.engine.backends import native
from bert_serving.server.engine.cache import open_format
from bert_serving.server.engine.models import resolve
from bert_serving.server.engine.native import library
from bert_serving.server.engine.native.layout import bfloat16
from bert_serving.server.engine.pooling import POOLER_STRATEGIES, pool
from bert_serving.server.engine.spec import POSITIONS, TOKEN_TYPES, WORDS, EncoderSpec
from bert_serving.server.errors import EngineError

from ..conftest import TEXTS, Running, TinyBert, compare, labels

TABLES = {WORDS, TOKEN_TYPES, POSITIONS}


@pytest.fixture
def start(run, any_native_build):
    return lambda model_dir, **options: run(model_dir, engine="native", **options)


def manifest_of(running):
    return open_format(Path(running.settings.artefact), native.FORMAT)


def files_of(running):
    return {path.name for path in Path(running.settings.artefact).iterdir()}


# ---- which build -----------------------------------------------------------------------------------------------------

@pytest.fixture
def processor(monkeypatch, tmp_path):
    """Has the backend find a processor with these flags, and libraries of these builds."""
    def be(flags, builds=library.BUILDS, tiles=True):
        monkeypatch.delenv(native.BUILD, raising=False)
        monkeypatch.setattr(native, "cpu_flags", lambda: frozenset(flags))
        monkeypatch.setattr(library, "may_use_tiles", lambda: tiles)
        monkeypatch.setattr(library, "path_of", lambda name: tmp_path / name)
        for name in builds:
            (tmp_path / name).touch()
        native.build.cache_clear()

    yield be
    native.build.cache_clear()


@pytest.mark.parametrize("wanted", [name for name, build in library.BUILDS.items() if build.taken])
def test_the_best_build_that_the_processor_has(processor, wanted):
    processor(library.BUILDS[wanted].flags | {"fpu"})
    assert native.build().name == wanted


def test_tiles_that_the_kernel_refuses_are_not_used(processor):
    processor(library.BUILDS["amx"].flags | library.BUILDS["avx512bf16"].flags, tiles=False)
    assert native.build().name == "avx512bf16"


def test_a_build_that_was_not_compiled_is_passed_over(processor):
    processor(library.BUILDS["avx512bf16"].flags, ["avx512", "plain"])
    assert native.build().name == "avx512"


@pytest.mark.parametrize("flags, builds, message", [
    (library.BUILDS["avx512"].flags, ["plain", "tiles"], "its library was not compiled; install a C.. compiler and"),
    (library.BUILDS["avx512"].flags - {"avx512_vnni"}, library.BUILDS, "this processor has no AVX-512 with VNNI")])
def test_why_there_is_none(processor, tiny_dir, flags, builds, message):
    processor(flags, builds)
    if "compiler" in message:
        message = "its library was not compiled; install a C..17 compiler and the server again"
    with pytest.raises(EngineError, match=message):
        native.build()
    assert message.split(";")[0] in native.BACKEND.missing()
    _, why = backends.choose("auto", backends.Requirements())
    assert why.startswith(f"native cannot be used: {message.split(';')[0]}")


def test_a_build_of_no_such_name(monkeypatch):
    monkeypatch.setenv(native.BUILD, "abacus")
    native.build.cache_clear()
    with pytest.raises(EngineError, match="NATIVE_BUILD is 'abacus'; choose from none, amx, "):
        native.build()
    monkeypatch.undo()
    native.build.cache_clear()


# ---- the artefact ----------------------------------------------------------------------------------------------------

def test_it_is_made_and_opened_without_tensorflow(tiny_dir, tmp_path, any_native_build):
    """In a process of its own, as a server makes it."""
    code = ("import json, sys\n"
            "from dataclasses import replace\n"
            "from bert_serving.server.config import ServerConfig\n"
            "from bert_serving.server.engine import artefact, backends, base\n"
            "from bert_serving.server.engine.models import resolve\n"
            "settings = resolve(ServerConfig(model_dir=sys.argv[1], engine='native')).settings\n"
            "settings = replace(settings, artefact=artefact.make(settings, sys.argv[2])['path'])\n"
            "base.prove(backends.create(settings), base.create_tokenizer(settings), settings)\n"
            "print(sorted({name.partition('.')[0] for name in sys.modules} & {'tensorflow', 'ai_edge_litert'}))\n")
    environ = {**os.environ, native.BUILD: native.build().name}
    done = subprocess.run([sys.executable, "-c", code, str(tiny_dir), str(tmp_path / "cache")], text=True,
                          capture_output=True, timeout=50, env=environ)
    assert (done.returncode, done.stdout, done.stderr) == (0, "[]\n", "")


def test_tables_are_mapped_from_the_models_own_file(tiny, tiny_dir, start):
    """So that all workers, and the next artefact, share them; they are most of a multilingual model."""
    running = start(tiny_dir)
    assert set(manifest_of(running)["mapped"]) == TABLES
    assert files_of(running) == {native.WEIGHTS, native.INDEX, "manifest.json"}
    words = running.engine._encoder._arrays[WORDS]
    maps = Path("/proc/self/maps")
    if maps.exists():
        here = [line for line in maps.read_text().splitlines() if line.endswith("/model.safetensors")
                and str(tiny_dir) in line]
        ranges = [tuple(int(end, 16) for end in line.split()[0].split("-")) for line in here]
        assert any(start <= words.ctypes.data < end for start, end in ranges)
    assert np.array_equal(words, tiny().weights["bert/embeddings/word_embeddings"])


def in_fp16(directory, torch_file):
    return TinyBert().write_hugging_face(directory, dtype=np.float16), "fp16"


def in_bf16(directory, torch_file):
    arrays = load_file(TinyBert().write_hugging_face(directory) / "model.safetensors")
    header, content = {}, b""
    for name, array in arrays.items():
        halves = bfloat16(array.astype(np.float32)).tobytes()
        header[name] = {"dtype": "BF16", "shape": array.shape,
                        "data_offsets": [len(content), len(content) + len(halves)]}
        content += halves
    described = json.dumps(header).encode()
    (directory / "model.safetensors").write_bytes(struct.pack("<Q", len(described)) + described + content)
    return directory, "bf16"


def of_torch(directory, torch_file):
    TinyBert().write_hugging_face(directory)
    torch_file(directory / "pytorch_model.bin", load_file(directory / "model.safetensors"))
    (directory / "model.safetensors").unlink()
    return directory, None


def in_shards(directory, torch_file):
    TinyBert().write_hugging_face(directory)
    names = list(load_file(directory / "model.safetensors"))
    (directory / "model.safetensors").rename(directory / "model-00001-of-00001.safetensors")
    (directory / "model.safetensors.index.json").write_text(json.dumps(
        {"weight_map": {name: "model-00001-of-00001.safetensors" for name in names}}))
    return directory, None


def of_google(directory, torch_file):
    return TinyBert().write_tensorflow(directory), None


@pytest.mark.parametrize("write", [in_fp16, in_bf16, of_torch, in_shards, of_google], ids=lambda write: write.__name__)
def test_tables_that_cannot_be_mapped_are_copied(tmp_path, start, torch_file, write):
    directory, precision = write(tmp_path / "model", torch_file)
    running = start(directory)
    assert manifest_of(running)["mapped"] == {}
    assert {f"{name.replace('/', '.')}.npy" for name in TABLES} <= files_of(running)
    compare(running, TinyBert(), tolerance={None: 1e-5, "fp16": 1e-2, "bf16": 5e-2}[precision])


def test_the_key_depends_on_the_kind_of_numbers(native_build):
    spec, keys = EncoderSpec(vocab_size=9), []
    for build, precision in (("plain", "fp32"), ("tiles", "fp32"), ("plain", "bf16"), ("plain", "int8")):
        native_build(build)
        keys.append(native.BACKEND.key(base.EngineSettings(engine="native", precision=precision), spec))
    assert all(keys.count(key) == 1 for key in keys)
    assert [key["kind"] for key in keys] == ["fp32", "split", "bf16", "int8"]


def test_strategies_share_an_artefact(tiny_dir, start):
    paths = {start(tiny_dir, pooling_strategy=PoolingStrategy[name], mask_cls_sep=masked).settings.artefact
             for name in ("REDUCE_MEAN", "NONE", "LAST_TOKEN") for masked in (False, True)}
    assert len(paths) == 1


def cut_off(directory):
    with open(directory / native.WEIGHTS, "r+b") as file:
        file.truncate(native.PLACE)


def empty(directory):
    (directory / native.WEIGHTS).write_bytes(b"")


def without_weights(directory):
    (directory / native.WEIGHTS).unlink()


def garbled_index(directory):
    (directory / native.INDEX).write_text("{")


def other_shapes(directory):
    index = json.loads((directory / native.INDEX).read_text())
    index["layers/0/qkv/panels"]["shape"][0] //= 2
    (directory / native.INDEX).write_text(json.dumps(index))


def lacking_an_array(directory):
    index = json.loads((directory / native.INDEX).read_text())
    del index["layers/1/down/panels"]
    (directory / native.INDEX).write_text(json.dumps(index))


@pytest.mark.parametrize("damage, file", [
    (cut_off, native.WEIGHTS), (empty, native.WEIGHTS), (without_weights, native.WEIGHTS),
    (garbled_index, native.INDEX), (other_shapes, native.INDEX), (lacking_an_array, native.INDEX)],
    ids=lambda value: getattr(value, "__name__", ""))
def test_a_damaged_artefact_is_refused(tiny_dir, start, tmp_path, damage, file):
    settings = start(tiny_dir).settings
    shutil.copytree(settings.artefact, tmp_path / "copy")
    backends.create(replace(settings, artefact=str(tmp_path / "copy")))
    damage(tmp_path / "copy")
    with pytest.raises(EngineError, match=f"{file} is not what it was.*; remove it, and|lacks {file}|{file}") as error:
        backends.create(replace(settings, artefact=str(tmp_path / "copy")))
    assert "\n" not in str(error.value)


def test_an_artefact_of_another_format_is_refused(tiny_dir, start, monkeypatch):
    settings = start(tiny_dir).settings
    monkeypatch.setattr(native, "FORMAT", native.FORMAT + 1)
    with pytest.raises(EngineError, match="is another version's; remove it, and it will be made again"):
        backends.create(settings)


def test_a_library_that_was_taken_away(tiny_dir, start, monkeypatch, tmp_path):
    settings = start(tiny_dir).settings
    library.load.cache_clear()
    monkeypatch.setattr(library, "path_of", lambda build: tmp_path / f"libnative_{build}.so")
    with pytest.raises(EngineError, match=r"libnative_.*\.so cannot be loaded: "):
        backends.create(settings)
    native.build.cache_clear()
    with pytest.raises(EngineError, match="its library was not compiled; install a C..17 compiler and the server ag"):
        backends.create(settings)
    native.build.cache_clear()


# ---- vectors ---------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("layers", [[-1], [-2, -1], [0, 2, 1]], ids=str)
@pytest.mark.parametrize("masked", [False, True], ids=["", "mask_cls_sep"])
def test_strategies_pool_what_none_gives(tiny_dir, start, layers, masked):
    """To the last bit, but for the mean, which the library computes in another order."""
    options = {"pooling_layer": layers, "mask_cls_sep": masked}
    tokens = start(tiny_dir, pooling_strategy=PoolingStrategy.NONE, **options)
    features = tokens.features(TEXTS)
    hidden, starts = tokens.engine.encode(features), np.cumsum([0, *map(len, features)])
    is_pooled = np.concatenate([sequence.input_mask for sequence in features]).astype(bool)
    for strategy in set(PoolingStrategy) - POOLER_STRATEGIES - {PoolingStrategy.NONE}:
        running = start(tiny_dir, pooling_strategy=strategy, **options)
        expected = pool((strategy,), hidden.copy(), starts, None if is_pooled.all() else is_pooled)
        ends = strategy in (PoolingStrategy.FIRST_TOKEN, PoolingStrategy.CLS_TOKEN, PoolingStrategy.LAST_TOKEN,
                            PoolingStrategy.SEP_TOKEN)
        if not (masked and ends):                      # What NONE gives of hidden tokens is 0.
            assert np.abs(running.encode(TEXTS) - expected).max() < 1e-6


@pytest.mark.parametrize("name", ["REDUCE_MEAN", "REDUCE_MAX", "FIRST_TOKEN", "LAST_TOKEN", "WEIGHTED_MEAN", "NONE",
                                  "CLS_POOLED", "CLASSIFICATION"])
@pytest.mark.parametrize("masked", [False, True], ids=["", "mask_cls_sep"])
def test_engine_lite_gives_the_same(tiny, tmp_path, start, run, name, masked):
    """Token types of pairs included."""
    directory = tiny(num_labels=3).write_hugging_face(tmp_path)
    options = {"pooling_strategy": PoolingStrategy[name], "mask_cls_sep": masked, **labels(name)}
    ours, lite = start(directory, **options), run(directory, engine="lite", **options)
    assert np.abs(ours.encode(TEXTS) - lite.encode(TEXTS)).max() < 1e-5


def test_several_strategies_are_joined(tiny_dir, start):
    names = ("REDUCE_MAX", "REDUCE_MEAN", "LAST_TOKEN")
    joined = start(tiny_dir, pooling_strategy=pooling_strategy("+".join(names))).encode(TEXTS)
    each = [start(tiny_dir, pooling_strategy=PoolingStrategy[name]).encode(TEXTS) for name in names]
    assert np.abs(np.concatenate(each, axis=1) - joined).max() < 1e-6


def test_the_second_text_of_a_pair_has_a_type_of_its_own(tiny, tmp_path, start):
    model = tiny()
    model.weights["bert/embeddings/token_type_embeddings"][1] += 5
    running = start(model.write_hugging_face(tmp_path))
    texts = [Pair("the fox", "quick, brown"), ["the", "fox", "[SEP]", "quick", ",", "brown"]]
    assert np.abs(running.encode(texts[:1]) - running.encode(texts[1:])).max() > 0.1
    compare(running, model, texts[:1])


@pytest.mark.parametrize("options", [{}, {"pooling_strategy": PoolingStrategy.NONE}, {"precision": "int8"},
                                     {"precision": "bf16"}, {"pooling_strategy": PoolingStrategy.CLS_POOLED},
                                     {"mask_cls_sep": True}], ids=str)
def test_batch_mates_change_nothing(tiny_dir, start, in_batches, options):
    in_batches(start(tiny_dir, max_seq_len=None, **options), 25, np.array_equal)


@pytest.mark.parametrize("threads", [1, 2])
def test_threads_change_nothing(tiny_dir, start, threads):
    running = start(tiny_dir)
    other = backends.create(replace(running.settings, num_threads=threads))
    assert np.array_equal(other.encode(running.features(TEXTS)), running.encode(TEXTS))
    assert other.describe().endswith(f" on CPU, {threads} thread{'s' * (threads > 1)}, fp32")
    assert other.describe().startswith(native.BACKEND.version())


@pytest.mark.parametrize("build", library.BUILDS)
@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8"])
def test_every_build_serves_every_precision(tiny, tiny_dir, tmp_path, native_build, precision, build):
    from ..native.conftest import why_not
    if reason := why_not(build):
        pytest.skip(reason)
    native_build(build)
    found, expected = (made(tiny_dir, tmp_path / "cache", precision=name).encode(TEXTS) for name in (precision, "fp32"))
    cosines = (found * expected).sum(1) / np.linalg.norm(found, axis=1) / np.linalg.norm(expected, axis=1)
    assert cosines.min() > {"fp32": 0.99999, "bf16": 0.999, "int8": 0.99}[precision]


# ---- what is learned of the weights ----------------------------------------------------------------------------------

def made(model_dir, cache, **options):
    """An engine whose artefact is made anew."""
    settings = resolve(ServerConfig(model_dir=str(model_dir), engine="native", **options)).settings
    settings = replace(settings, artefact=artefact.make(settings, cache)["path"])
    return Running(settings, base.create_tokenizer(settings), backends.create(settings))


def of_size(factor, directory):
    """A model whose products' weights are so many times as large as usual."""
    model = TinyBert()
    for name, array in model.weights.items():
        if name.endswith("/kernel"):
            array *= factor
    return model, model.write_hugging_face(directory)


@pytest.mark.parametrize("factor, kind", [(0.25, "split"), (40, "strict")])
def test_large_weights_take_three_parts(tmp_path, native_build, factor, kind):
    """Sums of two numbers in bf16 are fp32 only where the weights do not make much of a small difference."""
    native_build("tiles")
    model, directory = of_size(factor, tmp_path / "model")
    running = made(directory, tmp_path / "cache")
    assert manifest_of(running)["kind"] == kind
    compare(running, model, tolerance=2e-5 if factor < 1 else 5e-4)
    assert manifest_of(made(directory, tmp_path / "cache", precision="bf16"))["kind"] == "bf16"


def test_large_channels_do_not_cost_the_others_their_bits(tmp_path, any_native_build, monkeypatch):
    model = TinyBert()
    for name in ("bert/embeddings", *(f"bert/encoder/layer_{n}/{part}" for n in range(3)
                                      for part in ("attention/output", "output"))):
        model.weights[f"{name}/LayerNorm/gamma"][[3, 17]] *= 40
    for name, array in model.weights.items():          # What is so large is not read as if it were.
        if name.endswith(("query/kernel", "key/kernel", "value/kernel", "intermediate/dense/kernel")):
            array[[3, 17]] /= 40
    directory = model.write_hugging_face(tmp_path / "model")
    exact = made(directory, tmp_path / "exact").encode(TEXTS)

    def error(running):
        others = np.delete(np.arange(exact.shape[1]), [3, 17])
        return np.abs(running.encode(TEXTS) - exact)[:, others].mean()

    shared = error(made(directory, tmp_path / "shared", precision="int8"))
    monkeypatch.setattr(native, "shares_of", lambda *arguments: None)
    assert shared < 0.5 * error(made(directory, tmp_path / "plain", precision="int8"))
