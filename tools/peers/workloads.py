"""What all peers compute: sequences of real lengths, the same ones for each."""
from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from bert_serving.client.words import counted
from bert_serving.server.benchmark.load import BenchmarkError
from bert_serving.server.core.features import build_features
from bert_serving.server.core.tokenization import BaseTokenizer


@dataclass(frozen=True, kw_only=True)
class WorkloadKind:
    """A kind of workload.

    Attributes:
        name: as --workloads takes it.
        about: what the texts are, for people.
        longest: no sequence has more tokens; longer ones are cut off.
        shortest: none has fewer.
        most_words: words of a text at most; None: any number.
        joined: a text is as many sentences as fill it.
        max_seq_len: what a server that pads is set to.
        tokens: how many, of all sequences together, for a model of MiniLM's size.
        repeat: how often one measurement goes through them; the median counts.
    """

    name: str
    about: str
    longest: int
    shortest: int = 1
    most_words: int | None = None
    joined: bool = False
    max_seq_len: int
    tokens: int = 4096
    repeat: int = 1


KINDS = {kind.name: kind for kind in (
    WorkloadKind(name="short", about="sentences of at most ten words", longest=25, most_words=10, max_seq_len=25),
    WorkloadKind(name="mixed", about="sentences, cut off at 40 tokens", longest=40, max_seq_len=40),
    WorkloadKind(name="40", about="texts of 40 tokens", longest=40, shortest=40, joined=True, max_seq_len=40),
    WorkloadKind(name="160", about="texts of 160 tokens", longest=160, shortest=160, joined=True, max_seq_len=160),
    WorkloadKind(name="320", about="texts of 320 tokens", longest=320, shortest=320, joined=True, max_seq_len=320),
    WorkloadKind(name="one", about="one sentence of 12 tokens alone", longest=12, shortest=12, most_words=11,
                 max_seq_len=25, tokens=12, repeat=25),
)}


@dataclass(frozen=True)
class Workload:
    """
    Attributes:
        texts: what is encoded.
        sequences: the texts as token numbers, [CLS] and [SEP] included.
    """

    kind: WorkloadKind
    texts: list[str]
    sequences: list[list[int]]

    @property
    def tokens(self) -> int:
        return sum(map(len, self.sequences))

    def __str__(self) -> str:
        count = len(self.sequences)
        return f"{self.kind.about}: {count}, {counted(self.tokens, 'token')}, {self.tokens / count:.1f} on average"


def choose(kind: WorkloadKind, texts: Sequence[str], tokenizer: BaseTokenizer, *, scale: float = 1.0,
           count: int | None = None) -> Workload:
    """The first texts of that kind.

    Args:
        texts: sentences, in a random order.
        scale: tokens as a multiple of the kind's, less for a larger model.
        count: so many texts instead.
    Raises:
        BenchmarkError: there are too few.
    """
    wanted = max(kind.longest, int(kind.tokens * scale))
    result = Workload(kind, [], [])
    tokens = 0
    for text in _candidates(kind, texts):
        features, = build_features([text], tokenizer, max_length=kind.longest)
        if len(features) >= kind.shortest:
            result.texts.append(text)
            result.sequences.append(features.input_ids.tolist())
            tokens += len(features)
            if tokens >= wanted if count is None else len(result.texts) == count:
                return result
    raise BenchmarkError(f"too few sentences for workload {kind.name} ({kind.about}): {len(result.texts)} with "
                         f"{counted(tokens, 'token')}, expected {count or counted(wanted, 'token')}; give a longer "
                         "file")


def _candidates(kind: WorkloadKind, texts: Sequence[str]) -> Iterator[str]:
    if not kind.joined:
        yield from (text for text in texts if kind.most_words is None or len(text.split()) <= kind.most_words)
        return
    several: list[str] = []
    words = 0
    for text in texts:
        several.append(text)
        words += len(text.split())
        if words >= kind.longest:                      # A word is a token at least.
            yield " ".join(several)
            several, words = [], 0
