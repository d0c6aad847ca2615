"""Small files that anybody may have written."""
import os

import pytest
from bert_serving.server.core import files
from bert_serving.server.core.files import read_json, read_text


def test_text_is_as_it_is(tmp_path):
    (tmp_path / "file").write_bytes("ü\r\n\u2028\n".encode())
    assert read_text(tmp_path / "file") == "ü\r\n\u2028\n"


def test_json(tmp_path):
    (tmp_path / "file").write_text('{"a": [1]}')
    assert read_json(tmp_path / "file") == {"a": [1]}


@pytest.mark.parametrize("content, said", [
    (b"\xff", "can't decode byte"), (b"{", "Expecting property name"), (b"[" * 200_000, "nested too deeply"),
    (b'{"a":' * 200_000, "nested too deeply"), (b"[" + b"9" * 10_000 + b"]", "integer string conversion"),
    (b"", "Expecting value"), (b"\0", "Expecting value")])
def test_what_is_no_json(tmp_path, content, said):
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(ValueError, match=said):
        read_json(tmp_path / "file")


def test_what_is_no_file_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path, "/dev/zero"):
        with pytest.raises(OSError, match="no regular file"):
            read_text(path)
    with pytest.raises(FileNotFoundError):
        read_text(tmp_path / "nothing")


def test_a_file_without_end_is_not_read_to_it(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "MAX_BYTES", 1_000_000)
    with open(tmp_path / "file", "wb") as file:
        file.truncate(1_000_001)
    with pytest.raises(ValueError, match="more than 1 MB"):
        read_text(tmp_path / "file")
