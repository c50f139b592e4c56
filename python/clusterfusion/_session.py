"""A session: one timeline of a model, its KV cache and position."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from ctypes import c_float
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from . import _native
from ._arrays import Floats, token_array
from ._errors import InvalidArgumentError, NotFoundError
from ._generation import Generation, Stream
from ._handles import Handle, ProgressFn, call, create, progress_callback
from ._native import cf_alternative, cf_token, lib
from ._options import GenerateOptions, Request, integer
from ._tokenizer import Tokenizer

if TYPE_CHECKING:
    from typing_extensions import TypeAlias, Unpack

#: Text, or its token ids: a list, or a one-dimensional array of NumPy or PyTorch.
Prompt: TypeAlias = "str | bytes | Sequence[int]"


class Evaluation(NamedTuple):
    """What an evaluation gave beside the KV cache; None for what was not asked for."""

    logits: Any  #: float32 [n_logits][n_vocab]
    hidden_states: Any  #: float32 [n_layers + 1][n_ids][d_model]


@dataclass(frozen=True)
class Score:
    """Log-probability of each token given those before it."""

    ids: list[int]
    token_logprobs: list[float]  #: natural logarithms; the first has none and is NaN
    top: list[list[tuple[int, float]]]  #: the n_top most probable (id, logprob) at each position

    @property
    def n_scored(self) -> int:
        return len(self.ids) - 1

    @property
    def sum_logprob(self) -> float:
        return math.fsum(self.token_logprobs[1:])

    @property
    def perplexity(self) -> float:
        """NaN where nothing was scored."""
        return math.exp(-self.sum_logprob / self.n_scored) if self.n_scored else math.nan


class Session:
    """One timeline of a model: tokens evaluated so far and their KV cache.

    Made by ``Model.session()``, for programs that decode in a way of their own; Model's methods
    take care of sessions themselves. One use at a time: another thread's call, or one while a
    stream of it runs, raises RuntimeError.
    """

    def __init__(
        self, model: Handle, tokenizer: Tokenizer | None, options: _native.cf_session_options
    ) -> None:
        self._model = model
        self._tokenizer = tokenizer
        self._handle = create(lib.cf_session_create, lib.cf_session_free, (model,), model, options)
        self._busy = threading.Lock()
        self._shape = lib.cf_model_shape(model).contents

    @property
    def alive(self) -> bool:
        return self._handle.alive

    @contextmanager
    def _exclusive(self) -> Iterator[None]:
        self._begin()
        try:
            yield
        finally:
            self._busy.release()

    def _begin(self) -> None:
        if not self._busy.acquire(blocking=False):
            raise RuntimeError("the session is in use, by another thread or a stream not closed")
        if not self._handle.alive:
            self._busy.release()
            raise InvalidArgumentError("the session is closed")

    def close(self) -> None:
        """Gives its memory back. It cannot be used any more."""
        if self._handle.alive:
            with self._exclusive():
                self._handle.free()

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def n_context(self) -> int:
        """Tokens that fit."""
        with self._exclusive():
            return int(lib.cf_session_n_context(self._handle))

    @property
    def tokens(self) -> list[int]:
        """The tokens evaluated so far."""
        with self._exclusive():
            return self._tokens()

    def _tokens(self) -> list[int]:
        n = lib.cf_session_n_tokens(self._handle)
        found: list[int] = lib.cf_session_tokens(self._handle)[:n] if n else []
        return found

    def rewind(self, n_tokens: int = 0) -> None:
        """Forgets the tokens from position ``n_tokens`` on; costs nothing."""
        integer("n_tokens", n_tokens, 0, 2**63 - 1)
        with self._exclusive():
            call(lib.cf_session_rewind, self._handle, n_tokens)

    def eval(
        self,
        ids: Sequence[int],
        *,
        n_logits: int | None = 1,
        hidden_states: bool = False,
        array: str | None = None,
        progress: ProgressFn | None = None,
    ) -> Evaluation:
        """Evaluates ``ids`` after the tokens that the session holds.

        ``n_logits``: of how many of the last ids to give the logits; None: of all.
        ``array``: "numpy", "torch" or "memoryview"; None: NumPy's if it is installed.

        Raises ContextFullError, InvalidArgumentError (an id outside the vocabulary), DeviceError,
        CancelledError (``progress`` returned False). The session then holds what it held before.
        """
        tokens = token_array(ids, "ids")
        n = len(tokens)
        n_logits = n if n_logits is None else integer("n_logits", n_logits, 0, n)
        shape = self._shape
        outputs = _native.cf_outputs()
        logits = hidden = None
        with self._exclusive(), progress_callback(progress) as callback:
            self._check_room(n)
            if n_logits:
                logits = Floats((n_logits, shape.n_vocab), array)
                outputs.logits, outputs.n_logits = logits.pointer, n_logits
            if hidden_states and n:
                hidden = Floats((shape.n_layers + 1, n, shape.d_model), array)
                outputs.hidden = hidden.pointer
            outputs.progress = callback
            call(lib.cf_session_eval, self._handle, tokens, n, outputs)
        return Evaluation(logits and logits.view(), hidden and hidden.view())

    def _check_room(self, n: int) -> None:
        """Asks the library before room for outputs is taken: without outputs it only looks."""
        held = lib.cf_session_n_tokens(self._handle)
        if held + n > lib.cf_session_n_context(self._handle):
            call(lib.cf_session_eval, self._handle, (cf_token * n)(), n, _native.cf_outputs())

    def stream(self, prompt: Prompt, **options: Unpack[GenerateOptions]) -> Stream:
        """As Model.stream, in this session."""
        return self._stream(prompt, Request(**options), lambda: None)

    def _stream(self, prompt: Prompt, request: Request, on_close: Callable[[], None]) -> Stream:
        ids = ids_of(prompt, self._tokenizer, "prompt")
        tokenizer = self._tokenizer.handle if self._tokenizer else None
        self._begin()

        def close() -> None:
            self._busy.release()
            on_close()

        try:
            if not request.reuse_cache:
                call(lib.cf_session_rewind, self._handle, 0)
            return Stream(self._handle, tokenizer, ids, request, close)
        except BaseException:
            close()
            raise

    def generate(self, prompt: Prompt, **options: Unpack[GenerateOptions]) -> Generation:
        """As Model.generate, in this session."""
        with self.stream(prompt, **options) as stream:
            for _ in stream:
                pass
        return stream.result

    def score(
        self,
        text: Prompt,
        *,
        n_window: int | None = None,
        n_stride: int | None = None,
        n_top: int = 0,
        progress: ProgressFn | None = None,
    ) -> Score:
        """As Model.score, in this session; what it held is forgotten."""
        ids = ids_of(text, self._tokenizer, "text")
        n = len(ids)
        for name, value in (("n_window", n_window), ("n_stride", n_stride)):
            if value is not None:
                integer(name, value, 1, 2**63 - 1)
        integer("n_top", n_top, 0, 64)
        logprobs = (c_float * n)()
        top = (cf_alternative * (n * n_top))()
        with self._exclusive(), progress_callback(progress) as callback:
            options = _native.cf_score_options(
                n_window=n_window or 0, n_stride=n_stride or 0, n_top=n_top, progress=callback
            )
            call(lib.cf_score, self._handle, ids, n, options, logprobs, top if n_top else None)
        pairs = [(item.id, item.logprob) for item in top if n_top]
        return Score(
            ids=list(ids),
            token_logprobs=list(logprobs),
            top=[
                [pair for pair in pairs[i * n_top : (i + 1) * n_top] if pair[0] >= 0]
                for i in range(n if n_top else 0)
            ],
        )


def ids_of(prompt: Prompt, tokenizer: Tokenizer | None, name: str) -> Any:
    """The ids of text, or ids as they are, for C."""
    if not isinstance(prompt, (str, bytes)):
        return token_array(prompt, name)
    if tokenizer is None:
        raise NotFoundError(
            f"{name} is text, and the model has no tokenizer.json: give token ids, or open the "
            "model with tokenizer="
        )
    return token_array(tokenizer.encode(prompt), name)
