"""Which model is served, and how: a directory's files are found, read as far as TensorFlow is not needed, and checked.

What the user did not decide, the model's own files decide: a sentence-transformers directory states its pooling and
length. Else the original server's defaults hold.
"""
from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any

from bert_serving.client.words import counted

from ..config import FromModel, PoolingStrategy, ServerConfig
from ..core.files import read_json
from ..core.tokenization import load_vocabulary
from ..errors import ConfigError, ModelError
from . import backends, library
from .architectures import from_file
from .artefact import check_weights, head
from .base import EngineSettings
from .cache import user_cache
from .pooling import POOLER_STRATEGIES
from .spec import EncoderSpec, variables
from .weights import SafetensorsCheckpoint, is_safetensors, listing, tensorflow_checkpoint_files

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Model:
    """A model, ready to be served.

    Attributes:
        name: for people.
        path: its directory; None for the echo engine.
        spec: what its encoder computes.
        config: what the server was told, nothing being FromModel any more but names of files.
        settings: what an engine needs to know; device, threads and artefact are still to be filled in.
        provenance: option -> where its value is from, for those that a model can decide.
        engine_reason: why it is this engine that computes.
        layers_kept: encoder layers that are computed.
        num_parameters: numbers in the encoder, as it stands in the files.
        cache_dir: where what backends make of it is kept.
    """

    name: str
    path: Path | None
    spec: EncoderSpec
    config: ServerConfig
    settings: EngineSettings
    provenance: dict[str, str]
    engine_reason: str
    layers_kept: int
    num_parameters: int
    cache_dir: Path


def resolve(config: ServerConfig, on_gpu: bool = False) -> Model:
    """Find the model, fetch it if need be, and decide what the options leave open. Needs no TensorFlow.

    Args:
        on_gpu: some worker computes on a GPU.
    Raises:
        ModelError: the model is not there, or its files do not make a model.
        ConfigError: an option does not go with this model.
    """
    wanted = backends.requirements(config)
    if config.engine == "auto":
        wanted = replace(wanted, gpu=on_gpu)
    if config.engine != "auto" and config.model_dir is None and not backends.backend(config.engine).needs_model:
        return _without_model(config, wanted)
    path = locate(config.model_dir)
    files = find(path, config)
    architecture, spec = from_file(files.config_file)
    backend, why = backends.choose(config.engine, replace(wanted, spec=spec))
    config = replace(config, engine=backend.name)
    vocabulary = load_vocabulary(files.vocabulary, architecture.template)
    _check_vocabulary(files, vocabulary, spec)
    model_defaults = dict(_model_defaults(files, vocabulary))
    config, provenance = _decide(config, model_defaults, spec)
    settings = replace(_settings(config, spec), model_dir=str(path), config_file=str(files.config_file),
                       checkpoint=str(files.checkpoint), vocabulary=str(files.vocabulary))
    if is_safetensors(files.checkpoint):
        check_weights(settings, SafetensorsCheckpoint(files.checkpoint, architecture), spec)
    name = library.DEFAULT.name if config.model_dir is None else config.model_dir.rstrip("/").rpartition("/")[2]
    return _model(name, path, spec, config, settings, provenance, why)


def _without_model(config: ServerConfig, wanted: backends.Requirements) -> Model:
    """What a backend that needs no model serves."""
    backend, why = backends.choose(config.engine, wanted)
    spec = EncoderSpec(vocab_size=1 << 20, hidden_size=EngineSettings.hidden_size)
    config, provenance = _decide(config, {}, spec)
    return _model(backend.name, None, spec, config, _settings(config, spec), provenance, why)


def _model(name: str, path: Path | None, spec: EncoderSpec, config: ServerConfig, settings: EngineSettings,
           provenance: dict[str, str], engine_reason: str) -> Model:
    shapes = variables(spec, num_labels=head(settings))
    return Model(name=name or str(path), path=path, spec=spec, config=config, settings=settings,
                 provenance=provenance, engine_reason=engine_reason,
                 layers_kept=spec.layers_needed(config.pooling_layer, config.pooling_strategy in POOLER_STRATEGIES),
                 num_parameters=sum(map(prod, shapes.values())),
                 cache_dir=Path(config.graph_tmp_dir) if config.graph_tmp_dir else user_cache("graphs"))


def _settings(config: ServerConfig, spec: EncoderSpec) -> EngineSettings:
    return EngineSettings(
        engine=config.engine, do_lower_case=config.do_lower_case, max_seq_len=config.max_seq_len,
        max_position_embeddings=spec.max_length, hidden_size=spec.hidden_size,
        pooling_layer=tuple(config.pooling_layer), pooling_strategy=config.pooling_strategy.name,
        mask_cls_sep=config.mask_cls_sep, no_special_token=config.no_special_token,
        no_position_embeddings=config.no_position_embeddings, num_labels=config.num_labels,
        precision=str(config.precision), xla=config.xla, gpu_memory_fraction=config.gpu_memory_fraction)


# ---- the files -------------------------------------------------------------------------------------------------------

@dataclass(frozen=True, kw_only=True)
class ModelFiles:
    """Where things are.

    Attributes:
        root: the model's directory.
        directory: the one with the encoder, the same but for older sentence-transformers models.
        checkpoint: a safetensors file, or the prefix of a TensorFlow 1 checkpoint.
    """

    root: Path
    directory: Path
    config_file: Path
    vocabulary: Path
    checkpoint: Path


def locate(model_dir: str | None) -> Path:
    """The directory that -model_dir means: a path, or a model's name; None is the embedded default model.

    Raises:
        ModelError: there is none.
    """
    meant = directory_or_name(model_dir)
    return meant if isinstance(meant, Path) else library.get(meant)


def directory_or_name(model_dir: str | None) -> Path | str:
    """As :func:`locate`, but a model's name stays one: nothing is fetched.

    Raises:
        ModelError: it is neither.
    """
    if model_dir is None:
        return library.DEFAULT.name
    path = Path(model_dir).expanduser()
    if path.is_dir():
        return path.absolute()
    if path.exists():
        raise ModelError(f"-model_dir {model_dir} is a file, expected a directory")
    if model_dir in library.KNOWN or library.HUB_NAME.fullmatch(model_dir):
        return model_dir
    raise ModelError(f"-model_dir {model_dir}: there is no such directory, nor a model of that name; "
                     "bert-serving-model list shows the names")


def find(root: Path, config: ServerConfig | None = None) -> ModelFiles:
    """The files of a model in Google's or in Hugging Face's format.

    Raises:
        ModelError: naming what is missing.
    """
    config = config or ServerConfig()
    directory = _encoder_directory(root)
    config_file = _config_file(directory, config.config_name)
    vocabulary = directory / "vocab.txt"
    if not vocabulary.is_file():
        raise ModelError(f"{directory} has no vocab.txt; it holds {_content(directory)}")
    weights = directory
    if config.tuned_model_dir is not None:
        weights = Path(config.tuned_model_dir).expanduser().absolute()
        if not weights.is_dir():
            raise ModelError(f"-tuned_model_dir {config.tuned_model_dir}: there is no such directory")
    return ModelFiles(root=root, directory=directory, config_file=config_file, vocabulary=vocabulary,
                      checkpoint=_checkpoint(weights, config.ckpt_name))


def _config_file(directory: Path, name: str | FromModel) -> Path:
    """
    Args:
        name: as given; FromModel: the usual ones are looked for.
    Raises:
        ModelError: there is none.
    """
    usual = [name.fallback, "config.json"] if isinstance(name, FromModel) else [name]
    for candidate in usual:
        if (directory / candidate).is_file():
            return directory / candidate
    if isinstance(name, FromModel):
        raise ModelError(f"{directory} has neither {usual[0]} (Google's format) nor {usual[1]} (Hugging Face's); it "
                         f"holds {_content(directory)}")
    raise ModelError(f"-config_name {name}: {directory} has no such file, and holds {_content(directory)}; give the "
                     "name of one of them, or leave it out")


def _checkpoint(directory: Path, given: str | FromModel) -> Path:
    """
    Args:
        given: name of a safetensors file, or prefix of a TensorFlow checkpoint; FromModel: the usual ones are looked
            for.
    Raises:
        ModelError: there is none, or not all of it.
    """
    name = str(given.fallback if isinstance(given, FromModel) else given)
    if is_safetensors(name):
        if (directory / name).is_file():
            return directory / name
        raise ModelError(f"-ckpt_name {name}: {directory} has no such file, and holds {_content(directory)}; give the "
                         "name of one of them, or leave it out")
    prefix, safetensors = directory / name, directory / "model.safetensors"
    if isinstance(given, FromModel) and not Path(f"{prefix}.index").is_file():
        if safetensors.is_file():
            return safetensors
        if (directory / "pytorch_model.bin").is_file():
            raise ModelError(f"{directory} has its weights in pytorch_model.bin only, which is a pickle and can run "
                             "any code; save the model as model.safetensors")
        if (directory / "model.safetensors.index.json").is_file():
            raise ModelError(f"{directory} has its weights in several safetensors files; save them as one "
                             "model.safetensors")
    try:
        tensorflow_checkpoint_files(prefix)
    except ModelError as error:
        if isinstance(given, FromModel):
            raise
        raise ModelError(f"-ckpt_name {name}: {error.message}; give the prefix of one that is there, or leave it "
                         "out") from None
    return prefix


def _encoder_directory(root: Path) -> Path:
    for module in _modules(root):
        if _kind(module) == "Transformer":
            directory = (root / str(module.get("path", ""))).resolve()
            if directory.is_relative_to(root.resolve()) and directory.is_dir():
                return directory if directory != root.resolve() else root
    return root


def _modules(root: Path) -> list[dict[str, Any]]:
    """What a sentence-transformers directory says it is made of."""
    return [module for module in _read_json(root / "modules.json", list) or [] if isinstance(module, dict)]


def _kind(module: dict[str, Any]) -> str:
    return str(module.get("type", "")).rpartition(".")[2]


def _content(directory: Path) -> str:
    return listing(sorted(path.name for path in directory.iterdir()), 12) or "nothing"


def _read_json(path: Path, kind: type = dict) -> Any:
    """The file's content; None if there is no such file.

    Raises:
        ModelError: it is not a JSON object (or list).
    """
    try:
        value = read_json(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        raise ModelError(f"cannot read {path}: {error}") from error
    if not isinstance(value, kind):
        raise ModelError(f"{path} is not a JSON {'object' if kind is dict else 'array'}")
    return value


def _check_vocabulary(files: ModelFiles, vocabulary: dict[str, int], spec: EncoderSpec) -> None:
    lines = 1 + max(vocabulary.values())
    if lines > spec.vocab_size:
        raise ModelError(f"{files.vocabulary} has {counted(lines, 'token')}, but the model only {spec.vocab_size} "
                         f"({files.config_file.name}); it is another model's vocabulary")
    if lines < spec.vocab_size:
        logger.warning("%s has %s, the model %d; is it the right one?", files.vocabulary, counted(lines, "token"),
                       spec.vocab_size)


# ---- what the model wants --------------------------------------------------------------------------------------------

def _model_defaults(files: ModelFiles, vocabulary: dict[str, int]) -> Iterator[tuple[str, tuple[Any, str]]]:
    """Option -> its value, and the file that says so; for the options that the model's files decide."""
    sentence_file, pooling_file = files.root / "sentence_bert_config.json", files.root / "1_Pooling" / "config.json"
    sentence = _read_json(sentence_file)
    if sentence is None:
        sentence = _read_json(sentence_file := files.directory / "sentence_bert_config.json")
    tokenizer = _read_json(files.directory / "tokenizer_config.json") or {}
    pooling = _read_json(pooling_file)

    if sentence and sentence.get("max_seq_length") is not None:
        yield "max_seq_len", (_length(sentence, "max_seq_length", sentence_file), sentence_file.name)
    elif (sentence is not None or pooling) and tokenizer.get("model_max_length") is not None:
        length = _length(tokenizer, "model_max_length", files.directory / "tokenizer_config.json")
        yield "max_seq_len", (length, "tokenizer_config.json")
    if pooling:
        yield "pooling_layer", ([-1], "1_Pooling/config.json")
        strategy = _pooling_strategy(pooling)
        if strategy is None:
            logger.warning("%s asks for a pooling that does not exist here; taking REDUCE_MEAN", pooling_file)
        yield "pooling_strategy", (strategy or PoolingStrategy.REDUCE_MEAN, "1_Pooling/config.json")
    further = sorted({_kind(module) for module in _modules(files.root)} - {"Transformer", "Pooling", "Normalize"})
    if further:
        logger.warning("%s lists %s, which this server does not compute: vectors are those after pooling",
                       files.root / "modules.json", ", ".join(further))
    if sentence and sentence.get("do_lower_case") is True:
        yield "do_lower_case", (True, sentence_file.name)
    elif isinstance(tokenizer.get("do_lower_case"), bool):
        yield "do_lower_case", (tokenizer["do_lower_case"], "tokenizer_config.json")
    elif is_cased(vocabulary):
        yield "do_lower_case", (False, "vocab.txt, which has upper-case words")


def _length(values: dict[str, Any], key: str, path: Path) -> int:
    """
    Raises:
        ModelError: it is no length of a sequence.
    """
    length = values[key]
    if type(length) not in (int, float) or not length > 3:
        raise ModelError(f"{key} of {path} is {length!r:.50}, expected a whole number above 3")
    # Transformers writes 1e30 where there is no limit; the model's positions bound it.
    return int(min(length, 1 << 30))


SENTENCE_POOLING = {"cls": PoolingStrategy.CLS_TOKEN, "mean": PoolingStrategy.REDUCE_MEAN,
                    "max": PoolingStrategy.REDUCE_MAX, "lasttoken": PoolingStrategy.LAST_TOKEN}
"""sentence-transformers' names."""


def _pooling_strategy(pooling: dict[str, Any]) -> PoolingStrategy | None:
    """What 1_Pooling/config.json asks for, if it is one of ours."""
    if "pooling_mode" in pooling:
        return SENTENCE_POOLING.get(str(pooling["pooling_mode"]))
    modes = [key.removeprefix("pooling_mode_").removesuffix("_tokens").removesuffix("_token")
             for key, value in pooling.items() if key.startswith("pooling_mode_") and value is True]
    return SENTENCE_POOLING.get(modes[0]) if len(modes) == 1 else None


def is_cased(vocabulary: dict[str, int]) -> bool:
    """True if many of the vocabulary's words can never be met in lower-cased text."""
    upper = sum(token != token.lower() and token[:1] not in "[<" for token in vocabulary)
    return upper > len(vocabulary) / 100


def _decide(config: ServerConfig, model_defaults: dict[str, tuple[Any, str]],
            spec: EncoderSpec) -> tuple[ServerConfig, dict[str, str]]:
    """
    Raises:
        ConfigError: an option does not go with this model.
    """
    decided, provenance = {}, {}
    for name in ("max_seq_len", "do_lower_case", "pooling_layer", "pooling_strategy"):
        value = getattr(config, name)
        if not isinstance(value, FromModel):
            decided[name], provenance[name] = value, "given"
        elif name in model_defaults:
            decided[name], provenance[name] = model_defaults[name]
        else:
            decided[name], provenance[name] = value.fallback, "default"
    if decided["max_seq_len"] is not None:
        if provenance["max_seq_len"] != "given":
            decided["max_seq_len"] = min(decided["max_seq_len"], spec.max_length)
        elif decided["max_seq_len"] > spec.max_length:
            raise ConfigError(f"-max_seq_len {decided['max_seq_len']} is beyond the model's "
                              f"{counted(spec.max_length, 'position')}; give that, less, or NONE")
    is_given, strategy = provenance["pooling_layer"] == "given", decided["pooling_strategy"]
    if strategy in POOLER_STRATEGIES and not is_given:
        decided["pooling_layer"], provenance["pooling_layer"] = [-1], f"what {strategy} reads"
    try:
        layers = [spec.layer_index(layer) for layer in decided["pooling_layer"]]
    except ValueError as error:
        raise ConfigError(str(error)) from None
    if strategy in POOLER_STRATEGIES and layers != [spec.num_layers - 1]:
        raise ConfigError(f"-pooling_layer {' '.join(map(str, decided['pooling_layer']))} cannot be pooled with "
                          f"-pooling_strategy {strategy}, which reads the last layer; give -1, or leave it out")
    return replace(config, **decided), provenance
