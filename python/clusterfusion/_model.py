"""A model: the package's front."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from ctypes import byref, create_string_buffer
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import _native
from ._arrays import kind_or_default
from ._errors import InvalidArgumentError
from ._generation import Generation, Stream
from ._handles import Handle, ProgressFn, call, create, progress_callback
from ._native import Activation, Backend, DType, lib
from ._options import GenerateOptions, Request, integer
from ._session import Prompt, Score, Session, ids_of
from ._tensors import tensor_structs
from ._tokenizer import Tokenizer, path_bytes

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self, Unpack

_BACKENDS = {"auto": Backend.AUTO, "cpu": Backend.CPU, "cuda": Backend.CUDA}
_KV_DTYPES = {None: DType.DEFAULT, "f16": DType.F16, "f32": DType.F32}
_ACTIVATIONS = {
    "gelu": Activation.GELU_ERF,
    "gelu_tanh": Activation.GELU_TANH,
    "relu": Activation.RELU,
    "silu": Activation.SILU,
}


@dataclass(frozen=True)
class Shape:
    """The shape of a GPT-NeoX model: all that its arithmetic depends on beside the weights."""

    n_layers: int
    d_model: int  #: hidden size
    n_heads: int
    d_head: int  #: head width, d_model / n_heads
    d_rotary: int  #: rotary dims of each head
    d_ffn: int  #: intermediate size
    n_vocab: int  #: rows of the embedding, padding rows included
    n_context: int  #: the trained context
    rope_theta: float = 10000.0
    layer_norm_eps: float = 1e-5
    activation: str = "gelu"  #: "gelu" (exact), "gelu_tanh", "relu" or "silu"
    parallel_residual: bool = True
    attention_bias: bool = True
    tied_embeddings: bool = False
    bos_token: int | None = None
    eos_token: int | None = None


@dataclass(frozen=True)
class Info:
    """Facts about an open model."""

    backend: str  #: what was chosen: "cpu" or "cuda"
    backend_text: str  #: one line: what it will do on this machine
    path: str | None  #: the folder; None when made of tensors
    n_files: int  #: weight files
    n_tensors: int
    n_parameters: int  #: tied embeddings counted once
    weight_bytes: int  #: as stored
    token_bytes: int  #: weight bytes that one decoded token reads


@dataclass(frozen=True)
class Memory:
    """What a session takes."""

    kv_bytes: int  #: the KV cache of a full context
    scratch_bytes: int  #: activations and work space


@dataclass(frozen=True)
class Ceilings:
    """The speeds that bound the backend on this machine."""

    read_bytes_per_s: float
    matmul_flop_per_s: float
    matmul_s: float


class Model:
    """A GPT-NeoX model, open.

    path: a Hugging Face folder (config.json and safetensors or pytorch .bin); None: the small
        model that comes with the package.
    backend: "auto" (a GPU if there is one and the package was built for it), "cpu" or "cuda".
    device: CUDA device index.
    tokenizer: a tokenizer.json or a folder with one, or a Tokenizer; None: that of the folder. A
        model without one works with token ids.
    n_threads: CPU threads; None: one per processor that the process may use.
    n_context: tokens that fit in a session; None: the trained context.
    kv_dtype: of the KV cache, "f16" (also None) or "f32".
    n_chunk: tokens of a prompt evaluated at a time; None: the backend's choice.
    progress: ``progress(what, done, total)`` while weights load; returning False cancels, and what
        it raises comes out of the constructor.

    Raises NotFoundError, ReadError, BadFileError, UnsupportedError, OutOfMemoryError,
    NoDeviceError, DeviceError, InvalidArgumentError, CancelledError.

    Any number of threads may use one Model: each call takes a session (KV cache and work space) of
    its own from those that are idle, or makes one, and puts it back. ``close()``, the end of a
    ``with`` block, or the last reference gives everything back; streams still open go on.

    On the CPU the weights are mapped into memory, not copied: the files must not change meanwhile.
    """

    def __init__(
        self,
        path: str | os.PathLike[str] | None = None,
        *,
        backend: str = "auto",
        device: int = 0,
        tokenizer: str | os.PathLike[str] | Tokenizer | None = None,
        n_threads: int | None = None,
        n_context: int | None = None,
        kv_dtype: str | None = None,
        n_chunk: int | None = None,
        progress: ProgressFn | None = None,
    ) -> None:
        folder = Path(path) if path is not None else _native.bundled_model()
        options = _model_options(backend, device)
        with progress_callback(progress) as callback:
            options.progress = callback
            handle = create(lib.cf_model_open, lib.cf_model_close, (), path_bytes(folder), options)
        if tokenizer is None and (folder / "tokenizer.json").exists():
            tokenizer = folder
        self._set_up(handle, tokenizer, n_threads, n_context, kv_dtype, n_chunk)

    @classmethod
    def from_tensors(
        cls,
        shape: Shape,
        tensors: Mapping[str, Any],
        *,
        backend: str = "auto",
        device: int = 0,
        tokenizer: str | os.PathLike[str] | Tokenizer | None = None,
        n_threads: int | None = None,
        n_context: int | None = None,
        kv_dtype: str | None = None,
        n_chunk: int | None = None,
    ) -> Self:
        """A model of arrays in memory: tensors of PyTorch or arrays of NumPy, named as in a
        checkpoint, float32, float16 or (PyTorch) bfloat16, contiguous.

        Their memory is used in place and must not change while the model is open; the model holds
        on to it. Raises InvalidArgumentError and UnsupportedError naming the tensor, and what the
        constructor raises.
        """
        structs, kept = tensor_structs(tensors)
        options = _model_options(backend, device)
        with progress_callback(None) as callback:
            options.progress = callback
            handle = create(
                lib.cf_model_create,
                _close_and_let_go(kept),
                (),
                _shape_struct(shape),
                structs,
                len(structs),
                options,
            )
        model = cls.__new__(cls)
        model._set_up(handle, tokenizer, n_threads, n_context, kv_dtype, n_chunk)
        return model

    def _set_up(
        self,
        handle: Handle,
        tokenizer: str | os.PathLike[str] | Tokenizer | None,
        n_threads: int | None,
        n_context: int | None,
        kv_dtype: str | None,
        n_chunk: int | None,
    ) -> None:
        self._model: Handle | None = handle
        if tokenizer is not None and not isinstance(tokenizer, Tokenizer):
            tokenizer = Tokenizer(tokenizer)
        self._tokenizer = tokenizer
        self._options = _session_options(n_threads, n_context, kv_dtype, n_chunk)
        self._idle: deque[Session] = deque()  # its operations are atomic: no lock to deadlock on
        self._shape = _shape_of(lib.cf_model_shape(handle).contents)
        self._memory = self._measure_session()

    def _handle(self) -> Handle:
        if self._model is None:
            raise InvalidArgumentError("the model is closed")
        return self._model

    def _measure_session(self) -> Memory:
        memory = _native.cf_session_memory()
        call(lib.cf_session_measure, self._handle(), self._options, byref(memory))
        return Memory(memory.kv_bytes, memory.scratch_bytes)

    # --------------------------------------------------------------------------------------------
    # Life
    # --------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Gives everything back. Streams and sessions that are still open keep what they need."""
        self._model = None
        while self._idle:
            try:
                self._idle.pop().close()
            except IndexError:  # another thread took it
                break

    @property
    def closed(self) -> bool:
        return self._model is None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        if self._model is None:
            return "<clusterfusion.Model, closed>"
        info, shape = self.info, self._shape
        return (
            f"<clusterfusion.Model {info.path or 'of tensors'}: {info.n_parameters:,} parameters, "
            f"{shape.n_layers} layers of {shape.d_model}, {info.backend}>"
        )

    def session(self) -> Session:
        """A new session of its own, empty, with this model's options: to evaluate step by step."""
        return Session(self._handle(), self._tokenizer, self._options)

    def _take(self, ids: Sequence[int] | None = None) -> Session:
        """An idle session, or a new one; with ``ids`` the one that holds most of their start."""
        self._handle()
        mine: list[Session] = []  # taken out before they are looked at: others may want them
        while self._idle and (ids is not None or not mine):
            try:
                mine.append(self._idle.pop())
            except IndexError:
                break
        if not mine:
            return self.session()
        best = mine[0] if ids is None else max(mine, key=lambda held: _common(held.tokens, ids))
        for session in mine:
            if session is not best:
                self._put(session)
        return best

    def _put(self, session: Session) -> None:
        if self._model is None:
            session.close()
        elif session.alive:
            self._idle.append(session)

    @contextmanager
    def _borrowed(self) -> Iterator[Session]:
        session = self._take()
        try:
            yield session
        finally:
            self._put(session)

    # --------------------------------------------------------------------------------------------
    # Facts
    # --------------------------------------------------------------------------------------------

    @property
    def shape(self) -> Shape:
        return self._shape

    @property
    def tokenizer(self) -> Tokenizer | None:
        return self._tokenizer

    @property
    def session_memory(self) -> Memory:
        """What each of the sessions takes."""
        return self._memory

    @property
    def info(self) -> Info:
        info = lib.cf_model_info_get(self._handle()).contents
        return Info(
            backend=lib.cf_backend_name(info.backend).decode(),
            backend_text=info.backend_text.decode(),
            path=None if info.path is None else os.fsdecode(info.path),
            n_files=info.n_files,
            n_tensors=info.n_tensors,
            n_parameters=info.n_parameters,
            weight_bytes=info.weight_bytes,
            token_bytes=info.token_bytes,
        )

    def hash(self, progress: ProgressFn | None = None) -> str:
        """A 128-bit hash of all weights, 32 hex digits, whatever the file format; reads all."""
        digits = create_string_buffer(33)
        with progress_callback(progress) as callback:
            call(lib.cf_model_hash, self._handle(), callback, None, digits)
        return digits.value.decode()

    def measure(self, n_tokens: int = 0) -> Ceilings:
        """The speeds that bound this model here; a second or two. ``n_tokens``: of a prompt."""
        if n_tokens < 0:
            raise InvalidArgumentError(f"n_tokens is {n_tokens}, expected 0 or more")
        found = _native.cf_ceilings()
        n_threads = self._options.n_threads
        call(lib.cf_model_measure, self._handle(), n_threads, n_tokens, byref(found))
        return Ceilings(found.read_bytes_per_s, found.matmul_flop_per_s, found.matmul_s)

    # --------------------------------------------------------------------------------------------
    # Work
    # --------------------------------------------------------------------------------------------

    def tokenize(self, text: str | bytes, *, special: bool = True) -> list[int]:
        """As Tokenizer.encode."""
        return self._needed_tokenizer().encode(text, special=special)

    def detokenize(self, ids: Sequence[int], *, skip_special: bool = False) -> str:
        """As Tokenizer.decode."""
        return self._needed_tokenizer().decode(ids, skip_special=skip_special)

    def _needed_tokenizer(self) -> Tokenizer:
        if self._tokenizer is None:
            raise InvalidArgumentError("the model has no tokenizer: open it with tokenizer=")
        return self._tokenizer

    def generate(self, prompt: Prompt, **options: Unpack[GenerateOptions]) -> Generation:
        """Text that goes on from ``prompt``: text, or token ids.

        max_new_tokens (128): end after so many; None: when the context is full.
        min_new_tokens (0): before these, nothing ends it.
        do_sample (False): False takes the most probable token each time; the four below then have
            no effect, and a warning says so.
        temperature (1.0): divides the logits; above 0.
        top_k (None): sample among the k most probable tokens; None or 0: all.
        top_p (None): among the fewest most probable whose sum reaches this; None or 1: all.
        min_p (None): among those at least so many times as probable as the most probable.
        repetition_penalty (1.0), presence_penalty (0.0), frequency_penalty (0.0): of tokens in
            prompt and new text; of tokens in the new text; that times their number.
        logit_bias (None): {id: what is added to its logit}; -inf bans the token.
        stop_strings (None): end before one of these texts, which are not part of the text.
        eos_token_id (None): an id, or several, that end it in place of the model's own.
        ignore_eos (False): go on after the end-of-text token.
        seed (0): same seed, model, prompt, options and backend: same text; None: another each
            time, reported as ``seed`` of the result.
        n_top (0): alternatives to report with each token, to 64.
        reuse_cache (False): keep what a session still holds of the prompt's beginning, as in a
            conversation. Faster; the last bits of logits may then depend on what went before.

        Names are Hugging Face's where it has one; top_k is off by default (there it is 50), and
        stop strings are cut off.

        Raises InvalidArgumentError naming the option, ContextFullError (the prompt alone does not
        fit), NotFoundError (text without a tokenizer), OutOfMemoryError, DeviceError;
        KeyboardInterrupt ends it between two tokens, and the model can be used on.
        """
        with self._stream(prompt, Request(**options)) as stream:
            for _ in stream:
                pass
        return stream.result

    def stream(self, prompt: Prompt, **options: Unpack[GenerateOptions]) -> Stream:
        """The same as an iterator of Tokens, which are str: print them as they come.

            for token in model.stream("Call me"):
                print(token, end="", flush=True)

        Options and errors as ``generate``. The stream may be left at any point.
        """
        return self._stream(prompt, Request(**options))

    def _stream(self, prompt: Prompt, request: Request) -> Stream:
        ids = ids_of(prompt, self._tokenizer, "prompt")
        session = self._take(ids if request.reuse_cache else None)
        return session._stream(ids, request, lambda: self._put(session))

    def score(
        self,
        text: Prompt,
        *,
        n_window: int | None = None,
        n_stride: int | None = None,
        n_top: int = 0,
        progress: ProgressFn | None = None,
    ) -> Score:
        """Log-probability of each token of ``text`` (or ids) given those before it.

        Text longer than ``n_window`` tokens (default and at most: the context) is read in windows
        that begin every ``n_stride`` tokens (default: half of it), each token scored once, in the
        first window that holds the token before it. ``n_top``: alternatives to report, to 64.
        ``progress(what, done, total)`` is called now and then; returning False cancels.

        Raises InvalidArgumentError, NotFoundError (text without a tokenizer), DeviceError,
        OutOfMemoryError, CancelledError.
        """
        with self._borrowed() as session:
            return session.score(
                text, n_window=n_window, n_stride=n_stride, n_top=n_top, progress=progress
            )

    def logits(self, ids: Prompt, *, n_last: int | None = None, array: str | None = None) -> Any:
        """Raw logits after each of ``ids`` (or text): float32 [n_ids][n_vocab].

        ``n_last``: only of the last so many. ``array``: "numpy", "torch" (both share memory with
        nothing else and are not copies) or "memoryview"; None: NumPy's if it is installed.

        Raises InvalidArgumentError, ContextFullError, DeviceError, OutOfMemoryError.
        """
        with self._borrowed() as session:
            session.rewind()
            return session.eval(
                ids_of(ids, self._tokenizer, "ids"), n_logits=n_last, array=kind_or_default(array)
            ).logits

    def hidden_states(self, ids: Prompt, *, array: str | None = None) -> Any:
        """Hidden states of ``ids`` (or text): float32 [n_layers + 1][n_ids][d_model].

        As transformers' output_hidden_states: the embeddings, the state after each layer but the
        last, the state after the final LayerNorm. Otherwise as ``logits``.
        """
        with self._borrowed() as session:
            session.rewind()
            return session.eval(
                ids_of(ids, self._tokenizer, "ids"),
                n_logits=0,
                hidden_states=True,
                array=kind_or_default(array),
            ).hidden_states


def _common(held: Sequence[int], ids: Sequence[int]) -> int:
    """Length of the common beginning."""
    n = 0
    for a, b in zip(held, ids):
        if a != b:
            break
        n += 1
    return n


def backend_number(backend: str) -> Backend:
    try:
        return _BACKENDS[backend]
    except KeyError:
        raise InvalidArgumentError(
            f"backend is {backend!r}, expected one of {', '.join(_BACKENDS)}"
        ) from None


def _model_options(backend: str, device: int) -> _native.cf_model_options:
    return _native.cf_model_options(
        backend=backend_number(backend), device=integer("device", device, 0, 2**31 - 1)
    )


def _session_options(
    n_threads: int | None, n_context: int | None, kv_dtype: str | None, n_chunk: int | None
) -> _native.cf_session_options:
    if kv_dtype not in _KV_DTYPES:
        raise InvalidArgumentError(f"kv_dtype is {kv_dtype!r}, expected 'f16' or 'f32'")
    given = {"n_threads": n_threads, "n_context": n_context, "n_chunk": n_chunk}
    for name, value in given.items():
        if value is not None:
            integer(name, value, 1, 2**24)
    return _native.cf_session_options(
        kv_dtype=_KV_DTYPES[kv_dtype], **{name: value or 0 for name, value in given.items()}
    )


def _shape_of(shape: _native.cf_shape) -> Shape:
    values = {name: getattr(shape, name) for name in Shape.__dataclass_fields__}
    names = {number: name for name, number in _ACTIVATIONS.items()}
    values["activation"] = names[Activation(shape.activation)]
    for token in ("bos_token", "eos_token"):
        values[token] = None if values[token] < 0 else values[token]
    return Shape(**values)


def _shape_struct(shape: Shape) -> _native.cf_shape:
    values = dict(vars(shape))
    if shape.activation not in _ACTIVATIONS:
        raise InvalidArgumentError(
            f"activation is {shape.activation!r}, expected one of {', '.join(_ACTIVATIONS)}"
        )
    values["activation"] = _ACTIVATIONS[shape.activation]
    for token in ("bos_token", "eos_token"):
        values[token] = -1 if values[token] is None else values[token]
    for name, value in values.items():
        if isinstance(value, int):
            integer(name, int(value), -1, 2**31 - 1)
    return _native.cf_shape(**values)


def _close_and_let_go(kept: list[Any]) -> Any:
    """Closes the model, then lets go of the arrays that it used."""

    def close(model: Any) -> None:
        lib.cf_model_close(model)
        kept.clear()

    return close
