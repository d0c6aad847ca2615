"""Which tokenizer a model's directory means: its files are found, read and compared with each other.

A ``tokenizer.json`` rules where there is one, else a ``vocab.txt``. Beside them lie ``tokenizer_config.json`` and other
small files of transformers, whose keys mean here what they mean there, or end the start.
"""
from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bert_serving.client.words import counted

from ..core.files import read_json
from ..core.tokenization import UNK, AddedToken, InputTemplate, Tokenizer, load_vocabulary
from ..core.tokenizer_json import MAX_BYTES, JsonTokenizer, is_lower_casing
from ..core.tokenizer_settings import TokenizerSettings, create_tokenizer
from ..errors import ModelError
from .architectures.base import shown
from .modules import MAX_CONFIG_BYTES, read_object
from .quiet import quiet_stderr
from .weight_files import listing

ADDED = "added_tokens.json"
"""Where older versions list added tokens."""

RESAVE = ("with transformers: python -c \"from transformers import AutoTokenizer as A; "
          "A.from_pretrained('DIR').save_pretrained('DIR')\"")


@dataclass(frozen=True, kw_only=True)
class ModelTokenizer:
    """A model's tokenizer, and what is to be logged of it.

    Attributes:
        settings: what a worker makes it of.
        tokenizer: made, and tried out.
        do_lower_case: texts are lower-cased.
        sources: what was decided -> the file, or "given", that decided it: ``tokenizer``, ``do_lower_case`` and, where
            somebody said it, ``strip_accents``, ``tokenize_chinese_chars``, ``special_tokens_in_text``,
            ``special_tokens``, ``added_tokens``.
    """

    settings: TokenizerSettings
    tokenizer: Tokenizer | JsonTokenizer
    do_lower_case: bool
    sources: dict[str, str]


def model_tokenizer(directory: Path, *, template: InputTemplate = InputTemplate(), do_lower_case: bool | None = None,
                    lower_first: bool = False, special_tokens_in_text: bool | None = None, prompt: str = "",
                    vocab_size: int | None = None) -> ModelTokenizer:
    """The tokenizer of a directory.

    Args:
        template: of the architecture, for a vocab.txt whose class is not named.
        do_lower_case: given by hand, it rules; None: the files decide.
        lower_first: sentence-transformers' do_lower_case.
        special_tokens_in_text: as the option; None: the files decide.
        prompt: put in front of texts.
        vocab_size: of the model, so that another model's tokenizer is refused before it is read for seconds.
    Raises:
        ModelError: there is none, or its files contradict each other or want what this server does not do.
        ConfigError: do_lower_case does not go with the tokenizer.json.
    """
    said = _Said(directory)
    _refuse_code(said)
    is_json = (directory / "tokenizer.json").is_file()
    if not is_json and not (directory / "vocab.txt").is_file():
        raise ModelError(_nothing(directory))
    sources = {"tokenizer": "tokenizer.json" if is_json else "vocab.txt"}
    if special_tokens_in_text is not None:
        sources["special_tokens_in_text"] = "given"
    elif said.get("split_special_tokens") is True:
        special_tokens_in_text, sources["special_tokens_in_text"] = False, said.source("split_special_tokens")
    settings = TokenizerSettings(
        file=str(directory / sources["tokenizer"]), unk_token=said.token("unk_token"), lower_first=lower_first,
        special_tokens_in_text=special_tokens_in_text, token_types=_has_token_types(said), prompt=prompt)
    if is_json:
        check_size(directory / "tokenizer.json", vocab_size)
        return _from_json(settings, said, sources, do_lower_case)
    return _from_vocabulary(settings, said, sources, do_lower_case, template)


def check_ids(tokenizer: Tokenizer | JsonTokenizer, vocab_size: int, path: str) -> str | None:
    """Compare a tokenizer's ids with the rows of the model's word embeddings.

    Args:
        path: of the tokenizer's file.
    Returns:
        What is to be logged as a warning, if anything: so many rows have no token that they are no padding.
    Raises:
        ModelError: an id is beyond the rows, or two tokens have the same, or a tenth of the rows have no token.
    """
    ids = tokenizer.vocabulary.values()
    largest = max((*ids, *tokenizer.single.before, *tokenizer.single.after, *tokenizer.pair.between), default=-1)
    if largest >= vocab_size:
        raise ModelError(f"{path} has ids up to {largest}, but the model's vocab_size is {vocab_size}; it is another "
                         "model's vocabulary")
    if len(set(ids)) < len(ids):
        raise ModelError(f"{path} gives two tokens the same id; it is damaged")
    missing = vocab_size - 1 - largest
    if missing > 64 and missing > vocab_size / 10:
        raise ModelError(f"{path} has {counted(largest + 1, 'token')}, but the model's vocab_size is {vocab_size}; it "
                         "is another model's tokenizer, or part of one")
    if missing > 64 and missing > vocab_size / 100:
        return (f"{path} has {counted(largest + 1, 'token')}, the model's vocab_size is {vocab_size}; check that it is "
                "this model's tokenizer")
    return None


# ---- tokenizer.json --------------------------------------------------------------------------------------------------

BERT_CLASSES = {"BertTokenizer", "DistilBertTokenizer", "ElectraTokenizer", "MPNetTokenizer", "MobileBertTokenizer",
                "ConvBertTokenizer", "LxmertTokenizer", "RetriBertTokenizer", "FunnelTokenizer", "LayoutLMTokenizer",
                "NomicBertTokenizer", "SqueezeBertTokenizer"}
"""Those of transformers that cut texts as BERT's does."""

CLASSES_WITH_TYPES = BERT_CLASSES - {"DistilBertTokenizer", "MPNetTokenizer"} | {
    "DebertaTokenizer", "DebertaV2Tokenizer", "FNetTokenizer", "MarkupLMTokenizer", "LayoutLMv2Tokenizer"}
"""Those that give token types to a model, unless ``model_input_names`` says otherwise."""

PREFIX_CLASSES = {"RobertaTokenizer", "GPT2Tokenizer", "BartTokenizer", "LongformerTokenizer", "LEDTokenizer",
                  "DebertaTokenizer", "BlenderbotTokenizer", "MvpTokenizer"}
"""Those for which ``add_prefix_space`` of tokenizer_config.json means something."""

GENERIC_CLASSES = {None, "PreTrainedTokenizer", "TokenizersBackend"}
"""Those that are what tokenizer.json says, and nothing else."""


MAX_UNCOUNTED = 4_000_000
"""Bytes of a tokenizer.json that the library reads in well under a second, whatever is in it."""

MAX_TOKENS, MAX_ADDED = 600_000, 20_000
"""Of a tokenizer.json, in all and added ones; Gemma's, the largest in use, has 262 thousand, and 6 thousand."""


def check_size(path: Path, vocab_size: int | None) -> None:
    """The library takes seconds for what this finds out in one.

    Raises:
        ModelError: it has too many tokens for any model, or for this one.
    """
    if not MAX_UNCOUNTED < os.stat(path).st_size <= MAX_BYTES:
        return
    try:
        values = read_json(path)
        tokens, added = len(values["model"]["vocab"]), len(values.get("added_tokens") or ())
    except (OSError, ValueError, TypeError, LookupError, AttributeError) as error:
        raise ModelError(f"{path} cannot be used as a tokenizer: {error}") from error
    if vocab_size is not None and tokens > vocab_size:
        raise ModelError(f"{path} has {counted(tokens, 'token')}, but the model's vocab_size is {vocab_size}; it is "
                         "another model's vocabulary")
    if tokens > MAX_TOKENS:
        raise ModelError(f"{path} has {counted(tokens, 'token')}, expected {MAX_TOKENS} at most")
    if added > MAX_ADDED:
        raise ModelError(f"{path} has {added} added tokens, expected {MAX_ADDED} at most")


def _from_json(settings: TokenizerSettings, said: _Said, sources: dict[str, str],
               do_lower_case: bool | None) -> ModelTokenizer:
    found = json_tokenizer(settings, sources, do_lower_case)
    assert isinstance(found.tokenizer, JsonTokenizer)
    _refuse_contradictions(found.tokenizer, said, settings.file, is_given=do_lower_case is not None)
    return found


def json_tokenizer(settings: TokenizerSettings, sources: Mapping[str, str],
                   do_lower_case: bool | None) -> ModelTokenizer:
    """What tokenizer.json says, and nothing else.

    Args:
        sources: what was decided already, ``tokenizer`` among it.
        do_lower_case: given by hand.
    Raises:
        ModelError: it cannot be used.
        ConfigError: do_lower_case does not go with it.
    """
    tokenizer = create(replace(settings, do_lower_case=do_lower_case))
    assert isinstance(tokenizer, JsonTokenizer)
    # What changes nothing is left out, so that a host that is told what was decided has the same settings.
    settings = replace(settings, do_lower_case=do_lower_case if tokenizer.changes_case else None)
    return ModelTokenizer(
        settings=settings, tokenizer=tokenizer, do_lower_case=is_lower_casing(tokenizer.normalizer),
        sources={**sources, "do_lower_case": "given" if do_lower_case is not None else "tokenizer.json"})


def _refuse_contradictions(tokenizer: JsonTokenizer, said: _Said, file: str, is_given: bool) -> None:
    """
    Raises:
        ModelError: tokenizer_config.json and tokenizer.json say different things.
    """
    kind, normalizer = said.tokenizer_class, tokenizer.normalizer
    found = []
    if kind in BERT_CLASSES or kind is None:
        if normalizer.get("type") == "BertNormalizer":
            found += [("strip_accents", normalizer.get("strip_accents")),
                      ("tokenize_chinese_chars", normalizer.get("handle_chinese_chars"))]
            if not is_given:
                found.append(("do_lower_case", normalizer.get("lowercase")))
    elif kind in ("AlbertTokenizer", "DebertaV2Tokenizer") and not is_given:
        found.append(("do_lower_case", is_lower_casing(normalizer)))
    if kind in PREFIX_CLASSES:
        found += [("add_prefix_space", step["add_prefix_space"]) for step in tokenizer.pre_tokenizer_steps
                  if step.get("type") == "ByteLevel"]
    for key, value in found:
        given = said.get(key)
        # strip_accents null is what lower-casing says; the others are null where nobody cares.
        if given is not None and value is not None and given != value:
            option = " or give -cased_tokenization or -uncased_tokenization" if key == "do_lower_case" else ""
            raise ModelError(f"{said.source(key)} says {key} {shown(given)}, but {file} computes {shown(value)}; "
                             f"correct one of them,{option or ' or save the tokenizer again'}")
    ends = [("cls_token", tokenizer.single.before), ("sep_token", tokenizer.single.after)] \
        if kind not in GENERIC_CLASSES else []
    ends += [(key, ids) for key, flag, ids in (("bos_token", "add_bos_token", tokenizer.single.before),
                                               ("eos_token", "add_eos_token", tokenizer.single.after))
             if said.get(flag) is True]
    for key, ids in ends:
        token = said.token(key)
        is_added = key in ("bos_token", "eos_token")
        if token is not None and (ids or is_added) and tokenizer.library.token_to_id(token) not in ids:
            there = " ".join(tokenizer.tokens(ids)) or "nothing"
            raise ModelError(f"{said.source(key)} says {key} {token!r:.60}, but {file} puts {there:.60} there; "
                             "correct one of them, or save the tokenizer again")
    for path, name, number in said.listed():
        there_number = tokenizer.library.token_to_id(name)
        if there_number != number:
            there = "it is missing" if there_number is None else f"its id is {there_number}"
            raise ModelError(f"{path} gives the added token {name!r:.60} the id {number!r:.20}, but in {file} {there}; "
                             "correct one of them, or save the tokenizer again")


def _has_token_types(said: _Said) -> bool:
    names = said.get("model_input_names")
    if isinstance(names, list):
        return "token_type_ids" in names
    return said.tokenizer_class is None or said.tokenizer_class in CLASSES_WITH_TYPES


# ---- vocab.txt -------------------------------------------------------------------------------------------------------

TEMPLATES = {**dict.fromkeys(BERT_CLASSES - {"FunnelTokenizer"}, InputTemplate()),
             "MPNetTokenizer": InputTemplate(("<s>",), ("</s>", "</s>"), ("</s>",), second_type=0)}
"""What classes put around texts, whatever the model is: an ALBERT with a BertTokenizer has two token types."""

NAMED = ("cls_token", "sep_token", "unk_token", "pad_token", "mask_token")


def _from_vocabulary(settings: TokenizerSettings, said: _Said, sources: dict[str, str], do_lower_case: bool | None,
                     template: InputTemplate) -> ModelTokenizer:
    if said.tokenizer_class not in BERT_CLASSES | GENERIC_CLASSES:
        raise ModelError(f"{said.source('tokenizer_class')} says tokenizer_class {said.tokenizer_class}, which cuts "
                         f"texts otherwise than this server does with a vocab.txt; save a tokenizer.json {RESAVE}, if "
                         "it has one")
    for key, expected in (("do_basic_tokenize", True), ("never_split", None)):
        if said.get(key) not in (expected, None, []):
            raise ModelError(f"{said.source(key)} says {key} {shown(said.get(key))}, which this server does not do "
                             f"with a vocab.txt; save a tokenizer.json {RESAVE}")
    named = {key: token for key in NAMED if (token := said.token(key)) is not None}
    template = _replaced(TEMPLATES.get(said.tokenizer_class or "", template), named)
    if named:
        sources["special_tokens"] = said.source(next(iter(named)))
    vocabulary = load_vocabulary(settings.file, template, settings.unk_token or UNK)
    added = tuple(_added_tokens(said, vocabulary, set(named.values())))
    if added:
        sources["added_tokens"] = said.source("added_tokens_decoder") or ADDED
    if do_lower_case is not None:
        sources["do_lower_case"] = "given"
    elif (do_lower_case := said.flag("do_lower_case")) is not None:
        sources["do_lower_case"] = said.source("do_lower_case")
    elif is_cased(vocabulary):
        do_lower_case, sources["do_lower_case"] = False, "vocab.txt, which has upper-case words"
    else:
        do_lower_case, sources["do_lower_case"] = True, "default"
    strip_accents, chinese = said.flag("strip_accents"), said.flag("tokenize_chinese_chars")
    for key, wanted in (("strip_accents", strip_accents), ("tokenize_chinese_chars", chinese)):
        if wanted is not None:
            sources[key] = said.source(key)
    settings = replace(
        settings, do_lower_case=do_lower_case, strip_accents=strip_accents, tokenize_chinese_chars=chinese is not False,
        template=template, added_tokens=added,
        special_tokens=tuple(dict.fromkeys((named.get("pad_token", "[PAD]"), named.get("mask_token", "[MASK]")))))
    tokenizer = create(settings, vocabulary)
    assert isinstance(tokenizer, Tokenizer)
    return ModelTokenizer(settings=settings, tokenizer=tokenizer, do_lower_case=do_lower_case, sources=sources)


def _replaced(template: InputTemplate, named: Mapping[str, str]) -> InputTemplate:
    """The template with the directory's own tokens in the place of its first and its last."""
    if not template.before or not template.after:
        return template
    other = {template.before[0]: named.get("cls_token", template.before[0])}
    other[template.after[-1]] = named.get("sep_token", template.after[-1])
    before, between, after = (tuple(other.get(token, token) for token in tokens)
                              for tokens in (template.before, template.between, template.after))
    return InputTemplate(before, between, after, template.second_type)


def _added_tokens(said: _Said, vocabulary: Mapping[str, int], named: set[str]) -> Iterator[AddedToken]:
    """Those that are found in texts: what vocab.txt has, and transformers would find, is among them, too.

    Raises:
        ModelError: an entry makes no sense, or contradicts vocab.txt.
    """
    tokens: dict[str, AddedToken] = {}
    special = {token for key in ("additional_special_tokens", "extra_special_tokens") for token in said.tokens(key)}
    for name, number in said.added.items():
        tokens[name] = _added_token(said.directory / ADDED, name, number,
                                    {"special": name in special | named, "normalized": name not in special})
    for path, content, key, values in said.decoder():
        tokens[str(content)] = _added_token(path, content, key, values)
    for token in tokens.values():
        if vocabulary.get(token.content, token.number) != token.number:
            raise ModelError(f"{said.directory} gives the added token {token.content!r:.60} the id {token.number}, but "
                             f"in vocab.txt its id is {vocabulary[token.content]}; correct one of them")
        if token.content not in named and not (token.content in vocabulary and token.special):
            # Whether the five that BERT knows are found is what -special_tokens_in_text decides; others always are.
            yield replace(token, special=False)


def _added_token(path: Path, content: Any, number: Any, values: Mapping[str, Any]) -> AddedToken:
    if not isinstance(content, str) or not content or type(number) is not int or not 0 <= number < 1 << 31:
        raise ModelError(f"{path}: {content!r:.60} with the id {number!r:.20} is no added token")
    flags = {name: values.get(name) is True for name in ("special", "normalized", "single_word", "lstrip", "rstrip")}
    return AddedToken(content=content, number=number, **flags)


def is_cased(vocabulary: Mapping[str, int]) -> bool:
    """True if many of the vocabulary's words can never be met in lower-cased text."""
    upper = sum(token != token.lower() and token[:1] not in "[<" for token in vocabulary)
    return upper > len(vocabulary) / 100


# ---- the small files -------------------------------------------------------------------------------------------------

class _Said:
    """What the small files say: of several that name a key the first counts."""

    def __init__(self, directory: Path) -> None:
        """
        Raises:
            ModelError: a file is no JSON object.
        """
        self.directory = directory
        self.files = {name: _read(directory / name) for name in ("tokenizer_config.json", "special_tokens_map.json")}
        model = _read(directory / "config.json")
        if "tokenizer_class" in model:
            self.files["config.json"] = {"tokenizer_class": model["tokenizer_class"]}
        if self.tokenizer_class is None and "auto_map" in model:    # As transformers does: else it is not asked.
            self.files["config.json"] = {**self.files.get("config.json", {}), "auto_map": model["auto_map"]}
        self.added = _read(directory / ADDED)

    @property
    def tokenizer_class(self) -> str | None:
        """Its name, without the Fast that older versions have at the end."""
        name = self.get("tokenizer_class")
        return str(name).removesuffix("Fast") if name is not None else None

    def get(self, key: str) -> Any:
        return next((values[key] for values in self.files.values() if values.get(key) is not None), None)

    def source(self, key: str) -> str:
        """The file that says it."""
        return next((name for name, values in self.files.items() if values.get(key) is not None), "")

    def flag(self, key: str) -> bool | None:
        """
        Raises:
            ModelError: it is neither true nor false.
        """
        value = self.get(key)
        if value is not None and not isinstance(value, bool):
            raise ModelError(f"{self.directory / self.source(key)}: {key} is {shown(value)}, expected true or false")
        return value

    def token(self, key: str) -> str | None:
        """A special token: its text, which may stand in an object.

        Raises:
            ModelError: it is none.
        """
        value = self.get(key)
        if isinstance(value, dict):
            value = value.get("content")
        if value is not None and (not isinstance(value, str) or not value):
            raise ModelError(f"{self.directory / self.source(key)}: {key} is {shown(value)}, expected a token")
        return value

    def tokens(self, key: str) -> list[str]:
        """Several special tokens."""
        value = self.get(key)
        entries = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
        contents = (entry.get("content") if isinstance(entry, dict) else entry for entry in entries)
        return [content for content in contents if isinstance(content, str)]

    def decoder(self) -> Iterator[tuple[Path, Any, int, dict[str, Any]]]:
        """Of each token of added_tokens_decoder the file, the text, the id and all that is said of it.

        Raises:
            ModelError: an entry makes no sense.
        """
        path, decoder = self.directory / "tokenizer_config.json", self.get("added_tokens_decoder")
        for key, values in (decoder.items() if isinstance(decoder, dict) else ()):
            if not isinstance(values, dict) or not re.fullmatch("[0-9]{1,9}", key):
                raise ModelError(f"{path}: added_tokens_decoder holds {key!r:.40}, expected an id and an object")
            yield path, values.get("content"), int(key), values

    def listed(self) -> Iterator[tuple[Path, str, Any]]:
        """Of each added token the file, the text and the id."""
        yield from ((self.directory / ADDED, name, number) for name, number in self.added.items())
        yield from ((path, str(content), number) for path, content, number, _ in self.decoder())


def _refuse_code(said: _Said) -> None:
    """
    Raises:
        ModelError: the tokenizer is one that no file describes, or cuts off another end.
    """
    auto_map = said.get("auto_map")
    if isinstance(auto_map, dict) and "AutoTokenizer" in auto_map or isinstance(auto_map, list):
        raise ModelError(f"{said.directory / said.source('auto_map')} says auto_map: the tokenizer is code of the "
                         "model's author, which this server does not run")
    name = said.tokenizer_class
    if name is not None and name in NO_FILE_CLASSES:
        raise ModelError(f"{said.directory / said.source('tokenizer_class')} says tokenizer_class {name}, which is "
                         "Python code that no tokenizer.json or vocab.txt describes, and is not supported; use a model "
                         "with another tokenizer")
    if said.get("truncation_side") not in (None, "right"):
        raise ModelError(f"{said.directory / said.source('truncation_side')} says truncation_side "
                         f"{shown(said.get('truncation_side'))}; this server cuts off the right end")


NO_FILE_CLASSES = {"BertJapaneseTokenizer", "JumanppTokenizer", "BertweetTokenizer", "PhobertTokenizer",
                   "CanineTokenizer", "ByT5Tokenizer", "MyT5Tokenizer", "FlaubertTokenizer", "XLMTokenizer",
                   "TransfoXLTokenizer", "CTRLTokenizer", "ProphetNetTokenizer", "XLMProphetNetTokenizer",
                   "BartphoTokenizer", "GPTNeoXJapaneseTokenizer", "LukeTokenizer", "MLukeTokenizer", "TapasTokenizer",
                   "EsmTokenizer", "BioGptTokenizer", "CpmTokenizer", "CpmAntTokenizer", "RoCBertTokenizer"}
"""Those of transformers that are Python code, which does more than the library can."""


def _nothing(directory: Path) -> str:
    names = sorted(path.name for path in directory.iterdir())
    known = [name for name in names if name in ("sentencepiece.bpe.model", "spiece.model", "spm.model",
                                                "tokenizer.model", "vocab.json", "merges.txt", "bpe.codes")]
    if known:
        return (f"{directory} has neither tokenizer.json nor vocab.txt; it has {', '.join(known)}: save a "
                f"tokenizer.json beside it {RESAVE.replace('DIR', str(directory))}")
    return f"{directory} has neither tokenizer.json nor vocab.txt; it holds {listing(names, 12) or 'nothing'}"


def create(settings: TokenizerSettings, vocabulary: dict[str, int] | None = None) -> Tokenizer | JsonTokenizer:
    """The tokenizer; what Rust writes to standard error in its panic is kept back, for the error says it."""
    with quiet_stderr(Exception):
        return create_tokenizer(settings, vocabulary)


def _read(path: Path) -> dict[str, Any]:
    """The file's content; {} if there is no such file.

    Raises:
        ModelError: it is no JSON object, or too large.
    """
    return read_object(path, MAX_CONFIG_BYTES) or {}
