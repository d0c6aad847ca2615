"""Tokens by their ids and back, of the served model."""
from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

from bert_serving.client.pairs import SEPARATOR
from bert_serving.client.words import counted

from ..core.tokenization import Tokenizer
from ..core.tokenizer_json import JsonTokenizer
from ..core.tokenizer_settings import TokenizerSettings, create_tokenizer
from .answers import WrongBody

PAIR = SEPARATOR


class Vocabulary:
    """The vocabulary of the model's tokenizer. It is read when somebody first asks, which few do."""

    def __init__(self, settings: TokenizerSettings) -> None:
        self._settings = settings

    def to_tokens(self, ids: Sequence[int], keep_special: bool = False) -> list[str]:
        """The tokens of one sequence, for a request with ``is_tokenized``.

        The special tokens around it are left out, since the server adds them, and those between two texts become the
        mark of a pair: ids as the model's tokenizer gives them mean what their text means.

        Args:
            keep_special: the server adds nothing to what is tokenized.
        Raises:
            WrongBody: an id is not in this vocabulary.
        """
        tokens = [self._token(number) for number in ids]
        single, pair = self._tokenizer.single, self._tokenizer.pair
        given = tuple(ids)
        if keep_special or len(given) <= single.num_special or not _is_around(given, single.before, single.after):
            return tokens
        end = len(given) - len(single.after)
        inner, between = given[len(single.before):end], pair.between
        tokens = tokens[len(single.before):end]
        places = [place for place in range(1, len(inner) - len(between))
                  if between and inner[place:place + len(between)] == between]
        if len(places) == 1 and _is_around(given, pair.before, pair.after):
            return [*tokens[:places[0]], PAIR, *tokens[places[0] + len(between):]]
        return tokens

    def to_ids(self, tokens: Sequence[str]) -> list[int]:
        """The ids of tokens that are in this vocabulary."""
        return [self._ids[token] for token in tokens]

    @cached_property
    def _tokenizer(self) -> Tokenizer | JsonTokenizer:
        return create_tokenizer(self._settings)

    @cached_property
    def _ids(self) -> dict[str, int]:
        return self._tokenizer.vocabulary

    @cached_property
    def _tokens(self) -> dict[int, str]:
        return {number: token for token, number in self._ids.items()}

    def _token(self, number: int) -> str:
        token = self._tokens.get(number, "")
        if not token or token == PAIR:
            raise WrongBody(
                f"{number} is no token id of the served model, which has {counted(len(self._tokens), 'token')}; send "
                "text, or ids of its own vocabulary (LangChain: check_embedding_ctx_length=False)", "ValueError",
                "input")
        return token


def _is_around(ids: tuple[int, ...], before: tuple[int, ...], after: tuple[int, ...]) -> bool:
    return ids[:len(before)] == before and ids[len(ids) - len(after):] == after
