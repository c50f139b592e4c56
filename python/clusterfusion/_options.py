"""How a generation is asked for: Hugging Face's argument names, put into the library's structs."""

from __future__ import annotations

import math
import secrets
import warnings
from collections.abc import Mapping, Sequence
from ctypes import c_char_p, pointer
from typing import TYPE_CHECKING, Any, TypedDict

from . import _native
from ._arrays import token_array
from ._errors import InvalidArgumentError
from ._native import cf_logit_bias, cf_token
from ._tokenizer import encode_text

if TYPE_CHECKING:
    from typing_extensions import TypeAlias

MAX_NEW_TOKENS = 128  # the command line's

#: What needs do_sample, with the value that has no effect.
SAMPLING_DEFAULTS: dict[str, Any] = {
    "temperature": 1.0,
    "top_k": None,
    "top_p": None,
    "min_p": None,
}

#: Tokens that a GPU may choose while those before them are used here.
_N_AHEAD = 256

TokenIds: TypeAlias = "int | Sequence[int]"



class GenerateOptions(TypedDict, total=False):
    """The keyword arguments of ``generate`` and ``stream``; Model.generate explains each."""

    max_new_tokens: int | None
    min_new_tokens: int
    do_sample: bool
    temperature: float
    top_k: int | None
    top_p: float | None
    min_p: float | None
    repetition_penalty: float
    presence_penalty: float
    frequency_penalty: float
    logit_bias: Mapping[int, float] | None
    stop_strings: str | Sequence[str] | None
    eos_token_id: TokenIds | None
    ignore_eos: bool
    seed: int | None
    n_top: int
    reuse_cache: bool


class Request:
    """A checked set of GenerateOptions as C structs; they live as long as this does."""

    def __init__(
        self,
        *,
        max_new_tokens: int | None = MAX_NEW_TOKENS,
        min_new_tokens: int = 0,
        do_sample: bool = False,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        min_p: float | None = None,
        repetition_penalty: float = 1.0,
        presence_penalty: float = 0.0,
        frequency_penalty: float = 0.0,
        logit_bias: Mapping[int, float] | None = None,
        stop_strings: str | Sequence[str] | None = None,
        eos_token_id: TokenIds | None = None,
        ignore_eos: bool = False,
        seed: int | None = 0,
        n_top: int = 0,
        reuse_cache: bool = False,
    ) -> None:
        self.max_tokens = _max_tokens(max_new_tokens)
        self.reuse_cache = reuse_cache
        self.seed = secrets.randbits(64) if seed is None else integer("seed", seed, 0, 2**64 - 1)
        if not do_sample:
            _warn_if_unused(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)

        bias = _bias(logit_bias)
        self.sampling = _native.cf_sampling(
            temperature=_temperature(temperature) if do_sample else 0.0,
            top_k=integer("top_k", 0 if top_k is None else top_k, 0, 2**31 - 1),
            top_p=_top_p(top_p),
            min_p=_real("min_p", min_p or 0.0),
            repetition_penalty=_repetition_penalty(repetition_penalty),
            presence_penalty=_real("presence_penalty", presence_penalty),
            frequency_penalty=_real("frequency_penalty", frequency_penalty),
            seed=self.seed,
            bias=bias,
            n_bias=len(bias),
        )
        stops = _stops(stop_strings)
        stop_ids = _stop_ids(eos_token_id)
        self.options = _native.cf_generate_options(
            sampling=pointer(self.sampling),
            stops=stops,
            n_stops=len(stops),
            stop_ids=stop_ids,
            n_stop_ids=len(stop_ids),
            min_tokens=integer("min_new_tokens", min_new_tokens, 0, 2**31 - 1),
            ignore_eos=bool(ignore_eos) or eos_token_id is not None,
            n_top=integer("n_top", n_top, 0, 64),
            n_ahead=_N_AHEAD,
        )
        self._kept = (bias, stops, stop_ids)


def integer(name: str, value: Any, least: int, most: int) -> int:
    """``value`` as an int within its bounds: ctypes would cut one that does not fit, silently."""
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise TypeError(f"{name} is {type(value).__name__}, expected int")
    value = value.__index__()
    if not least <= value <= most:
        raise InvalidArgumentError(f"{name} is {value}, expected {least} to {most}")
    return int(value)


def _real(name: str, value: Any) -> float:
    if isinstance(value, bool) or not hasattr(value, "__float__"):
        raise TypeError(f"{name} is {type(value).__name__}, expected float")
    number = float(value)
    if not math.isfinite(number):
        raise InvalidArgumentError(f"{name} is {number}, expected a finite number")
    return number


def _max_tokens(value: int | None) -> int:
    """None: until the context is full, which C says with SIZE_MAX."""
    return 2**64 - 1 if value is None else integer("max_new_tokens", value, 0, 2**31 - 1)


def _temperature(value: float) -> float:
    """Zero would be greedy in C; here do_sample says that."""
    value = _real("temperature", value)
    if value <= 0:
        raise InvalidArgumentError(
            f"temperature is {value:g}, expected above 0; do_sample=False is greedy"
        )
    return value


def _top_p(value: float | None) -> float:
    """Zero would be off in C; here None says that."""
    if value is None:
        return 1.0
    value = _real("top_p", value)
    if not 0 < value <= 1:
        raise InvalidArgumentError(f"top_p is {value:g}, expected above 0, to 1; None is off")
    return value


def _repetition_penalty(value: float) -> float:
    value = _real("repetition_penalty", value)
    if value <= 0:
        raise InvalidArgumentError(f"repetition_penalty is {value:g}, expected above 0; 1 is off")
    return value


def _bias(biases: Mapping[int, float] | None) -> Any:
    items = [
        cf_logit_bias(integer("logit_bias: id", id, 0, 2**31 - 1), float(bias))
        for id, bias in (biases or {}).items()
    ]
    return (cf_logit_bias * len(items))(*items)


def _stops(stops: str | Sequence[str] | None) -> Any:
    texts = [stops] if isinstance(stops, (str, bytes)) else list(stops or ())
    data = [encode_text(text, "stop_strings") for text in texts]
    for text in data:
        if not text or b"\0" in text:
            raise InvalidArgumentError(
                "stop_strings: expected texts that are not empty and hold no zero character"
            )
    return (c_char_p * len(data))(*data)


def _stop_ids(ids: TokenIds | None) -> Any:
    if ids is None:
        return (cf_token * 0)()
    return token_array([ids] if isinstance(ids, int) else ids, "eos_token_id")


def _warn_if_unused(**given: Any) -> None:
    for name, value in given.items():
        if value is not None and value != SAMPLING_DEFAULTS[name]:
            warnings.warn(f"{name} has no effect without do_sample=True", stacklevel=4)
