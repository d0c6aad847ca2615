import json

import pytest

from bert_serving.server.bulk import lines
from bert_serving.server.bulk.lines import CsvInput, JsonInput, TextInput
from bert_serving.server.bulk.records import START, BulkError


@pytest.fixture
def written(tmp_path):
    def write(content):
        path = tmp_path / "input"
        path.write_bytes(content)
        return path
    return write


@pytest.fixture(autouse=True)
def small_limits(monkeypatch):
    monkeypatch.setattr(lines, "MAX_BYTES", 40)
    monkeypatch.setattr(lines, "BLOCK", 7)


def seen(source):
    source.check()
    made = list(source.records(START))
    assert len(made) == source.count()
    # Whoever begins at a position sees what comes after it.
    for number, (_, position) in enumerate(made, 1):
        assert list(source.records(position)) == made[number:]
        assert position.row == number
    return [(record.line, record.text, record.reason) for record, _ in made]


def test_lines_of_text(written):
    content = (b"\xef\xbb\xbffirst\nsecond\r\n\n\xff\n" + b"x" * 100 + b"\n" + b"y" * 40 + b"\nwith \x0c\xe2\x80\xa8 "
               b"inside\rlast")
    found = seen(TextInput(written(content)))
    assert [text for _, text, _ in found] == ["first", "second", None, None, None, "y" * 40,
                                              "with \x0c\u2028 inside\rlast"]
    assert [line for line, _, _ in found] == [1, 2, 3, 4, 5, 6, 7]
    assert ["empty" in found[2][2], "UTF-8" in found[3][2], "longer" in found[4][2]] == [True] * 3


@pytest.mark.parametrize("content, count", [(b"", 0), (b"\n", 1), (b"a", 1), (b"a\n", 1), (b"a\nb", 2)])
def test_the_last_line_may_end_or_not(written, content, count):
    assert len(seen(TextInput(written(content)))) == count


def test_json_lines(written):
    content = b"\n".join([b'{"text": "one"}', b'"two"', b'{"id": 1}', b'{"text": 3}', b"nonsense", b"",
                          b'{"text": "\\ud800"}', b'{"text": "\xff"}', b"[" * 39, b'{"text": null}'])
    found = seen(JsonInput(written(content), "text"))
    assert [text for _, text, _ in found] == ["one", "two"] + [None] * 8
    for reason, part in zip([reason for _, _, reason in found[2:]], [
            "no 'text'; found: id", "an integer", "no JSON", "no JSON", "half of a pair", "UTF-8", "no JSON", "null"]):
        assert part in reason


def test_json_that_is_nested_too_deep(written, monkeypatch):
    monkeypatch.setattr(lines, "MAX_BYTES", 1 << 20)
    assert "no JSON" in seen(JsonInput(written(b"[" * 200_000), "text"))[0][2]


def test_json_without_the_column_says_what_there_is(written):
    path = written(b'nonsense\n{"id": 1, "body": "x"}\n')
    with pytest.raises(BulkError, match="no column 'text'; give -column one of those found: id, body"):
        JsonInput(path, "text").check()
    assert seen(JsonInput(path, "body"))[1][1] == "x"


def test_csv(written):
    content = (b'id,text\r\n1,plain\n2,"quoted, with ""marks"""\n\n3,"over\ntwo lines"\n4\n5,\xff\n6,"' + b"z" * 60
               + b'"\n7,last')
    found = seen(CsvInput(written(content), "text"))
    assert [text for _, text, _ in found] == ["plain", 'quoted, with "marks"', "over\ntwo lines", None, None, None,
                                              "last"]
    assert [line for line, _, _ in found] == [2, 3, 5, 7, 8, 9, 10]
    for reason, part in zip([reason for _, _, reason in found[3:]], [
            "it has 1 field, and 'text' is number 2", "UTF-8", "longer"]):
        assert part in reason


def test_csv_after_a_line_that_is_too_long(written):
    found = seen(CsvInput(written(b"text\n" + b"z" * 60 + b"\nnext\n"), "text"))
    assert [text for _, text, _ in found] == [None, "next"]


def test_csv_with_tabs_and_without_the_column(written):
    path = written(b"id\tbody\n1\tx\n")
    assert seen(CsvInput(path, "body", "\t")) == [(2, "x", "")]
    with pytest.raises(BulkError, match="found: id, body"):
        CsvInput(path, "text", "\t").check()
    with pytest.raises(BulkError, match="is empty"):
        CsvInput(written(b""), "text").check()


def test_json_may_be_as_any_program_writes_it(written, monkeypatch):
    monkeypatch.setattr(lines, "MAX_BYTES", 1000)
    texts = ["é \u2028 \\ \"", "日本"]
    content = "\r\n".join(json.dumps({"text": text}, ensure_ascii=number == 0)
                          for number, text in enumerate(texts)).encode()
    assert [text for _, text, _ in seen(JsonInput(written(content), "text"))] == texts
