"""Token ids of any tokenizer: a small vocab.txt, and the tokenizer.json of models."""
import json
from pathlib import Path

import pytest
from bert_serving.client.pairs import Pair
from bert_serving.server.core.features import build_features
from bert_serving.server.core.tokenization import AddedToken
from bert_serving.server.core.tokenizer_settings import TokenizerSettings, create_tokenizer
from bert_serving.server.proxy.answers import WrongBody
from bert_serving.server.proxy.vocabulary import Vocabulary

ARCHITECTURES = Path(__file__).parents[2] / "data" / "golden" / "architectures"
MODELS = sorted(path.parent.name for path in ARCHITECTURES.glob("*/tokenizer.json"))
TEXTS = json.loads((ARCHITECTURES / "texts.json").read_text(encoding="utf-8"))["texts"]


def settings_of(name, **more):
    return TokenizerSettings(file=str(ARCHITECTURES / name / "tokenizer.json"), **more)


def ids_of(settings, *texts, **more):
    """Ids of each text, special tokens included, as a worker reads it."""
    tokenizer = create_tokenizer(settings)
    return [one.input_ids.tolist() for one in build_features(texts, tokenizer, max_length=512, **more)]


# ---- a vocab.txt -----------------------------------------------------------------------------------------------------

LINES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "un", "##want", "twice", "", "twice", "|||"]
PAD, UNK, CLS, SEP, UN, WANT = range(6)


@pytest.fixture
def settings(tmp_path):
    (tmp_path / "vocab.txt").write_text("\n".join(LINES) + "\n", encoding="utf-8")
    return TokenizerSettings(file=str(tmp_path / "vocab.txt"),
                             added_tokens=(AddedToken(content="[ENT]", number=12),))


@pytest.fixture
def vocabulary(settings):
    return Vocabulary(settings)


@pytest.mark.parametrize("ids, tokens", [
    ([UN, WANT], ["un", "##want"]),
    ([CLS, UN, WANT, SEP], ["un", "##want"]),
    ([CLS, UN, SEP, WANT, SEP], ["un", "|||", "##want"]),
    ([CLS, UN, SEP, WANT, SEP, UN, SEP], ["un", "[SEP]", "##want", "[SEP]", "un"]),
    ([CLS, SEP, UN, SEP], ["[SEP]", "un"]),
    ([CLS, UN, SEP, SEP], ["un", "[SEP]"]),
    ([UN, SEP], ["un", "[SEP]"]),
    ([CLS, UN], ["[CLS]", "un"]),
    ([CLS, SEP], ["[CLS]", "[SEP]"]),
    ([8, UNK, PAD], ["twice", "[UNK]", "[PAD]"]),
    ([CLS, 12, SEP], ["[ENT]"]),
])
def test_ids_become_the_tokens_of_the_same_sequence(vocabulary, ids, tokens):
    assert vocabulary.to_tokens(ids) == tokens


def test_nothing_is_left_out_if_nothing_is_added(vocabulary):
    assert vocabulary.to_tokens([CLS, UN, SEP], keep_special=True) == ["[CLS]", "un", "[SEP]"]


@pytest.mark.parametrize("number", [-1, 10, 11, 13, 10**30, 7, 6, 9])
def test_ids_that_are_none(vocabulary, number):
    with pytest.raises(WrongBody, match=rf"^{number} is no token id of the served model, which has 10 tokens; "):
        vocabulary.to_tokens([UN, number])


def test_back(vocabulary):
    assert vocabulary.to_ids(["[CLS]", "un", "twice", "[ENT]"]) == [CLS, UN, 8, 12]


def test_it_is_read_when_somebody_asks(tmp_path):
    vocabulary = Vocabulary(TokenizerSettings(file=str(tmp_path / "vocab.txt")))
    (tmp_path / "vocab.txt").write_text("[UNK]\n[CLS]\n[SEP]\nun\n", encoding="utf-8")
    assert vocabulary.to_ids(["un"]) == [3]


# ---- a tokenizer.json ------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("name, before, between, after", [
    ("bert-rerank", ["[CLS]"], ["[SEP]"], ["[SEP]"]), ("roberta", ["<s>"], ["</s>", "</s>"], ["</s>"]),
    ("qwen3", [], ["<|endoftext|>"], ["<|endoftext|>"]), ("gemma3_text", ["<bos>"], ["<eos>", "<bos>"], ["<eos>"])])
def test_what_is_around_a_text_and_between_the_two_of_a_pair(name, before, between, after):
    vocabulary = Vocabulary(settings_of(name))
    a, b = list("ab")
    single, pair = ([*before, *middle, *after] for middle in ([a, b], [a, *between, b, b]))
    assert vocabulary.to_tokens(vocabulary.to_ids(single)) == [a, b]
    assert vocabulary.to_tokens(vocabulary.to_ids(pair)) == [a, "|||", b, b]
    assert vocabulary.to_tokens(vocabulary.to_ids(pair), keep_special=True) == pair
    # Two places where the second could begin, or no second at all: it is one text.
    for inside in ([a, *between, b, *between, a], [a, *between], [*between, a]):
        assert vocabulary.to_tokens(vocabulary.to_ids([*before, *inside, *after])) == inside


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("special", [None, False])
def test_ids_of_a_text_come_back_from_its_tokens(name, special):
    """As ids come to the server: as tokens, which a worker looks up."""
    settings = settings_of(name, special_tokens_in_text=special)
    vocabulary = Vocabulary(settings)
    # [SEP] written in a text is what is between the two of a pair.
    texts = [text for text in TEXTS if text.strip() and "[SEP]" not in text]
    for ids in ids_of(settings, *texts):
        assert ids_of(settings, vocabulary.to_tokens(ids)) == [ids]
        assert vocabulary.to_ids(vocabulary.to_tokens(ids, keep_special=True)) == ids


@pytest.mark.parametrize("name", MODELS)
def test_ids_of_a_pair_come_back_from_its_tokens(name):
    settings = settings_of(name)
    ids, = ids_of(settings, Pair("a quiet river", "the train"))
    tokens = Vocabulary(settings).to_tokens(ids)
    middle = tokens.index("|||")
    assert ids_of(settings, Pair(tokens[:middle], tokens[middle + 1:])) == [ids]


@pytest.mark.parametrize("name", MODELS)
def test_every_id_is_the_one_of_its_token(name):
    settings = settings_of(name)
    vocabulary, tokenizer = Vocabulary(settings), create_tokenizer(settings)
    ids = sorted(tokenizer.vocabulary.values())
    tokens = [vocabulary.to_tokens([number], keep_special=True)[0] for number in ids]
    assert tokenizer.lookup(tokens) == vocabulary.to_ids(tokens) == ids


def test_added_tokens_have_ids(tmp_path):
    values = json.loads((ARCHITECTURES / "roberta" / "tokenizer.json").read_text(encoding="utf-8"))
    number = 1 + max(values["model"]["vocab"].values())
    values["added_tokens"].append({"id": number, "content": "new York", "special": False, "normalized": True,
                                   "lstrip": False, "rstrip": False, "single_word": False})
    (tmp_path / "tokenizer.json").write_text(json.dumps(values), encoding="utf-8")
    settings = TokenizerSettings(file=str(tmp_path / "tokenizer.json"))
    ids, = ids_of(settings, "in new York")
    assert number in ids and ids_of(settings, Vocabulary(settings).to_tokens(ids)) == [ids]
