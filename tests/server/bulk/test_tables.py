import sys

import pytest

from bert_serving.server.bulk.records import MAX_BYTES, START, BulkError
from bert_serving.server.bulk.tables import ArrowInput, ParquetInput, need_arrow

arrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
feather = pytest.importorskip("pyarrow.feather")
parquet = pytest.importorskip("pyarrow.parquet")

TEXTS = [f"text {row % 40}" for row in range(100)]
TEXTS[3], TEXTS[50], TEXTS[99] = None, "", "é \U0001f600"


def write_parquet(table, path):
    parquet.write_table(table, path, row_group_size=30)


def write_arrow(table, path):
    with arrow.OSFile(str(path), "wb") as file, arrow.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table, max_chunksize=30)


def write_feather(table, path):
    feather.write_feather(table, str(path), compression="lz4", chunksize=30)


KINDS = [(ParquetInput, write_parquet), (ArrowInput, write_arrow), (ArrowInput, write_feather)]


@pytest.mark.parametrize("kind, write", KINDS)
@pytest.mark.parametrize("type", ["string", "large_string", "dictionary"])
def test_texts_are_read_from_any_row_on(tmp_path, kind, write, type):
    texts = arrow.array(TEXTS, arrow.large_string() if type == "large_string" else arrow.string())
    if type == "dictionary":
        texts = texts.dictionary_encode()
    write(arrow.table({"id": list(range(100)), "body": texts, "other": [["x"]] * 100}), tmp_path / "in")
    source = kind(tmp_path / "in", "body")
    source.check()
    made = list(source.records(START))
    assert [record.text or None for record, _ in made] == [text or None for text in TEXTS]
    assert source.count() == len(made) == 100
    assert (made[3][0].reason, made[50][0].reason) == ("the text is null", "the text is empty or blank")
    assert [record.line for record, _ in made] == list(range(1, 101))
    for done in (1, 29, 30, 31, 90, 100):
        assert list(source.records(made[done - 1][1])) == made[done:]


@pytest.mark.parametrize("kind, write", KINDS[:2])
def test_bytes_that_are_no_text_are_a_reject(tmp_path, kind, write):
    raw = arrow.array([b"fine", b"\xff", None])
    column = arrow.Array.from_buffers(arrow.string(), 3, raw.buffers())
    write(arrow.table({"text": column}), tmp_path / "in")
    records = [record for record, _ in kind(tmp_path / "in", "text").records(START)]
    assert [record.text for record in records] == ["fine", None, None] and "UTF-8" in records[1].reason


@pytest.mark.parametrize("kind, write", KINDS[:2])
def test_texts_that_are_too_long_are_rejects(tmp_path, kind, write):
    write(arrow.table({"text": ["fine", "x" * MAX_BYTES, "x" * (MAX_BYTES + 1)]}), tmp_path / "in")
    records = [record for record, _ in kind(tmp_path / "in", "text").records(START)]
    assert [len(record.text or "") for record in records] == [4, MAX_BYTES, 0]
    assert records[2].reason == "the text is longer than 8 MB"


@pytest.mark.parametrize("kind, write", KINDS[:2])
def test_columns_that_are_not_there_or_hold_something_else(tmp_path, kind, write):
    write(arrow.table({"id": [1], "list": [["x"]], "body": ["x"]}), tmp_path / "in")
    with pytest.raises(BulkError, match="no column 'text'; give -column one of those found: id, list, body"):
        kind(tmp_path / "in", "text").check()
    for column, found in (("id", "int64"), ("list", "list<")):
        with pytest.raises(BulkError, match=f"holds {found}.*; expected strings"):
            kind(tmp_path / "in", column).check()


@pytest.mark.parametrize("kind, write", KINDS[:2])
def test_damage_is_an_error_in_a_line(tmp_path, kind, write):
    path = tmp_path / "in"
    path.write_bytes(b"no table at all\n" * 10)
    with pytest.raises(BulkError, match="cannot read .*in: ") as caught:
        kind(path, "text").check()
    assert "\n" not in str(caught.value)
    write(arrow.table({"text": [f"some text {number}" for number in range(1000)]}), path)
    content = bytearray(path.read_bytes())
    content[8:4000] = bytes(3992)
    path.write_bytes(content)
    with pytest.raises(BulkError, match="cannot read .*in: "):
        list(kind(path, "text").records(START))


def test_without_pyarrow_there_is_a_way_out(monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(BulkError, match=r"pip install './server\[bulk\]'"):
        need_arrow()
