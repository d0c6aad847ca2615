import os

import numpy as np
import pytest

from bert_serving.server.bulk.records import BulkError
from bert_serving.server.bulk.vectors import VectorFile, npy_header

F4 = np.dtype(np.float32)


@pytest.mark.parametrize("shape, dtype", [((3, 5), "<f4"), ((10**12, 768), "<f2"), ((0, 4), "<f4")])
def test_the_header_is_numpys(tmp_path, shape, dtype):
    header = npy_header(shape, np.dtype(dtype))
    with open(tmp_path / "x", "wb") as file:
        file.write(header)
    with open(tmp_path / "x", "rb") as file:
        assert np.lib.format.read_magic(file) == (1, 0)
        assert np.lib.format.read_array_header_1_0(file) == (shape, False, np.dtype(dtype))


@pytest.mark.parametrize("dtype", ["<f4", "<f2"])
def test_rows_go_to_their_places_in_any_order(tmp_path, dtype):
    expected = np.random.default_rng(0).standard_normal((7, 5)).astype(dtype)
    file = VectorFile(tmp_path / "x", 7, 5, np.dtype(dtype))
    file.write(4, expected[4:])
    file.close()
    file = VectorFile(tmp_path / "x", 7, 5, np.dtype(dtype))  # taken up again: nothing is lost
    file.write(0, expected[:4])
    np.testing.assert_array_equal(file.read([6, 0, 6]), expected[[6, 0, 6]])
    np.testing.assert_array_equal(file.read_block(2, 5), expected[2:5])
    file.sync()
    file.close()
    np.save(tmp_path / "numpy", expected)
    assert (tmp_path / "x").read_bytes() == (tmp_path / "numpy.npy").read_bytes()
    np.testing.assert_array_equal(np.load(tmp_path / "x", mmap_mode="r"), expected)


def test_no_rows_are_an_array_all_the_same(tmp_path):
    VectorFile(tmp_path / "x", 0, 5, F4).close()
    assert np.load(tmp_path / "x").shape == (0, 5)


def test_a_file_of_another_shape_is_made_anew(tmp_path):
    for count, width in ((7, 5), (3, 5), (5, 3)):
        VectorFile(tmp_path / "x", count, width, F4).close()
        assert np.load(tmp_path / "x").shape == (count, width)


def test_a_disk_without_room_is_known_at_the_start(tmp_path, monkeypatch):
    def full(*args):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "posix_fallocate", full)
        with pytest.raises(BulkError, match=r"cannot write 0 MB to .*: No space left on device"):
            VectorFile(tmp_path / "x", 7, 5, F4)
    with pytest.raises(BulkError, match="cannot write"):
        VectorFile(tmp_path / "nowhere" / "x", 7, 5, F4)


def test_a_file_that_has_become_shorter(tmp_path):
    file = VectorFile(tmp_path / "x", 7, 5, F4)
    os.truncate(tmp_path / "x", 150)
    with pytest.raises(BulkError, match="shorter"):
        file.read([6])
    file.close()
