"""How a static model reads texts."""
from pathlib import Path

import pytest

from bert_serving.server.core.features import build_features
from bert_serving.server.core.static_tokenizer import StaticTokenizer
from bert_serving.server.core.tokenizer_settings import StaticText
from bert_serving.server.core.tokenizer_json import JsonTokenizer

FILE = str(Path(__file__).parents[2] / "data" / "golden" / "static" / "sentence-transformers" / "tokenizer.json")
UNKNOWN = "\u16a0\u16b1"


@pytest.fixture(scope="module")
def usual():
    return JsonTokenizer(FILE)


def read(texts, limit=100, **text):
    tokenizer = StaticTokenizer(FILE, StaticText(**text))
    return [features.input_ids.tolist() for features in build_features(texts, tokenizer, max_length=limit)]


def test_no_special_tokens_are_added(usual):
    text = "the quick brown fox"
    assert read([text]) == usual.encode([text], 100) and usual.single.before
    assert read([["the", "fox"]]) == [usual.lookup(["the", "fox"])]


def test_a_blank_text_has_no_token():
    assert read(["", " \n"]) == [[], []]


def test_unknown_tokens_are_left_out_after_the_text_is_cut(usual):
    kept, unknown = usual.encode(["the"], 9)[0], usual.unk_id
    assert read([f"{UNKNOWN} the"]) == [[unknown, *kept]]
    assert read([f"{UNKNOWN} the"], drop_unknown=True) == [kept]
    assert read([f"{UNKNOWN} the the"], limit=1 + len(kept), drop_unknown=True) == [kept]
    assert read([[UNKNOWN, "the"]], drop_unknown=True) == [usual.lookup(["the"])]


def test_what_comes_after_so_many_characters_is_not_read(usual):
    assert read(["the the"], max_characters=4) == usual.encode(["the"], 9)
