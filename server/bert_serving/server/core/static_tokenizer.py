"""A static model's tokenizer: a ``tokenizer.json`` without special tokens around texts."""
from __future__ import annotations

from collections.abc import Sequence

from .tokenization import Layout
from .tokenizer_json import JsonTokenizer
from .tokenizer_settings import StaticText


class StaticTokenizer(JsonTokenizer):
    """Adds no special tokens, so that a blank text has no token at all."""

    takes_blank = True

    def __init__(self, path: str, static: StaticText, *, do_lower_case: bool | None = None,
                 special_tokens_in_text: bool | None = None, prompt: str = "") -> None:
        """
        Raises:
            ModelError: the file cannot be used.
            ConfigError: do_lower_case does not go with it.
        """
        super().__init__(path, do_lower_case=do_lower_case, special_tokens_in_text=special_tokens_in_text,
                         prompt=prompt)
        self._static = static

    def _layouts(self) -> tuple[Layout, Layout]:
        return Layout(), Layout()

    def encode(self, texts: Sequence[str], limit: int) -> list[list[int]]:
        if self._static.max_characters is not None:
            texts = [text[:self._static.max_characters] for text in texts]
        result = super().encode(texts, limit)
        return [self._known(ids[:limit]) for ids in result] if self._static.drop_unknown else result

    def lookup(self, tokens: Sequence[str]) -> list[int]:
        ids = super().lookup(tokens)
        return self._known(ids) if self._static.drop_unknown else ids

    def _known(self, ids: list[int]) -> list[int]:
        unknown = self.unk_id
        return [number for number in ids if number != unknown] if unknown in ids else ids
