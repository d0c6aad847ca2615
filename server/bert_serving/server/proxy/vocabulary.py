"""Word pieces by their ids and back, of the served model."""
from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bert_serving.client.pairs import SEPARATOR

from .answers import WrongBody

CLS, SEP, PAIR = "[CLS]", "[SEP]", SEPARATOR


class Vocabulary:
    """A ``vocab.txt``: the id of a token is its line's number, from 0; of a repeated token, the last line's."""

    def __init__(self, path: str | Path) -> None:
        """Raises OSError or ValueError if the file cannot be read."""
        with open(path, encoding="utf-8", newline="\n") as file:
            self.tokens = [line.strip() for line in file]
        self.ids = {token: number for number, token in enumerate(self.tokens)}

    def to_tokens(self, ids: Sequence[int], keep_special: bool = False) -> list[str]:
        """The tokens of one sequence, for a request with ``is_tokenized``.

        [CLS] at its beginning and [SEP] at its end are left out, since the server adds them, and a [SEP] between two
        sentences becomes the mark of a pair: ids as a BERT tokenizer gives them mean what their text means.

        Args:
            keep_special: the server adds nothing to what is tokenized.
        Raises:
            WrongBody: an id is not in this vocabulary.
        """
        tokens = [self._token(number) for number in ids]
        if not keep_special and len(tokens) > 2 and tokens[0] == CLS and tokens[-1] == SEP:
            tokens = [PAIR if token == SEP else token for token in tokens[1:-1]] \
                if tokens.count(SEP) == 2 else tokens[1:-1]
        return tokens

    def to_ids(self, tokens: Sequence[str]) -> list[int]:
        """The ids of tokens that are in this vocabulary."""
        return [self.ids[token] for token in tokens]

    def _token(self, number: int) -> str:
        token = self.tokens[number] if 0 <= number < len(self.tokens) else ""
        if not token or self.ids[token] != number or token == PAIR:
            raise WrongBody(
                f"{number} is no token id of the served model, which has {len(self.tokens)}; send text, or ids of its "
                "own vocabulary (LangChain: check_embedding_ctx_length=False)", "ValueError", "input")
        return token
