"""The sentences of the docstrings in Python's standard library: English that every machine has.

They are as long and as uneven as other text; their words are rarer, so there are more pieces to a word.
"""
from __future__ import annotations

import random
import re
import sysconfig
from pathlib import Path

LEFT_OUT = {"idlelib", "lib2to3", "site-packages", "test"}
"""Packages that not every installation has, or that are no text."""

DOCSTRING = re.compile(r'^ *"""(.*?)"""', re.MULTILINE | re.DOTALL)
"""As far as it can be told without parsing, which would take ten times as long."""

BETWEEN = re.compile(r"(?<=[.!?]) (?=[A-Z])")

PROSE = re.compile(r"[A-Z][^<>{}=|\\]*[.!?]")
"""A sentence, as opposed to code, tables and signatures."""


def docstring_sentences(library: Path | None = None) -> list[str]:
    """Each sentence once, in an order that is random, and the same every time.

    Args:
        library: folder with Python's standard library; default: this Python's.
    """
    library = library or Path(sysconfig.get_path("stdlib"))
    sentences = list(dict.fromkeys(sentence for path in _modules(library)
                                   for text in DOCSTRING.findall(path.read_text("utf-8", "ignore"))
                                   for sentence in split(text)))
    random.Random(0).shuffle(sentences)
    return sentences


def _modules(library: Path) -> list[Path]:
    return sorted(path for pattern in ("*.py", "*/*.py") for path in library.glob(pattern)
                  if path.relative_to(library).parts[0] not in LEFT_OUT)


def split(text: str) -> list[str]:
    """The sentences of a text, of three words or more; what looks like code, tables or signatures is left out."""
    paragraphs = (" ".join(paragraph.split()) for paragraph in re.split(r"\n\s*\n", text))
    sentences = (sentence for paragraph in paragraphs for sentence in BETWEEN.split(paragraph))
    return [sentence for sentence in sentences if PROSE.fullmatch(sentence) and sentence.count(" ") >= 2]
