"""From text to word pieces, as Google's BERT of November 2018 cuts them: basic tokenizer first, WordPiece after."""
from __future__ import annotations

import re
import unicodedata
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path
from zlib import crc32

from tokenizers import AddedToken as HuggingFaceAddedToken
from tokenizers import Tokenizer as HuggingFaceTokenizer
from tokenizers.models import WordLevel, WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import WhitespaceSplit

from ..errors import ModelError
from ..orders import Orders
from .files import read_text

CLS, SEP, UNK = "[CLS]", "[SEP]", "[UNK]"
MAX_CHARACTERS_PER_WORD = 100
"""Longer words are [UNK]; the paper's code says so."""

MAX_WORDS = 1 << 16
"""Words whose pieces are kept, before all are forgotten."""

CJK = ((0x4E00, 0x9FFF), (0x3400, 0x4DBF), (0x20000, 0x2A6DF), (0x2A700, 0x2B73F), (0x2B740, 0x2B81F),
       (0x2B820, 0x2CEAF), (0xF900, 0xFAFF), (0x2F800, 0x2FA1F))
"""Blocks whose characters are words of their own. Hangul, Hiragana and Katakana are not among them."""


@dataclass(frozen=True)
class InputTemplate(Orders):
    """Which special tokens go around a text, and around the two of a pair; the defaults are BERT's.

    Attributes:
        before, after: around one text or pair.
        between: the two of a pair.
        second_type: token type of a pair's second text, with what comes after it.
    """

    before: tuple[str, ...] = ("[CLS]",)
    between: tuple[str, ...] = ("[SEP]",)
    after: tuple[str, ...] = ("[SEP]",)
    second_type: int = 1

    @property
    def tokens(self) -> tuple[str, ...]:
        """All special tokens in it, each once."""
        return tuple(dict.fromkeys((*self.before, *self.between, *self.after)))

    def layouts(self, ids: Mapping[str, int]) -> tuple[Layout, Layout]:
        """Of one text, and of a pair; ``ids`` are the tokens'."""
        before, between, after = (tuple(ids[token] for token in tokens)
                                  for tokens in (self.before, self.between, self.after))
        types = (0,) * (len(before) + len(between)) + (self.second_type,) * len(after)
        return Layout(before, after), Layout(before, after, between, second_type=self.second_type, special_types=types)


@dataclass(frozen=True)
class Layout:
    """The special tokens of one text or of one pair, as ids, and the token types.

    Attributes:
        before, after: ids around it all.
        between: ids between the two of a pair.
        first_type, second_type: token types of the texts.
        special_types: token types of before, between and after, in this order; (): all are 0.
    """

    before: tuple[int, ...] = ()
    after: tuple[int, ...] = ()
    between: tuple[int, ...] = ()
    first_type: int = 0
    second_type: int = 0
    special_types: tuple[int, ...] = ()

    @cached_property                                   # This and the next are asked for with every text.
    def num_special(self) -> int:
        return len(self.before) + len(self.between) + len(self.after)

    @cached_property
    def has_types(self) -> bool:
        """Some token has another token type than 0."""
        return any((self.first_type, self.second_type, *self.special_types))

    def without_types(self) -> Layout:
        """The same, every token type being 0."""
        return Layout(self.before, self.after, self.between)


class BaseTokenizer(ABC):
    """Text or given tokens to ids.

    Attributes:
        single, pair: what goes around one text, and around the two of a pair.
        prompt: what is put in front of every text, and of the first of a pair, if it is a string.
        lower_first: texts are lower-cased, and keep their accents. Added tokens are found before that, as they are.
        pairs_as_library: pairs are truncated, and half empty ones laid out, as Hugging Face's library does it; else as
            Google's code.
        takes_blank: a text may have no token at all; else it is refused where no special token is added to it.
    """

    takes_blank = False

    def __init__(self, single: Layout, pair: Layout, *, prompt: str = "", lower_first: bool = False,
                 pairs_as_library: bool = False) -> None:
        self.single, self.pair = single, pair
        self.prompt, self.lower_first = prompt, lower_first
        self.pairs_as_library = pairs_as_library

    @abstractmethod
    def encode(self, texts: Sequence[str], limit: int) -> list[list[int]]:
        """Ids of each text's pieces: all of them, or at least the first ``limit``.

        No special tokens are added, and no prompt.
        """

    @abstractmethod
    def lookup(self, tokens: Sequence[str]) -> list[int]:
        """Ids of tokens that the user cut himself: each verbatim, else the unknown token's.

        Raises:
            UnprocessableError: a token is not in the vocabulary, which has no unknown token.
        """

    @abstractmethod
    def tokens(self, ids: Sequence[int]) -> list[str]:
        """The tokens that have these ids."""

    @abstractmethod
    def is_special(self, number: int) -> bool:
        """True for the id of a special token."""

    @cached_property
    def prompt_length(self) -> int:
        """How many tokens of a text with the prompt are before or in the prompt, as sentence-transformers counts them.

        These are the tokens of the prompt as a text of its own, but for the last one if that is special.
        """
        if not self.prompt:
            return 0
        ids, = self.encode([self.prompt], 8 * len(self.prompt))
        ids = [*self.single.before, *ids, *self.single.after]
        return len(ids) - (bool(ids) and self.is_special(ids[-1]))


def encode_heads(texts: Sequence[str], limit: int, encode: Callable[[Sequence[str]], list[list[int]]],
                 boundary: Callable[[str, int], int]) -> list[list[int]]:
    """Ids of each text, of which no more is looked at than it takes to have ``limit`` of them.

    Args:
        encode: ids of whole texts.
        boundary: where to cut a text so that so many characters or somewhat more remain.
    """
    size = head_size(limit)
    heads = [text if len(text) <= size else text[:boundary(text, size)] for text in texts]
    result = encode(heads)
    for i, (text, head) in enumerate(zip(texts, heads)):
        while len(result[i]) < limit and len(head) < len(text):
            head = text[:boundary(text, 8 * len(head))]
            result[i], = encode([head])
    return result


def head_size(limit: int) -> int:
    """Characters that nearly always hold that many tokens."""
    return 16 * limit + 1000


# ---- BERT's own ------------------------------------------------------------------------------------------------------

@dataclass(frozen=True, kw_only=True)
class AddedToken(Orders):
    """A token that is found in texts before anything else is done to them.

    Attributes:
        content, number: what it is, and its id.
        special: -special_tokens_in_text decides about it.
        normalized: looked for in the lower-cased text, and so on, not in the text as it came.
        single_word: only where no letter or digit is beside it.
        lstrip, rstrip: it takes blanks on its left, or right, along.
    """

    content: str
    number: int
    special: bool = False
    normalized: bool = False
    single_word: bool = False
    lstrip: bool = False
    rstrip: bool = False


def load_vocabulary(path: str | Path, template: InputTemplate = InputTemplate(),
                    unk_token: str = UNK) -> dict[str, int]:
    """Token -> id of a ``vocab.txt``: the id is the line's number from 0; of a repeated token the last line counts.

    Raises:
        ModelError: the file cannot be read, or lacks a token that every sentence needs.
    """
    try:
        text = read_text(path)
    except OSError as error:
        raise ModelError(f"cannot read the vocabulary {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ModelError(f"the vocabulary {path} is not UTF-8 text: {error}") from error
    except ValueError as error:
        raise ModelError(f"cannot read the vocabulary {path}: {error}") from error
    # Lines end at "\n" alone: a vocabulary may hold tokens such as U+2028, where str.splitlines would cut. Empty lines
    # at the end are no tokens.
    lines = [line.strip() for line in text.split("\n")]
    while lines and not lines[-1]:
        lines.pop()
    vocabulary = {line: number for number, line in enumerate(lines)}
    missing = [token for token in dict.fromkeys((*template.tokens, unk_token)) if token not in vocabulary]
    if missing:
        raise ModelError(f"the vocabulary {path} lacks {', '.join(missing)}; is it another model's?")
    return vocabulary


class Tokenizer(BaseTokenizer):
    """BERT's tokenizer; special tokens written in a text, as "[MASK]", mean nothing here, unless they are to be found.

    Google's basic tokenizer treats each character by itself (but for the final sigma), so it is a translation table,
    :class:`CharacterTable`, in front of the word pieces of Hugging Face's library. That library's own normalizer is not
    used: its Unicode tables are older than Python's, and it does not take lone surrogates.
    """

    def __init__(self, vocabulary: str | Path | dict[str, int], do_lower_case: bool = True,
                 template: InputTemplate = InputTemplate(), *, strip_accents: bool | None = None,
                 tokenize_chinese_chars: bool = True, unk_token: str = UNK, added_tokens: Sequence[AddedToken] = (),
                 special_tokens: Collection[str] = (), special_tokens_in_text: bool = False, token_types: bool = True,
                 lower_first: bool = False, prompt: str = "") -> None:
        """
        Args:
            vocabulary: path of a vocab.txt, or token -> id.
            do_lower_case: lower-case; where strip_accents is None strip accents, too.
            tokenize_chinese_chars: Chinese characters are words of their own.
            added_tokens: found in texts.
            special_tokens: special ones beside the template's and the unknown one.
            special_tokens_in_text: special tokens are found in texts.
            token_types: the template's; else all are 0.
        Raises:
            ModelError: the vocabulary cannot be used.
        """
        self.do_lower_case = do_lower_case
        self.vocabulary = vocabulary if isinstance(vocabulary, dict) else \
            load_vocabulary(vocabulary, template, unk_token)
        single, pair = template.layouts(self.vocabulary)
        super().__init__(single, pair if token_types else pair.without_types(), prompt=prompt, lower_first=lower_first)
        special = [token for token in dict.fromkeys((*template.tokens, unk_token, *special_tokens))
                   if token in self.vocabulary]
        self._special_ids = {self.vocabulary[token] for token in special}
        self._special_ids.update(token.number for token in added_tokens if token.special)
        self._pieces = HuggingFaceTokenizer(WordPiece(self.vocabulary, unk_token=unk_token,
                                                      max_input_chars_per_word=MAX_CHARACTERS_PER_WORD))
        self._pieces.pre_tokenizer = WhitespaceSplit()
        added_tokens = [token for token in added_tokens if special_tokens_in_text or not token.special]
        if special_tokens_in_text:
            known = {token.content for token in added_tokens}
            added_tokens += [AddedToken(content=token, number=self.vocabulary[token], special=True)
                             for token in special if token not in known]
        if added_tokens:
            self.vocabulary = {**self.vocabulary, **{token.content: token.number for token in added_tokens}}
        self.unk_id = self.vocabulary[unk_token]
        self._token_of = {number: token for token, number in self.vocabulary.items()}
        if strip_accents is None:
            strip_accents = do_lower_case
        self._characters = CharacterTable(strip_accents, tokenize_chinese_chars)
        self._finder = TokenFinder(added_tokens, do_lower_case or lower_first, strip_accents, tokenize_chinese_chars) \
            if added_tokens else None
        self._break = self._finder.boundary if self._finder is not None else \
            BREAK if tokenize_chinese_chars else BREAK_WITHOUT_CHINESE
        self._known: dict[str, list[int]] = {}         # Word -> ids of its pieces; the same words come again and again.

    def encode(self, texts: Sequence[str], limit: int) -> list[list[int]]:
        return encode_heads(texts, limit, self._encode, self._boundary)

    def _boundary(self, text: str, size: int) -> int:
        """Where to cut the text so that ``size`` characters or somewhat more remain."""
        found = self._break.search(text, size)
        return found.start() if found else len(text)

    def _encode(self, texts: Sequence[str]) -> list[list[int]]:
        if self._finder is not None:
            parts = self._finder.split(texts)
            ids = iter(self._words([part for text in parts for part in text if isinstance(part, str)]))
            return [list(chain.from_iterable(next(ids) if isinstance(part, str) else (part,) for part in text))
                    for text in parts]
        return self._words(texts)

    def _words(self, texts: Sequence[str]) -> list[list[int]]:
        # A plain text is cut at its blanks, and its words, punctuation and all, are normalized when they are new.
        split = [self.normalize(text).split() if ODD.search(text) else text.split() for text in texts]
        known = self._known
        new = list(set(chain.from_iterable(split)).difference(known))
        if new:
            if len(known) > MAX_WORDS:
                known.clear()
                return self._words(texts)
            forms = [word if ODD.search(word) else self.normalize(word) for word in new]
            for word, encoding in zip(new, self._pieces.encode_batch_fast(forms, add_special_tokens=False)):
                known[word] = encoding.ids
        result = [list(chain.from_iterable(map(known.__getitem__, words))) for words in split]
        for word in new:
            if len(word) > MAX_CHARACTERS_PER_WORD:    # Somebody's binary data: large, and hardly ever seen again.
                del known[word]
        return result

    def normalize(self, text: str) -> str:
        """The text, cleaned, its words separated by spaces, lower-cased and without accents if so asked."""
        if self.do_lower_case or self.lower_first:
            text = text.lower()                        # As a whole: the final sigma depends on its neighbours.
        return text.translate(self._characters) if ODD.search(text) else PUNCTUATION.sub(r" \g<0> ", text)

    def lookup(self, tokens: Sequence[str]) -> list[int]:
        get, unknown = self.vocabulary.get, self.unk_id
        return [get(token, unknown) for token in tokens]

    def tokens(self, ids: Sequence[int]) -> list[str]:
        token_of = self._token_of
        return [token_of[number] for number in ids]

    def is_special(self, number: int) -> bool:
        return number in self._special_ids


class TokenFinder:
    """Finds added tokens in texts, as Hugging Face's library does: what is between them is left as it is.

    Attributes:
        boundary: where a text may be cut without cutting one of them.
    """

    def __init__(self, tokens: Sequence[AddedToken], do_lower_case: bool, strip_accents: bool,
                 tokenize_chinese_chars: bool) -> None:
        # Without a pre-tokenizer, all that is no added token is the one word that the model knows.
        self._finder = HuggingFaceTokenizer(WordLevel({"": 0}, unk_token=""))
        self._finder.normalizer = BertNormalizer(handle_chinese_chars=tokenize_chinese_chars,
                                                 strip_accents=strip_accents, lowercase=do_lower_case)
        self._finder.add_tokens([
            HuggingFaceAddedToken(token.content, single_word=token.single_word, lstrip=token.lstrip,
                                  rstrip=token.rstrip, normalized=token.normalized) for token in tokens])
        self._numbers = {self._finder.token_to_id(token.content): token.number for token in tokens}
        inside = any(re.search(r"\s", token.content) for token in tokens)
        self.boundary = re.compile(r"(?!)" if inside else r"\s")

    def split(self, texts: Sequence[str]) -> list[list[str | int]]:
        """Each text as what is between added tokens, and their ids."""
        result = []
        # A replacement character is dropped later on, as a lone surrogate is, which the library would not take.
        for text, found in zip(texts, self._finder.encode_batch([SURROGATE.sub("\ufffd", text) for text in texts])):
            parts: list[str | int] = []
            end = 0
            for number, (first, last) in zip(found.ids, found.offsets):
                if number in self._numbers:
                    parts += [text[end:first], self._numbers[number]]
                    end = last
            result.append([*parts, text[end:]])
        return result


ODD = re.compile(r"[^\t\n\r -~]")
"""What takes more than PUNCTUATION: anything but printable ASCII."""

PUNCTUATION = re.compile(r"[!-/:-@\[-`{-~]")
"""In ASCII, marks such as "$" and "|" count, which Unicode calls symbols."""

BREAK_WITHOUT_CHINESE = re.compile(r"[\s,;!?()\[\]{}/\\|<>@#$%&*+=~\"-]")
BREAK = re.compile(r"[\s\u4e00-\u9fff,;!?()\[\]{}/\\|<>@#$%&*+=~\"-]")
"""Characters before which a text can be cut without changing the pieces on the left.

Not all punctuation: the final sigma looks through some marks at what follows.
"""


DROPPED = ("Cc", "Cf", "Co", "Cs")
"""Categories of characters that say nothing: control, format, private use, lone surrogates.

Not "Cn", unassigned: which those are depends on the Python, and two servers must give a new emoji the same vector.
"""

SURROGATE = re.compile("[\ud800-\udfff]")
"""Half of a character, which no UTF-8 text can hold; JSON can."""


class CharacterTable(dict[int, "str | None"]):
    """For str.translate: what Google's basic tokenizer makes of a character. Filled as characters are met."""

    MAX_ENTRIES = 1 << 16
    """Entries kept; a text with every character there is must not cost memory for ever."""

    def __init__(self, strip_accents: bool, chinese: bool = True) -> None:
        """
        Args:
            chinese: characters of CJK are words of their own.
        """
        super().__init__()
        self.strip_accents, self.chinese = strip_accents, chinese

    def __missing__(self, code: int) -> str | None:
        value = self.replacement(chr(code))
        if len(self) < self.MAX_ENTRIES:
            self[code] = value
        return value

    def replacement(self, character: str) -> str | None:
        """The text to put in the character's place; None: nothing."""
        if not ODD.match(character):
            return PUNCTUATION.sub(r" \g<0> ", character)
        if character == "\N{REPLACEMENT CHARACTER}" or unicodedata.category(character) in DROPPED:
            return None
        if character.isspace():
            return " "
        alone = self.chinese and any(first <= ord(character) <= last for first, last in CJK)
        if self.strip_accents:
            character = "".join(c for c in unicodedata.normalize("NFD", character)
                                if unicodedata.category(c) != "Mn")
        if alone:
            return f" {character} "
        return "".join(f" {c} " if unicodedata.category(c)[0] == "P" or PUNCTUATION.match(c) else c for c in character)


# ---- for the echo engine ---------------------------------------------------------------------------------------------

class WordHashTokenizer(BaseTokenizer):
    """Whitespace-separated words, each numbered by its CRC-32; needs no vocabulary.

    Ids are below 2**20, so that a float32 holds them exactly.
    """

    MODULUS = (1 << 20) - 4

    def __init__(self) -> None:
        self._ids = {CLS: 1, SEP: 2, UNK: 3}
        super().__init__(*InputTemplate().layouts(self._ids))
        self._token_of = {number: token for token, number in self._ids.items()}

    def encode(self, texts: Sequence[str], limit: int) -> list[list[int]]:
        return [self.lookup(text.split(None, limit)[:limit]) for text in texts]

    def lookup(self, tokens: Sequence[str]) -> list[int]:
        return [self._ids.get(token) or self._number(token) for token in tokens]

    def tokens(self, ids: Sequence[int]) -> list[str]:
        return [self._token_of.get(number, f"#{number}") for number in ids]

    def is_special(self, number: int) -> bool:
        return number in self.single.before + self.single.after

    def _number(self, word: str) -> int:
        number = 4 + crc32(word.encode("utf-8", "surrogatepass")) % self.MODULUS
        if len(self._ids) < CharacterTable.MAX_ENTRIES:
            self._ids[word] = number
            self._token_of[number] = word
        return number
