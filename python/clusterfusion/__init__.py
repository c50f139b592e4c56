"""ClusterFusion: GPT-NeoX language models (Pythia and its relatives) at low batch.

    import clusterfusion

    with clusterfusion.Model("pythia-160m") as model:      # no path: the small bundled model
        print(model.generate("Call me", max_new_tokens=32))
        for token in model.stream("Once upon a time", do_sample=True, temperature=0.8):
            print(token, end="", flush=True)
        print(model.score("It was a bright cold day in April").perplexity)

Neither NumPy nor PyTorch is imported before something asks for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from . import _native
from ._errors import (
    BadFileError,
    BufferTooSmallError,
    CancelledError,
    ContextFullError,
    DeviceError,
    Error,
    InvalidArgumentError,
    NoDeviceError,
    NotFoundError,
    OutOfMemoryError,
    ReadError,
    UnsupportedError,
)
from ._generation import Generation, Stats, Stream, Token
from ._handles import call
from ._huggingface import accelerate, restore
from ._model import Ceilings, Info, Memory, Model, Shape, backend_number
from ._native import Status
from ._options import GenerateOptions
from ._session import Evaluation, Score, Session
from ._tokenizer import Tokenizer

if TYPE_CHECKING:
    from ._layer import neox_attention_up as neox_attention_up
    from ._layer import neox_decoder_layer as neox_decoder_layer
    from ._layer import pythia_2b8_attention_only as pythia_2b8_attention_only

__version__: str = _native.lib.cf_version().decode()


def check_backend(backend: str) -> None:
    """Raises NoDeviceError or UnsupportedError with the reason if ``backend`` cannot run here."""
    call(_native.lib.cf_backend_check, backend_number(backend))


#: What needs PyTorch, imported when it is first asked for.
_NEEDS_TORCH = {"neox_attention_up", "neox_decoder_layer", "pythia_2b8_attention_only"}


def __getattr__(name: str) -> Any:
    if name not in _NEEDS_TORCH:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from . import _layer

    globals().update({each: getattr(_layer, each) for each in _NEEDS_TORCH})
    return globals()[name]


__all__ = [
    "BadFileError",
    "BufferTooSmallError",
    "CancelledError",
    "Ceilings",
    "ContextFullError",
    "DeviceError",
    "Error",
    "Evaluation",
    "GenerateOptions",
    "Generation",
    "Info",
    "InvalidArgumentError",
    "Memory",
    "Model",
    "NoDeviceError",
    "NotFoundError",
    "OutOfMemoryError",
    "ReadError",
    "Score",
    "Session",
    "Shape",
    "Stats",
    "Status",
    "Stream",
    "Token",
    "Tokenizer",
    "UnsupportedError",
    "accelerate",
    "check_backend",
    "restore",
]
