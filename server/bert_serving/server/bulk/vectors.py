"""The vectors of a job while it runs, and its result as .npy: a file in which each row has its place from the start."""
from __future__ import annotations

import io
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from .records import BulkError


def npy_header(shape: tuple[int, int], dtype: np.dtype) -> bytes:
    """How a .npy file of this shape begins; the rows follow one another after it."""
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False,
                                                  "shape": shape})
    return buffer.getvalue()


class VectorFile:
    """A .npy file with room for ``count`` rows of ``width`` numbers.

    It is read and written, never mapped: pages of a mapped file count as memory of the process.
    """

    def __init__(self, path: Path, count: int, width: int, dtype: np.dtype) -> None:
        """Open the file, and make it if it is not there.

        Raises:
            BulkError: it cannot be made, for instance because the disk has no room for it.
        """
        self.path, self.count, self.width, self.dtype = path, count, width, dtype
        self._row_bytes = width * dtype.itemsize
        header = npy_header((count, width), dtype)
        self._start = len(header)
        self._size = self._start + count * self._row_bytes
        try:
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise self._cannot_write(error) from error
        try:
            if (os.fstat(self._descriptor).st_size != self._size
                    or os.pread(self._descriptor, len(header), 0) != header):
                if hasattr(os, "posix_fallocate"):  # tells at once when there is no room
                    os.posix_fallocate(self._descriptor, 0, self._size)
                os.truncate(self._descriptor, self._size)
                self._put(header, 0)
                self.sync()
        except BaseException as error:
            os.close(self._descriptor)
            if isinstance(error, OSError):
                raise self._cannot_write(error) from error
            raise

    def write(self, row: int, vectors: np.ndarray) -> None:
        """Put rows in their places.

        Args:
            row: where the first goes.
            vectors: [n, width] of the file's dtype.
        Raises:
            BulkError: the disk is full.
        """
        assert vectors.shape[1] == self.width and vectors.dtype == self.dtype and row + len(vectors) <= self.count
        self._put(np.ascontiguousarray(vectors).data.cast("B"), self._start + row * self._row_bytes)

    def read(self, rows: Sequence[int]) -> np.ndarray:
        """[len(rows), width], from anywhere in the file."""
        vectors = np.empty((len(rows), self.width), self.dtype)
        for vector, row in zip(vectors, rows):
            self._get(vector, row)
        return vectors

    def read_block(self, first: int, end: int) -> np.ndarray:
        """[end - first, width], rows that follow one another."""
        vectors = np.empty((end - first, self.width), self.dtype)
        self._get(vectors, first)
        return vectors

    def sync(self) -> None:
        """Return when everything written is on the disk."""
        try:
            getattr(os, "fdatasync", os.fsync)(self._descriptor)
        except OSError as error:
            raise self._cannot_write(error) from error

    def close(self) -> None:
        os.close(self._descriptor)

    def _get(self, target: np.ndarray, row: int) -> None:
        view = target.data.cast("B") if target.size else memoryview(b"")
        done, start = 0, self._start + row * self._row_bytes
        while done < len(view):
            read = os.preadv(self._descriptor, [view[done:]], start + done)
            if not read:
                raise BulkError(f"{self.path} has become shorter; -overwrite begins anew")
            done += read

    def _put(self, content: bytes | memoryview, offset: int) -> None:
        view = memoryview(content)
        try:
            while view:
                written = os.pwrite(self._descriptor, view, offset)
                view, offset = view[written:], offset + written
        except OSError as error:
            raise self._cannot_write(error) from error

    def _cannot_write(self, error: OSError) -> BulkError:
        return BulkError(f"cannot write {self._size / 1e6:.0f} MB to {self.path}: {error.strerror or error}")
