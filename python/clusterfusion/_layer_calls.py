"""What stands behind _layer's functions: checking their arguments, and launching."""

from __future__ import annotations

import ctypes
import struct
import threading
from operator import itemgetter
from typing import Any, NamedTuple

import torch

from . import _native
from ._errors import NoDeviceError, check
from ._handles import Handle, create
from ._native import Activation, DType, cf_error, cf_layer_options, cf_layer_tensors

try:  # one look at all tensors, in C; a part of PyTorch that it may one day not have
    from torch._C._dynamo.guards import TensorGuards as _TensorGuards
except ImportError:
    _TensorGuards = None

_DTYPES = {torch.float16: DType.F16, torch.bfloat16: DType.BF16}
_GELU = {"erf": Activation.GELU_ERF, "tanh": Activation.GELU_TANH}
_ALIGNMENT = 16

#: cf_layer_tensors: its addresses, then n_cached and n_context.
_PACK = struct.Struct("@21Pii").pack_into
_launch = _native.lib.cf_layer_launch
_byref = ctypes.byref

_MAX_LATELY = 8

_prepared: dict[tuple[Any, ...], Handle] = {}
_lock = threading.Lock()

# ------------------------------------------------------------------------------------------------
# Launching
# ------------------------------------------------------------------------------------------------

#: The tensors' names, in the order in which they are given.
_NAMES = (
    "hidden_states", "qkv_weight", "qkv_bias", "o_weight", "o_bias", "k_cache", "v_cache",
    "ln_weight", "ln_bias", "cos", "sin", "post_ln_weight", "post_ln_bias", "mlp_up_weight",
    "mlp_up_bias", "mlp_down_weight", "mlp_down_bias",
)  # fmt: skip
_K_CACHE, _V_CACHE, _COS, _SIN, _UP, _N_UP = 5, 6, 9, 10, 13, 15
#: Their places in the order of cf_layer_tensors, before and behind those of down.
_FIRST = itemgetter(0, 1, 2, 3, 4, 13, 14)
_LAST = itemgetter(7, 8, 11, 12, 9, 10, 5, 6)

_address_of = torch.Tensor.data_ptr
_stream_of = torch._C._cuda_getCurrentRawStream if torch.backends.cuda.is_built() else None


class _Accepted(NamedTuple):
    """What follows from a signature that was checked whole."""

    is_like: Any  #: whether tensors are of the same types, dtypes, devices, shapes and strides
    layer: Any
    device: int
    n_rows: int
    templates: tuple[torch.Tensor, ...]  #: what outputs look like
    n_elements: int  #: of all outputs


#: By number of tensors and options, what was checked lately: calls like these are not looked at
#: again. Lists are replaced, not changed, since other threads may go through them.
_accepted: dict[tuple[Any, ...], list[_Accepted]] = {}


def _allocate(hidden_states: torch.Tensor, accepted: _Accepted) -> tuple[torch.Tensor, ...]:
    """The outputs, cut out of one piece of memory: an allocation costs more than a launch."""
    memory = hidden_states.new_empty(accepted.n_elements)
    return tuple(torch._C._nn.unflatten_dense_tensors(memory, accepted.templates))


def allocate_apart(hidden_states: torch.Tensor, accepted: _Accepted) -> tuple[torch.Tensor, ...]:
    """Outputs that share no memory, as PyTorch's operators need them."""
    return tuple(map(torch.empty_like, accepted.templates))


def attention_up(*arguments: Any, allocate: Any = _allocate) -> tuple[torch.Tensor, ...]:
    tensors, current_seq_len, options = arguments[:15], arguments[15], arguments[16:]
    accepted, addresses = _check(tensors, current_seq_len, options)
    outputs: tuple[torch.Tensor, ...] = allocate(tensors[0], accepted)
    output, mlp, k_new, v_new = outputs
    fields = (
        *_FIRST(addresses), 0, 0, *_LAST(addresses), output.data_ptr(), mlp.data_ptr(),
        k_new.data_ptr(), v_new.data_ptr(), current_seq_len, accepted.n_rows,
    )  # fmt: skip
    _start(accepted, fields, tensors)
    return outputs


def decoder_layer(*arguments: Any, allocate: Any = _allocate) -> tuple[torch.Tensor, ...]:
    tensors, current_seq_len, options = arguments[:17], arguments[17], arguments[18:]
    accepted, addresses = _check(tensors, current_seq_len, options)
    outputs: tuple[torch.Tensor, ...] = allocate(tensors[0], accepted)
    output, k_new, v_new = outputs
    fields = (
        *_FIRST(addresses), addresses[15], addresses[16], *_LAST(addresses), output.data_ptr(), 0,
        k_new.data_ptr(), v_new.data_ptr(), current_seq_len, accepted.n_rows,
    )  # fmt: skip
    _start(accepted, fields, tensors)
    return outputs


def _start(accepted: _Accepted, fields: tuple[int, ...], tensors: tuple[Any, ...]) -> None:
    packed, error = cf_layer_tensors(), cf_error()
    _PACK(packed, 0, *fields)
    stream = _stream_of(accepted.device)  # type: ignore[misc]
    status = _launch(accepted.layer, _byref(packed), stream, _byref(error))
    if status:
        _check_alignment(tensors)  # the library's message has its own names
        check(status, error)


# ------------------------------------------------------------------------------------------------
# Checking
# ------------------------------------------------------------------------------------------------


def _check(
    tensors: tuple[Any, ...], current_seq_len: Any, options: tuple[Any, ...]
) -> tuple[_Accepted, list[int]]:
    """What the signature stands for, and the addresses; all that a signature lacks is checked."""
    accepted = None
    try:
        for each in _accepted.get((len(tensors), options), ()):
            if each.is_like(*tensors):
                accepted = each
                break
    except (AttributeError, TypeError):  # something is not a tensor, or not hashable
        pass
    if accepted is None:
        accepted = _accept(tensors, options)
    addresses = [*map(_address_of, tensors)]
    if addresses[_K_CACHE] == addresses[_V_CACHE]:
        raise ValueError("v_cache is the memory of k_cache")
    if type(current_seq_len) is not int:
        raise TypeError(f"current_seq_len is {type(current_seq_len).__name__}, expected int")
    if not 0 <= current_seq_len < accepted.n_rows:
        raise ValueError(
            f"current_seq_len is {current_seq_len}, expected 0 to {accepted.n_rows - 1}: "
            f"k_cache and v_cache have {accepted.n_rows} rows"
        )
    return accepted, addresses


def _accept(tensors: tuple[Any, ...], options: tuple[Any, ...]) -> _Accepted:
    """Checks types, shapes, dtypes, devices, strides; the library's layer is made at the first."""
    n_heads, rotary_dims, layer_norm_eps, gelu = options
    for name, tensor in zip(_NAMES, tensors):
        if not isinstance(tensor, torch.Tensor):
            raise TypeError(f"{name} is {type(tensor).__name__}, expected a tensor")
    hidden_states, whole = tensors[0], len(tensors) > _N_UP
    _check_hidden(hidden_states)
    for name, value in (("n_heads", n_heads), ("rotary_dims", rotary_dims)):
        if type(value) is not int:
            raise TypeError(f"{name} is {type(value).__name__}, expected int")
    if gelu not in _GELU:
        raise ValueError(f"gelu is {gelu!r}, expected 'erf' or 'tanh'")
    d_model, device = hidden_states.numel(), hidden_states.get_device()
    if n_heads < 1 or d_model % n_heads:
        raise ValueError(f"n_heads is {n_heads}, expected a divisor of {d_model}")
    d_ffn = tensors[_UP].shape[0] if tensors[_UP].dim() > 0 else 0
    d_head = d_model // n_heads
    n_rows = tensors[_K_CACHE].shape[0] if tensors[_K_CACHE].dim() > 0 else 0
    shapes = _expected_shapes(tensors, d_model, d_ffn, d_head, rotary_dims)
    for name, tensor, shape in zip(_NAMES, tensors, shapes):
        dtype = torch.float32 if name in ("cos", "sin") else hidden_states.dtype
        _check_tensor(name, tensor, shape, dtype, device)
    if tensors[_V_CACHE].shape[0] != n_rows:
        raise ValueError(f"v_cache has {tensors[_V_CACHE].shape[0]} rows, k_cache {n_rows}")
    layer = _prepare(
        device, hidden_states.dtype, d_model, n_heads, rotary_dims, d_ffn, layer_norm_eps, gelu,
        whole,
    )  # fmt: skip
    heads = (1, n_heads, d_head)
    parts = (tuple(hidden_states.shape),) if whole else ((1, d_model), (d_ffn,))
    templates = tuple(hidden_states.new_empty(size) for size in (*parts, heads, heads))
    accepted = _Accepted(
        _likeness(tensors), layer._as_parameter_, device, n_rows, templates,
        sum(template.numel() for template in templates),
    )  # fmt: skip
    key = (len(tensors), options)
    _accepted[key] = [accepted, *_accepted.get(key, [])[: _MAX_LATELY - 1]]
    return accepted


def _likeness(tensors: tuple[Any, ...]) -> Any:
    """A function that says whether tensors are, in all that _accept() looks at, like these."""
    if _TensorGuards is not None:
        shapes = [list(tensor.shape) for tensor in tensors]
        strides = [list(tensor.stride()) for tensor in tensors]
        return _TensorGuards(
            *tensors, dynamic_dims_sizes=shapes, dynamic_dims_strides=strides
        ).check
    expected = [*map(_signature_of, tensors)]
    return lambda *others: [*map(_signature_of, others)] == expected


def _signature_of(tensor: Any) -> tuple[Any, ...]:
    return type(tensor), tensor.shape, tensor.stride(), tensor.dtype, tensor.get_device()


def _expected_shapes(
    tensors: tuple[Any, ...], d_model: int, d_ffn: int, d_head: int, rotary_dims: int
) -> list[tuple[int, ...]]:
    """In the order of _NAMES; -1 where any number will do."""
    one = (d_model,)
    turns = [
        (rotary_dims,) if tuple(tensors[i].shape) == (rotary_dims,) else (d_head,)
        for i in (_COS, _SIN)
    ]
    return [
        tuple(tensors[0].shape), (3 * d_model, d_model), (3 * d_model,), (d_model, d_model), one,
        (-1, d_model), (-1, d_model), one, one, *turns, one, one, (d_ffn, d_model), (d_ffn,),
        (d_model, d_ffn), one,
    ]  # fmt: skip


def _check_hidden(hidden_states: torch.Tensor) -> None:
    if hidden_states.dtype not in _DTYPES:
        raise ValueError(
            f"hidden_states is {hidden_states.dtype}, expected torch.float16 or torch.bfloat16"
        )
    if not torch.backends.cuda.is_built():
        raise NoDeviceError("hidden_states: this PyTorch is built without CUDA")
    if not torch.cuda.is_available():
        raise NoDeviceError("hidden_states: there is no usable GPU")
    if not hidden_states.is_cuda:
        raise ValueError(f"hidden_states is on {hidden_states.device}, expected a CUDA device")
    shape = list(hidden_states.shape)
    if not 1 <= len(shape) <= 3 or hidden_states.numel() != shape[-1] or shape[-1] == 0:
        raise ValueError(f"hidden_states has shape {shape}, expected [1, 1, hidden size]")


def _check_tensor(
    name: str, tensor: torch.Tensor, shape: tuple[int, ...], dtype: torch.dtype, device: int
) -> None:
    found = tuple(tensor.shape)
    if len(found) != len(shape) or any(a != b for a, b in zip(found, shape) if b >= 0):
        expected = ", ".join("max_len" if n < 0 else str(n) for n in shape)
        raise ValueError(f"{name} has shape {list(found)}, expected [{expected}]")
    if tensor.dtype is not dtype:
        raise ValueError(f"{name} is {tensor.dtype}, expected {dtype}")
    if tensor.get_device() != device:
        raise ValueError(f"{name} is on {tensor.device}, expected cuda:{device}")
    if not tensor.is_contiguous():
        raise ValueError(f"{name} is not contiguous")


def _check_alignment(tensors: tuple[Any, ...]) -> None:
    for name, tensor in zip(_NAMES, tensors):
        if tensor.data_ptr() % _ALIGNMENT and name not in ("cos", "sin"):
            raise ValueError(
                f"{name} is at {tensor.data_ptr():#x}, expected a multiple of {_ALIGNMENT} bytes"
            )


def _prepare(*key: Any) -> Handle:
    """The library's layer of a shape."""
    device, dtype, d_model, n_heads, d_rotary, d_ffn, eps, gelu, whole = key
    options = cf_layer_options(
        device=device,
        dtype=_DTYPES[dtype],
        d_model=d_model,
        n_heads=n_heads,
        d_rotary=d_rotary,
        d_ffn=d_ffn,
        layer_norm_eps=eps,
        activation=_GELU[gelu],
        whole=whole,
    )
    lib = _native.lib
    with _lock:
        if key not in _prepared:
            _prepared[key] = create(lib.cf_layer_create, lib.cf_layer_free, (), _byref(options))
        return _prepared[key]
