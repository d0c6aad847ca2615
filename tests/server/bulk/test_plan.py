from bert_serving.server.bulk.journal import digest
from bert_serving.server.bulk.plan import plan
from bert_serving.server.bulk.records import Chunk, Position, Record


def test_every_text_is_computed_once():
    texts = ["new", "done", None, "under way", "new", "new too", "done"]
    chunk = Chunk(Position(10, 0, 1), Position(17, 0, 8), [
        Record(row, text, "" if text else "blank") for row, text in enumerate(texts)])
    looked_up = []

    def rows_of(digests):
        looked_up.extend(digests)
        return {digest("done"): 3}

    made = plan(chunk, {digest("under way"): 8}, rows_of)
    assert made.texts == {10: "new", 15: "new too"}
    assert made.first == {digest("new"): 10, digest("new too"): 15}
    assert made.copies == {11: 3, 13: 8, 14: 10, 16: 3}
    assert made.rejects == {12: "blank"}
    assert sorted(looked_up) == sorted(map(digest, ["new", "done", "new too"])), "each once, and none that is known"


def test_other_texts_have_other_digests():
    assert len({digest(text) for text in ("a", "A", "a ", "", "é", "e\u0301")}) == 6
