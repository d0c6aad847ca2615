"""Token ids of a small vocabulary."""
import pytest
from bert_serving.server.proxy.answers import WrongBody
from bert_serving.server.proxy.vocabulary import Vocabulary

LINES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "un", "##want", "twice", "", "twice", "|||"]
PAD, UNK, CLS, SEP, UN, WANT = range(6)


@pytest.fixture
def vocabulary(tmp_path):
    (tmp_path / "vocab.txt").write_text("\n".join(LINES) + "\n", encoding="utf-8")
    return Vocabulary(tmp_path / "vocab.txt")


@pytest.mark.parametrize("ids, tokens", [
    ([UN, WANT], ["un", "##want"]),
    ([CLS, UN, WANT, SEP], ["un", "##want"]),
    ([CLS, UN, SEP, WANT, SEP], ["un", "|||", "##want"]),
    ([CLS, UN, SEP, WANT, SEP, UN, SEP], ["un", "[SEP]", "##want", "[SEP]", "un"]),
    ([UN, SEP], ["un", "[SEP]"]),
    ([CLS, UN], ["[CLS]", "un"]),
    ([CLS, SEP], ["[CLS]", "[SEP]"]),
    ([8, UNK, PAD], ["twice", "[UNK]", "[PAD]"]),
])
def test_ids_become_the_tokens_of_the_same_sequence(vocabulary, ids, tokens):
    assert vocabulary.to_tokens(ids) == tokens


def test_nothing_is_left_out_if_nothing_is_added(vocabulary):
    assert vocabulary.to_tokens([CLS, UN, SEP], keep_special=True) == ["[CLS]", "un", "[SEP]"]


@pytest.mark.parametrize("number", [-1, 10, 10**30, 7, 6, 9])
def test_ids_that_are_none(vocabulary, number):
    with pytest.raises(WrongBody, match=rf"^{number} is no token id of the served model, which has 10; "):
        vocabulary.to_tokens([UN, number])


def test_back(vocabulary):
    assert vocabulary.to_ids(["[CLS]", "un", "twice"]) == [CLS, UN, 8]
