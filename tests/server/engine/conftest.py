"""Tiny models in every format, a plain NumPy BERT to compare with, and the default model for those who ask."""
import hashlib
import json
import math
import os
import pickle
import struct
import zipfile
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bert_serving.client.pairs import Pair
from bert_serving.server.config import PoolingStrategy, ServerConfig
from bert_serving.server.engine import artefact, backends, base, library
from bert_serving.server.engine.architectures import from_values
from bert_serving.server.engine.architectures.bert import ARCHITECTURE
from bert_serving.server.engine.models import resolve

from .fake_hub import FakeHub

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "quick", "brown", "fox", "un", "##want", "##ed", "runn",
         "##ing", ",", "."]

TEXTS = ["the quick brown fox", "unwanted running, the fox.", "the", Pair("the fox", "quick, brown"),
         ["the", "##ing", "fox"], Pair(["[MASK]"], ["fox"]), "", "the quick brown fox " * 9]
NAMES = [strategy.name for strategy in PoolingStrategy]


def labels(strategy):
    """Options for a model with three classes, of which only one strategy speaks."""
    return {"num_labels": 3} if strategy == "CLASSIFICATION" else {}


@dataclass
class TinyBert:
    """A BERT with random weights under Google's names, and its computation in float64, without any library's help."""

    words: list = field(default_factory=lambda: list(WORDS))
    hidden_size: int = 32
    num_hidden_layers: int = 3
    num_attention_heads: int = 4
    intermediate_size: int = 48
    hidden_act: str = "gelu"
    max_position_embeddings: int = 40
    type_vocab_size: int = 2
    num_labels: int | None = None
    seed: int = 0

    def __post_init__(self):
        random = np.random.default_rng(self.seed)
        hidden, inner = self.hidden_size, self.intermediate_size

        def weight(*shape, around=0.0):
            return (around + random.normal(0, 0.2, shape)).astype(np.float32)

        self.weights = {
            "bert/embeddings/word_embeddings": weight(len(self.words), hidden),
            "bert/embeddings/token_type_embeddings": weight(self.type_vocab_size, hidden),
            "bert/embeddings/position_embeddings": weight(self.max_position_embeddings, hidden)}
        norms, denses = ["bert/embeddings"], [("bert/pooler/dense", hidden, hidden)]
        for n in range(self.num_hidden_layers):
            layer = f"bert/encoder/layer_{n}"
            norms += [f"{layer}/attention/output", f"{layer}/output"]
            denses += [(f"{layer}/attention/self/{part}", hidden, hidden) for part in ("query", "key", "value")]
            denses += [(f"{layer}/attention/output/dense", hidden, hidden),
                       (f"{layer}/intermediate/dense", hidden, inner), (f"{layer}/output/dense", inner, hidden)]
        for name in norms:
            self.weights[f"{name}/LayerNorm/gamma"] = weight(hidden, around=1.0)
            self.weights[f"{name}/LayerNorm/beta"] = weight(hidden)
        for name, rows, columns in denses:
            self.weights[f"{name}/kernel"] = weight(rows, columns)
            self.weights[f"{name}/bias"] = weight(columns)
        if self.num_labels:
            self.weights["output_weights"] = weight(self.num_labels, hidden)
            self.weights["output_bias"] = weight(self.num_labels)

    @property
    def config(self):
        names = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "hidden_act",
                 "max_position_embeddings", "type_vocab_size")
        return {"vocab_size": len(self.words), **{name: getattr(self, name) for name in names}}

    @property
    def spec(self):
        return from_values({"model_type": "bert", **self.config})[1]

    @property
    def variables(self):
        """The weights under the names of spec.variables."""
        return {ours: self.weights[name] for ours, name in ARCHITECTURE.tensorflow.ours(self.weights).items()}

    # ---- files -------------------------------------------------------------------------------------------------------

    def write_tensorflow(self, directory, name="bert_model.ckpt", extras=True, config=None):
        """As Google publishes it, optimizer slots and the heads of pretraining included."""
        import tensorflow as tf

        variables = dict(self.weights)
        if extras:
            for variable in list(variables):
                for slot in ("adam_m", "adam_v"):
                    variables[f"{variable}/{slot}"] = np.zeros_like(variables[variable])
            variables["global_step"] = np.int64(1000)
            variables["cls/predictions/output_bias"] = np.zeros(len(self.words), np.float32)
            variables["cls/predictions/transform/dense/kernel"] = np.zeros((3, 3), np.float32)
            variables["cls/seq_relationship/output_weights"] = np.zeros((2, self.hidden_size), np.float32)
        self._write(directory, "bert_config.json", {**self.config, **(config or {})})
        names = list(variables)
        tf.raw_ops.SaveV2(prefix=str(directory / name), tensor_names=names, shape_and_slices=[""] * len(names),
                          tensors=[variables[name] for name in names])
        return directory

    def write_hugging_face(self, directory, prefix="", old_names=False, extras=True, dtype=np.float32, config=None):
        from safetensors.numpy import save_file

        variables = {}
        for name, array in self.weights.items():
            if name.startswith("output_"):
                variables[{"output_weights": "classifier.weight", "output_bias": "classifier.bias"}[name]] = array
                continue
            name = name.removeprefix("bert/").replace("/layer_", "/layer/").replace("/", ".")
            if name.endswith("_embeddings"):
                name += ".weight"
            if name.endswith(".kernel"):
                name, array = name.removesuffix("kernel") + "weight", array.T.copy()
            if not old_names:
                name = name.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")
            variables[prefix + name] = array.astype(dtype)
        if extras:
            variables[prefix + "embeddings.position_ids"] = np.arange(self.max_position_embeddings)[None]
            variables["cls.predictions.bias"] = np.zeros(len(self.words), np.float32)
        self._write(directory, "config.json", {"model_type": "bert", **self.config, **(config or {})})
        save_file(variables, str(directory / "model.safetensors"))
        return directory

    def _write(self, directory, config_name, config):
        directory.mkdir(parents=True, exist_ok=True)
        (directory / config_name).write_text(json.dumps(config))
        (directory / "vocab.txt").write_text("\n".join(self.words) + "\n", encoding="utf-8")

    # ---- computation -------------------------------------------------------------------------------------------------

    def layers(self, ids, types, mask, positions=True):
        """float64 [T, H] of one sequence, for each layer."""
        w = {name: array.astype(np.float64) for name, array in self.weights.items()}
        size = self.hidden_size // self.num_attention_heads

        def dense(x, name):
            return x @ w[f"{name}/kernel"] + w[f"{name}/bias"]

        def norm(x, name):
            x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-12)
            return x * w[f"{name}/LayerNorm/gamma"] + w[f"{name}/LayerNorm/beta"]

        x = w["bert/embeddings/word_embeddings"][ids] + w["bert/embeddings/token_type_embeddings"][types]
        if positions:
            x = x + w["bert/embeddings/position_embeddings"][:len(ids)]
        x = norm(x, "bert/embeddings")
        result = []
        for n in range(self.num_hidden_layers):
            name = f"bert/encoder/layer_{n}"
            heads = []
            for head in range(self.num_attention_heads):
                part = slice(head * size, (head + 1) * size)
                q, k, v = (dense(x, f"{name}/attention/self/{which}")[:, part] for which in ("query", "key", "value"))
                scores = q @ k.T / math.sqrt(size) - 10000.0 * (1 - np.asarray(mask))
                odds = np.exp(scores - scores.max(-1, keepdims=True))
                heads.append(odds / odds.sum(-1, keepdims=True) @ v)
            x = norm(dense(np.concatenate(heads, 1), f"{name}/attention/output/dense") + x, f"{name}/attention/output")
            inner = ACTIVATIONS[self.hidden_act](dense(x, f"{name}/intermediate/dense"))
            x = norm(dense(inner, f"{name}/output/dense") + x, f"{name}/output")
            result.append(x)
        return result

    def vector(self, features, strategy="REDUCE_MEAN", layers=(-2,), positions=True):
        """What the server has to answer for one sequence."""
        mask = features.input_mask.astype(np.float64)
        outputs = self.layers(features.input_ids, features.token_type_ids, mask, positions)
        if strategy in ("CLS_POOLED", "CLASSIFICATION", "REGRESSION"):
            w = {name: array.astype(np.float64) for name, array in self.weights.items()}
            pooled = np.tanh(outputs[-1][0] @ w["bert/pooler/dense/kernel"] + w["bert/pooler/dense/bias"])
            if strategy == "CLS_POOLED":
                return pooled
            odds = np.exp(pooled @ w["output_weights"].T + w["output_bias"])
            return odds / (odds.sum() if strategy == "CLASSIFICATION" else 1 + odds)
        hidden = np.concatenate([outputs[layer] for layer in layers], 1)
        mean = (hidden * mask[:, None]).sum(0) / (mask.sum() + 1e-10)
        most = (hidden - 1e30 * (1 - mask[:, None])).max(0)
        weights = mask * np.arange(1, len(mask) + 1)
        return {"NONE": hidden * mask[:, None], "REDUCE_MEAN": mean, "REDUCE_MAX": most,
                "REDUCE_MEAN_MAX": np.concatenate([mean, most]), "CLS_TOKEN": hidden[0], "FIRST_TOKEN": hidden[0],
                "SEP_TOKEN": hidden[-1], "LAST_TOKEN": hidden[-1],
                "REDUCE_MEAN_SQRT_LEN": mean * np.sqrt(mask.sum()),
                "WEIGHTED_MEAN": (hidden * weights[:, None]).sum(0) / (weights.sum() + 1e-10)}[strategy]


ACTIVATIONS = {
    "gelu": lambda x: x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2))),
    "gelu_new": lambda x: 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x ** 3))),
    "relu": lambda x: np.maximum(x, 0), "tanh": np.tanh, "linear": lambda x: x,
}


@dataclass
class Running:
    """An engine with all that belongs to it."""

    settings: base.EngineSettings
    tokenizer: base.BaseTokenizer
    engine: base.Engine

    def features(self, texts):
        return base.features(texts, self.tokenizer, self.settings)

    def encode(self, texts):
        return self.engine.encode(self.features(texts))


@pytest.fixture(scope="session")
def graphs(tmp_path_factory):
    """A cache of frozen graphs for the whole test run."""
    return tmp_path_factory.mktemp("graphs")


@pytest.fixture
def run(graphs):
    """Starts the engine for a model directory and options, as a worker would."""
    def start(model_dir, engine="graph", **options):
        model = resolve(ServerConfig(model_dir=str(model_dir), engine=engine, **options))
        path = artefact.cached(model.settings, graphs) or artefact.make(model.settings, graphs)["path"]
        settings = replace(model.settings, artefact=str(path))
        return Running(settings, base.create_tokenizer(settings), backends.create(settings))
    return start


def compare(running, model, texts=TEXTS, tolerance=1e-5, **how):
    """Asserts that an engine gives the vectors that the NumPy model gives, which it returns as the engine has them."""
    features = running.features(texts)
    rows = running.engine.encode(features)
    expected = [model.vector(sequence, **how) for sequence in features]
    expected = np.concatenate(expected) if running.engine.token_level else np.stack(expected)
    assert rows.shape == expected.shape
    assert np.abs(rows - expected)[np.abs(expected) < 1e29].max() < tolerance
    huge = np.abs(expected) > 1e29
    assert np.allclose(rows[huge], expected[huge])
    return rows


@pytest.fixture
def in_batches():
    """Asserts ``holds(rows of a sentence among others, its rows alone)``, for so many examples of such batches."""
    sentences = st.lists(st.sampled_from(["the", "quick", "brown", "fox", "unwanted", "running", ",", "."]),
                         max_size=36).map(" ".join)

    def try_all(running, examples, holds):
        @settings(deadline=None, max_examples=examples, suppress_health_check=[HealthCheck.function_scoped_fixture])
        @given(sentence=sentences, before=st.lists(sentences, max_size=40), after=st.lists(sentences, max_size=4))
        def check(sentence, before, after):
            alone = running.encode([sentence])
            sizes = [len(sequence) for sequence in running.features(before)] if running.engine.token_level else [1] * 99
            start = sum(sizes[:len(before)])
            together = running.encode([*before, sentence, *after])
            assert holds(together[start:start + len(alone)], alone)

        check()
    return try_all


@pytest.fixture
def tiny():
    """The class of tiny models, for tests to vary."""
    return TinyBert


@pytest.fixture(scope="session")
def tiny_dir(tmp_path_factory):
    """One tiny model in Hugging Face's format, not to be changed."""
    return TinyBert().write_hugging_face(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def default_model():
    """Directory of the default model, fetched if need be."""
    from bert_serving.server.errors import ModelError
    try:
        return library.get(library.DEFAULT.name)
    except ModelError as error:
        pytest.skip(f"the default model cannot be had: {error}")


@pytest.fixture(scope="session")
def golden():
    """Directory of the reference vectors."""
    return Path(__file__).parents[2] / "data" / "golden"


@pytest.fixture
def known(tiny_dir, tmp_path, monkeypatch):
    """A model that packages carry, small and unknown to the world, and an empty cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    checksums = {name: hashlib.sha256((tiny_dir / name).read_bytes()).hexdigest()
                 for name in ("model.safetensors", "vocab.txt")}
    files = {"config.json": json.loads((tiny_dir / "config.json").read_text()),
             "1_Pooling/config.json": {"pooling_mode_mean_tokens": True}}
    model = library.KnownModel(name="tiny", aliases=("t",), about="a tiny model", checksums=checksums, files=files,
                               packages=("first==1", "second==2"))
    monkeypatch.setattr(library, "KNOWN", {"tiny": model, "t": model})
    monkeypatch.setattr(library, "DEFAULT", model)
    return model


@pytest.fixture
def wheel(tiny_dir, tmp_path):
    """Writes a package, of the tiny model's files or others."""
    def write(name="package-1-py3-none-any.whl", **files):
        path = tmp_path / name
        with zipfile.ZipFile(path, "w") as archive:
            for file in ("model.safetensors", "vocab.txt"):
                archive.writestr(f"package/model/{file}", (tiny_dir / file).read_bytes())
            archive.writestr("package/__init__.py", "raise SystemExit('this must not run')")
            for file, content in files.items():
                archive.writestr(file, content)
        return path
    return write


# ---- what torch saves ------------------------------------------------------------------------------------------------

def torch_pickle(arrays, legacy=False):
    """The pickle of a state dict, in the instructions that torch's has: see pickletools.dis of tests/data/torch."""
    def text(value):
        return b"X" + struct.pack("<I", len(value.encode())) + value.encode()

    def number(value):
        return b"J" + struct.pack("<i", value)

    def numbers(values):
        return b"(" + b"".join(map(number, values)) + b"t"

    kinds = {"float32": "Float", "float16": "Half", "float64": "Double", "int64": "Long", "uint16": "BFloat16"}
    made = b"\x80\x02ccollections\nOrderedDict\n)R("
    for key, (name, array) in enumerate(arrays.items()):
        strides = [stride // array.itemsize for stride in np.ascontiguousarray(array).strides]
        storage = b"(" + text("storage") + f"ctorch\n{kinds[array.dtype.name]}Storage\n".encode() + text(str(key)) \
            + text("cpu") + number(array.size) + (b"N" if legacy else b"") + b"tQ"
        made += text(name) + b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + number(0) + numbers(array.shape) \
            + numbers(strides[:array.ndim]) + b"\x89ccollections\nOrderedDict\n)RtR"
    return made + b"u}" + text("_metadata") + b"}sb."


@pytest.fixture(scope="session")
def torch_file():
    """Writes arrays as torch.save would, uint16 standing for bfloat16; ``parts`` replace members of the archive."""
    def write(path, arrays, legacy=False, parts=None, compression=zipfile.ZIP_STORED):
        if legacy:
            keys = pickle.dumps([str(key) for key in range(len(arrays))], 2)
            path.write_bytes(pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1001, 2)
                             + pickle.dumps({"little_endian": True}, 2) + torch_pickle(arrays, legacy=True) + keys
                             + b"".join(struct.pack("<q", array.size) + array.tobytes() for array in arrays.values()))
            return path
        content = {"data.pkl": torch_pickle(arrays), "byteorder": b"little", "version": b"3\n"}
        content |= {f"data/{key}": array.tobytes() for key, array in enumerate(arrays.values())}
        with zipfile.ZipFile(path, "w", compression) as archive:
            for name, data in (content | (parts or {})).items():
                if data is not None:
                    archive.writestr(name if name.startswith("/") else f"archive/{name}", data)
        return path
    return write


@pytest.fixture
def fake_hub(tmp_path, monkeypatch):
    """A Hub of this test's own, without models, and empty caches."""
    from huggingface_hub import constants, file_download

    hub = FakeHub(monkeypatch)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    for name, value in (("ENDPOINT", hub.endpoint),
                        ("HUGGINGFACE_CO_URL_TEMPLATE", hub.endpoint + "/{repo_id}/resolve/{revision}/{filename}"),
                        ("HF_HUB_CACHE", str(tmp_path / "hub")), ("HF_HUB_OFFLINE", False),
                        ("HF_TOKEN_PATH", str(tmp_path / "token")), ("HF_HUB_DOWNLOAD_TIMEOUT", 10),
                        ("HF_HUB_ETAG_TIMEOUT", 10)):
        monkeypatch.setattr(constants, name, value)
        if hasattr(file_download, name):               # Earlier versions of the library copy them.
            monkeypatch.setattr(file_download, name, value)
    yield hub
    hub.close()
