"""tokenizer.json: ids as transformers gives them, our faster way against the library's, and where texts are cut."""
import itertools
import json
import os
import shutil
import time
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Library
from tokenizers.normalizers import BertNormalizer, Lowercase, Sequence
from tokenizers.pre_tokenizers import BertPreTokenizer

from bert_serving.client.errors import UnprocessableError
from bert_serving.client.pairs import Pair
from bert_serving.server.core import tokenization, tokenizer_json
from bert_serving.server.core.features import build_features
from bert_serving.server.core.tokenization import InputTemplate, Tokenizer
from bert_serving.server.core.tokenizer_json import DISAGREED, JsonTokenizer
from bert_serving.server.errors import ConfigError, ModelError

ARCHITECTURES = Path(__file__).parents[2] / "data" / "golden" / "architectures"
EVERY = sorted(path.parent.name for path in ARCHITECTURES.glob("*/tokenizer.json"))
MODELS = EVERY if os.environ.get("BERT_SERVING_TEST_ALL") else [
    "albert", "bert-classify", "bert-instructor", "bert-rerank", "deberta-v2-rerank", "eurobert", "gemma3_text",
    "modernbert-rerank", "mpnet", "qwen3", "roberta", "xlm-roberta", "xlm-roberta-rerank"]
"""One of each kind, unless all are asked for."""

TEXTS = json.loads((ARCHITECTURES / "texts.json").read_text(encoding="utf-8"))
FAST = ["bert-rerank", "bert-classify", "mpnet"]


def file(name):
    return str(ARCHITECTURES / name / "tokenizer.json")


def changed(tmp_path, name, **parts):
    """The file of a model with other parts; a dotted name is a part of a part."""
    values = json.loads(Path(file(name)).read_text(encoding="utf-8"))
    for key, value in parts.items():
        *path, last = key.split("__")
        within = values
        for step in path:
            within = within[step]
        within[last] = value
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(values), encoding="utf-8")
    return str(path)


@pytest.fixture(scope="module", params=MODELS)
def model(request):
    return request.param


@pytest.fixture(scope="module")
def tokenizer(model):
    return JsonTokenizer(file(model))


@pytest.fixture(scope="module")
def library(model):
    return Library.from_file(file(model))


def library_ids(library, text):
    return library.encode(text.encode("utf-8", "ignore").decode(), add_special_tokens=False).ids


# ---- the reference ---------------------------------------------------------------------------------------------------

def reference(name):
    """Arrays that transformers computed; without the weights' in a file of their own."""
    path = ARCHITECTURES / name / "tokens.npz"
    with np.load(path if path.exists() else path.with_name("reference.npz")) as arrays:
        return {key: arrays[key] for key in arrays}


def sequences(arrays, prefix, key="input_ids"):
    return np.split(arrays[prefix + key], arrays[prefix + "offsets"][1:-1])


def test_there_are_models_of_every_kind():
    kinds = {type(Library.from_file(file(name)).model).__name__ for name in MODELS}
    assert kinds == {"WordPiece", "Unigram", "BPE"} and set(FAST) < set(MODELS)


def test_texts_have_the_references_ids(model, tokenizer):
    found = build_features(TEXTS["texts"], tokenizer, max_length=64)
    assert [one.input_ids.tolist() for one in found] == [ids.tolist() for ids in sequences(reference(model), "")]
    assert not any(one.token_type_ids.any() or one.num_prompt for one in found)


def test_pairs_have_the_references_ids_and_types(model, tokenizer):
    arrays = reference(model)
    if "pair_input_ids" not in arrays:
        pytest.skip("its reference has no pairs")
    found = build_features([Pair(*pair) for pair in TEXTS["pairs"]], tokenizer, max_length=64)
    assert [one.input_ids.tolist() for one in found] == [ids.tolist() for ids in sequences(arrays, "pair_")]
    if "pair_token_type_ids" in arrays:
        types = np.split(arrays["pair_token_type_ids"], arrays["pair_offsets"][1:-1])
        assert [one.token_type_ids.tolist() for one in found] == [each.tolist() for each in types]
    else:
        assert not any(one.token_type_ids.any() for one in build_features(
            [Pair(*pair) for pair in TEXTS["pairs"]], JsonTokenizer(file(model), token_types=False), max_length=64))


def test_prompts_have_the_references_ids(model):
    arrays = reference(model)
    names = {key.split("/")[1] for key in arrays if key.startswith("prompt/")}
    for name in names:
        about = json.loads((ARCHITECTURES / model / "config_sentence_transformers.json").read_text(encoding="utf-8"))
        found = build_features(TEXTS["texts"], JsonTokenizer(file(model), prompt=about["prompts"][name]), max_length=64,
                               include_prompt=False)
        assert [one.input_ids.tolist() for one in found] == [
            ids.tolist() for ids in sequences(arrays, f"prompt/{name}/")]
        assert {one.num_prompt for one in found} == {int(arrays[f"prompt/{name}/length"])}


# ---- against the library ---------------------------------------------------------------------------------------------

ANY = st.text(st.one_of(st.characters(exclude_categories=[]), st.sampled_from(
    "abcun want.,!|[]'\t\n\rΣσßİé\u0301我今，。、！ \u00a0\u2581\u200d日本語のテキスト한국Жя٠٢x²ﬁ①")), max_size=80)
WITH_SPECIAL = st.lists(st.one_of(ANY, st.sampled_from(["[MASK]", "<mask>", "</s>", "[SEP]", "<|im_end|>", "<eos>",
                                                        " ", "[mask]"]))).map("".join)


@given(text=WITH_SPECIAL)
def test_equals_the_library(tokenizer, library, text):
    assert tokenizer.encode([text], 10_000) == [library_ids(library, text)]


@given(texts=st.lists(WITH_SPECIAL, max_size=6))
def test_batches_keep_their_order(tokenizer, library, texts):
    assert tokenizer.encode(texts, 10_000) == [library_ids(library, text) for text in texts]


NORMALIZERS = list(itertools.product([True, False], [None, True, False], [True, False])) \
    if os.environ.get("BERT_SERVING_TEST_ALL") else [(True, None, True), (False, None, True), (True, False, False),
                                                     (False, True, True)]


@pytest.mark.parametrize("lowercase, strip_accents, chinese", NORMALIZERS)
def test_each_character_that_takes_the_fast_way_is_agreed_upon(lowercase, strip_accents, chinese):
    """All of them, between letters and other neighbours. None depends on others: the sigma that does is left out."""
    normalizer = BertNormalizer(lowercase=lowercase, strip_accents=strip_accents, handle_chinese_chars=chinese)
    split = BertPreTokenizer().pre_tokenize_str
    mine = Tokenizer({"[UNK]": 0}, lowercase, InputTemplate((), (), ()), strip_accents=strip_accents,
                     tokenize_chinese_chars=chinese)
    characters = [chr(code) for code in range(0x110000) if not DISAGREED.match(chr(code))]
    assert len(characters) > 40_000
    wrong = [character for character in characters for text in (f"a{character}b", character, f"A.{character} \u0301")
             if mine.normalize(text).split() != [word for word, _ in split(normalizer.normalize_str(text))]]
    assert wrong == []


@pytest.mark.parametrize("name", FAST)
def test_the_fast_way_is_taken(name, monkeypatch):
    tokenizer, library = JsonTokenizer(file(name)), Library.from_file(file(name))
    texts = ["The quiet river, isn't it? 12%", "Größe, déjà vu", "Русский текст", "今天下午", "日本語のテキスト 한국어",
             "👍🏽 ok"[0] + " ok"]
    expected = [library_ids(library, text) for text in texts]
    monkeypatch.setattr(tokenizer, "_by_library", lambda *_: pytest.fail("the library was asked"))
    assert tokenizer.encode(texts, 100) == expected


@pytest.mark.parametrize("text", ["ΟΔΥΣΣΕΥΣ", "wow \U0001fae8 face", "a\U0002b820b", "[MASK]", "a\u061db"])
@pytest.mark.parametrize("name", FAST)
def test_what_is_not_agreed_upon_goes_to_the_library(name, text):
    tokenizer = JsonTokenizer(file(name))
    assert tokenizer.encode([text, "plain"], 100)[0] == library_ids(Library.from_file(file(name)), text)


@pytest.mark.parametrize("parts", [
    {"model__max_input_chars_per_word": 50}, {"model__continuing_subword_prefix": "@@"},
    {"normalizer__clean_text": False}, {"normalizer": {"type": "Lowercase"}}, {"pre_tokenizer": {"type": "Whitespace"}},
    {"normalizer__lowercase": False}, {"normalizer__strip_accents": False},
    {"normalizer__handle_chinese_chars": False},
    {"normalizer": None}])
@given(text=WITH_SPECIAL)
@settings(max_examples=30)
def test_what_the_file_says_decides(tmp_path_factory, parts, text):
    path = changed(tmp_path_factory.mktemp("changed"), "bert-rerank", **parts)
    texts = [text, "Größe" * 11, "Grüße 東京 The\x07", "de\u0301ja"]
    library = Library.from_file(path)
    assert JsonTokenizer(path).encode(texts, 10_000) == [library_ids(library, text) for text in texts]


def test_padding_and_truncation_of_the_file_are_ignored(tmp_path):
    path = changed(tmp_path, "roberta", truncation={"direction": "Right", "max_length": 4, "strategy": "LongestFirst",
                                                    "stride": 0},
                   padding={"strategy": {"Fixed": 20}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 1,
                            "pad_type_id": 0, "pad_token": "<pad>"})
    text = "one two three four five six seven"
    assert JsonTokenizer(path).encode([text, "a"], 99) == JsonTokenizer(file("roberta")).encode([text, "a"], 99)


def test_added_tokens_are_found_as_the_library_finds_them(tmp_path):
    token = {"single_word": False, "lstrip": False, "rstrip": False, "special": False}
    values = json.loads(Path(file("bert-rerank")).read_text(encoding="utf-8"))["added_tokens"]
    path = changed(tmp_path, "bert-rerank", added_tokens=[
        *values, {**token, "id": 500, "content": "covid19", "normalized": True},
        {**token, "id": 501, "content": "[ENT]", "normalized": False}])
    ids, = JsonTokenizer(path).encode(["the Covid19 [ENT]x [ent]"], 99)
    assert ids == library_ids(Library.from_file(path), "the Covid19 [ENT]x [ent]") and {500, 501} < set(ids)


# ---- special tokens in texts -----------------------------------------------------------------------------------------

@pytest.mark.parametrize("name, special", [("bert-rerank", "[MASK]"), ("roberta", "<mask>"), ("qwen3", "<|im_end|>"),
                                           ("xlm-roberta-rerank", "<mask>"), ("gemma3_text", "<eos>")])
def test_special_tokens_in_texts(name, special):
    number = Library.from_file(file(name)).token_to_id(special)
    found, also, not_found = (JsonTokenizer(file(name), special_tokens_in_text=choice).encode([f"a {special} b"], 99)[0]
                              for choice in (None, True, False))
    assert found == also and number in found and number not in not_found


@given(text=WITH_SPECIAL)
def test_hidden_special_tokens_change_nothing_else(text):
    path = file("xlm-roberta-rerank")
    if not any(token in text for token in ("<mask>", "</s>")):
        assert hiding(path).encode([text], 999) == [library_ids(Library.from_file(path), text)]


@lru_cache
def hiding(path):
    return JsonTokenizer(path, special_tokens_in_text=False)


def test_special_tokens_that_cannot_be_hidden(tmp_path):
    path = changed(tmp_path, "bert-rerank", pre_tokenizer={"type": "WhitespaceSplit"},
                   normalizer__lowercase=False)
    with pytest.raises(ConfigError, match="and no option changes that; leave out -special_tokens_in_text no"):
        JsonTokenizer(path, special_tokens_in_text=False)


# ---- what is around --------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("name, single, pair", [
    ("bert-rerank", "[CLS] a [SEP]", "[CLS] a [SEP] b [SEP]"),
    ("roberta", "<s> a </s>", "<s> a </s> </s> b </s>"),
    ("qwen3", "a <|endoftext|>", "a <|endoftext|> b <|endoftext|>"),
    ("gemma3_text", "<bos> a <eos>", "<bos> a <eos> <bos> b <eos>"),
])
def test_what_is_put_around(name, single, pair):
    one, two = build_features(["a", Pair("a", "b")], JsonTokenizer(file(name)), max_length=64)
    assert " ".join(one.tokens) == single and " ".join(two.tokens) == pair


def test_pairs_with_an_empty_half_are_pairs():
    one, other = build_features([Pair("a", ""), Pair("", "b")], JsonTokenizer(file("roberta")), max_length=64)
    assert one.tokens == ["<s>", "a", "</s>", "</s>", "</s>"] and other.tokens == ["<s>", "</s>", "</s>", "b", "</s>"]


@given(first=st.integers(0, 40), second=st.integers(0, 40), length=st.integers(4, 30))
def test_pairs_are_truncated_as_the_library_does(first, second, length):
    tokenizer, library = JsonTokenizer(file("bert-rerank")), Library.from_file(file("bert-rerank"))
    library.enable_truncation(length, strategy="longest_first")
    texts = "a " * first, "b " * second
    found, = build_features([Pair(*texts)], tokenizer, max_length=length)
    assert found.input_ids.tolist() == library.encode(*texts).ids
    assert found.token_type_ids.tolist() == library.encode(*texts).type_ids


def test_the_longer_half_is_known_though_both_are_cut():
    tokenizer, library = JsonTokenizer(file("bert-rerank")), Library.from_file(file("bert-rerank"))
    library.enable_truncation(64, strategy="longest_first")
    for texts in (("a " * 2000, "b " * 1999), ("a " * 1999, "b " * 2000), ("a " * 2000, "b " * 2000)):
        found, = build_features([Pair(*texts)], tokenizer, max_length=64)
        assert found.input_ids.tolist() == library.encode(*texts).ids


@pytest.mark.parametrize("parts, message", [
    ({"post_processor__pair": [{"Sequence": {"id": "B", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]},
     "post_processor .* the two of a pair"),
    ({"post_processor__single": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]},
     "post_processor .* one text"),
    ({"post_processor__single": [{"SpecialToken": {"id": "[CLS]", "type_id": 0}}] * 40
      + [{"Sequence": {"id": "A", "type_id": 0}}]}, "post_processor"),
    ({"model__vocab": {"a": 0, "[CLS]": 2, "[SEP]": 3}}, r"unknown token '\[UNK\]', which its vocabulary lacks"),
    ({"model": None}, "cannot be used as a tokenizer"),
    ({"normalizer": {"type": "Precompiled", "precompiled_charsmap": "BAAAAP////8="}}, "cannot be used as a tokenizer"),
    ({"normalizer": {"type": "Precompiled", "precompiled_charsmap": "AAAA"}}, "cannot be used as a tokenizer"),
])
def test_a_file_that_cannot_be_served_is_refused_in_one_line(tmp_path, capfd, parts, message):
    with pytest.raises(ModelError, match=message) as refused:
        JsonTokenizer(changed(tmp_path, "bert-rerank", **parts))
    assert "\n" not in str(refused.value) and "tokenizer.json" in str(refused.value)


def test_dropout_is_refused(tmp_path):
    with pytest.raises(ModelError, match="dropout 0.5"):
        JsonTokenizer(changed(tmp_path, "roberta", model__dropout=0.5))


@pytest.mark.parametrize("content", [
    "", "{", "[" * 100_000, '{"a":' * 100_000, "null", "{}", "version https://git-lfs.github.com/spec/v1\n",
    b"\xff\xfe"])
def test_what_is_no_tokenizer_is_refused(tmp_path, content):
    path = tmp_path / "tokenizer.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ModelError, match="tokenizer.json"):
        JsonTokenizer(str(path))


def test_a_file_that_is_too_large_or_missing_is_refused(tmp_path):
    path = tmp_path / "tokenizer.json"
    with pytest.raises(ModelError, match="No such file"):
        JsonTokenizer(str(path))
    with open(path, "wb") as sparse:
        sparse.truncate(tokenizer_json.MAX_BYTES + 1)
    with pytest.raises(ModelError, match="48.0 MB, a tokenizer at most 48"):
        JsonTokenizer(str(path))


def test_a_text_that_the_library_panics_at_is_an_error_of_the_request(tmp_path, capfd):
    path = changed(tmp_path, "roberta", pre_tokenizer={"type": "Split", "pattern": {"Regex": "(a+)+$"},
                                                       "behavior": "Isolated", "invert": False})
    tokenizer = JsonTokenizer(path)
    with pytest.raises(UnprocessableError, match="cannot cut the text into tokens"):
        tokenizer.encode(["a" * 60 + "b"], 99)
    assert tokenizer.encode(["b"], 99)


# ---- lower case ------------------------------------------------------------------------------------------------------

def test_lower_casing_can_be_overruled():
    cased, uncased = "bert-classify", "bert-rerank"
    assert JsonTokenizer(file(cased), do_lower_case=True).encode(["THE É"], 9) == \
        JsonTokenizer(file(cased)).encode(["the e"], 9)
    kept = JsonTokenizer(file(uncased), do_lower_case=False).encode(["the É", "the"], 9)
    assert kept[0] != JsonTokenizer(file(uncased)).encode(["the É"], 9)[0] and kept[1] == kept[0][:len(kept[1])]
    with pytest.raises(ConfigError, match="keeps case, which options can change only in a Bert"):
        JsonTokenizer(file("roberta"), do_lower_case=True)
    JsonTokenizer(file("roberta"), do_lower_case=False)


def test_lower_casing_first_keeps_accents():
    plain = JsonTokenizer(file("bert-classify"))
    assert JsonTokenizer(file("bert-classify"), lower_first=True).encode(["Ä THE"], 9) == plain.encode(["ä the"], 9)
    assert plain.encode(["ä"], 9) != plain.encode(["a"], 9)


@pytest.mark.parametrize("name", MODELS)
def test_lower_casing_first_is_what_the_library_does(name):
    """Which finds special tokens as they are written, and lower-cases character by character: no final sigma."""
    lower = Library.from_file(file(name))
    lower.normalizer = Sequence([Lowercase(), *([lower.normalizer] if lower.normalizer else [])])
    lower.no_truncation()
    tokenizer = JsonTokenizer(file(name), lower_first=True)
    texts = [*TEXTS["texts"], "ΟΔΥΣΣΕΥΣ", "A [MASK] B <mask> C", "İ", "[CLS] UND </s>"]
    assert tokenizer.encode(texts, 10_000) == [library_ids(lower, text) for text in texts]


def test_the_faster_way_lower_cases_as_the_library_does():
    lower = Lowercase().normalize_str
    agreed = (character for character in map(chr, range(0x110000)) if not DISAGREED.search(character))
    assert not [character for character in agreed if lower(character) != character.lower()]


# ---- tokens ----------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("special", [None, True, False])
def test_the_vocabulary_has_each_id_once(model, special):
    tokenizer = JsonTokenizer(file(model), special_tokens_in_text=special)
    vocabulary = tokenizer.vocabulary
    assert len(set(vocabulary.values())) == len(vocabulary)
    assert tokenizer.lookup(list(vocabulary)) == list(vocabulary.values())
    assert tokenizer.tokens(list(vocabulary.values())) == list(vocabulary)


def test_tokens_and_back(tokenizer):
    ids, = tokenizer.encode(["A quiet river [MASK] 今天 🎉"], 99)
    assert tokenizer.lookup(tokenizer.tokens(ids)) == ids
    assert tokenizer.tokens([10 ** 6]) == ["#1000000"]


def test_unknown_tokens(tmp_path):
    assert JsonTokenizer(file("bert-rerank")).lookup(["nosuchtoken", "\ud800"]) == [1, 1]
    assert JsonTokenizer(file("xlm-roberta-rerank")).lookup(["nosuchtoken"]) == [3]
    assert JsonTokenizer(file("roberta"), unk_token="<unk>").lookup(["nosuchtoken"]) == [3]
    with pytest.raises(UnprocessableError, match="'nosuchtoken' is no token of this model"):
        JsonTokenizer(file("qwen3")).lookup(["a", "nosuchtoken"])


def test_nothing_at_all_is_an_error_where_nothing_is_put_around(tmp_path):
    shutil.copy(file("roberta"), tmp_path)
    tokenizer = JsonTokenizer(changed(tmp_path, "roberta", post_processor=None))
    assert len(build_features(["a"], tokenizer, max_length=64)[0]) == 1
    for text in ("", Pair("", "")):
        with pytest.raises(UnprocessableError, match="no token"):
            build_features([text], tokenizer, max_length=64)


# ---- where a text is cut ---------------------------------------------------------------------------------------------

WORDS = ["the ", "quiet ", "Größe ", "今天下午", "我，", "。", "，", "'s", " ", "  ", "\n", "a" * 300, "a" * 40 + " ",
         "!? ", "\u0301", " \u0301", "\u0600 ", "ΑΣ ", "<mask> ", " [MASK]", "🎉", "é ",
         "ﬁ", "\u2581", "Ж ", "x. ", "「", "한국 "]


@pytest.fixture
def early(monkeypatch):
    """Texts are cut after a few characters, and not only after so many that hardly anything can go wrong."""
    monkeypatch.setattr(tokenization, "head_size", lambda limit: limit)


@given(words=st.lists(st.sampled_from(WORDS), max_size=30), limit=st.integers(1, 12), times=st.integers(1, 4))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
def test_the_first_ids_do_not_depend_on_the_limit(tokenizer, library, early, words, limit, times):
    text = "".join(words) * times
    found = tokenizer._by_library([text], limit)[0]
    expected = library_ids(library, text)
    assert found[:limit] == expected[:limit] and len(found) >= min(limit, len(expected))


def test_blanks_do_not_count(tokenizer, library):
    text = "the" + " " * 20_000 + "quiet river " * 40
    for limit in (1, 8):
        assert tokenizer._by_library([text], limit)[0][:limit] == library_ids(library, text)[:limit]


@pytest.mark.parametrize("added, text", [
    (["我,"], "我，"), (["我,我"], "我，今我，我"), (["▁the▁want", "▁want▁the"], "the want "), (["t▁w"], "the want ")])
@pytest.mark.parametrize("split", [True, False])
def test_pieces_that_go_on_after_a_place_are_not_cut_there(tmp_path, early, added, text, split):
    values = json.loads(Path(file("xlm-roberta-rerank")).read_text(encoding="utf-8"))
    vocabulary = values["model"]["vocab"]
    vocabulary[100:100 + len(added)] = [[piece, -1.0] for piece in added]
    pre_tokenizer = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": split}
    path = changed(tmp_path, "xlm-roberta-rerank", model__vocab=vocabulary, pre_tokenizer=pre_tokenizer)
    tokenizer, library = JsonTokenizer(path), Library.from_file(path)
    for limit in range(1, 30):
        assert tokenizer.encode([text * 30], limit)[0][:limit] == library_ids(library, text * 30)[:limit]


def test_unknown_characters_that_become_one_token_are_not_counted_as_more(early):
    text = "🀀。" + "龘 龘，龘。" * 50
    for name in ("xlm-roberta-rerank", "deberta-v2-rerank", "gemma3_text"):
        tokenizer, library = JsonTokenizer(file(name)), Library.from_file(file(name))
        for limit in range(1, 30):
            assert tokenizer.encode([text], limit)[0][:limit] == library_ids(library, text)[:limit]


@pytest.mark.parametrize("text", ["the want " * 111_111, "今天下午，我们在图书馆" * 90_000, "the, want! " * 90_000])
def test_what_is_cut_off_is_hardly_looked_at(tokenizer, library, text, monkeypatch):
    if len(library_ids(library, text[:10_000])) < 26:
        pytest.skip("it is one unknown token")
    looked_at = []
    encodings = tokenizer._encodings
    monkeypatch.setattr(tokenizer, "_encodings", lambda texts: looked_at.extend(map(len, texts)) or encodings(texts))
    start = time.process_time()
    tokenizer.encode([text], 25)
    assert sum(looked_at) < 20_000 and time.process_time() - start < 1


@pytest.mark.parametrize("parts", [
    {"pre_tokenizer": {"type": "Split", "pattern": {"Regex": r"\p{L}+ \p{L}+"}, "behavior": "Isolated",
                       "invert": False}},
    {"normalizer": {"type": "Replace", "pattern": {"String": "t w"}, "content": "x"}},
    {"normalizer": {"type": "Replace", "pattern": {"Regex": "e the"}, "content": "x"}},
    {"pre_tokenizer": {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False}},
])
@pytest.mark.parametrize("limit", range(1, 12))
def test_a_text_is_not_cut_where_no_cut_is_known_to_be_safe(tmp_path, early, parts, limit):
    path = changed(tmp_path, "roberta", **parts)
    text = "the want, " * 2000
    assert JsonTokenizer(path).encode([text], limit)[0] == library_ids(Library.from_file(path), text)


def test_an_added_token_with_a_space_is_not_cut(tmp_path, early):
    values = json.loads(Path(file("roberta")).read_text(encoding="utf-8"))["added_tokens"]
    path = changed(tmp_path, "roberta", added_tokens=[*values, {
        "id": 700, "content": "quiet river", "single_word": False, "lstrip": False, "rstrip": False,
        "normalized": False, "special": False}])
    text = "quiet river" * 1000
    for limit in range(1, 60):
        assert JsonTokenizer(path).encode([text], limit)[0][:limit] == [700] * limit
