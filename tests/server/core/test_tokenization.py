"""BERT's tokenizer against a plain transcription of what Google's does, and the tokenizer without a vocabulary."""
import sys
import time
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bert_serving.server.core import tokenization
from bert_serving.server.core.tokenization import (AddedToken, InputTemplate, Tokenizer, WordHashTokenizer,
                                                   load_vocabulary)
from bert_serving.server.errors import ModelError

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "un", "##want", "##ed", "runn", "##ing", "want", "the", "The",
         "cafe", "café", "i", "ß", "σας", "σ", "ας", "mask", "[", "]", "|", ",", "!", "¿", "。", "我", "爱", "0", "##1"]
WORDS += [chr(code) for code in range(ord("a"), ord("z") + 1) if chr(code) != "i"]
WORDS += ["##" + chr(code) for code in range(ord("a"), ord("z") + 1)]


@pytest.fixture(scope="module")
def vocabulary_path(tmp_path_factory):
    path = tmp_path_factory.mktemp("vocabulary") / "vocab.txt"
    path.write_text("\n".join(WORDS) + "\n", encoding="utf-8")
    return path


@pytest.fixture(scope="module", params=[True, False], ids=["uncased", "cased"])
def tokenizer(vocabulary_path, request):
    return Tokenizer(vocabulary_path, request.param)


CJK = ["\u4e00-\u9fff", "\u3400-\u4dbf", "\U00020000-\U0002a6df", "\U0002a700-\U0002b73f", "\U0002b740-\U0002b81f",
       "\U0002b820-\U0002ceaf", "\uf900-\ufaff", "\U0002f800-\U0002fa1f"]


def reference(text, vocabulary, do_lower_case, strip_accents=None, chinese=True):
    """Basic and WordPiece tokenizer, written after the description of Google's code, with Python's own Unicode."""
    clean = ""
    for c in text:
        if c in "\t\n\r" or unicodedata.category(c) == "Zs":
            clean += " "
        elif ord(c) in (0, 0xFFFD) or unicodedata.category(c) in ("Cc", "Cf", "Co", "Cs"):
            continue
        elif chinese and any(block[0] <= c <= block[-1] for block in CJK):
            clean += f" {c} "
        else:
            clean += c
    words = []
    for word in clean.split():
        if do_lower_case:
            word = word.lower()
        if do_lower_case if strip_accents is None else strip_accents:
            word = "".join(c for c in unicodedata.normalize("NFD", word) if unicodedata.category(c) != "Mn")
        current = ""
        for c in word:
            if unicodedata.category(c).startswith("P") or (c.isascii() and not c.isalnum()):
                words += [current, c]
                current = ""
            else:
                current += c
        words.append(current)
    tokens = []
    for word in " ".join(words).split():
        pieces, rest = [], word
        while rest and len(word) <= 100:
            prefix = "##" if pieces else ""
            end = next((n for n in range(len(rest), 0, -1) if prefix + rest[:n] in vocabulary), 0)
            if not end:
                break
            pieces.append(prefix + rest[:end])
            rest = rest[end:]
        tokens += ["[UNK]"] if rest else pieces
    return tokens


def pieces(tokenizer, text):
    return tokenizer.tokens(tokenizer.encode([text], 10_000)[0])


@pytest.mark.parametrize("text, expected", [
    ("unwanted running", "un ##want ##ed runn ##ing"),
    ("UNwanted,running!", "un ##want ##ed , runn ##ing !"),
    ("Café\tthe\u3000the", "cafe the the"),
    ("我爱the", "我 爱 the"),
    ("[MASK]", "[ mask ]"),
    ("|||", "| | |"),
    ("the" * 50, "[UNK]"),
    ("unwanted\x00 \ufffdthe\u200b", "un ##want ##ed the"),
    ("¿the。", "¿ the 。"),
    ("the \u0378 the", "the [UNK] the"),               # Unassigned, as a new emoji is for an old Python.
    ("the \ue000 the", "the the"),
    ("ΣΑΣ", "σας"),
    ("", ""),
    (" \u2028\n ", ""),
])
def test_by_eye(vocabulary_path, text, expected):
    assert " ".join(pieces(Tokenizer(vocabulary_path), text)) == expected


def test_cased_keeps_case_and_accents(vocabulary_path):
    assert pieces(Tokenizer(vocabulary_path, do_lower_case=False), "The the café cafe MASK") == [
        "The", "the", "café", "cafe", "[UNK]"]


TEXTS = st.text(st.one_of(st.characters(exclude_categories=[]), st.sampled_from("abcun want.,!|[]Σσßİ\t\n我é\u0301")),
                max_size=60)


@given(text=TEXTS)
def test_equals_the_reference(tokenizer, text):
    assert pieces(tokenizer, text) == reference(text, tokenizer.vocabulary, tokenizer.do_lower_case)


def test_every_character_equals_the_reference(tokenizer):
    """Assigned or not, surrogate or not: each character between two letters, in the first two planes; then samples."""
    codes = [*range(0x20000), *range(0x20000, 0x30000, 32), *range(0x30000, 0x110000, 4096)]
    characters = [f"a{chr(code)}b" for code in codes]
    mine = tokenizer.encode(characters, 100)
    wrong = [hex(ord(text[1])) for text, ids in zip(characters, mine)
             if tokenizer.tokens(ids) != reference(text, tokenizer.vocabulary, tokenizer.do_lower_case)]
    assert wrong == []


@pytest.mark.parametrize("do_lower_case", [True, False])
@pytest.mark.parametrize("strip_accents", [True, False])
@pytest.mark.parametrize("chinese", [True, False])
@given(text=TEXTS)
@settings(max_examples=50)
def test_accents_and_chinese_characters_as_asked(vocabulary_path, do_lower_case, strip_accents, chinese, text):
    tokenizer = Tokenizer(vocabulary_path, do_lower_case, strip_accents=strip_accents, tokenize_chinese_chars=chinese)
    text = text + " Café 我爱 我" + text
    assert pieces(tokenizer, text) == reference(text, tokenizer.vocabulary, do_lower_case, strip_accents, chinese)
    long = text + "我" * 2000 + "the"
    assert tokenizer.encode([long], 4)[0][:4] == tokenizer.encode([long], 100_000)[0][:4]


# ---- tokens that are found in texts ----------------------------------------------------------------------------------

def test_special_tokens_in_texts_if_asked(vocabulary_path):
    tokenizer = Tokenizer(vocabulary_path, special_tokens_in_text=True, special_tokens=("[PAD]", "[MASK]"))
    assert pieces(tokenizer, "the[MASK] want [SEP]\ud800[mask] [PAD]") == [
        "the", "[MASK]", "want", "[SEP]", "[", "mask", "]", "[PAD]"]
    assert pieces(tokenizer, "unwanted, running") == pieces(Tokenizer(vocabulary_path), "unwanted, running")


ADDED = [AddedToken(content="covid19", number=900, normalized=True),
         AddedToken(content="[ENT]", number=901), AddedToken(content="new York", number=902),
         AddedToken(content="run", number=903, single_word=True)]


def test_added_tokens_are_found(vocabulary_path):
    tokenizer = Tokenizer(vocabulary_path, added_tokens=ADDED)
    assert pieces(tokenizer, "the Covid19, [ENT]the [ent] new York run rung") == [
        "the", "covid19", ",", "[ENT]", "the", "[", "e", "##n", "##t", "]", "new York", "run", "r", "##u", "##n", "##g"]
    assert tokenizer.lookup(["covid19", "[ENT]"]) == [900, 901]


@given(words=st.lists(st.sampled_from(["[ENT]", "new York", "the ", "covid19", "我", ", ", " " * 500, "x" * 150]),
                      max_size=40), limit=st.integers(1, 8))
def test_added_tokens_are_never_cut(vocabulary_path, words, limit):
    for added in (ADDED, ADDED[:2]):
        tokenizer = Tokenizer(vocabulary_path, added_tokens=added)
        text = "".join(words) * 8
        assert tokenizer.encode([text], limit)[0][:limit] == tokenizer.encode([text], 100_000)[0][:limit]


# ---- prompts and lower case ------------------------------------------------------------------------------------------

def test_lower_casing_first_keeps_accents(vocabulary_path):
    assert pieces(Tokenizer(vocabulary_path, False, lower_first=True), "THE CAFÉ") == ["the", "café"]
    tokenizer = Tokenizer(vocabulary_path, False, lower_first=True, added_tokens=ADDED)
    assert pieces(tokenizer, "THE [ENT], Covid19 CAFÉ [ent]") == [
        "the", "[ENT]", ",", "covid19", "café", "[", "e", "##n", "##t", "]"]


def test_the_length_of_a_prompt(vocabulary_path):
    assert Tokenizer(vocabulary_path).prompt_length == 0
    assert Tokenizer(vocabulary_path, prompt="the want: ").prompt_length == len(["[CLS]", "the", "want", ":"])
    bare = InputTemplate((), (), ())
    assert Tokenizer(vocabulary_path, template=bare, prompt="the want").prompt_length == 2
    assert Tokenizer(vocabulary_path, template=bare, prompt="the [MASK]", special_tokens=["[MASK]"],
                     special_tokens_in_text=True).prompt_length == 1


def test_a_lone_surrogate_counts_as_no_character(tokenizer):
    assert pieces(tokenizer, "un\ud83dwanted") == ["un", "##want", "##ed"]
    assert tokenizer.lookup(["\ud83d"]) == [tokenizer.unk_id]


@pytest.mark.parametrize("text", [
    "the want " * 111_111, "我" * 1_000_000, "a" * 1_000_000, "the,want!" * 111_111, "é" * 1_000_000,
    " " * 1_000_000 + "the", "\u0301" * 1_000_000,
], ids=["words", "cjk", "one word", "punctuation", "accents", "blanks", "marks"])
def test_a_megabyte_takes_no_time(tokenizer, text):
    start = time.process_time()
    ids, = tokenizer.encode([text], 25)
    assert time.process_time() - start < 2
    assert tokenizer.tokens(ids[:25]) == pieces(tokenizer, text)[:25]


def test_words_are_remembered_and_not_for_ever(vocabulary_path, monkeypatch):
    monkeypatch.setattr(tokenization, "MAX_WORDS", 5)
    tokenizer = Tokenizer(vocabulary_path)
    texts = ["the want", "unwanted running the", "the want", "a b c d e", "unwanted want"]
    for batch in [[text] for text in texts] + [texts, texts[:1]]:
        assert tokenizer.encode(batch, 10) == Tokenizer(vocabulary_path).encode(batch, 10)
    assert len(tokenizer._known) == len(set(" ".join(texts).split())), "of the last batch but one"
    tokenizer.encode(["b x"], 10)
    assert set(tokenizer._known) == {"b", "x"}


def test_words_that_are_no_words_are_not_remembered(vocabulary_path):
    tokenizer = Tokenizer(vocabulary_path)
    assert tokenizer.encode(["the " + "a" * 101, "a" * 101], 10) == [
        [tokenizer.vocabulary["the"], tokenizer.unk_id], [tokenizer.unk_id]]
    assert set(tokenizer._known) == {"the"}


@pytest.mark.parametrize("text", ["the want " * 111_111, "我" * 1_000_000, "the,want!" * 111_111])
def test_what_is_cut_off_is_hardly_looked_at(vocabulary_path, text, monkeypatch):
    tokenizer, looked_at = Tokenizer(vocabulary_path), []
    normalize = tokenizer.normalize
    monkeypatch.setattr(tokenizer, "normalize", lambda head: looked_at.append(len(head)) or normalize(head))
    tokenizer.encode([text], 25)
    assert sum(looked_at) < 2000


@given(words=st.lists(st.sampled_from(["the", "un", "ΑΣ", "我爱", "a,b", "\u0301", "Σ", " " * 700, "x" * 300]),
                      max_size=60), limit=st.integers(1, 8))
def test_the_first_pieces_do_not_depend_on_the_limit(tokenizer, words, limit):
    text = "".join(f"{word} " if i % 3 else word for i, word in enumerate(words))
    assert tokenizer.encode([text * 8], limit)[0][:limit] == tokenizer.encode([text * 8], 100_000)[0][:limit]


def test_lookup_is_verbatim(tokenizer):
    ids = tokenizer.lookup(["[MASK]", "##ing", "The", "running", "[SEP]"])
    assert tokenizer.tokens(ids) == ["[MASK]", "##ing", "The", "[UNK]", "[SEP]"]


# ---- vocabulary ------------------------------------------------------------------------------------------------------

def test_a_repeated_token_gets_its_last_line(tmp_path):
    (tmp_path / "vocab.txt").write_text("[UNK]\na\n[CLS]\n[SEP]\n a \n", encoding="utf-8")
    assert load_vocabulary(tmp_path / "vocab.txt")["a"] == 4
    assert Tokenizer(tmp_path / "vocab.txt").encode(["a"], 9) == [[4]]


def test_lines_end_at_newlines_only(tmp_path):
    (tmp_path / "vocab.txt").write_bytes("[UNK]\n\u2028\n[CLS]\r\n[SEP]\nx\x85y\nlast".encode())
    vocabulary = load_vocabulary(tmp_path / "vocab.txt")
    assert vocabulary["[CLS]"] == 2 and vocabulary["x\x85y"] == 4 and vocabulary["last"] == 5


@pytest.mark.parametrize("content, message", [
    (b"[UNK]\n[CLS]\nthe\n", r"vocab\.txt lacks \[SEP\]"),
    (b"", r"lacks \[CLS\], \[SEP\], \[UNK\]"),
    (b"\xff\xfe", "not UTF-8"),
    (None, "cannot read the vocabulary .*vocab.txt: No such file"),
])
def test_an_unusable_vocabulary_is_named(tmp_path, content, message):
    if content is not None:
        (tmp_path / "vocab.txt").write_bytes(content)
    with pytest.raises(ModelError, match=message):
        Tokenizer(tmp_path / "vocab.txt")


# ---- without a vocabulary --------------------------------------------------------------------------------------------

def test_word_hash_is_the_same_everywhere():
    tokenizer = WordHashTokenizer()
    assert tokenizer.encode(["hello  world", ""], 9) == [[4 + 0x3610A686 % ((1 << 20) - 4),
                                                          4 + 0x3A771143 % ((1 << 20) - 4)], []]
    assert tokenizer.lookup(["hello"]) == WordHashTokenizer().encode(["hello"], 9)[0]
    assert tokenizer.tokens(tokenizer.encode(["hello world"], 9)[0]) == ["hello", "world"]
    assert tokenizer.lookup(["[CLS]", "[SEP]", "[UNK]"]) == [1, 2, 3] == [
        *tokenizer.single.before, *tokenizer.single.after, tokenizer.lookup(["[UNK]"])[0]]


@given(text=st.text(st.characters(exclude_categories=[])), limit=st.integers(1, 5))
def test_word_hash_takes_any_text(text, limit):
    ids, = WordHashTokenizer().encode([text], limit)
    assert len(ids) == min(limit, len(text.split())) and all(0 < number < 1 << 20 for number in ids)


def test_word_hash_does_not_remember_without_end(monkeypatch):
    monkeypatch.setattr("bert_serving.server.core.tokenization.CharacterTable.MAX_ENTRIES", 5)
    tokenizer = WordHashTokenizer()
    ids, = tokenizer.encode([" ".join(map(str, range(100)))], 100)
    assert sys.getsizeof(tokenizer._ids) < 1000 and tokenizer.tokens(ids)[-1].startswith("#")
