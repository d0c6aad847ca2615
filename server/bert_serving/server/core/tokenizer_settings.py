"""Which tokenizer it is, as a value that crosses to workers, and the making of it."""
from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..orders import Orders
from .tokenization import UNK, AddedToken, InputTemplate, Tokenizer

if TYPE_CHECKING:
    from .tokenizer_json import JsonTokenizer


@dataclass(frozen=True, kw_only=True)
class StaticText(Orders):
    """What a static model reads of a text.

    Attributes:
        max_characters: what comes after so many is not read; None: all is.
        drop_unknown: tokens that are unknown are left out, after the text was cut to its length.
    """

    max_characters: int | None = None
    drop_unknown: bool = False


@dataclass(frozen=True, kw_only=True)
class TokenizerSettings(Orders):
    """
    Attributes:
        file: path of a tokenizer.json or a vocab.txt.
        do_lower_case: of a vocab.txt: lower-case; None: True. Of a tokenizer.json: instead of what it says.
        unk_token: the unknown token; None: [UNK] of a vocab.txt, the file's own of a tokenizer.json.
        lower_first: lower-case texts, but for added tokens in them; accents stay.
        special_tokens_in_text: special tokens that are written in a text are special; None: in a tokenizer.json's yes,
            in a vocab.txt's no.
        token_types: the second of a pair has the token type that the file or the template says; else all have 0.
        prompt: put in front of texts, and of the first of a pair; not of tokens.
        static: how a static model reads texts; None: it is an encoder's.

        strip_accents: of a vocab.txt, like all that follows; None: as do_lower_case.
        tokenize_chinese_chars: Chinese characters are words of their own.
        template: special tokens around a text.
        special_tokens: those that can be special in a text, beside the template's and the unknown one.
        added_tokens: found in texts as words of their own.
    """

    file: str
    do_lower_case: bool | None = None
    unk_token: str | None = None
    lower_first: bool = False
    special_tokens_in_text: bool | None = None
    token_types: bool = True
    prompt: str = ""
    static: StaticText | None = None
    strip_accents: bool | None = None
    tokenize_chinese_chars: bool = True
    template: InputTemplate = InputTemplate()
    special_tokens: tuple[str, ...] = ()
    added_tokens: tuple[AddedToken, ...] = ()

    @property
    def is_json(self) -> bool:
        return self.file.endswith(".json")


def create_tokenizer(settings: TokenizerSettings,
                     vocabulary: dict[str, int] | None = None) -> Tokenizer | JsonTokenizer:
    """
    Args:
        vocabulary: of a vocab.txt that is read already.
    Raises:
        ModelError: the file cannot be used.
        ConfigError: do_lower_case does not go with it.
    """
    # Each where it is needed: workers start often, and most do without.
    if settings.static is not None:
        from .static_tokenizer import StaticTokenizer
        return StaticTokenizer(
            settings.file, settings.static, do_lower_case=settings.do_lower_case,
            special_tokens_in_text=settings.special_tokens_in_text, prompt=settings.prompt)
    if settings.is_json:
        from .tokenizer_json import JsonTokenizer
        return JsonTokenizer(
            settings.file, do_lower_case=settings.do_lower_case, unk_token=settings.unk_token,
            special_tokens_in_text=settings.special_tokens_in_text, token_types=settings.token_types,
            lower_first=settings.lower_first, prompt=settings.prompt)
    return Tokenizer(
        settings.file if vocabulary is None else vocabulary, settings.do_lower_case is not False, settings.template,
        strip_accents=settings.strip_accents, tokenize_chinese_chars=settings.tokenize_chinese_chars,
        unk_token=settings.unk_token or UNK,
        added_tokens=settings.added_tokens, special_tokens=settings.special_tokens,
        special_tokens_in_text=settings.special_tokens_in_text is True, token_types=settings.token_types,
        lower_first=settings.lower_first, prompt=settings.prompt)
