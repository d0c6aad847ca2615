import pytest
from bert_serving.server.benchmark.load import BenchmarkError
from tools.peers.workloads import KINDS, choose
from bert_serving.server.core.tokenization import WordHashTokenizer

TEXTS = [" ".join([f"word{i}"] * (1 + i * 7 % 23)) for i in range(500)]      # 1 to 23 words, two special tokens more
TOKENIZER = WordHashTokenizer()


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_every_kind_keeps_its_word(kind):
    workload = choose(kind, TEXTS, TOKENIZER, scale=0.2)
    lengths = list(map(len, workload.sequences))
    assert kind.shortest <= min(lengths) and max(lengths) <= kind.longest <= kind.max_seq_len or kind.name == "one"
    assert workload.tokens == sum(lengths) >= min(kind.tokens, kind.tokens * 0.2)
    assert len(workload.texts) == len(lengths)
    assert len(set(workload.texts)) == len(lengths)


def test_short_ones_are_whole():
    workload = choose(KINDS["short"], TEXTS, TOKENIZER, scale=0.3)
    assert {len(text.split()) + 2 for text in workload.texts} == set(map(len, workload.sequences)) == set(range(3, 13))


def test_long_ones_are_several_sentences():
    workload = choose(KINDS["160"], TEXTS, TOKENIZER, scale=0.3)
    assert {len(ids) for ids in workload.sequences} == {160}
    assert workload.texts[0].startswith(f"{TEXTS[0]} {TEXTS[1]} ")


def test_one_is_one():
    workload = choose(KINDS["one"], TEXTS, TOKENIZER)
    assert [len(ids) for ids in workload.sequences] == [12]
    assert str(workload) == "one sentence of 12 tokens alone: 1, 12 tokens, 12.0 on average"


def test_so_many():
    assert len(choose(KINDS["mixed"], TEXTS, TOKENIZER, count=7).texts) == 7


@pytest.mark.parametrize("options, expected", [({}, "4096 tokens"), ({"count": 9}, "9")])
def test_too_few(options, expected):
    with pytest.raises(BenchmarkError, match=f"workload short .*: 1 with 3 tokens, expected {expected}; give a longer"):
        choose(KINDS["short"], TEXTS[:1], TOKENIZER, **options)
