"""The C header, include/clusterfusion.h, in ctypes: enums, structs, prototypes, and the library.

Names are those of the header, enums without their prefixes. Nothing here is public; the header says
what each thing means. python/tests/test_native.py holds every line of this file against the header.
"""

from __future__ import annotations

import ctypes
import os
from ctypes import (
    CFUNCTYPE,
    POINTER,
    Structure,
    c_bool,
    c_char,
    c_char_p,
    c_double,
    c_float,
    c_int,
    c_int32,
    c_int64,
    c_size_t,
    c_uint32,
    c_uint64,
    c_void_p,
)
from enum import IntEnum
from pathlib import Path
from typing import Any, ClassVar

# ------------------------------------------------------------------------------------------------
# Enums
# ------------------------------------------------------------------------------------------------


class Status(IntEnum):
    """What a call of the library answered."""

    OK = 0
    INVALID_ARGUMENT = 1
    CONTEXT_FULL = 2
    BUFFER_TOO_SMALL = 3
    NOT_FOUND = 4
    IO = 5
    BAD_FILE = 6
    UNSUPPORTED = 7
    OUT_OF_MEMORY = 8
    NO_DEVICE = 9
    DEVICE = 10
    CANCELLED = 11


class DType(IntEnum):
    DEFAULT = 0
    F32 = 1
    F16 = 2
    BF16 = 3


class Backend(IntEnum):
    AUTO = 0
    CPU = 1
    CUDA = 2


class Activation(IntEnum):
    GELU_ERF = 0
    GELU_TANH = 1
    RELU = 2
    SILU = 3


class Finish(IntEnum):
    NONE = 0
    LENGTH = 1
    EOS = 2
    STOP = 3
    CANCELLED = 4


class EventKind(IntEnum):
    PROMPT = 0
    TOKEN = 1
    END = 2


#: C's enum types by the Python classes that mirror them.
ENUMS: dict[str, type[IntEnum]] = {
    "cf_status": Status,
    "cf_dtype": DType,
    "cf_backend": Backend,
    "cf_activation": Activation,
    "cf_finish": Finish,
    "cf_event_kind": EventKind,
}

ENCODE_NO_SPECIAL = 1
DECODE_SKIP_SPECIAL = 1

# ------------------------------------------------------------------------------------------------
# Structs
# ------------------------------------------------------------------------------------------------

cf_enum = c_int
cf_token = c_int32
cf_progress_fn = CFUNCTYPE(c_bool, c_void_p, c_char_p, c_uint64, c_uint64)


class OptionStruct(Structure):
    """A struct that begins with its size, which is filled in."""

    def __init__(self, **fields: Any) -> None:
        super().__init__(size=ctypes.sizeof(type(self)), **fields)


class cf_error(Structure):
    _fields_: ClassVar = [("status", cf_enum), ("message", c_char * 1024)]


class cf_shape(Structure):
    _fields_: ClassVar = [
        ("n_layers", c_int32),
        ("d_model", c_int32),
        ("n_heads", c_int32),
        ("d_head", c_int32),
        ("d_rotary", c_int32),
        ("d_ffn", c_int32),
        ("n_vocab", c_int32),
        ("n_context", c_int32),
        ("rope_theta", c_float),
        ("layer_norm_eps", c_float),
        ("activation", cf_enum),
        ("parallel_residual", c_bool),
        ("attention_bias", c_bool),
        ("tied_embeddings", c_bool),
        ("bos_token", cf_token),
        ("eos_token", cf_token),
    ]


class cf_tensor(Structure):
    _fields_: ClassVar = [
        ("name", c_char_p),
        ("file", c_char_p),
        ("data", c_void_p),
        ("dtype", cf_enum),
        ("device", c_int32),
        ("n_dims", c_int32),
        ("dims", c_int64 * 2),
    ]


class cf_model_options(OptionStruct):
    _fields_: ClassVar = [
        ("size", c_size_t),
        ("backend", cf_enum),
        ("device", c_int32),
        ("progress", cf_progress_fn),
        ("progress_user", c_void_p),
    ]


class cf_model_info(Structure):
    _fields_: ClassVar = [
        ("backend", cf_enum),
        ("backend_text", c_char_p),
        ("path", c_char_p),
        ("n_files", c_int32),
        ("n_tensors", c_int32),
        ("n_parameters", c_uint64),
        ("weight_bytes", c_uint64),
        ("token_bytes", c_uint64),
    ]


class cf_file_info(Structure):
    _fields_: ClassVar = [("name", c_char_p), ("format", c_char_p), ("bytes", c_uint64)]


class cf_session_options(OptionStruct):
    _fields_: ClassVar = [
        ("size", c_size_t),
        ("n_context", c_int32),
        ("n_threads", c_int32),
        ("kv_dtype", cf_enum),
        ("n_chunk", c_int32),
    ]


class cf_session_memory(Structure):
    _fields_: ClassVar = [("kv_bytes", c_uint64), ("scratch_bytes", c_uint64)]


class cf_outputs(OptionStruct):
    _fields_: ClassVar = [
        ("size", c_size_t),
        ("logits", POINTER(c_float)),
        ("n_logits", c_size_t),
        ("hidden", POINTER(c_float)),
        ("progress", cf_progress_fn),
        ("progress_user", c_void_p),
    ]


class cf_logit_bias(Structure):
    _fields_: ClassVar = [("id", cf_token), ("bias", c_float)]


class cf_sampling(OptionStruct):
    _fields_: ClassVar = [
        ("size", c_size_t),
        ("temperature", c_float),
        ("top_k", c_int32),
        ("top_p", c_float),
        ("min_p", c_float),
        ("repetition_penalty", c_float),
        ("presence_penalty", c_float),
        ("frequency_penalty", c_float),
        ("seed", c_uint64),
        ("bias", POINTER(cf_logit_bias)),
        ("n_bias", c_size_t),
    ]


class cf_generate_options(OptionStruct):
    _fields_: ClassVar = [
        ("size", c_size_t),
        ("sampling", POINTER(cf_sampling)),
        ("stops", POINTER(c_char_p)),
        ("n_stops", c_size_t),
        ("stop_ids", POINTER(cf_token)),
        ("n_stop_ids", c_size_t),
        ("min_tokens", c_size_t),
        ("ignore_eos", c_bool),
        ("n_top", c_int32),
        ("n_ahead", c_size_t),
    ]


class cf_alternative(Structure):
    _fields_: ClassVar = [("id", cf_token), ("logprob", c_float)]


class cf_event(Structure):
    _fields_: ClassVar = [
        ("kind", cf_enum),
        ("finish", cf_enum),
        ("n_prompt", c_size_t),
        ("n_prompt_total", c_size_t),
        ("n_tokens", c_size_t),
        ("token", cf_token),
        ("logprob", c_float),
        ("top", POINTER(cf_alternative)),
        ("n_top", c_size_t),
        ("text", c_void_p),
        ("n_text", c_size_t),
    ]


class cf_generate_stats(Structure):
    _fields_: ClassVar = [
        ("n_prompt", c_size_t),
        ("n_reused", c_size_t),
        ("n_tokens", c_size_t),
        ("prompt_ns", c_uint64),
        ("decode_ns", c_uint64),
        ("logits_hash", c_uint64),
        ("finish", cf_enum),
    ]


class cf_score_options(OptionStruct):
    _fields_: ClassVar = [
        ("size", c_size_t),
        ("n_window", c_size_t),
        ("n_stride", c_size_t),
        ("n_top", c_int32),
        ("progress", cf_progress_fn),
        ("progress_user", c_void_p),
    ]


class cf_ceilings(Structure):
    _fields_: ClassVar = [
        ("read_bytes_per_s", c_double),
        ("matmul_flop_per_s", c_double),
        ("matmul_s", c_double),
    ]


class cf_span(Structure):
    _fields_: ClassVar = [
        ("stage", c_char_p),
        ("role", c_char_p),
        ("block", c_int32),
        ("layer", c_int32),
        ("begin_us", c_double),
        ("end_us", c_double),
    ]


class cf_layer_options(OptionStruct):
    _fields_: ClassVar = [
        ("size", c_size_t),
        ("device", c_int32),
        ("dtype", cf_enum),
        ("d_model", c_int32),
        ("n_heads", c_int32),
        ("d_rotary", c_int32),
        ("d_ffn", c_int32),
        ("layer_norm_eps", c_float),
        ("activation", cf_enum),
        ("whole", c_bool),
    ]


class cf_layer_tensors(Structure):
    _fields_: ClassVar = [
        ("hidden", c_void_p),
        ("qkv_weight", c_void_p),
        ("qkv_bias", c_void_p),
        ("dense_weight", c_void_p),
        ("dense_bias", c_void_p),
        ("up_weight", c_void_p),
        ("up_bias", c_void_p),
        ("down_weight", c_void_p),
        ("down_bias", c_void_p),
        ("norm1_weight", c_void_p),
        ("norm1_bias", c_void_p),
        ("norm2_weight", c_void_p),
        ("norm2_bias", c_void_p),
        ("cosines", c_void_p),
        ("sines", c_void_p),
        ("k_cache", c_void_p),
        ("v_cache", c_void_p),
        ("output", c_void_p),
        ("mlp", c_void_p),
        ("k_new", c_void_p),
        ("v_new", c_void_p),
        ("n_cached", c_int32),
        ("n_context", c_int32),
    ]


cf_event_fn = CFUNCTYPE(c_bool, c_void_p, POINTER(cf_event))
cf_span_fn = CFUNCTYPE(None, c_void_p, POINTER(cf_span))

# ------------------------------------------------------------------------------------------------
# Functions
# ------------------------------------------------------------------------------------------------

_model = _tokenizer = _decoder = _session = _generation = _scoring = _layer = c_void_p
_error = POINTER(cf_error)
_out = POINTER(c_void_p)
_ids = POINTER(cf_token)
_count = POINTER(c_size_t)

#: Each function of the header: what it returns, then what it takes. Text that may hold zero bytes
#: comes back as an address, to be read with its length.
PROTOTYPES: dict[str, tuple[Any, ...]] = {
    "cf_version": (c_char_p,),
    "cf_status_text": (c_char_p, cf_enum),
    "cf_status_http": (c_int, cf_enum),
    "cf_status_python": (c_char_p, cf_enum),
    "cf_dtype_name": (c_char_p, cf_enum),
    "cf_dtype_bytes": (c_size_t, cf_enum),
    "cf_backend_name": (c_char_p, cf_enum),
    "cf_backend_check": (cf_enum, cf_enum, _error),
    "cf_model_open": (cf_enum, c_char_p, POINTER(cf_model_options), _out, _error),
    "cf_model_create": (
        cf_enum,
        POINTER(cf_shape),
        POINTER(cf_tensor),
        c_size_t,
        POINTER(cf_model_options),
        _out,
        _error,
    ),
    "cf_model_close": (None, _model),
    "cf_model_shape": (POINTER(cf_shape), _model),
    "cf_model_info_get": (POINTER(cf_model_info), _model),
    "cf_model_file": (POINTER(cf_file_info), _model, c_size_t),
    "cf_model_tensor": (POINTER(cf_tensor), _model, c_size_t),
    "cf_model_hash": (cf_enum, _model, cf_progress_fn, c_void_p, c_char * 33, _error),
    "cf_tokenizer_open": (cf_enum, c_char_p, _out, _error),
    "cf_tokenizer_close": (None, _tokenizer),
    "cf_tokenizer_n_vocab": (c_size_t, _tokenizer),
    "cf_tokenizer_bytes": (c_void_p, _tokenizer, cf_token, _count),
    "cf_tokenizer_is_special": (c_bool, _tokenizer, cf_token),
    "cf_tokenizer_find": (cf_token, _tokenizer, c_char_p),
    "cf_tokenizer_encode": (
        cf_enum,
        _tokenizer,
        c_char_p,
        c_size_t,
        c_uint32,
        _ids,
        c_size_t,
        _count,
        _error,
    ),
    "cf_tokenizer_decode": (
        cf_enum,
        _tokenizer,
        _ids,
        c_size_t,
        c_uint32,
        c_void_p,
        c_size_t,
        _count,
        _error,
    ),
    "cf_decoder_create": (cf_enum, _tokenizer, c_uint32, _out, _error),
    "cf_decoder_free": (None, _decoder),
    "cf_decoder_push": (cf_enum, _decoder, cf_token, _out, _count, _error),
    "cf_decoder_finish": (None, _decoder, _out, _count),
    "cf_session_measure": (
        cf_enum,
        _model,
        POINTER(cf_session_options),
        POINTER(cf_session_memory),
        _error,
    ),
    "cf_session_create": (cf_enum, _model, POINTER(cf_session_options), _out, _error),
    "cf_session_free": (None, _session),
    "cf_session_model": (_model, _session),
    "cf_session_n_context": (c_size_t, _session),
    "cf_session_n_tokens": (c_size_t, _session),
    "cf_session_tokens": (_ids, _session),
    "cf_session_rewind": (cf_enum, _session, c_size_t, _error),
    "cf_session_reuse": (c_size_t, _session, _ids, c_size_t),
    "cf_session_eval": (cf_enum, _session, _ids, c_size_t, POINTER(cf_outputs), _error),
    "cf_finish_name": (c_char_p, cf_enum),
    "cf_generation_begin": (
        cf_enum,
        _session,
        _tokenizer,
        _ids,
        c_size_t,
        c_size_t,
        POINTER(cf_generate_options),
        _out,
        _error,
    ),
    "cf_generation_next": (cf_enum, _generation, POINTER(cf_event), _error),
    "cf_generation_stats": (None, _generation, POINTER(cf_generate_stats)),
    "cf_generation_free": (None, _generation),
    "cf_generate": (
        cf_enum,
        _session,
        _tokenizer,
        _ids,
        c_size_t,
        c_size_t,
        POINTER(cf_generate_options),
        cf_event_fn,
        c_void_p,
        POINTER(cf_generate_stats),
        _error,
    ),
    "cf_generate_text": (
        cf_enum,
        _session,
        _tokenizer,
        c_char_p,
        c_size_t,
        POINTER(cf_generate_options),
        cf_event_fn,
        c_void_p,
        POINTER(cf_generate_stats),
        _error,
    ),
    "cf_score": (
        cf_enum,
        _session,
        _ids,
        c_size_t,
        POINTER(cf_score_options),
        POINTER(c_float),
        POINTER(cf_alternative),
        _error,
    ),
    "cf_scoring_begin": (
        cf_enum,
        _session,
        _ids,
        c_size_t,
        POINTER(cf_score_options),
        POINTER(c_float),
        POINTER(cf_alternative),
        _out,
        _error,
    ),
    "cf_scoring_next": (cf_enum, _scoring, _count, _error),
    "cf_scoring_free": (None, _scoring),
    "cf_model_measure": (cf_enum, _model, c_int32, c_size_t, POINTER(cf_ceilings), _error),
    "cf_session_trace": (cf_enum, _session, c_int32, cf_span_fn, c_void_p, _error),
    "cf_layer_create": (cf_enum, POINTER(cf_layer_options), _out, _error),
    "cf_layer_free": (None, _layer),
    "cf_layer_launch": (cf_enum, _layer, POINTER(cf_layer_tensors), c_void_p, _error),
}

# ------------------------------------------------------------------------------------------------
# The library and its company
# ------------------------------------------------------------------------------------------------

LIBRARY_VARIABLE = "CLUSTERFUSION_LIBRARY"
HERE = Path(__file__).resolve().parent


def _find_library() -> Path:
    """The library that the environment names, or else the one inside the package."""
    named = os.environ.get(LIBRARY_VARIABLE)
    if named:
        path = Path(named).resolve()
        if not path.is_file():
            raise ImportError(f"{LIBRARY_VARIABLE} is {named}, which is not a file")
        return path
    path = HERE / "lib" / "libclusterfusion.so"
    if not path.is_file():
        raise ImportError(
            f"{path} is not there: install the package (pip install .), or let "
            f"{LIBRARY_VARIABLE} name the libclusterfusion.so of a build folder"
        )
    return path


def _load(path: Path) -> ctypes.CDLL:
    try:
        library = ctypes.CDLL(str(path))
    except OSError as error:
        raise ImportError(
            f"{error}: the package uses libraries of the system (docs/python.md)"
        ) from error
    for name, (result, *arguments) in PROTOTYPES.items():
        try:
            function = getattr(library, name)
        except AttributeError as error:
            raise ImportError(f"{path} has no {name}: it is of another version") from error
        function.restype = result
        function.argtypes = arguments
    return library


LIBRARY_PATH = _find_library()
lib: Any = _load(LIBRARY_PATH)


def _first_that_exists(candidates: list[Path]) -> Path:
    return next((path for path in candidates if path.exists()), candidates[0])


def bundled_model() -> Path:
    """The folder of the bundled model: where the library is installed, or in its source tree."""
    prefix = LIBRARY_PATH.parent.parent
    installed = prefix / "share" / "clusterfusion" / "models" / "classics"
    return _first_that_exists([installed, prefix / "models" / "classics"])


def program() -> Path:
    """The command line: where the library is installed, or in its build folder."""
    folder = LIBRARY_PATH.parent
    return _first_that_exists(
        [folder.parent / "bin" / "clusterfusion", folder / "bin" / "clusterfusion"]
    )
