"""A file of named arrays, whatever its format."""
from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

import numpy as np

from ..errors import ModelError
from .weight_files import printable


class TensorFile(ABC):
    """Named arrays, read one at a time.

    Attributes:
        path: for messages.
        shapes: name -> shape, as in the file.
    """

    path: str
    shapes: Mapping[str, tuple[int, ...]]

    @abstractmethod
    def array(self, name: str) -> np.ndarray:
        """
        Returns:
            The numbers of the file in their own type, bfloat16 as float32; not to be changed.
        Raises:
            ModelError: the file is damaged, or its numbers are of a type that is not known here.
        """

    def read(self, name: str) -> np.ndarray:
        """
        Returns:
            float32; not to be changed.
        Raises:
            ModelError: the file is damaged, or holds other numbers than weights, as quantized models do.
        """
        array = self.array(name)
        if array.dtype.kind != "f":
            raise ModelError(f"{printable(name)} of the weights {self.path} is {array.dtype}, expected float32, "
                             "float16, bfloat16 or float64; a quantized model cannot be served, its original can")
        with np.errstate(over="ignore"):  # of float64; values that are not finite are the caller's to refuse
            return array.astype(np.float32, copy=False)


def widened(halves: np.ndarray) -> np.ndarray:
    """float32 of bfloat16, which is its upper half, and which NumPy does not know.

    Args:
        halves: uint16.
    """
    return (halves.astype(np.uint32) << 16).view(np.float32)
