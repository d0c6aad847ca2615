"""The tokenizer as a value: there and back, and what is made of it."""
import json
from pathlib import Path

import pytest

from bert_serving.server.core.tokenization import AddedToken, InputTemplate, Tokenizer
from bert_serving.server.core.tokenizer_json import JsonTokenizer
from bert_serving.server.core.tokenizer_settings import TokenizerSettings, create_tokenizer
from bert_serving.server.errors import ModelError

FILE = str(Path(__file__).parents[2] / "data" / "golden" / "architectures" / "bert-rerank" / "tokenizer.json")


@pytest.fixture
def vocabulary(tmp_path):
    path = tmp_path / "vocab.txt"
    path.write_text("\n".join(["<unk>", "<s>", "</s>", "<pad>", "the", "The", "é", "e", "東京"]) + "\n", encoding="utf-8")
    return str(path)


def everything(path):
    return TokenizerSettings(
        file=path, do_lower_case=False, unk_token="<unk>", lower_first=True, special_tokens_in_text=True,
        token_types=False, prompt="the ", strip_accents=True, tokenize_chinese_chars=False,
        template=InputTemplate(("<s>",), ("</s>",), ("</s>",)), special_tokens=("<pad>",),
        added_tokens=(AddedToken(content="X", number=9, normalized=True),))


def test_it_crosses_to_another_process(vocabulary):
    for settings in (everything(vocabulary), TokenizerSettings(file=FILE)):
        assert TokenizerSettings.from_json(json.loads(json.dumps(settings.to_json()))) == settings


def test_every_setting_of_a_vocabulary_counts(vocabulary):
    tokenizer = create_tokenizer(everything(vocabulary))
    assert isinstance(tokenizer, Tokenizer)
    assert tokenizer.tokens(tokenizer.encode(["The É東京 東京 <pad> nothing x"], 99)[0]) == [
        "the", "<unk>", "東京", "<pad>", "<unk>", "X"]
    assert not tokenizer.pair.has_types and tokenizer.prompt_length == 2
    assert tokenizer.tokens([*tokenizer.single.before, *tokenizer.single.after]) == ["<s>", "</s>"]


def test_every_setting_of_a_json_file_counts():
    tokenizer = create_tokenizer(TokenizerSettings(
        file=FILE, do_lower_case=False, unk_token="[PAD]", lower_first=True, special_tokens_in_text=False,
        token_types=False, prompt="the "))
    plain = create_tokenizer(TokenizerSettings(file=FILE))
    assert isinstance(tokenizer, JsonTokenizer) and plain.pair.has_types and not tokenizer.pair.has_types
    assert tokenizer.encode(["THE"], 9) == plain.encode(["the"], 9)
    assert tokenizer.encode(["é"], 9) != plain.encode(["é"], 9) == plain.encode(["e"], 9)
    assert tokenizer.lookup(["[MASK]", "nosuchtoken"]) == [4, 0]
    assert 4 in plain.encode(["[MASK]"], 9)[0] and 4 not in tokenizer.encode(["[MASK]"], 9)[0]
    assert tokenizer.prompt_length > 1


def test_a_file_that_is_not_there(tmp_path):
    for name in ("tokenizer.json", "vocab.txt"):
        with pytest.raises(ModelError, match=name):
            create_tokenizer(TokenizerSettings(file=str(tmp_path / name)))
