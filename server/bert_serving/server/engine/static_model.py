"""Static models: a table of token vectors, of which those of a text are averaged. No encoder, and no positions.

Two kinds of directories hold one: those of sentence-transformers whose modules.json lists a StaticEmbedding, which are
read as sentence-transformers reads them, and those of model2vec without a modules.json, which are read as model2vec
does: its unknown tokens are left out, and texts have a length.
"""
from __future__ import annotations

import logging
import statistics
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from bert_serving.client.words import counted

from ..config import FromModel, PoolingStrategy, ServerConfig
from ..core.static_tokenizer import StaticTokenizer
from ..core.tokenizer_settings import StaticText, TokenizerSettings
from ..errors import ConfigError, ModelError
from .modules import MAX_CONFIG_BYTES, SENTENCE_TRANSFORMER, SentenceFiles, read_object
from .pipeline import MAX_DIMENSIONS, Normalize
from .spec import Embeddings, EncoderSpec, RotaryPositions
from .tensors import Safetensors, open_tensors, widened
from .tokenizer_files import ModelTokenizer, check_ids, check_size, json_tokenizer
from .weight_files import listing, whole_weights, wrong_content

logger = logging.getLogger(__name__)

MODEL2VEC = "model2vec"
"""The model_type of its config.json."""

MAX_LENGTH = 1 << 30
"""Tokens of a text where nothing limits them."""

MODEL2VEC_LENGTH = 512
"""Tokens of a text that model2vec reads where its config.json does not say."""

CHUNK = 1 << 24
"""Numbers that are checked at once."""


# ---- the table -------------------------------------------------------------------------------------------------------

class Table:
    """The vectors of all tokens.

    Attributes:
        vocab_size, dimensions: how many there are, and of what length.
        num_parameters: numbers in the file.
    """

    def __init__(self, path: str | Path) -> None:
        """
        Args:
            path: a file of weights: ``embedding.weight`` [V, D]; or ``embeddings`` [R, D], as model2vec has it, with
                ``mapping`` [V], the row of each token, and ``weights`` [V], the factor of each token, or without.
        Raises:
            ModelError: it cannot be read, or holds something else.
        """
        file = open_tensors(path)
        name = "embedding.weight" if "embedding.weight" in file.shapes else "embeddings"
        known = {"embedding.weight"} if name == "embedding.weight" else {"embeddings", "mapping", "weights"}
        if name not in file.shapes or (unknown := file.shapes.keys() - known):
            what = f"also holds {listing(sorted(unknown))}" if name in file.shapes else \
                f"holds {listing(sorted(file.shapes)) or 'nothing'}"
            raise ModelError(f"{path} {what}; expected embedding.weight, or model2vec's embeddings, mapping and "
                             "weights, of a static model")
        shape = file.shapes[name]
        if len(shape) != 2 or not shape[0] or not 1 <= shape[1] <= MAX_DIMENSIONS:
            raise ModelError(f"{path}: {name} is {list(shape)[:8]}, expected [tokens, dimensions], of at most "
                             f"{MAX_DIMENSIONS} dimensions")
        if isinstance(file, Safetensors):
            self._rows, dtype = file.mapped(name)
        else:
            self._rows, dtype = file.read(name), "F32"
        self._is_bfloat16 = dtype == "BF16"
        self._mapping = _mapping(path, file.array("mapping"), len(self._rows)) if "mapping" in file.shapes else None
        self.vocab_size = len(self._rows) if self._mapping is None else len(self._mapping)
        self._weights = _weights(path, file.array("weights"), self.vocab_size) if "weights" in file.shapes else None
        self.dimensions = shape[1]
        self.num_parameters = self._rows.size
        self.num_bytes = self._rows.nbytes
        self._path, self._name = path, name

    def check(self) -> None:
        """
        Raises:
            ModelError: there are values that are not finite.
        """
        step = max(1, CHUNK // self.dimensions)
        for start in range(0, len(self._rows), step):
            if not np.isfinite(self._as_float32(self._rows[start:start + step])).all():
                raise ModelError(f"{self._name} of {self._path} holds values that are not finite")

    def vectors(self, ids: np.ndarray) -> np.ndarray:
        """float32 [T, D], the vectors of tokens: int [T]."""
        rows = self._as_float32(self._rows.take(ids if self._mapping is None else self._mapping[ids], axis=0))
        return rows if self._weights is None else (rows * self._weights[ids][:, None]).astype(np.float32, copy=False)

    def _as_float32(self, rows: np.ndarray) -> np.ndarray:
        if self._is_bfloat16:
            return widened(rows)
        with np.errstate(over="ignore"):               # of float64; check() finds what is not finite.
            return rows.astype(np.float32, copy=False)


def _mapping(path: str | Path, mapping: np.ndarray, rows: int) -> np.ndarray:
    if mapping.ndim != 1 or not len(mapping) or mapping.dtype.kind not in "iu" or mapping.min() < 0 \
            or mapping.max() >= rows:
        raise ModelError(f"{path}: mapping is {mapping.dtype} {list(mapping.shape)[:8]}, expected for each token the "
                         f"number of one of the {rows} embeddings")
    return mapping.astype(np.int32 if rows < 1 << 31 else np.int64)


def _weights(path: str | Path, weights: np.ndarray, tokens: int) -> np.ndarray:
    if weights.shape != (tokens,) or weights.dtype.kind != "f" or not np.isfinite(weights).all():
        raise ModelError(f"{path}: weights is {weights.dtype} {list(weights.shape)[:8]}, expected a finite number for "
                         f"each of {counted(tokens, 'token')}")
    return weights


# ---- the files -------------------------------------------------------------------------------------------------------

@dataclass(frozen=True, kw_only=True)
class StaticFiles:
    """
    Attributes:
        says: what the directory says of itself, the pooling, the length and the normalization included.
        source: the file that says that it is a static model.
        weights: path of the table.
        text: how texts are read, but for the length.
        spec: what stands for it where an encoder is expected: one layer, without positions.
        num_parameters: numbers in the table.
    """

    says: SentenceFiles
    source: str
    weights: Path
    text: StaticText
    spec: EncoderSpec
    num_parameters: int


def find(says: SentenceFiles) -> StaticFiles | None:
    """The static model of a directory; None: there is none.

    Args:
        says: what the directory says of itself.
    Raises:
        ModelError: the files do not make one.
    """
    text = StaticText()
    if says.static is None:
        config = _model2vec_config(says.root) if not says.model_type else None
        if config is None:
            return None
        says, text = _as_model2vec(says, config)
    directory = says.static
    assert directory is not None
    tokenizer = directory / "tokenizer.json"
    weights = whole_weights(directory)
    if weights is None or not tokenizer.is_file():
        raise ModelError(f"{directory} has no {'model.safetensors' if weights is None else tokenizer.name}, which a "
                         "static model needs; fetch the directory again, with its folders")
    for path in (weights, tokenizer):
        if wrong := wrong_content(path):
            raise ModelError(f"{path} {wrong}")
    table = Table(weights)
    table.check()
    spec = EncoderSpec(vocab_size=table.vocab_size, hidden_size=table.dimensions, num_layers=1, pooler=False, head=None,
                       embeddings=Embeddings(token_types=0, norm=False),
                       positions=RotaryPositions(thetas=(), max_length=MAX_LENGTH))
    source = says.sources["static"]
    says = replace(says, poolings=(PoolingStrategy.REDUCE_MEAN,), model_type=says.model_type or SENTENCE_TRANSFORMER,
                   sources={**says.sources, "poolings": source})
    return StaticFiles(says=says, source=source, weights=weights, text=text, spec=spec,
                       num_parameters=table.num_parameters)


def _model2vec_config(root: Path) -> dict[str, Any] | None:
    """What config.json says, if it is model2vec's."""
    try:
        config = read_object(root / "config.json", MAX_CONFIG_BYTES)
    except ModelError:                                 # It is an encoder's, whose reader says what is wrong.
        return None
    return config if config is not None and config.get("model_type") == MODEL2VEC else None


def _as_model2vec(says: SentenceFiles, config: dict[str, Any]) -> tuple[SentenceFiles, StaticText]:
    """What model2vec's config.json says.

    Raises:
        ModelError: it makes no sense.
    """
    path, name = says.root / "config.json", "config.json"
    normalize, length = config.get("normalize", False), config.get("max_length", MODEL2VEC_LENGTH)
    if not isinstance(normalize, bool):
        raise ModelError(f"{path}: normalize is {normalize!r:.50}; expected true or false")
    if length is not None and (type(length) is not int or not 1 <= length <= MAX_LENGTH):
        raise ModelError(f"{path}: max_length is {length!r:.50}; expected a whole number from 1, or null")
    sources = {**says.sources, "static": name, "max_seq_length": name}
    return replace(says, static=says.root, max_seq_length=length, sources=sources,
                   stages=(Normalize(source=name),) if normalize else ()), StaticText(drop_unknown=True)


# ---- options ---------------------------------------------------------------------------------------------------------

def check_options(config: ServerConfig, found: StaticFiles) -> None:
    """
    Raises:
        ConfigError: an option is for encoders.
    """
    what = f"{found.says.root} is a static model ({found.source})"
    if config.engine not in ("auto", "static"):
        raise ConfigError(f"-engine {config.engine} is for encoders, and {what}; leave it out, or give -engine static")
    for name in ("tuned_model_dir", "config_name", "ckpt_name"):
        value = getattr(config, name)
        if value is not None and not isinstance(value, FromModel):
            raise ConfigError(f"-{name} {value} is for encoders, and {what}; leave it out")
    strategy = config.pooling_strategy
    if not isinstance(strategy, FromModel) and strategy is not PoolingStrategy.REDUCE_MEAN:
        raise ConfigError(f"-pooling_strategy {strategy} is for encoders, and {what}, whose vectors are averaged; "
                          "leave it out, or give REDUCE_MEAN")
    if not isinstance(config.pooling_layer, FromModel) and len(config.pooling_layer) > 1:
        raise ConfigError(f"-pooling_layer {' '.join(map(str, config.pooling_layer))} is for encoders, and {what}; "
                          "leave it out")


# ---- the tokenizer ---------------------------------------------------------------------------------------------------

def static_tokenizer(found: StaticFiles, *, do_lower_case: bool | None, special_tokens_in_text: bool | None,
                     prompt: str) -> ModelTokenizer:
    """The tokenizer, which is what tokenizer.json says, and nothing else.

    Args:
        do_lower_case, special_tokens_in_text, prompt: as of :func:`tokenizer_files.model_tokenizer`.
    Raises:
        ModelError: it cannot be used, is another model's, or cuts off the left end of texts.
        ConfigError: do_lower_case does not go with it.
    """
    assert found.says.static is not None
    path = found.says.static / "tokenizer.json"
    check_size(path, found.spec.vocab_size)
    sources = {"tokenizer": path.name}
    if special_tokens_in_text is not None:
        sources["special_tokens_in_text"] = "given"
    made = json_tokenizer(TokenizerSettings(file=str(path), prompt=prompt, static=found.text,
                                            special_tokens_in_text=special_tokens_in_text is not False),
                          sources, do_lower_case)
    tokenizer = made.tokenizer
    assert isinstance(tokenizer, StaticTokenizer)
    if warning := check_ids(tokenizer, found.spec.vocab_size, str(path)):
        logger.warning("%s", warning)
    if tokenizer.truncation is not None and tokenizer.truncation.get("direction") == "left":
        raise ModelError(f"{path} cuts off the left end of texts (truncation); this server cuts off the right one")
    return made


def max_length(found: StaticFiles, tokenizer: ModelTokenizer) -> tuple[int | None, str]:
    """Tokens of a text that are read, None being all, and who says so."""
    if "max_seq_length" in found.says.sources:
        return found.says.max_seq_length, found.says.sources["max_seq_length"]
    assert isinstance(tokenizer.tokenizer, StaticTokenizer)
    if (truncation := tokenizer.tokenizer.truncation) is not None:    # sentence-transformers leaves it in force.
        return min(int(truncation["max_length"]), MAX_LENGTH), "tokenizer.json"
    return None, "a static model has no positions"


def cut_to(tokenizer: ModelTokenizer, length: int | None) -> TokenizerSettings:
    """The tokenizer for texts of that many tokens: model2vec counts characters first, a token's being the median."""
    settings, text = tokenizer.settings, tokenizer.settings.static
    if text is None or not text.drop_unknown or length is None:
        return settings
    characters = length * int(statistics.median(map(len, tokenizer.tokenizer.vocabulary)))
    return replace(settings, static=replace(text, max_characters=characters))
