"""From text to word pieces, as Google's BERT of November 2018 cuts them: basic tokenizer first, WordPiece after."""
from __future__ import annotations

import re
import unicodedata
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from zlib import crc32

from tokenizers import Tokenizer as HuggingFaceTokenizer
from tokenizers.models import WordPiece
from tokenizers.pre_tokenizers import WhitespaceSplit

from ..errors import ModelError
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
class InputTemplate:
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


class BaseTokenizer(ABC):
    """Text or given tokens to ids.

    Attributes:
        before, between, after: ids of the template's special tokens.
    """

    def __init__(self, template: InputTemplate, ids: Mapping[str, int]) -> None:
        """
        Args:
            ids: of the template's tokens.
        """
        self.template = template
        self.before, self.between, self.after = ([ids[token] for token in tokens] for tokens in
                                                 (template.before, template.between, template.after))

    @abstractmethod
    def encode(self, texts: Sequence[str], limit: int) -> list[list[int]]:
        """Ids of each text's pieces: all of them, or at least the first ``limit``. No special tokens are added."""

    @abstractmethod
    def lookup(self, tokens: Sequence[str]) -> list[int]:
        """Ids of tokens that the user cut himself: each verbatim, else [UNK]."""

    @abstractmethod
    def tokens(self, ids: Sequence[int]) -> list[str]:
        """The tokens that have these ids."""


# ---- BERT's own ------------------------------------------------------------------------------------------------------

def load_vocabulary(path: str | Path, template: InputTemplate = InputTemplate()) -> dict[str, int]:
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
    # Lines end at "\n" alone: a vocabulary may hold tokens such as U+2028, where str.splitlines would cut.
    vocabulary = {line.strip(): number for number, line in enumerate(text.removesuffix("\n").split("\n"))}
    missing = [token for token in (*template.tokens, UNK) if token not in vocabulary]
    if missing:
        raise ModelError(f"the vocabulary {path} lacks {', '.join(missing)}; is it another model's?")
    return vocabulary


class Tokenizer(BaseTokenizer):
    """BERT's tokenizer; special tokens written in a text, as "[MASK]", mean nothing here.

    Google's basic tokenizer treats each character by itself (but for the final sigma), so it is a translation table,
    :class:`CharacterTable`, in front of the word pieces of Hugging Face's library. That library's own normalizer is not
    used: its Unicode tables are older than Python's, and it does not take lone surrogates.
    """

    def __init__(self, vocabulary_path: str | Path, do_lower_case: bool = True,
                 template: InputTemplate = InputTemplate()) -> None:
        """
        Raises:
            ModelError: the vocabulary cannot be used.
        """
        self.do_lower_case = do_lower_case
        self.vocabulary = load_vocabulary(vocabulary_path, template)
        super().__init__(template, self.vocabulary)
        self.unk_id = self.vocabulary[UNK]
        self._token_of = {number: token for token, number in self.vocabulary.items()}
        self._characters = CharacterTable(do_lower_case)
        # The first [UNK] is meant for unknown pieces; no token is registered as special, so none is seen in texts.
        self._pieces = HuggingFaceTokenizer(WordPiece(self.vocabulary, unk_token=UNK,
                                                      max_input_chars_per_word=MAX_CHARACTERS_PER_WORD))
        self._pieces.pre_tokenizer = WhitespaceSplit()
        self._known: dict[str, list[int]] = {}         # Word -> ids of its pieces; the same words come again and again.

    def encode(self, texts: Sequence[str], limit: int) -> list[list[int]]:
        size = 16 * limit + 1000                       # Characters that nearly always hold that many pieces.
        heads = [text if len(text) <= size else text[:_boundary(text, size)] for text in texts]
        result = self._encode(heads)
        for i, (text, head) in enumerate(zip(texts, heads)):
            while len(result[i]) < limit and len(head) < len(text):
                head = text[:_boundary(text, 8 * len(head))]
                result[i], = self._encode([head])
        return result

    def _encode(self, texts: Sequence[str]) -> list[list[int]]:
        split = [self.normalize(text).split() for text in texts]
        known = self._known
        new = list(set(chain.from_iterable(split)).difference(known))
        if new:
            if len(known) > MAX_WORDS:
                known.clear()
                return self._encode(texts)
            for word, encoding in zip(new, self._pieces.encode_batch_fast(new, add_special_tokens=False)):
                known[word] = encoding.ids
        result = [list(chain.from_iterable(map(known.__getitem__, words))) for words in split]
        for word in new:
            if len(word) > MAX_CHARACTERS_PER_WORD:    # Somebody's binary data: large, and hardly ever seen again.
                del known[word]
        return result

    def normalize(self, text: str) -> str:
        """The text, cleaned, its words separated by spaces, lower-cased and without accents if so asked."""
        if self.do_lower_case:
            text = text.lower()                        # As a whole: the final sigma depends on its neighbours.
        return text.translate(self._characters) if ODD.search(text) else PUNCTUATION.sub(r" \g<0> ", text)

    def lookup(self, tokens: Sequence[str]) -> list[int]:
        get, unknown = self.vocabulary.get, self.unk_id
        return [get(token, unknown) for token in tokens]

    def tokens(self, ids: Sequence[int]) -> list[str]:
        token_of = self._token_of
        return [token_of[number] for number in ids]


ODD = re.compile(r"[^\t\n\r -~]")
"""What takes more than PUNCTUATION: anything but printable ASCII."""

PUNCTUATION = re.compile(r"[!-/:-@\[-`{-~]")
"""In ASCII, marks such as "$" and "|" count, which Unicode calls symbols."""

BREAK = re.compile(r"[\s\u4e00-\u9fff,;!?()\[\]{}/\\|<>@#$%&*+=~\"-]")
"""Characters before which a text can be cut without changing the pieces on the left.

Not all punctuation: the final sigma looks through some marks at what follows.
"""


def _boundary(text: str, size: int) -> int:
    """Where to cut the text so that ``size`` characters or somewhat more remain."""
    found = BREAK.search(text, size)
    return found.start() if found else len(text)


class CharacterTable(dict[int, "str | None"]):
    """For str.translate: what Google's basic tokenizer makes of a character. Filled as characters are met."""

    MAX_ENTRIES = 1 << 16
    """Entries kept; a text with every character there is must not cost memory for ever."""

    def __init__(self, strip_accents: bool) -> None:
        super().__init__()
        self.strip_accents = strip_accents

    def __missing__(self, code: int) -> str | None:
        value = self.replacement(chr(code))
        if len(self) < self.MAX_ENTRIES:
            self[code] = value
        return value

    def replacement(self, character: str) -> str | None:
        """The text to put in the character's place; None: nothing."""
        if not ODD.match(character):
            return PUNCTUATION.sub(r" \g<0> ", character)
        if character == "\N{REPLACEMENT CHARACTER}" or unicodedata.category(character)[0] == "C":
            return None                                # Control, format, unassigned, and lone surrogates too.
        if character.isspace():
            return " "
        alone = any(first <= ord(character) <= last for first, last in CJK)
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
        super().__init__(InputTemplate(), self._ids)
        self._token_of = {number: token for token, number in self._ids.items()}

    def encode(self, texts: Sequence[str], limit: int) -> list[list[int]]:
        return [self.lookup(text.split(None, limit)[:limit]) for text in texts]

    def lookup(self, tokens: Sequence[str]) -> list[int]:
        return [self._ids.get(token) or self._number(token) for token in tokens]

    def tokens(self, ids: Sequence[int]) -> list[str]:
        return [self._token_of.get(number, f"#{number}") for number in ids]

    def _number(self, word: str) -> int:
        number = 4 + crc32(word.encode("utf-8", "surrogatepass")) % self.MODULUS
        if len(self._ids) < CharacterTable.MAX_ENTRIES:
            self._ids[word] = number
            self._token_of[number] = word
        return number
