"""Arrays that the library fills, in the form that the caller wants them in."""

from __future__ import annotations

import ctypes
import importlib.util
import math
from collections.abc import Sequence
from ctypes import POINTER, c_float
from typing import Any

from ._errors import InvalidArgumentError
from ._native import cf_token

#: The forms an array may be asked for in.
KINDS = ("numpy", "torch", "memoryview")


def kind_or_default(kind: str | None) -> str:
    """The kind asked for; else NumPy's if NumPy is installed, a memoryview if it is not."""
    if kind is None:
        return "numpy" if importlib.util.find_spec("numpy") is not None else "memoryview"
    if kind not in KINDS:
        raise InvalidArgumentError(f"array is {kind!r}, expected one of {', '.join(KINDS)}")
    return kind


class Floats:
    """Room for a float32 array of ``shape``; ``pointer`` is for C, ``view()`` for the caller."""

    def __init__(self, shape: tuple[int, ...], kind: str | None) -> None:
        self.shape = shape
        self.kind = kind_or_default(kind)
        self._array: Any
        if self.kind == "numpy":
            import numpy

            self._array = numpy.empty(shape, dtype=numpy.float32)
            address = self._array.ctypes.data
        elif self.kind == "torch":
            import torch

            self._array = torch.empty(shape, dtype=torch.float32)
            address = self._array.data_ptr()
        else:
            self._array = (c_float * math.prod(shape))()
            address = ctypes.addressof(self._array)
        self.pointer = ctypes.cast(address, POINTER(c_float))

    def view(self) -> Any:
        """The array itself; nothing is copied."""
        if self.kind != "memoryview":
            return self._array
        return memoryview(self._array).cast("B").cast("f", self.shape)


def token_array(ids: Sequence[int], name: str) -> ctypes.Array[cf_token]:
    """``ids`` for C: any sequence of integers, NumPy's and PyTorch's one-dimensional arrays too."""
    if isinstance(ids, ctypes.Array) and ids._type_ is cf_token:
        return ids
    values: Any = ids.tolist() if hasattr(ids, "tolist") else ids
    if isinstance(values, (str, bytes)) or not hasattr(values, "__len__"):
        raise TypeError(f"{name} is {type(ids).__name__}, expected a sequence of token ids")
    for position, value in enumerate(values):
        if isinstance(value, bool) or not hasattr(value, "__index__"):
            raise TypeError(
                f"{name}: element {position} is {type(value).__name__}, expected a token id"
            )
        if not -(2**31) <= value < 2**31:
            raise InvalidArgumentError(f"{name}: element {position} is {value}, not a token id")
    return (cf_token * len(values))(*values)
