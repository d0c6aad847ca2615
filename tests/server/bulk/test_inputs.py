from pathlib import Path

import pytest

from bert_serving.server.bulk import inputs
from bert_serving.server.bulk.records import START, BulkError
from bert_serving.server.errors import ConfigError

CONTENT = {"text": b"one\ntwo", "jsonl": b'{"body": "one"}\n{"body": "two"}', "csv": b"id,body\n1,one\n2,two\n",
           "tsv": b"id\tbody\n1\tone\n2\ttwo"}


def test_every_format_is_tested():
    assert set(CONTENT) | {"parquet", "arrow"} == set(inputs.FORMATS), "tables have tests of their own"


@pytest.mark.parametrize("format, content", CONTENT.items())
def test_every_format_is_read(tmp_path, format, content):
    path = tmp_path / "input"
    path.write_bytes(content)
    source = inputs.open_input(path, format, "body")
    assert source.count() == 2 and [record.text for record, _ in source.records(START)] == ["one", "two"]


def test_formats_go_by_suffix():
    assert {inputs.format_of(Path("x" + suffix)) for suffix in inputs.SUFFIXES} == set(inputs.FORMATS)
    assert inputs.format_of(Path("X.CSV")) == "csv" and inputs.format_of(None) == "text"
    with pytest.raises(ConfigError, match="x.doc does not end in a format that is known .*give -format"):
        inputs.format_of(Path("x.doc"))


def test_what_cannot_be_read_is_said_so(tmp_path):
    with pytest.raises(BulkError, match="is not there"):
        inputs.open_input(tmp_path / "nowhere", "text", "")
    with pytest.raises(BulkError, match="is no file"):
        inputs.open_input(tmp_path, "text", "")


def test_a_column_counts_only_where_there_are_some():
    assert inputs.about("text", "a") == inputs.about("text", "b")
    assert inputs.about("csv", "a") != inputs.about("csv", "b") != inputs.about("jsonl", "b")
