import numpy as np
import pytest

from bert_serving.server.bulk import records
from bert_serving.server.bulk.asking import Asker
from bert_serving.server.bulk.journal import Journal
from bert_serving.server.bulk.lines import TextInput
from bert_serving.server.bulk.places import stamp
from bert_serving.server.bulk.records import BulkError
from bert_serving.server.bulk.run import BulkRun
from bert_serving.server.bulk.vectors import VectorFile
from bert_serving.server.golden import SENTENCES

from .conftest import FakeClient, vector

TEXTS = [["one", "two", "one", ""], ["three", "two", "poison", "four"], ["poison", "five", "five", "one"], ["six"]]
"""Of each chunk."""

FLAT = sum(TEXTS, [])
REJECTS = [(3, 4), (6, 7), (8, 9)]


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    monkeypatch.setattr(records, "CHUNK_RECORDS", 4)
    path = tmp_path / "input"
    path.write_text("\n".join(FLAT))
    return tmp_path


def run(workplace, client, most=3, on_rows=lambda rows: None, count=len(FLAT)):
    source = TextInput(workplace / "input")
    journal = Journal(workplace / "journal")
    vectors = VectorFile(workplace / "vectors", count, 4, np.dtype(np.float32))
    asker = Asker(client, np.stack([vector(text) for text in SENTENCES]), "fp32", 2, patience=10.0)
    try:
        BulkRun(source, stamp(source.path), journal, vectors, asker, most, on_rows).run()
        return [(row, line) for row, line, _ in journal.rejects()]
    finally:
        journal.close()
        vectors.close()


def check(workplace):
    found = np.load(workplace / "vectors")
    for row, text in enumerate(FLAT):
        expected = np.full(4, np.nan) if row in dict(REJECTS) else vector(text)
        np.testing.assert_array_equal(found[row], expected)


@pytest.mark.parametrize("most", [1, 2, 4])
@pytest.mark.parametrize("newest_first", [False, True])
def test_every_record_gets_its_row_and_every_text_is_asked_for_once(workplace, client, most, newest_first):
    client.newest_first = newest_first
    done = []
    assert run(workplace, client, most, done.append) == REJECTS
    check(workplace)
    assert done == [4, 4, 4, 1]
    asked = [text for request in client.asked for text in request[:-1] if "poison" not in text]
    # What a refused text's neighbours cost is that they are asked for again.
    assert set(asked) == {"one", "two", "three", "four", "five", "six"} and len(asked) <= 8


@pytest.mark.parametrize("steps", range(8))
def test_it_ends_at_any_step_and_the_next_one_makes_the_same(workplace, steps):
    class Killed(Exception):
        pass

    class Mortal(FakeClient):
        left = steps

        def fetch(self):
            if not self.left:
                raise Killed
            self.left -= 1
            return super().fetch()

    try:
        run(workplace, Mortal())
    except Killed:
        pass
    survivor = FakeClient()
    assert run(workplace, survivor) == REJECTS
    check(workplace)
    if steps >= 7:
        assert not survivor.asked, "nothing was left to do"


@pytest.mark.parametrize("content, message", [
    ("longer\n" * 20, "was changed"), ("one\ntwo", "was changed")])
def test_an_input_that_changes_is_noticed(workplace, client, content, message):
    with pytest.raises(BulkError, match=message):
        run(workplace, client, most=1, on_rows=lambda rows: (workplace / "input").write_text(content))


def test_an_input_with_another_number_of_records_is_noticed(workplace, client):
    with pytest.raises(BulkError, match="had 14 records and now has 13"):
        run(workplace, client, count=14)
