"""What a sentence-transformers directory says of itself: ``modules.json``, and the files that it names.

Both spellings are read: today's, and that of releases up to 5 (``sentence_transformers.models.Pooling``,
``pooling_mode_mean_tokens``). Everything that a file asks for is either in the result, or a ModelError that names it.
"""
from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from ..config import PoolingStrategy
from ..core.files import read_json
from ..errors import ModelError
from .pipeline import ACTIVATIONS, MAX_DIMENSIONS, Dense, LayerNorm, Normalize, Stage, Truncate
from .weight_files import listing, whole_weights

SENTENCE_TRANSFORMER, CROSS_ENCODER = "SentenceTransformer", "CrossEncoder"

POOLINGS = {
    "cls": PoolingStrategy.CLS_TOKEN,
    "max": PoolingStrategy.REDUCE_MAX,
    "mean": PoolingStrategy.REDUCE_MEAN,
    "mean_sqrt_len_tokens": PoolingStrategy.REDUCE_MEAN_SQRT_LEN,
    "weightedmean": PoolingStrategy.WEIGHTED_MEAN,
    "lasttoken": PoolingStrategy.LAST_TOKEN,
}
"""sentence-transformers' names, in the order in which releases up to 5 concatenate them."""

SWITCHES = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
"""How those releases spell them: each on or off, in the same order."""

SENTENCE_CONFIGS = ("sentence_bert_config.json", "sentence_roberta_config.json", "sentence_distilbert_config.json",
                    "sentence_camembert_config.json", "sentence_albert_config.json",
                    "sentence_xlm-roberta_config.json", "sentence_xlnet_config.json")
"""Where the Transformer module keeps its settings; the first that says anything counts."""

SUPPORTED = ("Transformer", "Pooling", "Dense", "LayerNorm", "Normalize", "Dropout", "StaticEmbedding")

WHAT_IT_IS = {
    "Asym": "different modules for different kinds of text",
    "Router": "different modules for different kinds of text",
    "WeightedLayerPooling": "a learned sum of the encoder's layers",
    "SpladePooling": "sparse vectors", "MLMTransformer": "sparse vectors", "SparseAutoEncoder": "sparse vectors",
    "SparseStaticEmbedding": "sparse vectors",
    "CLIPModel": "a model of images", "LogitScore": "a score from a language model",
    **dict.fromkeys(("BERT", "RoBERTa", "DistilBERT", "ALBERT", "CamemBERT", "XLMRoBERTa", "XLNet", "T5"),
                    "a module of releases before 1.0, which today's sentence-transformers does not load either"),
}
"""For messages."""

NO_EFFECT = frozenset({
    "add_pooling_layer", "attn_implementation", "device_map", "dtype", "low_cpu_mem_usage", "padding_side",
    "torch_dtype", "trust_remote_code", "unpad_inputs", "use_cache", "use_fast", "use_memory_efficient_attention",
    "use_safetensors"})
"""Arguments of model and tokenizer that do not change what is computed."""

MAX_MODULES = 64
MAX_BYTES = 1_000_000
"""Of one of sentence-transformers' files; prompts are the most that they hold."""
MAX_CONFIG_BYTES = 20_000_000
"""Of transformers' own, which have labels or added tokens in them."""
MAX_PATH = 255
MAX_PROMPT = 1 << 16
"""Characters of a prompt."""


@dataclass(frozen=True, kw_only=True)
class SentenceFiles:
    """
    Attributes:
        root: the model's directory.
        directory: the one of the encoder and its tokenizer: ``root``, but for older models.
        static: the directory of a StaticEmbedding, which is there instead of an encoder; None: there is none.
        model_type: "SentenceTransformer" or "CrossEncoder"; "": this is no directory of sentence-transformers.
        poolings: results are concatenated in this order; (): nothing is said, or the caller knows better.
        include_prompt: whether pooling sees the tokens of a prompt.
        stages: what follows the pooling, truncation to ``truncate_dim`` included.
        truncate_dim: dimensions that are kept; None: all.
        prompts: name -> what is put in front of a text.
        default_prompt_name: the prompt for those who ask for none; None: there is none.
        max_seq_length: in tokens, with special ones; None: as many as the encoder has positions.
        do_lower_case: texts are lower-cased before they are tokenized; accents stay.
        sources: name of an attribute above -> the file that said so, relative to ``root``. What is not here was not
            said. Each stage has its own.
    """

    root: Path
    directory: Path
    static: Path | None = None
    model_type: str = ""
    poolings: tuple[PoolingStrategy, ...] = ()
    include_prompt: bool = True
    stages: tuple[Stage, ...] = ()
    truncate_dim: int | None = None
    prompts: Mapping[str, str] = field(default_factory=dict)
    default_prompt_name: str | None = None
    max_seq_length: int | None = None
    do_lower_case: bool = False
    sources: Mapping[str, str] = field(default_factory=dict)


def read(root: Path, *, pooling_given: bool = False) -> SentenceFiles:
    """
    A directory with ``1_Pooling/config.json`` and no modules.json is read as if that listed a Transformer and this
    Pooling: somebody copied the files by hand, and that pooling is what the model was trained with. (Today's
    sentence-transformers takes the mean whatever the file says.)

    Args:
        root: the model's directory, in any format.
        pooling_given: the user chose the pooling: what the directory says of it is not looked at.
    Raises:
        ModelError: a file is damaged, or asks for something that is not computed here.
    """
    files = _model_config(SentenceFiles(root=root, directory=root))
    modules = _modules(root)
    if not modules and (root / "1_Pooling" / "config.json").is_file() and files.model_type != CROSS_ENCODER:
        modules = [_Module(root, "Transformer", "", "1_Pooling/config.json"),
                   _Module(root, "Pooling", "1_Pooling", "1_Pooling/config.json")]
    if modules:
        files = replace(files, model_type=files.model_type or SENTENCE_TRANSFORMER)
    for module in modules:
        files = _add(files, module, pooling_given)
    if modules and files.directory == root and not _is_there(modules, "Transformer", "StaticEmbedding"):
        raise ModelError(f"{root / 'modules.json'} lists no Transformer, which everything else builds on")
    if _is_there(modules, "Transformer") and files.model_type == SENTENCE_TRANSFORMER and not (
            pooling_given or _is_there(modules, "Pooling")):
        raise ModelError(f"{root / 'modules.json'} lists no Pooling, so it says nothing of how token vectors become "
                         "one; give -pooling_strategy")
    if files.static is None:
        files = _sentence_config(files)
    if files.truncate_dim is not None:
        truncate = Truncate(size=files.truncate_dim, source=files.sources["truncate_dim"])
        files = replace(files, stages=(*files.stages, truncate))
    if not files.include_prompt and PoolingStrategy.CLS_TOKEN in files.poolings and any(files.prompts.values()):
        raise ModelError(f"{root / files.sources['include_prompt']} asks for cls pooling and include_prompt false, "
                         "the first token after the prompt, which is not computed; expected include_prompt true")
    return files


# ---- modules.json ----------------------------------------------------------------------------------------------------

@dataclass(frozen=True)
class _Module:
    """
    Attributes:
        root: the model's directory.
        kind: name of its class.
        path: its directory, relative to the root.
        source: the file that lists it, relative to the root.
    """

    root: Path
    kind: str
    path: str
    source: str = "modules.json"

    @property
    def directory(self) -> Path:
        return self.root / self.path if PurePosixPath(self.path).parts else self.root

    def __str__(self) -> str:
        return f"{self.root / self.source}: {self.kind}"

    def read(self) -> dict[str, Any] | None:
        """Its config.json; None if it has none."""
        # That of the root would be the encoder's.
        return read_object(self.directory / "config.json") if self.directory != self.root else None

    def config(self) -> tuple[Path, dict[str, Any]]:
        """
        Raises:
            ModelError: it has no config.json.
        """
        path, values = self.directory / "config.json", self.read()
        if self.directory == self.root:
            raise ModelError(f"{self} is in the model's own directory, whose config.json is the encoder's; expected a "
                             "folder of its own")
        if values is None:
            raise ModelError(f"{self} is in {self.path!r:.200}, and there is no {path}; fetch the directory again, "
                             "with its folders")
        return path, values

    def weights(self) -> Path:
        """
        Raises:
            ModelError: there are none.
        """
        if (path := whole_weights(self.directory)) is not None:
            return path
        raise ModelError(f"{self}: {self.directory} has no model.safetensors; fetch the directory again, with its "
                         "folders")


def _is_there(modules: Iterable[_Module], *kinds: str) -> bool:
    return any(module.kind in kinds for module in modules)


def _modules(root: Path) -> list[_Module]:
    """What modules.json lists, in its order; [] if there is no such file.

    Raises:
        ModelError: it is damaged, or lists what is not computed here.
    """
    path = root / "modules.json"
    entries = _read(path, list)
    if entries is None:
        return []
    if not entries or len(entries) > MAX_MODULES:
        raise ModelError(f"{path} lists {len(entries)} modules; expected 1 to {MAX_MODULES}")
    result, names = [], set()
    for index, entry in enumerate(entries):
        if not isinstance(entry, dict) or not isinstance(entry.get("type"), str):
            raise ModelError(f"{path}: entry {index} is no module; expected an object with type and path")
        # The reference keeps modules by their names: of two with one name, the second would take the first's place.
        name = entry.get("name", str(index))
        if not isinstance(name, str) or name in names:
            raise ModelError(f"{path}: entry {index} has the name {name!r:.100}; expected one of its own")
        names.add(name)
        result.append(_Module(root, class_of(path, entry["type"]), _folder(path, root, entry.get("path", ""))))
    return result


def class_of(path: Path | str, type_name: str) -> str:
    """The class of a module that modules.json lists.

    Args:
        path: the file, for messages.
    Raises:
        ModelError: nothing of that type is computed here.
    """
    package, _, name = type_name.rpartition(".")
    if package.partition(".")[0] != "sentence_transformers":
        raise ModelError(f"{path} lists {type_name!r:.200}, which is code of the model's own, and no model's code is "
                         f"run here; supported are sentence-transformers' {', '.join(SUPPORTED)}")
    if name not in SUPPORTED:
        what = f" ({WHAT_IT_IS[name]})" if name in WHAT_IT_IS else ""
        raise ModelError(f"{path} lists {name!r:.100}{what}, which is not computed here; supported are "
                         f"{', '.join(SUPPORTED)}")
    return name


def _folder(path: Path, root: Path, folder: Any) -> str:
    """
    Raises:
        ModelError: it is not below the root.
    """
    if not isinstance(folder, str):
        raise ModelError(f"{path}: a path is {folder!r:.100}; expected a string")
    windows = PureWindowsPath(folder)
    try:
        leaves = bool(windows.anchor) or ".." in windows.parts or "\0" in folder or len(folder) > MAX_PATH or not (
            root / folder).resolve().is_relative_to(root.resolve())
    except (OSError, ValueError):
        leaves = True
    if leaves:
        raise ModelError(f"{path}: the path {folder!r:.200} is not in the model's directory; expected a folder there")
    return folder


# ---- each kind of module ---------------------------------------------------------------------------------------------

def _add(files: SentenceFiles, module: _Module, pooling_given: bool) -> SentenceFiles:
    """What is known, and what one more module says.

    Raises:
        ModelError: it does not fit to what is before it.
    """
    sources = dict(files.sources)
    encoder, pooled = "directory" in sources or "static" in sources, "include_prompt" in sources or "static" in sources
    if module.kind in ("Transformer", "StaticEmbedding"):
        if encoder:
            raise ModelError(f"{module} is listed after another encoder; expected one, as the first module")
        name = "directory" if module.kind == "Transformer" else "static"
        if not module.directory.is_dir():
            raise ModelError(f"{module} is in {module.path!r:.200}, and there is no such folder; fetch the directory "
                             "again, with its folders")
        if module.kind == "StaticEmbedding" and files.model_type == CROSS_ENCODER:
            raise ModelError(f"{module} cannot be a CrossEncoder's; expected Transformer")
        return replace(files, **{name: module.directory}, sources={**sources, name: module.source})  # type: ignore
    if not encoder:
        raise ModelError(f"{module} is listed before Transformer; expected Transformer first")
    if files.model_type == CROSS_ENCODER and module.kind != "Dropout":
        raise ModelError(f"{module} is listed for a CrossEncoder, where only a Transformer with its own head is "
                         "computed")
    if module.kind == "Pooling":
        if pooled:
            raise ModelError(f"{module} is listed after pooling is done; expected one Pooling, and none after "
                             "StaticEmbedding")
        return _pooling(files, module, pooling_given)
    if not pooled and files.model_type != CROSS_ENCODER:
        raise ModelError(f"{module} is listed before Pooling, so it is about token vectors, which is not computed; "
                         "expected it after Pooling")
    if module.kind == "Dropout":
        return files
    return replace(files, stages=(*files.stages, STAGES[module.kind](module)))


def _pooling(files: SentenceFiles, module: _Module, pooling_given: bool) -> SentenceFiles:
    path, values = module.config()
    source = _relative(files.root, path)
    sources = {**files.sources, "include_prompt": source}
    include_prompt = _flag(path, values, "include_prompt", True)
    if pooling_given:
        return replace(files, include_prompt=include_prompt, sources=sources)
    known = {"word_embedding_dimension", "embedding_dimension", "pooling_mode", "include_prompt", *SWITCHES}
    _no_more(path, values, known)
    modes = values["pooling_mode"] if "pooling_mode" in values else [
        mode for key, mode in SWITCHES.items() if _flag(path, values, key, False)] or ["mean"]
    if isinstance(modes, str):
        modes = [modes]
    if not isinstance(modes, list) or not modes or not all(isinstance(mode, str) for mode in modes):
        raise ModelError(f"{path}: pooling_mode is {modes!r:.100}; expected {_poolings()}, or an array of those")
    for mode in modes:
        if mode not in POOLINGS:
            raise ModelError(f"{path}: pooling_mode is {mode!r:.100}; expected {_poolings()}; or give "
                             "-pooling_strategy")
    if len(set(modes)) != len(modes):
        raise ModelError(f"{path}: pooling_mode names {_repeated(modes)} twice; expected each once")
    return replace(files, poolings=tuple(POOLINGS[mode] for mode in modes), include_prompt=include_prompt,
                   sources={**sources, "poolings": source})


def _poolings() -> str:
    *most, last = POOLINGS
    return f"{', '.join(most)} or {last}"


def _repeated(names: list[str]) -> str:
    return next(name for name in names if names.count(name) > 1)


def _dense(module: _Module) -> Stage:
    path, values = module.config()
    _names(path, values)
    _no_more(path, values, {"in_features", "out_features", "bias", "activation_function", "use_residual"})
    name = values.get("activation_function", "torch.nn.modules.activation.Tanh")
    activation = activation_name(path, "activation_function", name)
    if activation not in ACTIVATIONS:
        raise ModelError(f"{path}: activation_function is {name!r:.200}; expected torch.nn's {', '.join(ACTIVATIONS)}")
    return Dense(weights=str(module.weights()), in_features=_dimensions(path, values, "in_features"),
                 out_features=_dimensions(path, values, "out_features"), bias=_flag(path, values, "bias", True),
                 activation=activation, residual=_flag(path, values, "use_residual", False),
                 source=_relative(module.root, path))


def _layer_norm(module: _Module) -> Stage:
    path, values = module.config()
    _names(path, values)
    _no_more(path, values, {"dimension"})
    return LayerNorm(weights=str(module.weights()), dimension=_dimensions(path, values, "dimension"),
                     source=_relative(module.root, path))


def _normalize(module: _Module) -> Stage:
    # It has nothing to keep in a file; git and the Hub drop empty folders.
    _names(module.directory / "config.json", module.read() or {})
    return Normalize(source=module.source)


STAGES = {"Dense": _dense, "LayerNorm": _layer_norm, "Normalize": _normalize}


def activation_name(path: Path, key: str, value: Any) -> str:
    """The class that a dotted name of torch means, "" if it is none of torch's.

    Raises:
        ModelError: it is no name.
    """
    if not isinstance(value, str):
        raise ModelError(f"{path}: {key} is {value!r:.100}; expected the name of an activation, as "
                         "torch.nn.modules.activation.Tanh")
    package, _, name = value.rpartition(".")
    return name if package == "torch.nn" or package.startswith("torch.nn.modules") else ""


def _names(path: Path, values: dict[str, Any]) -> None:
    """
    Raises:
        ModelError: the module is about other vectors than those of sentences.
    """
    for key in ("module_input_name", "module_output_name"):
        if values.get(key) not in (None, "sentence_embedding"):
            raise ModelError(f"{path}: {key} is {values[key]!r:.100}; expected sentence_embedding: modules for token "
                             "vectors are not computed")


# ---- other files -----------------------------------------------------------------------------------------------------

def _model_config(files: SentenceFiles) -> SentenceFiles:
    """What config_sentence_transformers.json says of the whole.

    Raises:
        ModelError: it is damaged, or asks for something that is not computed here.
    """
    path = files.root / "config_sentence_transformers.json"
    values = read_object(path)
    if values is None:
        return files
    sources = {}
    model_type = values.get("model_type")
    if model_type not in (None, SENTENCE_TRANSFORMER, CROSS_ENCODER):
        what = {"SparseEncoder": " (SPLADE: sparse vectors)", "MultiVectorEncoder": " (ColBERT: a vector per token)"}
        raise ModelError(f"{path}: model_type is {model_type!r:.100}{what.get(str(model_type), '')}, which is not "
                         f"computed here; expected {SENTENCE_TRANSFORMER} or {CROSS_ENCODER}")
    prompts = _prompts(path, values.get("prompts"))
    default = values.get("default_prompt_name")
    if default is not None and (not isinstance(default, str) or default not in prompts):
        raise ModelError(f"{path}: default_prompt_name is {default!r:.100}; expected one of prompts, which are "
                         f"{listing(prompts, 12) or 'none'}")
    truncate_dim = values.get("truncate_dim")
    if truncate_dim is not None:
        truncate_dim = _dimensions(path, values, "truncate_dim")
    for name in ("model_type", "prompts", "default_prompt_name", "truncate_dim"):
        if values.get(name) is not None:
            sources[name] = path.name
    return replace(files, model_type=model_type or SENTENCE_TRANSFORMER, prompts=prompts, default_prompt_name=default,
                   truncate_dim=truncate_dim, sources=sources)


def _prompts(path: Path, values: Any) -> dict[str, str]:
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ModelError(f"{path}: prompts is {values!r:.100}; expected an object of strings")
    result = {}
    for name, text in values.items():
        text = "" if text is None else text
        if not isinstance(text, str) or len(text) > MAX_PROMPT or not (is_text(text) and is_text(name)):
            raise ModelError(f"{path}: the prompt {name!r:.100} is {text!r:.100}; expected a text of at most "
                             f"{MAX_PROMPT} characters")
        result[name] = text
    return result


def is_text(text: str) -> bool:
    """Whether it has no halves of characters, which JSON allows and UTF-8 does not."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _sentence_config(files: SentenceFiles) -> SentenceFiles:
    """What the Transformer module's own file says, and the tokenizer's where that is silent.

    Raises:
        ModelError: they are damaged, or ask for something that is not computed here.
    """
    path, values = _first_config(files)
    if values is None and not files.model_type:
        return files
    sources, length, do_lower_case = dict(files.sources), None, False
    if values is not None:
        length = _transformer_arguments(path, values)
        if length is None:
            length = _length(path, values, "max_seq_length")
        if length is not None:
            sources["max_seq_length"] = _relative(files.root, path)
        if values.get("do_lower_case") is not None:
            do_lower_case = _flag(path, values, "do_lower_case", False)
            sources["do_lower_case"] = _relative(files.root, path)
        _check_task(path, values, files.model_type)
    if length is None:
        length = tokenizer_length(files.directory)
        if length is not None:
            sources["max_seq_length"] = _relative(files.root, files.directory / "tokenizer_config.json")
    return replace(files, model_type=files.model_type or SENTENCE_TRANSFORMER, max_seq_length=length,
                   do_lower_case=do_lower_case, sources=sources)


def _first_config(files: SentenceFiles) -> tuple[Path, dict[str, Any] | None]:
    for directory in dict.fromkeys((files.directory, files.root)):
        for name in SENTENCE_CONFIGS:
            values = read_object(directory / name)
            if values:
                return directory / name, values
    # {} says nothing, but that the directory is one of sentence-transformers.
    path = files.directory / SENTENCE_CONFIGS[0]
    return path, {} if path.is_file() else None


def tokenizer_length(directory: Path) -> int | None:
    """What tokenizer_config.json says of a sequence's tokens, special ones included; None: nothing, or no limit.

    Raises:
        ModelError: it is damaged.
    """
    path = directory / "tokenizer_config.json"
    # Transformers writes 1e30 where there is no limit.
    length = _length(path, _read(path, dict, MAX_CONFIG_BYTES) or {}, "model_max_length")
    return length if length is not None and length < 1 << 30 else None


def _length(path: Path, values: dict[str, Any], key: str) -> int | None:
    length = values.get(key)
    if length is None:
        return None
    if type(length) not in (int, float) or not length > 3:
        raise ModelError(f"{key} of {path} is {length!r:.50}, expected a whole number above 3")
    return int(min(length, 1 << 30))


def _transformer_arguments(path: Path, values: dict[str, Any]) -> int | None:
    """Check what is passed to transformers.

    Returns:
        The tokenizer's model_max_length, which overrules max_seq_length; None: it is not given.
    Raises:
        ModelError: an argument is not one that is honoured.
    """
    arguments = {"model_args", "model_kwargs", "tokenizer_args", "processor_kwargs", "config_args", "config_kwargs"}
    _no_more(path, values, {"max_seq_length", "do_lower_case", "transformer_task", "modality_config",
                            "module_output_name", "unpad_inputs", *arguments})
    result = None
    for name in sorted(arguments & values.keys()):
        given = values[name] if values[name] is not None else {}
        if not isinstance(given, dict):
            raise ModelError(f"{path}: {name} is {given!r:.100}; expected an object")
        known = set(NO_EFFECT)
        if name in ("tokenizer_args", "processor_kwargs"):
            known.add("model_max_length")
            result = _length(path, given, "model_max_length")
        _no_more(path, given, known, f"{name}.")
    return result


def _check_task(path: Path, values: dict[str, Any], model_type: str) -> None:
    """
    Raises:
        ModelError: the encoder is asked for something else than token vectors, or a CrossEncoder for other than logits.
    """
    task, output, name = ("sequence-classification", "logits", "scores") if model_type == CROSS_ENCODER else (
        "feature-extraction", "last_hidden_state", "token_embeddings")
    if values.get("transformer_task", task) != task:
        raise ModelError(f"{path}: transformer_task is {values['transformer_task']!r:.100}; expected {task}")
    if values.get("module_output_name") not in (None, name):
        raise ModelError(f"{path}: module_output_name is {values['module_output_name']!r:.100}; expected {name}")
    modalities = values.get("modality_config")
    if modalities is None:
        return
    text = modalities.get("text") if isinstance(modalities, dict) else None
    if not isinstance(text, dict):
        raise ModelError(f"{path}: modality_config is {modalities!r:.100}; expected an object with text, since only "
                         "texts are served")
    expected = {"method": "forward", "method_output_name": output}
    if text != expected:
        raise ModelError(f"{path}: modality_config.text is {text!r:.100}; expected {expected}")


# ---- values ----------------------------------------------------------------------------------------------------------

def read_object(path: Path, max_bytes: int = MAX_BYTES) -> dict[str, Any] | None:
    """A small JSON object; None if there is no such file.

    Raises:
        ModelError: it is damaged, or too large.
    """
    value: dict[str, Any] | None = _read(path, dict, max_bytes)
    return value


def _read(path: Path, kind: type, max_bytes: int = MAX_BYTES) -> Any:
    try:
        size = path.stat().st_size
        if size > max_bytes:
            raise ModelError(f"{path} has {size / 1e6:.1f} MB; expected at most {max_bytes / 1e6:g}")
        value = read_json(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        raise ModelError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from error
    if not isinstance(value, kind):
        raise ModelError(f"{path} is not a JSON {'object' if kind is dict else 'array'}")
    return value


def _relative(root: Path, path: Path) -> str:
    return path.relative_to(root).as_posix()


def _no_more(path: Path, values: dict[str, Any], known: Iterable[str], prefix: str = "") -> None:
    """
    Raises:
        ModelError: something else than ``known`` is asked for.
    """
    names = {"module_input_name", "module_output_name", *known}
    for key, value in values.items():
        if key not in names and value not in (None, False, "", [], {}):
            raise ModelError(f"{path} sets {f'{prefix}{key}'!r:.100} to {value!r:.100}, which is not supported; "
                             f"expected {', '.join(sorted(known))}")


def _flag(path: Path, values: dict[str, Any], key: str, default: bool) -> bool:
    value = values.get(key)
    if value is None:
        return default
    if not isinstance(value, bool):
        raise ModelError(f"{path}: {key} is {value!r:.100}; expected true or false")
    return value


def _dimensions(path: Path, values: dict[str, Any], key: str) -> int:
    value = values.get(key)
    if type(value) is not int or not 1 <= value <= MAX_DIMENSIONS:
        raise ModelError(f"{path}: {key} is {value!r:.100}; expected a whole number from 1 to {MAX_DIMENSIONS}")
    return value
