"""What the clients send: random sentences, as in the original's benchmark, or the lines of a file."""
from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

from .load import BenchmarkError

WORDS = tuple("""
    about after again air all also an and animal answer any are as ask at away back be because been before below big
    book both boy but by call came can change city come could country day did different do does down earth eat end
    every eye far father few find first follow food for found from get girl give go good great had hand hard has have
    he head help her here high him his home house how if in is it just keep kind know land large last learn letter
    life light like line little live long look made make man many may me mean men might more most mother move much
    must my name near need never new next night no not now number of off often old on one only or other our out over
    own page paper part people picture place plant play point put read right river run said same saw say school sea
    second see sentence set she should show side small so some soon sound spell start state still stop story study such
    take talk tell than that the their them then there these they thing think this those thought three through time to
    together too tree try turn two under until up us use very walk want was watch water way we well went were what
    when where which while white who why will with word work world would write year you young your""".split())
"""Words for random sentences; each is one token in BERT's English vocabularies."""

LEAST_TEXTS = 64
"""Sentences that a client has at least, so that a small request is not the same sentence over and over."""


def read_lines(path: str) -> list[str]:
    """The lines of a file that are not blank, in an order that is random, and the same every time.

    Raises:
        BenchmarkError: it cannot be read, or has none.
    """
    lines = [line.strip() for line in _read(path).splitlines() if line.strip()]
    if not lines:
        raise BenchmarkError(f"{path} is empty; expected a sentence in every line")
    random.Random(0).shuffle(lines)
    return lines


def read_words(path: str) -> list[str]:
    """The different words of a file.

    Raises:
        BenchmarkError: it cannot be read, or has none.
    """
    words = sorted(set(_read(path).split()))
    if not words:
        raise BenchmarkError(f"{path} is empty; expected words")
    return words


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise BenchmarkError(f"cannot read {path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise BenchmarkError(f"{path} is not UTF-8 text: {error}") from error


def random_sentences(words: Sequence[str], length: int, size: int, seed: int = 0) -> list[str]:
    """So many sentences of so many words."""
    choose = random.Random(seed).choices
    return [" ".join(choose(words, k=length)) for _ in range(size)]


def num_texts(size: int) -> int:
    """How many sentences a client has whose requests have ``size`` of them."""
    return max(size, LEAST_TEXTS)


def shares(texts: Sequence[str], num_client: int, size: int) -> list[list[str]]:
    """Each client's part of ``texts``, different ones as far as they go: the server computes equal ones once a job."""
    count = num_texts(size)
    return [[texts[(client * count + index) % len(texts)] for index in range(count)] for client in range(num_client)]
