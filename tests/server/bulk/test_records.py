import pytest

from bert_serving.server.bulk.records import CHUNK_CHARACTERS, CHUNK_RECORDS, START, Position, Record, chunks, \
    text_record


def numbered(texts):
    return [(Record(row + 1, text), Position(row + 1, row, row + 2)) for row, text in enumerate(texts)]


@pytest.mark.parametrize("raw, text, reason", [
    (b"plain", "plain", ""), ("é".encode(), "é", ""), ("is str", "is str", ""), ("é", "é", ""),
    (b"ok \xff", None, "byte 4 is not valid UTF-8"), (b"", None, "empty"), (b" \t ", None, "blank"),
    ("\u2003", None, "blank"), ("half \ud800", None, "half of a pair"),
])
def test_a_text_is_taken_or_rejected_with_a_reason(raw, text, reason):
    record = text_record(7, raw)
    assert (record.line, record.text) == (7, text) and reason in record.reason and bool(reason) == bool(record.reason)


@pytest.mark.parametrize("start", [0, CHUNK_RECORDS, 2 * CHUNK_RECORDS])
def test_chunks_end_at_the_same_places_wherever_one_begins(start):
    records = numbered(["text"] * (2 * CHUNK_RECORDS + 5))
    begin = records[start - 1][1] if start else START
    made = list(chunks(records[start:], begin))
    whole = list(chunks(records, START))
    assert made == whole[start // CHUNK_RECORDS:]
    assert [chunk.end for chunk in whole[:-1]] == [chunk.start for chunk in whole[1:]]
    assert whole[-1].end.row == len(records) == sum(len(chunk.records) for chunk in whole)


def test_long_texts_end_a_chunk_early():
    made = list(chunks(numbered(["x" * (CHUNK_CHARACTERS // 2)] * 5), START))
    assert [len(chunk.records) for chunk in made] == [2, 2, 1]


def test_nothing_is_no_chunk():
    assert list(chunks([], START)) == []
