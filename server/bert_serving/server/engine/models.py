"""Which model is served, and how: a directory's files are found, read as far as TensorFlow is not needed, and checked.

What the user did not decide, the model's own files decide: a sentence-transformers directory states its pooling and
length. Else the original server's defaults hold.
"""
from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any

from bert_serving.client.words import counted

from ..config import FromModel, PoolingStrategy, ServerConfig, join_pooling
from ..errors import ConfigError, ModelError
from . import backends, classifier, library, modules, static_model
from .architectures import Architecture, from_file
from .artefact import check_weights, head
from .base import EngineSettings
from .cache import user_cache
from .classifier import Classifier
from .modules import SentenceFiles
from .pipeline import Normalize, Pipeline, Stage, output_dimensions, skipped_for_tokens
from .pooling import HEAD_STRATEGIES, POOLER_STRATEGIES
from .spec import EncoderSpec, variables
from .static_model import StaticFiles
from .tokenizer_files import ModelTokenizer, check_ids, model_tokenizer
from .weight_files import (adapter_fault, directory_content, find_weights, hint_for, is_hugging_face, listing,
                           wrong_content)
from .weights import HuggingFaceCheckpoint

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
        labels: names of the classes of a model with a head.
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
    labels: tuple[str, ...] = ()


def resolve(config: ServerConfig, on_gpu: bool = False) -> Model:
    """Find the model, fetch it if need be, and decide what the options leave open. Needs no TensorFlow.

    Args:
        on_gpu: some worker computes on a GPU.
    Raises:
        ModelError: the model is not there, or its files do not make a model, or ask for what is not computed.
        ConfigError: an option does not go with this model.
    """
    wanted = backends.requirements(config)
    if config.engine == "auto":
        wanted = replace(wanted, gpu=on_gpu)
    if config.engine != "auto" and config.model_dir is None and not backends.backend(config.engine).needs_model:
        return _without_model(config, wanted)
    path = locate(config.model_dir)
    says = modules.read(path, pooling_given=not isinstance(config.pooling_strategy, FromModel))
    if (static := static_model.find(says)) is not None:
        return _static(config, path, static)
    config_file = _config_file(says.directory, config.config_name)
    architecture, spec = from_file(config_file)
    backend, why = backends.choose(config.engine, replace(wanted, spec=spec))
    config = replace(config, engine=backend.name)
    weights = find_weights(_weights_directory(says.directory, config), config.ckpt_name)
    found = classifier.read(says)
    decision = _Decision(config, says, spec, architecture, found)
    tokenizer = _tokenizer(decision, architecture)
    config = decision.settled()
    settings = replace(
        _settings(config, spec), model_dir=str(path), config_file=str(config_file), checkpoint=str(weights),
        tokenizer=tokenizer.settings, include_prompt=says.include_prompt, stages=decision.stages(),
        scores=found.activation if found is not None and config.pooling_strategy in HEAD_STRATEGIES else None)
    if is_hugging_face(weights):
        check_weights(settings, HuggingFaceCheckpoint(weights, architecture), spec)
    Pipeline(settings.stages)                          # What cannot be read ends the start here, and no worker later.
    model = _model(_name(config), path, spec, config, settings, decision.provenance, why)
    return replace(model, labels=found.labels) if settings.scores is not None and found is not None else model


def _name(config: ServerConfig) -> str:
    return library.DEFAULT.name if config.model_dir is None else config.model_dir.rstrip("/").rpartition("/")[2]


def _static(config: ServerConfig, path: Path, found: StaticFiles) -> Model:
    """A model without an encoder.

    Raises:
        ModelError: its files do not make a model.
        ConfigError: an option does not go with it.
    """
    static_model.check_options(config, found)
    if objection := backends.backend("static").objection(backends.requirements(config)):
        raise ConfigError(f"{path} is a static model ({found.source}), and the engine for those {objection}; leave "
                          "that out")
    config = replace(config, engine="static")
    decision = _Decision(config, found.says, found.spec, None, None)
    tokenizer = static_model.static_tokenizer(found, prompt=decision.prompt(), **_given(config))
    decision.take_tokenizer(tokenizer)
    if isinstance(config.max_seq_len, FromModel):
        decision.take("max_seq_len", *static_model.max_length(found, tokenizer))
    stages, config = decision.stages(), decision.settled()
    Pipeline(stages)
    settings = replace(_settings(config, found.spec), model_dir=str(path), checkpoint=str(found.weights),
                       tokenizer=static_model.cut_to(tokenizer, config.max_seq_len), stages=stages)
    model = _model(_name(config), path, found.spec, config, settings, decision.provenance,
                   f"{found.source} describes a static model")
    return replace(model, num_parameters=found.num_parameters)


def _without_model(config: ServerConfig, wanted: backends.Requirements) -> Model:
    """What a backend that needs no model serves."""
    backend, why = backends.choose(config.engine, wanted)
    spec = EncoderSpec(vocab_size=1 << 20, hidden_size=EngineSettings.hidden_size)
    decision = _Decision(config, None, spec, None, None)
    config = decision.settled()
    return _model(backend.name, None, spec, config, _settings(config, spec), decision.provenance, why)


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
        engine=config.engine, max_seq_len=config.max_seq_len,
        max_position_embeddings=spec.max_length, hidden_size=spec.hidden_size,
        pooling_layer=tuple(config.pooling_layer), pooling_strategy=config.pooling_strategy.name,
        mask_cls_sep=config.mask_cls_sep, no_special_token=config.no_special_token,
        no_position_embeddings=config.no_position_embeddings, num_labels=config.num_labels,
        precision=str(config.precision), xla=config.xla, gpu_memory_fraction=config.gpu_memory_fraction)


# ---- the files -------------------------------------------------------------------------------------------------------

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


@dataclass(frozen=True, kw_only=True)
class ModelFiles:
    """Where things are.

    Attributes:
        root: the model's directory.
        directory: the one with the encoder, the same but for older sentence-transformers models.
        checkpoint: a file of weights, the index of several, or the prefix of a TensorFlow 1 checkpoint.
    """

    root: Path
    directory: Path
    config_file: Path
    checkpoint: Path

    @property
    def vocabulary(self) -> Path:
        return self.directory / "vocab.txt"


def find(root: Path, config: ServerConfig | None = None) -> ModelFiles:
    """The files of a model in any format.

    Raises:
        ModelError: naming what is missing.
    """
    config = config or ServerConfig()
    directory = modules.read(root, pooling_given=True).directory
    return ModelFiles(root=root, directory=directory, config_file=_config_file(directory, config.config_name),
                      checkpoint=find_weights(_weights_directory(directory, config), config.ckpt_name))


def _weights_directory(directory: Path, config: ServerConfig) -> Path:
    """
    Raises:
        ModelError: -tuned_model_dir is none.
    """
    if config.tuned_model_dir is None:
        return directory
    tuned = Path(config.tuned_model_dir).expanduser().absolute()
    if not tuned.is_dir():
        raise ModelError(f"-tuned_model_dir {config.tuned_model_dir}: there is no such directory")
    return tuned


def _config_file(directory: Path, name: str | FromModel) -> Path:
    """
    Args:
        name: as given; FromModel: the usual ones are looked for.
    Raises:
        ModelError: there is none.
    """
    usual = [name.fallback, "config.json"] if isinstance(name, FromModel) else [name]
    for candidate in usual:
        path = directory / candidate
        if path.is_file():
            if wrong := wrong_content(path):
                raise ModelError(f"{path} {wrong}")
            return path
    if isinstance(name, FromModel):
        if fault := adapter_fault(directory):
            raise ModelError(fault)
        raise ModelError(f"{directory} has neither {usual[0]} (Google's format) nor {usual[1]} (Hugging Face's); it "
                         f"holds {directory_content(directory)}{hint_for(directory)}")
    raise ModelError(f"-config_name {name}: {directory} has no such file, and holds "
                     f"{directory_content(directory)}; give the name of one of them, or leave it out")


# ---- what the options leave open -------------------------------------------------------------------------------------

def _tokenizer(decision: _Decision, architecture: Architecture) -> ModelTokenizer:
    """The model's tokenizer, which has a say in what is decided.

    Raises:
        ModelError: there is none, or it is another model's.
    """
    says, config, spec = decision.says, decision.config, decision.spec
    assert says is not None
    for name in ("tokenizer.json", "vocab.txt"):
        if (says.directory / name).is_file() and (wrong := wrong_content(says.directory / name)):
            raise ModelError(f"{says.directory / name} {wrong}")
    tokenizer = model_tokenizer(says.directory, template=architecture.template, lower_first=says.do_lower_case,
                                prompt=decision.prompt(), vocab_size=spec.vocab_size, **_given(config))
    if spec.embeddings.token_types < 2:                # There is no other type than the first.
        tokenizer = replace(tokenizer, settings=replace(tokenizer.settings, token_types=False))
    if warning := check_ids(tokenizer.tokenizer, spec.vocab_size, tokenizer.settings.file):
        logger.warning("%s", warning)
    # Spelt out, so that a host that is told what was decided has the same settings.
    in_text = tokenizer.settings.special_tokens_in_text
    in_text = tokenizer.settings.is_json if in_text is None else in_text
    tokenizer = replace(tokenizer, settings=replace(tokenizer.settings, special_tokens_in_text=in_text))
    decision.take_tokenizer(tokenizer)
    return tokenizer


def _given(config: ServerConfig) -> dict[str, bool | None]:
    """What the options say of the tokenizer; None: nothing."""
    return {name: None if isinstance(value := getattr(config, name), FromModel) else value
            for name in ("do_lower_case", "special_tokens_in_text")}


class _Decision:
    """What is decided: by options, else by the model's files, else by the original's defaults.

    Attributes:
        provenance: option -> where its value is from, for those that a model can decide.
    """

    def __init__(self, config: ServerConfig, says: SentenceFiles | None, spec: EncoderSpec,
                 architecture: Architecture | None, found: Classifier | None) -> None:
        """
        Args:
            says: what the directory says of itself; None: there is no model.
            found: what it says of its head; None: it has none.
        Raises:
            ConfigError: an option does not go with this model.
            ModelError: the files do not say how vectors are made, of a model that mostly does something else.
        """
        self.config, self.says, self.spec = config, says, spec
        self._values: dict[str, Any] = {}
        self.provenance: dict[str, str] = {}
        strategy_is_open = isinstance(config.pooling_strategy, FromModel)
        strategy = None if strategy_is_open else config.pooling_strategy.strategies[0]
        head = found if found is not None and (strategy in HEAD_STRATEGIES or strategy_is_open) else None
        if head is not None:
            count = len(head.labels)
            if count > 1:
                self._default("num_labels", count, head.labels_source)
            self._default("pooling_strategy", PoolingStrategy.REGRESSION if count == 1
                          else PoolingStrategy.CLASSIFICATION, head.activation_source)
            if strategy is PoolingStrategy.CLASSIFICATION and count == 1:
                raise ConfigError(f"-pooling_strategy CLASSIFICATION: the model has one class ({head.labels_source}), "
                                  "whose probability would always be 1; give REGRESSION, or leave it out")
            if strategy is PoolingStrategy.REGRESSION and count > 1:
                raise ConfigError(f"-pooling_strategy REGRESSION: the model has {count} classes "
                                  f"({head.labels_source}); give CLASSIFICATION, or leave it out")
        elif says is not None and says.poolings:
            self._default("pooling_strategy", join_pooling(says.poolings), says.sources["poolings"])
        if architecture is not None and architecture.is_decoder and strategy_is_open \
                and "pooling_strategy" not in self._values:
            raise ModelError(f"models of model_type {architecture.model_type!r} mostly generate text, and this one has "
                             "no modules.json that says how it makes embeddings; if it is an embedding model, give its "
                             "-pooling_strategy, such as LAST_TOKEN, and -pooling_layer -1")
        self._decide_length(head)
        # That of Pooling's file, or of modules.json without one: also where the user chose another strategy.
        pooled_by = says and (says.sources.get("include_prompt") or says.sources.get("directory"))
        if pooled_by and says is not None and says.model_type == modules.SENTENCE_TRANSFORMER:
            self._default("pooling_layer", [-1], pooled_by)
        elif spec.num_layers == 1:
            self._default("pooling_layer", [-1], "the only one")
        if says is not None:
            if says.stages and isinstance(last := says.stages[-1], Normalize):
                self._default("normalize", True, last.source)
            if says.default_prompt_name is not None:
                self._default("prompt_name", says.default_prompt_name, says.sources["default_prompt_name"])
        for name in ("max_seq_len", "do_lower_case", "pooling_layer", "pooling_strategy", "num_labels", "normalize",
                     "prompt_name", "special_tokens_in_text"):
            value = getattr(config, name)
            if not isinstance(value, FromModel):
                self.take(name, value, "given")
            elif name not in self._values:
                self.take(name, value.fallback, "default")
        self._check_length()
        self._check_layers()
        self._check_normalize()
        if config.no_position_embeddings and not (spec.has_only_a_position_table):
            raise ConfigError("-no_position_embeddings leaves out a table of position embeddings, and this model has "
                              "other positions; leave that option out")
        self.prompt()

    def take(self, name: str, value: Any, source: str) -> None:
        self._values[name], self.provenance[name] = value, source

    def take_tokenizer(self, tokenizer: ModelTokenizer) -> None:
        sources = tokenizer.sources
        self.take("do_lower_case", tokenizer.do_lower_case, sources["do_lower_case"])
        self.take("special_tokens_in_text", tokenizer.settings.special_tokens_in_text,
                  sources.get("special_tokens_in_text", sources["tokenizer"]))

    def _default(self, name: str, value: Any, source: str) -> None:
        if isinstance(getattr(self.config, name), FromModel):
            self.take(name, value, source)

    def _decide_length(self, head: Classifier | None) -> None:
        says, spec = self.says, self.spec
        if says is None or says.static is not None:    # A static model's tokenizer is asked.
            return
        if says.max_seq_length is not None:
            self._default("max_seq_len", says.max_seq_length, says.sources["max_seq_length"])
        elif head is not None and (length := modules.tokenizer_length(says.directory)) is not None:
            self._default("max_seq_len", length, "tokenizer_config.json")
        elif says.model_type or head is not None:
            self._default("max_seq_len", spec.max_length, "all positions of the model")

    def _check_length(self) -> None:
        length, spec = self._values["max_seq_len"], self.spec
        if length is None:
            return
        if self.provenance["max_seq_len"] != "given":
            self._values["max_seq_len"] = min(length, spec.max_length)
        elif length > spec.max_length:
            raise ConfigError(f"-max_seq_len {length} is beyond the model's "
                              f"{counted(spec.max_length, 'position')}; give that, less, or NONE")

    def _check_layers(self) -> None:
        strategy = self._values["pooling_strategy"].strategies[0]
        if strategy in POOLER_STRATEGIES and self.provenance["pooling_layer"] != "given":
            self.take("pooling_layer", [-1], f"what {strategy} reads")
        given = self._values["pooling_layer"]
        try:
            layers = [self.spec.layer_index(layer) for layer in given]
        except ValueError as error:
            raise ConfigError(str(error)) from None
        if strategy in POOLER_STRATEGIES and layers != [self.spec.num_layers - 1]:
            raise ConfigError(f"-pooling_layer {' '.join(map(str, given))} cannot be pooled with "
                              f"-pooling_strategy {strategy}, which reads the last layer; give -1, or leave it out")

    def _check_normalize(self) -> None:
        strategy = self._values["pooling_strategy"].strategies[0]
        if strategy is not PoolingStrategy.NONE and strategy not in HEAD_STRATEGIES:
            return
        if self._values["normalize"] and self.provenance["normalize"] == "given":
            raise ConfigError(f"-normalize yes does not go with -pooling_strategy {strategy}, which gives "
                              f"{'token vectors' if strategy is PoolingStrategy.NONE else 'scores'}; leave one of them "
                              "out")
        self.take("normalize", False, f"as -pooling_strategy {strategy} is")

    def prompt(self) -> str:
        """What is put in front of every text.

        Raises:
            ConfigError: the model has no prompt of that name.
        """
        name = self._values["prompt_name"]
        if name is None:
            return ""
        prompts = self.says.prompts if self.says is not None else {}
        if name not in prompts:
            raise ConfigError(f"-prompt_name {name}: the model has no such prompt; "
                              + (f"choose from {listing(prompts, 12)}" if prompts else "it has none at all"))
        return prompts[name]

    def stages(self) -> tuple[Stage, ...]:
        """What follows the pooling.

        Raises:
            ModelError: a stage does not fit to what it gets.
        """
        assert self.says is not None
        pooling, normalize = self._values["pooling_strategy"], self._values["normalize"]
        stages: Sequence[Stage] = self.says.stages
        if pooling.strategies[0] in HEAD_STRATEGIES:
            return ()
        if pooling is PoolingStrategy.NONE:
            if skipped := skipped_for_tokens(stages):
                logger.info("%s", skipped)
            return ()
        is_last = bool(stages) and isinstance(stages[-1], Normalize)
        if normalize != is_last:
            stages = [*stages, Normalize(source="-normalize")] if normalize else stages[:-1]
        parts = sum(2 if one is PoolingStrategy.REDUCE_MEAN_MAX else 1 for one in pooling.strategies)
        layers = 1 if pooling in POOLER_STRATEGIES else len(self._values["pooling_layer"])
        output_dimensions(stages, parts * layers * self.spec.hidden_size)
        return tuple(stages)

    def settled(self) -> ServerConfig:
        return replace(self.config, **self._values)
