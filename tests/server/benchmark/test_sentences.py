"""What is sent: files read, random sentences made, each client's part."""
import pytest
from bert_serving.server.benchmark.load import BenchmarkError
from bert_serving.server.benchmark.sentences import (LEAST_TEXTS, WORDS, num_texts, random_sentences, read_lines,
                                                     read_words, shares)


def test_lines_of_a_file_in_an_order_that_stays(tmp_path):
    path = tmp_path / "sentences.txt"
    path.write_text("\n".join([*(f"sentence {number} " for number in range(50)), "", "  "]), encoding="utf-8")
    lines = read_lines(str(path))
    assert sorted(lines) == sorted(f"sentence {number}" for number in range(50))
    assert lines != sorted(lines, key=lambda line: int(line.split()[1])) and lines == read_lines(str(path))


def test_words_of_a_file(tmp_path):
    path = tmp_path / "words.txt"
    path.write_text("b a\n\nc  b über\n", encoding="utf-8")
    assert read_words(str(path)) == ["a", "b", "c", "über"]


@pytest.mark.parametrize("read", [read_lines, read_words])
@pytest.mark.parametrize("content, said", [
    (None, r"cannot read .*file: No such file"), (b"\n \n", r"file is empty; expected"),
    (b"caf\xe9", r"file is not UTF-8 text")])
def test_a_file_that_is_no_use(tmp_path, read, content, said):
    path = tmp_path / "file"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(BenchmarkError, match=said):
        read(str(path))


def test_random_sentences():
    texts = random_sentences(WORDS, 25, 1000)
    assert texts == random_sentences(WORDS, 25, 1000) and len(set(texts)) == 1000
    assert all(len(text.split()) == 25 for text in texts)
    assert len(set(WORDS)) == len(WORDS)


@pytest.mark.parametrize("num_client, size", [(1, 1), (3, 1), (2, 256)])
def test_no_sentence_is_sent_by_two_clients(num_client, size):
    count = num_texts(size)
    assert count >= max(size, LEAST_TEXTS)
    texts = [str(number) for number in range(num_client * count)]
    parts = shares(texts, num_client, size)
    assert [len(part) for part in parts] == [count] * num_client
    assert len({text for part in parts for text in part}) == num_client * count


def test_few_sentences_are_sent_more_than_once():
    first, second = shares(["a", "b", "c"], 2, 2)
    assert first[:4] == ["a", "b", "c", "a"] and second[:3] == ["b", "c", "a"]
