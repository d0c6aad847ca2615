"""What the tokenizer's files say together: honoured, or refused in one line."""
import json
import shutil
import time
from pathlib import Path

import pytest

from bert_serving.client.pairs import Pair
from bert_serving.server.core.features import build_features
from bert_serving.server.core.tokenizer_settings import TokenizerSettings, create_tokenizer
from bert_serving.server.engine.architectures import architecture
from bert_serving.server.engine.tokenizer_files import check_ids, is_cased, model_tokenizer
from bert_serving.server.errors import ConfigError, ModelError

ARCHITECTURES = Path(__file__).parents[2] / "data" / "golden" / "architectures"
MODELS = sorted(path.parent.name for path in ARCHITECTURES.glob("*/tokenizer.json"))
BERT = {"do_lower_case": True, "model_max_length": 64, "tokenizer_class": "BertTokenizer"}
FIVE = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


@pytest.fixture
def vocabulary(tmp_path):
    """Makes a directory with a vocab.txt of these words and files of these values."""
    def make(words, tokenizer_config=BERT, **files):
        (tmp_path / "vocab.txt").write_text("\n".join([*FIVE, *words]) + "\n", encoding="utf-8")
        for name, value in {"tokenizer_config": tokenizer_config, **files}.items():
            if value is not None:
                (tmp_path / f"{name}.json").write_text(json.dumps(value), encoding="utf-8")
        return tmp_path
    return make


@pytest.fixture
def model(tmp_path):
    """Makes a directory with a model's tokenizer.json, and other keys of tokenizer_config.json."""
    def make(name, more=None, **files):
        shutil.copy(ARCHITECTURES / name / "tokenizer.json", tmp_path)
        config = json.loads((ARCHITECTURES / name / "tokenizer_config.json").read_text(encoding="utf-8"))
        for each, value in {"tokenizer_config": {**config, **(more or {})}, **files}.items():
            (tmp_path / f"{each}.json").write_text(json.dumps(value), encoding="utf-8")
        return tmp_path
    return make


def tokens(directory, text, **options):
    found = model_tokenizer(directory, **options)
    made = create_tokenizer(TokenizerSettings.from_json(json.loads(json.dumps(found.settings.to_json()))))
    sequences = [build_features([text], tokenizer, max_length=64)[0].tokens for tokenizer in (found.tokenizer, made)]
    assert sequences[0] == sequences[1]
    return " ".join(sequences[0])


# ---- vocab.txt -------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("words, config, text, expected", [
    (["grüße", "gruße"], {"strip_accents": False}, "Grüße", "[CLS] grüße [SEP]"),
    (["grüße", "gruße"], {"strip_accents": None}, "Grüße", "[CLS] gruße [SEP]"),
    (["Grüße", "Gruße"], {"do_lower_case": False, "strip_accents": True}, "Grüße", "[CLS] Gruße [SEP]"),
    (["東京", "東", "京"], {"tokenize_chinese_chars": False}, "東京", "[CLS] 東京 [SEP]"),
    (["東京", "東", "京"], {}, "東京", "[CLS] 東 京 [SEP]"),
    (["hello", "<s>", "</s>"], {"cls_token": "<s>", "sep_token": {"content": "</s>"}}, "hello", "<s> hello </s>"),
    (["hello", "?"], {"unk_token": "?"}, "other", "[CLS] ? [SEP]"),
    (["hello"], {"split_special_tokens": False}, "hello [MASK]", "[CLS] hello [UNK] [UNK] [UNK] [SEP]"),
    (["hello"], {"added_tokens_decoder": {"4": {"content": "[MASK]", "special": True},
                                          "6": {"content": "[ENT]", "special": True},
                                          "7": {"content": "Covid19", "normalized": True}}},
     "hello [ENT]covid19 [MASK]", "[CLS] hello [ENT] Covid19 [UNK] [UNK] [UNK] [SEP]"),
])
def test_what_a_vocabularys_files_say_is_honoured(vocabulary, words, config, text, expected):
    assert tokens(vocabulary(words, {**BERT, **config}), text) == expected


@pytest.mark.parametrize("kind, expected, types", [
    ("BertTokenizer", "[CLS] a [SEP] b [SEP]", [0, 0, 0, 1, 1]),
    ("DistilBertTokenizerFast", "[CLS] a [SEP] b [SEP]", [0, 0, 0, 0, 0]),
    ("MPNetTokenizer", "<s> a </s> </s> b </s>", [0, 0, 0, 0, 0, 0]),
    (None, "<s> a </s> </s> b </s>", [0, 0, 0, 0, 0, 0])])
def test_a_class_that_is_named_says_what_goes_around_texts(vocabulary, kind, expected, types):
    """As transformers' AutoTokenizer does it, whose class is not the model's."""
    directory = vocabulary(["a", "b", "<s>", "</s>"], {"tokenizer_class": kind} if kind else {})
    found = model_tokenizer(directory, template=architecture("roberta").template)
    pair, = build_features([Pair("a", "b")], found.tokenizer, max_length=9)
    assert " ".join(pair.tokens) == expected and pair.token_type_ids.tolist() == types


def test_added_tokens_of_older_versions(vocabulary):
    directory = vocabulary(["hello"], added_tokens={"covid19": 6})
    assert tokens(directory, "hello Covid19") == "[CLS] hello covid19 [SEP]"
    assert model_tokenizer(directory).sources["added_tokens"] == "added_tokens.json"


def test_special_tokens_of_older_versions(vocabulary):
    assert tokens(vocabulary(["hello", "<s>"], special_tokens_map={"cls_token": "<s>"}), "hello") == "<s> hello [SEP]"


def test_special_tokens_are_text_unless_asked_for(vocabulary):
    directory = vocabulary(["hello"])
    assert tokens(directory, "hello [MASK]", special_tokens_in_text=True) == "[CLS] hello [MASK] [SEP]"
    assert model_tokenizer(directory, special_tokens_in_text=True).sources["special_tokens_in_text"] == "given"


@pytest.mark.parametrize("config, options, expected, source", [
    (BERT, {}, True, "tokenizer_config.json"),
    (BERT, {"do_lower_case": False}, False, "given"),
    (None, {}, True, "default"),
    ({**BERT, "do_lower_case": False}, {}, False, "tokenizer_config.json"),
    ({"model_max_length": 64}, {}, True, "default"),
])
def test_who_decides_about_lower_case(vocabulary, config, options, expected, source):
    found = model_tokenizer(vocabulary(["hello"], config), **options)
    assert (found.do_lower_case, found.sources["do_lower_case"]) == (expected, source)
    assert found.settings.do_lower_case is expected


def test_a_cased_vocabulary_is_seen(vocabulary):
    found = model_tokenizer(vocabulary(["Hello", "hello"], None))
    assert not found.do_lower_case and found.sources["do_lower_case"] == "vocab.txt, which has upper-case words"
    assert is_cased({"Hello": 0}) and not is_cased({"hello": 0, "[CLS]": 1})


@pytest.mark.parametrize("config, files, message", [
    ({"tokenizer_class": "BertJapaneseTokenizer"}, {}, "tokenizer_class BertJapaneseTokenizer"),
    ({"tokenizer_class": None}, {"config": {"tokenizer_class": "BertJapaneseTokenizer"}},
     "config.json says tokenizer_class BertJapaneseTokenizer"),
    ({"tokenizer_class": "RobertaTokenizerFast"}, {}, "tokenizer_class RobertaTokenizer, which cuts"),
    ({"auto_map": {"AutoTokenizer": ["tokenizer.Mine", None]}}, {}, "auto_map.*does not run"),
    ({"tokenizer_class": None}, {"config": {"auto_map": {"AutoTokenizer": ["tokenizer.Mine", None]}}},
     "config.json says auto_map: the tokenizer is code"),
    ({"truncation_side": "left"}, {}, "truncation_side 'left'"),
    ({"do_basic_tokenize": False}, {}, "do_basic_tokenize false"),
    ({"never_split": ["x"]}, {}, "never_split"),
    ({"cls_token": "<s>"}, {}, "lacks <s>"),
    ({"unk_token": "<unk>"}, {}, "lacks <unk>"),
    ({"cls_token": 3}, {}, "cls_token is 3, expected a token"),
    ({"strip_accents": "no"}, {}, "strip_accents is 'no', expected true or false"),
    ({"added_tokens_decoder": {"x": {"content": "y"}}}, {}, "added_tokens_decoder"),
    ({"added_tokens_decoder": {"9": {"content": "hello"}}}, {}, "'hello' the id 9, but in vocab.txt its id is 5"),
    ({}, {"added_tokens": {"x": "y"}}, "'x' with the id 'y' is no added token"),
    ({}, {"added_tokens": ["x"]}, "added_tokens.json is not a JSON object"),
])
def test_what_cannot_be_honoured_is_refused_by_name(vocabulary, config, files, message):
    with pytest.raises(ModelError, match=message) as refused:
        model_tokenizer(vocabulary(["hello"], {**BERT, **config}, **files))
    assert "\n" not in str(refused.value)


# ---- tokenizer.json --------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("name", MODELS)
def test_a_models_own_files_do_not_contradict_each_other(name):
    found = model_tokenizer(ARCHITECTURES / name)
    assert found.sources["tokenizer"] == "tokenizer.json" and found.settings.is_json
    kind = json.loads((ARCHITECTURES / name / "tokenizer_config.json").read_text(encoding="utf-8"))["tokenizer_class"]
    assert found.settings.token_types == (kind in ("BertTokenizer", "DebertaV2Tokenizer"))
    size = 1 + max(found.tokenizer.vocabulary.values())
    assert check_ids(found.tokenizer, size, "FILE") is None


def test_it_rules_over_a_vocabulary(model):
    directory = model("bert-rerank")
    (directory / "vocab.txt").write_text("\n".join(FIVE))
    assert tokens(directory, "a [MASK]") == "[CLS] a [MASK] [SEP]"
    assert tokens(directory, "a [MASK]", special_tokens_in_text=False).endswith("] [SEP]")


@pytest.mark.parametrize("name, more, expected", [
    ("bert-rerank", {"split_special_tokens": True}, False), ("bert-rerank", {}, None)])
def test_split_special_tokens(model, name, more, expected):
    assert model_tokenizer(model(name, more)).settings.special_tokens_in_text is expected


@pytest.mark.parametrize("more, expected", [
    ({}, True), ({"tokenizer_class": "BertTokenizerFast"}, True), ({"tokenizer_class": "DistilBertTokenizer"}, False),
    ({"tokenizer_class": "TokenizersBackend"}, False), ({"tokenizer_class": None}, True),
    ({"model_input_names": ["input_ids"]}, False), ({"tokenizer_class": "TokenizersBackend",
                                                     "model_input_names": ["input_ids", "token_type_ids"]}, True)])
def test_whether_there_are_token_types(model, more, expected):
    assert model_tokenizer(model("bert-rerank", more)).settings.token_types is expected


@pytest.mark.parametrize("name, more, message", [
    ("bert-rerank", {"do_lower_case": False},
     r"tokenizer_config.json says do_lower_case false, but .*tokenizer.json computes true.*-cased_tokenization"),
    ("bert-classify", {"do_lower_case": True}, "do_lower_case true, but .* computes false"),
    ("bert-rerank", {"tokenize_chinese_chars": False}, "tokenize_chinese_chars false"),
    ("bert-rerank", {"cls_token": "<s>"}, r"cls_token '<s>', but .* puts \[CLS\] there"),
    ("bert-rerank", {"sep_token": "[MASK]"}, r"sep_token '\[MASK\]', but .* puts \[SEP\] there"),
    ("deberta-v2-rerank", {"do_lower_case": True}, "do_lower_case true"),
    ("roberta", {"add_prefix_space": True}, "add_prefix_space true, but .* computes false"),
    ("qwen3", {"add_eos_token": True}, r"eos_token '<\|im_end\|>', but .* puts <\|endoftext\|> there"),
    ("roberta", {"added_tokens_decoder": {"0": {"content": "<s>"}, "700": {"content": "[ENT]"}}},
     "the id 700, but in .*tokenizer.json it is missing; correct"),
    ("roberta", {"added_tokens_decoder": {"1": {"content": "<s>"}}}, "'<s>' the id 1, but in .* its id is 0;"),
    ("roberta", {"truncation_side": "left"}, "truncation_side"),
    ("bert-rerank", {"tokenizer_class": "BertJapaneseTokenizer"}, "BertJapaneseTokenizer"),
])
def test_files_that_contradict_each_other_are_refused(model, name, more, message):
    with pytest.raises(ModelError, match=message) as refused:
        model_tokenizer(model(name, more))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("name, more", [
    ("xlm-roberta-rerank", {"tokenizer_class": "PreTrainedTokenizerFast", "do_lower_case": True,
                            "tokenize_chinese_chars": True, "strip_accents": None}),
    ("bert-rerank", {"do_lower_case": None, "strip_accents": None}),
    ("qwen3", {"add_bos_token": False}),
    ("gemma3_text", {"add_bos_token": True, "add_eos_token": True}),
])
def test_what_says_nothing_does_not_contradict(model, name, more):
    model_tokenizer(model(name, more))


def test_lower_case_given_by_hand_rules(model):
    directory = model("bert-rerank", {"do_lower_case": False})
    for given in (True, False):
        found = model_tokenizer(directory, do_lower_case=given)
        assert found.do_lower_case is given and found.sources["do_lower_case"] == "given"
    assert tokens(directory, "THE", do_lower_case=True) == "[CLS] the [SEP]" != tokens(
        directory, "THE", do_lower_case=False)
    with pytest.raises(ConfigError, match="-cased_tokenization"):
        model_tokenizer(model("xlm-roberta-rerank"), do_lower_case=True)


# ---- neither ---------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("names, message", [
    (["sentencepiece.bpe.model"], "neither .* it has sentencepiece.bpe.model: save a tokenizer.json"),
    (["vocab.json", "merges.txt"], "it has merges.txt, vocab.json: .*save_pretrained"),
    (["model.safetensors"], "holds model.safetensors"), ([], "holds nothing")])
def test_a_directory_without_a_tokenizer(tmp_path, names, message):
    for name in names:
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(ModelError, match=message):
        model_tokenizer(tmp_path)


# ---- ids -------------------------------------------------------------------------------------------------------------

def test_ids_beyond_the_models_are_refused(vocabulary):
    tokenizer = model_tokenizer(vocabulary(["hello"])).tokenizer
    with pytest.raises(ModelError, match="ids up to 5, but the model's vocab_size is 5; it is another model's"):
        check_ids(tokenizer, 5, "FILE")
    assert check_ids(tokenizer, 6, "FILE") is check_ids(tokenizer, 64, "FILE") is None
    with pytest.raises(ModelError, match="has 6 tokens, but the model's vocab_size is 71; it is another model's tok"):
        check_ids(tokenizer, 71, "FILE")


def test_a_small_part_that_is_missing_is_padding(vocabulary):
    tokenizer = model_tokenizer(vocabulary([f"w{i}" for i in range(20_000)])).tokenizer
    assert check_ids(tokenizer, 20_005 + 128, "FILE") is None
    assert check_ids(tokenizer, 20_005 + 300, "FILE") is not None


def altered(directory, change):
    path = directory / "tokenizer.json"
    values = json.loads(path.read_text(encoding="utf-8"))
    change(values)
    path.write_text(json.dumps(values), encoding="utf-8")
    return directory


def test_two_tokens_with_one_id_are_refused(model):
    directory = altered(model("bert-rerank"), lambda values: values["model"]["vocab"].update(other=7))
    with pytest.raises(ModelError, match="two tokens the same id"):
        check_ids(model_tokenizer(directory).tokenizer, 500, "FILE")


def test_a_special_token_beyond_the_models_is_refused(model):
    directory = altered(model("bert-rerank"), lambda values: values["post_processor"]["special_tokens"][
        "[CLS]"].update(ids=[99_999]))
    (directory / "tokenizer_config.json").unlink()
    with pytest.raises(ModelError, match="ids up to 99999"):
        check_ids(model_tokenizer(directory).tokenizer, 500, "FILE")


# ---- hostile sizes ---------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("change, options, message", [
    (lambda values: values["model"]["vocab"].update({f"word{i}": i for i in range(700_000)}), {}, "700... tokens"),
    (lambda values: values["model"]["vocab"].update({f"word{i}": i for i in range(300_000)}), {"vocab_size": 30_522},
     "300... tokens, but the model's vocab_size is 30522; it is another model's vocabulary"),
    (lambda values: values["added_tokens"].extend([{"id": 1, "content": f"word{i}" * 3} for i in range(90_000)]), {},
     "9000. added tokens"),
])
def test_hostile_numbers_of_tokens_are_refused_soon(model, change, options, message):
    directory = altered(model("bert-rerank"), change)
    started = time.process_time()
    with pytest.raises(ModelError, match=message):
        model_tokenizer(directory, **options)
    assert time.process_time() - started < 2


@pytest.mark.parametrize("content", [b"[" * 5_000_000, b'{"model": {"vocab": ' + b"[" * 5_000_000, b" " * 5_000_000])
def test_hostile_shapes_are_refused(tmp_path, content):
    (tmp_path / "tokenizer.json").write_bytes(content)
    with pytest.raises(ModelError, match="cannot be used as a tokenizer"):
        model_tokenizer(tmp_path)


def test_a_panic_of_the_library_is_one_line_and_nothing_else(model, capfd):
    directory = altered(model("xlm-roberta-rerank"), lambda values: values["normalizer"].update(
        precompiled_charsmap="BAAAAP////8="))
    with pytest.raises(ModelError, match="cannot be used as a tokenizer: index out of bounds"):
        model_tokenizer(directory)
    assert capfd.readouterr().err == ""
