"""Arrays of PyTorch and NumPy as the library's tensors, in place."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ._errors import InvalidArgumentError, UnsupportedError
from ._native import DType, cf_tensor

_DTYPES = {
    "torch.float32": DType.F32,
    "torch.float16": DType.F16,
    "torch.bfloat16": DType.BF16,
    "float32": DType.F32,
    "float16": DType.F16,
}
CPU = -1


def tensor_structs(tensors: Mapping[str, Any]) -> tuple[Any, list[Any]]:
    """C's view of each array, and what must be kept for as long as that is used."""
    structs = (cf_tensor * len(tensors))()
    kept: list[Any] = []
    for struct, (name, array) in zip(structs, tensors.items()):
        kept.append(_fill(struct, name, array))
    return structs, kept


def _fill(struct: cf_tensor, name: str, array: Any) -> Any:
    """Describes one array; returns what owns its memory."""
    dims = tuple(getattr(array, "shape", ()))
    if not 1 <= len(dims) <= 2:
        raise InvalidArgumentError(f"{name} has {len(dims)} dimensions, expected 1 or 2")
    dtype = _DTYPES.get(str(array.dtype))
    if dtype is None:
        raise UnsupportedError(f"{name} is {array.dtype}, expected float32, float16 or bfloat16")
    owner, address, device = _memory(name, array)
    struct.name = name.encode()
    struct.data = address
    struct.dtype = dtype
    struct.device = device
    struct.n_dims = len(dims)
    struct.dims[:] = (*dims, 1)[:2]
    return owner


def _memory(name: str, array: Any) -> tuple[Any, int, int]:
    """Owner, address and device of an array's memory."""
    if hasattr(array, "data_ptr"):  # PyTorch
        if not array.is_contiguous():
            raise InvalidArgumentError(f"{name} is not contiguous")
        if array.device.type not in ("cpu", "cuda"):
            raise UnsupportedError(f"{name} lies on {array.device}, expected cpu or cuda")
        # An alias of its own: the tensor's owner may give that other memory.
        owner = array.detach()
        device = CPU if array.device.type == "cpu" else array.device.index
        return owner, owner.data_ptr(), device
    if hasattr(array, "__array_interface__"):  # NumPy
        if not array.flags.c_contiguous:
            raise InvalidArgumentError(f"{name} is not contiguous")
        return array, array.__array_interface__["data"][0], CPU
    raise TypeError(f"{name} is {type(array).__name__}, expected an array of PyTorch or NumPy")
