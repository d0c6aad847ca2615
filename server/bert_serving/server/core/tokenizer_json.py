"""A ``tokenizer.json``, whatever is in it, by Hugging Face's library; BERT's word pieces by our own faster code.

The library and :class:`.tokenization.Tokenizer` agree on nearly every character. A text takes the faster way if the
file describes BERT's tokenizer and the text holds nothing but characters for which the agreement is tested.
"""
from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any

from bert_serving.client.errors import UnprocessableError
from tokenizers import Encoding, normalizers
from tokenizers import Tokenizer as HuggingFaceTokenizer
from tokenizers.models import BPE, Unigram, WordPiece

from ..errors import ConfigError, ModelError
from .files import read_text
from .tokenization import (MAX_CHARACTERS_PER_WORD, SURROGATE, BaseTokenizer, InputTemplate, Layout, Tokenizer,
                           encode_heads)

MAX_BYTES = 48_000_000
"""Of a tokenizer.json; Gemma's, the largest in use, has 33 million."""

MAX_SPECIAL = 16
"""Special tokens around one text or pair."""

NOWHERE = " \0 "
"""Before a piece, so that no text has it: none has a word with a space in it."""

DISAGREED = re.compile(
    "[^\x00-\u0377\u03a4-\u052f\u0531-\u0556\u0561-\u0587\u05d0-\u05ea\u0620-\u06d3\u0900-\u0963\u0966-\u096f"
    "\u0e01-\u0e3a\u0e3f-\u0e5b\u10d0-\u10fa\u1e00-\u1ef9\u2010-\u2027\u2030-\u205e\u20a0-\u20bd\u2100-\u218b"
    "\u2190-\u23fa\u2500-\u27bf\u3000-\u3029\u3030-\u303f\u3041-\u3096\u3099-\u30ff\u3105-\u312d\u3400-\u4db5"
    "\u4e00-\u9fcc\uac00-\ud7a3\ufe0f\uff01-\uff5e\uff61-\uff9f\U0001f300-\U0001f320\U0001f330-\U0001f579"
    "\U0001f57b-\U0001f5a3\U0001f5a5-\U0001f64f\U0001f680-\U0001f6d0]")
"""Any character for which the library's BertNormalizer and ours may differ, now or with another Python.

The others are letters, marks and signs that Unicode has had for long. Left out are the capital sigma, what is newer
than the library's tables, unassigned code points, and rare marks whose order matters.
"""


class JsonTokenizer(BaseTokenizer):
    """What a ``tokenizer.json`` says; its ``padding`` and ``truncation`` are ignored.

    Attributes:
        path: of the file.
        library: the library's tokenizer.
        truncation: as the file has it; None: there is none.
        normalizer: as the file has it, but for what do_lower_case overruled; {}: there is none.
        pre_tokenizer_steps: the pre-tokenizers, one after the other.
        changes_case: do_lower_case overrules the file.
    """

    def __init__(self, path: str, *, do_lower_case: bool | None = None, unk_token: str | None = None,
                 special_tokens_in_text: bool | None = None, token_types: bool = True, lower_first: bool = False,
                 prompt: str = "") -> None:
        """
        Args:
            do_lower_case: instead of what the file says.
            unk_token: what tokens become that a user cut himself and the vocabulary lacks; None: the file's.
            special_tokens_in_text: they are found in texts; None: as the library does, which finds them.
            token_types: as the file says; else all are 0.
        Raises:
            ModelError: the file cannot be used.
            ConfigError: do_lower_case does not go with it.
        """
        self.path = path
        text = _read(path)
        with _guard(path):
            self.library = HuggingFaceTokenizer.from_str(text)
            self.truncation: dict[str, Any] | None = self.library.truncation
            self.library.no_padding()
            self.library.no_truncation()
            self.normalizer = _state(self.library.normalizer)
            self.pre_tokenizer_steps = list(_steps(_state(self.library.pre_tokenizer)))
            self.changes_case = do_lower_case not in (None, is_lower_casing(self.normalizer))
            if do_lower_case is not None:
                self._lower_case(do_lower_case)
            if lower_first:
                # As sentence-transformers does it: after special tokens have been found, which are not lower-cased.
                self.library.normalizer = normalizers.Sequence([
                    normalizers.Lowercase(), *([self.library.normalizer] if self.library.normalizer else [])])
            self._added = self.library.get_added_tokens_decoder()
            if special_tokens_in_text is False:
                self._hide_special(text)
        self._check_model()
        single, pair = self._layouts()
        super().__init__(single if token_types else single.without_types(),
                         pair if token_types else pair.without_types(),
                         prompt=prompt, lower_first=lower_first, pairs_as_library=True)
        self.unk_id = self._unknown(unk_token, text)
        self._special_ids = {number for number, token in self._added.items() if token.special}
        self._special_ids.update(single.before, single.after, pair.between)
        self._fast = self._fast_way()
        # The library finds them itself. Models with thousands of them are such as have no fast way.
        found = [token.content for token in self._added.values()
                 if token.content and not (token.special and special_tokens_in_text is False)] if self._fast else []
        self._added_first = {content[0] for content in found}
        self._added_in_text = re.compile("|".join(map(re.escape, found)) or r"(?!)")

    # ---- texts -------------------------------------------------------------------------------------------------------

    def encode(self, texts: Sequence[str], limit: int) -> list[list[int]]:
        if self._fast is None:
            return self._by_library(texts, limit)
        in_text, disagreed = self._added_in_text.search, DISAGREED.search
        together = "\n".join(texts)
        if together.isascii() and not any(first in together for first in self._added_first):
            return self._fast.encode(texts, limit)     # Nearly always: English without brackets.
        slow = [i for i, text in enumerate(texts) if in_text(text) or not text.isascii() and disagreed(text)]
        if not slow:
            return self._fast.encode(texts, limit)
        apart = set(slow)
        result = iter(self._fast.encode([text for i, text in enumerate(texts) if i not in apart], limit))
        rest = iter(self._by_library([texts[i] for i in slow], limit))
        return [next(rest) if i in apart else next(result) for i in range(len(texts))]

    def _by_library(self, texts: Sequence[str], limit: int) -> list[list[int]]:
        texts = [text if text.isascii() else SURROGATE.sub("", text) for text in texts]
        # The last token is not trusted: what comes after the boundary may be one with it, if both are unknown.
        return encode_heads(texts, limit + 1, self._all_ids, self._boundary)

    def _all_ids(self, texts: Sequence[str]) -> list[list[int]]:
        """
        Raises:
            UnprocessableError: the library cannot cut one of the texts.
        """
        try:
            return [encoding.ids for encoding in self._encodings(texts)]
        except BaseException as error:
            if not _is_librarys(error):
                raise
            raise UnprocessableError(f"this model's tokenizer cannot cut the text into tokens: "
                                     f"{_one_line(error)}") from None

    def _encodings(self, texts: Sequence[str]) -> list[Encoding]:
        return self.library.encode_batch_fast(list(texts), add_special_tokens=False)

    def _boundary(self, text: str, size: int) -> int:
        """Where to cut the text so that ``size`` characters or somewhat more remain."""
        found = self._breaks.search(text, size) if self._breaks else None
        return found.start() if found else len(text)

    # ---- tokens ------------------------------------------------------------------------------------------------------

    def lookup(self, tokens: Sequence[str]) -> list[int]:
        return [self._number(token) for token in tokens]

    def _number(self, token: str) -> int:
        number = None if SURROGATE.search(token) else self.library.token_to_id(token)
        if number is None:
            number = self.unk_id
        if number is None:
            raise UnprocessableError(f"{token!r:.60} is no token of this model, whose tokenizer has none for what is "
                                     "unknown; send tokens of its vocabulary, or texts that are not tokenized")
        return number

    def tokens(self, ids: Sequence[int]) -> list[str]:
        name = self.library.id_to_token
        return [token if (token := name(number)) is not None else f"#{number}" for number in ids]

    @property
    def vocabulary(self) -> dict[str, int]:
        """All tokens and their ids, added tokens included; made anew each time."""
        return {token: number for token, number in self.library.get_vocab(with_added_tokens=True).items()
                if not token.startswith(NOWHERE)}

    def is_special(self, number: int) -> bool:
        return number in self._special_ids

    # ---- what the file says ------------------------------------------------------------------------------------------

    def _lower_case(self, lowercase: bool) -> None:
        """
        Raises:
            ConfigError: the file says otherwise, in a way that cannot be changed.
        """
        if is_lower_casing(self.normalizer) == lowercase:
            return
        if not isinstance(self.library.normalizer, normalizers.BertNormalizer):
            raise ConfigError(f"{self.path} {'keeps case' if lowercase else 'lower-cases'}, which options "
                              "can change only in a BertNormalizer; leave out -cased_tokenization and "
                              "-uncased_tokenization")
        self.library.normalizer.lowercase = lowercase
        self.normalizer = _state(self.library.normalizer)

    def _check_model(self) -> None:
        """
        Raises:
            ModelError: it cannot cut every text, or not each time the same.
        """
        model = self.library.model
        if isinstance(model, BPE) and model.dropout:
            raise ModelError(f"{self.path} has dropout {model.dropout:g}, so that a text would be cut differently each "
                             "time; set it to null")
        unknown = getattr(model, "unk_token", None)
        if unknown is not None and model.token_to_id(unknown) is None:
            raise ModelError(f"{self.path} names the unknown token {unknown!r:.60}, which its vocabulary lacks; "
                             "add it there, or save the tokenizer again")
        with _guard(self.path):
            self.library.encode("Wort \u0b95\u6211 \U00013000\U0010fffd\u0301 1,5\n", add_special_tokens=False)

    def _layouts(self) -> tuple[Layout, Layout]:
        """What the file's post-processor puts around one text and around the two of a pair.

        Raises:
            ModelError: no text is cut into tokens, or it does something else.
        """
        for probe in ("a", "A", "the", "1", ".", "\u6211", "\U0010fffd"):
            with _guard(self.path):
                bare = self.library.encode(probe, add_special_tokens=False)
                single, pair = self.library.encode(probe), self.library.encode(probe, probe)
            if bare.ids:
                return self._layout(single, [bare.ids]), self._layout(pair, [bare.ids] * 2)
        raise ModelError(f"{self.path} cuts no text into tokens")

    def _layout(self, encoding: Encoding, texts: list[list[int]]) -> Layout:
        """
        Args:
            texts: ids of the one text, or of the two.
        """
        special: list[list[int]] = [[]]                # Ids before the first text, after it, and so on.
        special_types: list[int] = []
        found: list[tuple[int, list[int]]] = []        # Number and ids of each text.
        text_types: list[set[int]] = []
        for number, kind, sequence in zip(encoding.ids, encoding.type_ids, encoding.sequence_ids):
            if sequence is None:
                special[-1].append(number)
                special_types.append(kind)
                continue
            if not found or found[-1][0] != sequence or special[-1]:
                found.append((sequence, []))
                special.append([])
                text_types.append(set())
            found[-1][1].append(number)
            text_types[-1].add(kind)
        if found != list(enumerate(texts)) or any(len(kinds) > 1 for kinds in text_types) \
                or len(special_types) > MAX_SPECIAL:
            raise ModelError(f"the post_processor of {self.path} does more than putting special tokens around "
                             f"{'one text' if len(texts) == 1 else 'the two of a pair'}, which this server does not do")
        *between, after = special[1:]
        return Layout(tuple(special[0]), tuple(after), tuple(between[0] if between else ()),
                      first_type=min(text_types[0]), second_type=min(text_types[-1]),
                      special_types=tuple(special_types))

    def _hide_special(self, text: str) -> None:
        """Keep special tokens that are written in a text from being special, whichever way.

        A unigram model has them among its pieces, where the library would find them again.

        Raises:
            ConfigError: they cannot be kept from it.
        """
        self.library.encode_special_tokens = True
        special = {token.content: number for number, token in self._added.items() if token.special}
        if isinstance(self.library.model, Unigram):
            model = json.loads(text)["model"]
            # Where a piece is only its place counts.
            pieces = [(NOWHERE + piece if piece in special else piece, score) for piece, score in model["vocab"]]
            self.library.model = Unigram(pieces, model.get("unk_id"), model.get("byte_fallback") or False)
        for content, number in special.items():
            if number in self.library.encode(f"a {content} b{content}", add_special_tokens=False).ids \
                    and number != self._unknown(None, text):
                raise ConfigError(f"{self.path} takes {content!r:.60} in a text for a special token, and no option "
                                  "changes that; leave out -special_tokens_in_text no")

    def _unknown(self, name: str | None, text: str) -> int | None:
        """Id of the unknown token, if there is one."""
        model = self.library.model
        if name is None and not isinstance(model, Unigram):
            name = getattr(model, "unk_token", None)
        if name is not None:
            return self.library.token_to_id(name)
        found = re.search(r'"unk_id"\s*:\s*(\d{1,9})\b', text)
        return int(found[1]) if found and self.library.id_to_token(int(found[1])) is not None else None

    def _fast_way(self) -> Tokenizer | None:
        """Our own tokenizer, where it is BERT's that the file describes."""
        model = self.library.model
        if not isinstance(model, WordPiece) or self.normalizer.get("type") != "BertNormalizer" \
                or not self.normalizer.get("clean_text") \
                or [step.get("type") for step in self.pre_tokenizer_steps] != ["BertPreTokenizer"] \
                or model.continuing_subword_prefix != "##" \
                or model.max_input_chars_per_word != MAX_CHARACTERS_PER_WORD \
                or any(token.normalized for token in self._added.values()):
            return None
        vocabulary = self.library.get_vocab(with_added_tokens=False)
        if model.unk_token not in vocabulary:
            return None
        return Tokenizer(vocabulary, self.normalizer["lowercase"], InputTemplate((), (), ()),
                         strip_accents=self.normalizer["strip_accents"], unk_token=model.unk_token,
                         tokenize_chinese_chars=self.normalizer["handle_chinese_chars"], lower_first=self.lower_first)

    @cached_property
    def _breaks(self) -> re.Pattern[str] | None:
        """Places where a text can be cut without changing the tokens on the left; None: it cannot be proved of any."""
        if not all(map(_is_local, _steps(self.normalizer))):
            return None
        steps = self.pre_tokenizer_steps
        if not all(_keeps_spaces_apart(step) for step in steps) or not self._spaces_are_replaced() and any(
                step.get("behavior") == "MergedWithPrevious" for step in steps):
            return None
        splits_words = any(map(_splits_at_spaces, steps))
        splits_punctuation = any(map(_splits_at_punctuation, steps))
        model = self.library.model
        pieces = "" if splits_words and splits_punctuation else "\n".join(self.library.get_vocab(True)) \
            if isinstance(model, (BPE, Unigram)) and not _is_byte_level(steps) \
            and not getattr(model, "end_of_word_suffix", None) else None
        breaks = []
        if splits_words or pieces is not None and not WORD_END.search(pieces):
            breaks.append(SPACE_BREAK)
        if splits_punctuation or pieces is not None and not CJK_END.search(pieces):
            breaks.append(CJK_BREAK)
        pattern = re.compile("|".join(breaks) or "(?!)")
        return None if any(pattern.search(token.content) for token in self._added.values()) else pattern

    def _spaces_are_replaced(self) -> bool:
        return any(step.get("type") == "Replace" and step.get("pattern") == {"String": " "}
                   for step in _steps(self.normalizer))


def is_lower_casing(normalizer: dict[str, Any]) -> bool:
    """Whether a normalizer, as the file has it, lower-cases."""
    return any(step.get("type") == "Lowercase" or step.get("type") == "BertNormalizer" and bool(step.get("lowercase"))
               for step in _steps(normalizer))


# ---- where a text can be cut -----------------------------------------------------------------------------------------
# A cut is safe if every step of the tokenizer does on the left what it would have done anyway. Each function below says
# that of one kind of step, for cuts before a space, or before a punctuation mark, that follow a letter of CJK.

SPACE_BREAK = r"(?<=[!-~\u00c0-\u024f\u0400-\u045f\u3041-\u3096\u30a1-\u30fa\u3001\u3002\u4e00-\u9fcc\uac00-\ud7a3]) "
CJK_BREAK = r"(?<=[\u3041-\u3096\u30a1-\u30f4\u4e00-\u9fcc\uac00-\ud7a3])[\u3001\u3002\uff01\uff0c\uff1a\uff1b\uff1f]"

WORD_END = re.compile(r"[^\u2581 \n][\u2581 ]")
"""In a vocabulary's tokens: one that goes on after a space."""

CJK_END = re.compile(r"[\u3041-\u3096\u30a1-\u30f4\u4e00-\u9fcc\uac00-\ud7a3]"
                     r"[\u3001\u3002\uff01\uff0c\uff1a\uff1b\uff1f!,:;?.]")
"""In a vocabulary's tokens: one that goes on with punctuation, as it is or as NFKC makes it."""

LOCAL = {"NFC", "NFD", "NFKC", "NFKD", "Lowercase", "StripAccents", "Strip", "BertNormalizer", "Nmt", "Precompiled",
         "Prepend"}
"""Normalizers that treat each character by itself, or with the marks on it, or the ends of a text alone."""

SPACES = {r"\s{2,}|[\n\r\t]", r"\s+", r" {2,}", r"\s{2,}"}
"""Regular expressions that match nothing but blanks."""

BYTE_LEVEL_SPLITS = {
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
}
"""Of GPT-2, Llama 3 and Qwen 2. A match never goes on from a letter to a space or to punctuation."""


def _is_local(step: dict[str, Any]) -> bool:
    if step.get("type") != "Replace":
        return step.get("type") in LOCAL or not step
    pattern = step.get("pattern", {})
    given = pattern.get("String")
    if given is None:
        return pattern.get("Regex") in SPACES
    return given == " " or bool(given) and not re.search(r"[\s\u3001\u3002\uff01\uff0c\uff1a\uff1b\uff1f]", given)


def _keeps_spaces_apart(step: dict[str, Any]) -> bool:
    """No word goes on from what is before a cut to what is after it, because of this pre-tokenizer."""
    kind, behavior = step.get("type"), step.get("behavior")
    if kind == "Split":
        given = step.get("pattern", {}).get("String")
        if given == " ":
            return behavior in ("Isolated", "Removed", "MergedWithNext", "MergedWithPrevious") \
                and not step.get("invert")
        return step.get("pattern", {}).get("Regex") in BYTE_LEVEL_SPLITS and behavior in ("Isolated", "Removed") \
            and (behavior == "Isolated" or bool(step.get("invert")))
    if kind == "Punctuation":
        return behavior in ("Isolated", "Removed")
    return not step or kind in ("BertPreTokenizer", "Whitespace", "WhitespaceSplit", "Metaspace", "ByteLevel", "Digits")


def _splits_at_spaces(step: dict[str, Any]) -> bool:
    kind = step.get("type")
    return kind in ("BertPreTokenizer", "Whitespace", "WhitespaceSplit") or kind == "Metaspace" \
        and step.get("split") is True or _splits_bytes(step)


def _splits_at_punctuation(step: dict[str, Any]) -> bool:
    return step.get("type") in ("BertPreTokenizer", "Whitespace", "Punctuation") or _splits_bytes(step)


def _splits_bytes(step: dict[str, Any]) -> bool:
    return step.get("type") == "ByteLevel" and step.get("use_regex") is True \
        or step.get("type") == "Split" and step.get("pattern", {}).get("Regex") in BYTE_LEVEL_SPLITS


def _is_byte_level(steps: Iterable[dict[str, Any]]) -> bool:
    return any(step.get("type") == "ByteLevel" for step in steps)


# ---- reading ---------------------------------------------------------------------------------------------------------

def _read(path: str) -> str:
    """
    Raises:
        ModelError: it cannot be read, or is too large.
    """
    try:
        size = os.stat(path).st_size
        if size > MAX_BYTES:
            raise ModelError(f"{path} has {size / 1e6:.1f} MB, a tokenizer at most {MAX_BYTES / 1e6:.0f}; is it "
                             "another file?")
        return read_text(path)
    except OSError as error:
        raise ModelError(f"cannot read the tokenizer {path}: {error.strerror}") from error
    except ValueError as error:
        raise ModelError(f"cannot read the tokenizer {path}: {error}") from error


@contextmanager
def _guard(path: str) -> Iterator[None]:
    """Whatever the library raises, panics of Rust included, is the file's fault."""
    try:
        yield
    except BaseException as error:
        if not _is_librarys(error):
            raise
        raise ModelError(f"{path} cannot be used as a tokenizer: {_one_line(error)}") from None


def _is_librarys(error: BaseException) -> bool:
    # A panic is no Exception, and its class cannot be imported. The library raises plain Exceptions for the rest.
    return type(error).__name__ == "PanicException" or type(error) in (Exception, ValueError, TypeError, OverflowError)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def _state(component: Any) -> dict[str, Any]:
    """A part of the file, as the file has it; {}: there is none."""
    if component is None:
        return {}
    state = json.loads(component.__getstate__())
    return state if isinstance(state, dict) else {}


def _steps(component: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The parts of a sequence, or the one that it is."""
    if component.get("type") != "Sequence":
        yield component
        return
    for part in component.get("normalizers") or component.get("pretokenizers") or ():
        yield from _steps(part)
