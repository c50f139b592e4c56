"""Generations: the whole of one, and one as it comes."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ctypes import byref, string_at
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from . import _native
from ._handles import Handle, call, create
from ._native import EventKind, Finish, lib

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self

    from ._options import Request


@dataclass(frozen=True)
class Stats:
    """What a generation did and how long it took."""

    n_prompt: int  #: tokens of the prompt
    n_reused: int  #: of these, already in the KV cache
    n_tokens: int  #: tokens chosen
    prompt_ns: int  #: evaluating the prompt
    decode_ns: int  #: from the first token chosen to the last
    logits_hash: int  #: XXH3-64 of the last logits: same bits, same hash

    @property
    def prompt_tokens_per_s(self) -> float:
        """NaN where nothing was evaluated."""
        n = self.n_prompt - self.n_reused
        return 1e9 * n / self.prompt_ns if self.prompt_ns and n else float("nan")

    @property
    def decode_tokens_per_s(self) -> float:
        """NaN for fewer than two tokens."""
        n = self.n_tokens - 1
        return 1e9 * n / self.decode_ns if self.decode_ns and n > 0 else float("nan")


@dataclass(frozen=True)
class Generation:
    """A generation's outcome. ``str()`` of it is its text."""

    text: str  #: the new text, without stop string and end-of-text token; "" without a tokenizer
    ids: list[int]  #: the new tokens, an end-of-text token included
    logprobs: list[float]  #: their log-probabilities, before penalties, bias and temperature
    top: list[list[tuple[int, float]]]  #: the n_top most probable (id, logprob) at each step
    finish_reason: str  #: "stop" (end of text or stop string), "length", or "none": unfinished
    prompt_ids: list[int]
    seed: int  #: of the random numbers: given again, it gives the same text
    stats: Stats

    def __str__(self) -> str:
        return self.text


class Token(str):
    """A token as it comes: the text that became certain with it, maybe "", and facts about it.

    Text is held back while it may be half a character or the beginning of a stop string; what is
    left at the end comes as one more, which has no id.
    """

    id: int | None
    logprob: float
    top: list[tuple[int, float]]

    __slots__ = ("id", "logprob", "top")

    def __new__(
        cls,
        text: str,
        id: int | None = None,
        logprob: float = float("nan"),
        top: list[tuple[int, float]] | None = None,
    ) -> Self:
        token = super().__new__(cls, text)
        token.id, token.logprob, token.top = id, logprob, top or []
        return token


class Stream(Iterator[Token]):
    """A generation as it comes: an iterator of Tokens, whose texts joined are the whole text.

    It may be dropped at any point, or closed; it is a context manager that closes itself. One
    thread at a time. ``result`` is what has come so far.
    """

    def __init__(
        self,
        session: Handle,
        tokenizer: Handle | None,
        prompt: Any,
        request: Request,
        on_close: Callable[[], None],
    ) -> None:
        self._on_close: Callable[[], None] | None = None
        self._busy = threading.RLock()
        self._seed = request.seed
        self._prompt_ids: list[int] = list(prompt)
        self._texts: list[str] = []
        self._ids: list[int] = []
        self._logprobs: list[float] = []
        self._top: list[list[tuple[int, float]]] = []
        self._finish = Finish.NONE
        self._event = _native.cf_event()
        self._stats = _native.cf_generate_stats()
        self._generation = create(
            lib.cf_generation_begin,
            lib.cf_generation_free,
            (session, tokenizer),
            session,
            tokenizer,
            prompt,
            len(prompt),
            request.max_tokens,
            request.options,
        )
        self._on_close = on_close

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Token:
        with self._exclusive():
            while self._generation.alive:
                try:
                    token = self._step()
                except BaseException:  # Ctrl-C too
                    self.close()
                    raise
                if token is not None:
                    return token
        raise StopIteration

    @contextmanager
    def _exclusive(self) -> Iterator[None]:
        """Refuses a second thread, as Python's generators do."""
        if not self._busy.acquire(blocking=False):
            raise RuntimeError("the stream is in use by another thread")
        try:
            yield
        finally:
            self._busy.release()

    def _step(self) -> Token | None:
        """One step of the generation; a Token if it gave one."""
        event = self._event
        call(lib.cf_generation_next, self._generation, byref(event))
        if event.kind == EventKind.PROMPT:
            return None
        text = string_at(event.text, event.n_text).decode("utf-8") if event.n_text else ""
        self._texts.append(text)
        if event.kind == EventKind.END:
            self._finish = Finish(event.finish)
            self.close()
            return Token(text) if text else None
        top = [(event.top[i].id, event.top[i].logprob) for i in range(event.n_top)]
        self._ids.append(event.token)
        self._logprobs.append(event.logprob)
        self._top.append(top)
        return Token(text, event.token, event.logprob, top)

    def close(self) -> None:
        """Ends it; the session goes back to its model. Does nothing the second time."""
        with self._exclusive():
            self._read_stats()
            self._generation.free()
        on_close, self._on_close = self._on_close, None
        if on_close is not None:
            on_close()

    def _read_stats(self) -> None:
        if self._generation.alive:
            lib.cf_generation_stats(self._generation, byref(self._stats))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if getattr(self, "_on_close", None) is not None:
            self.close()

    @property
    def result(self) -> Generation:
        """What has come so far; ``finish_reason`` is "none" while it is not over."""
        with self._exclusive():
            self._read_stats()
        stats = self._stats
        return Generation(
            text="".join(self._texts),
            ids=list(self._ids),
            logprobs=list(self._logprobs),
            top=list(self._top),
            finish_reason=lib.cf_finish_name(self._finish).decode(),
            prompt_ids=list(self._prompt_ids),
            seed=self._seed,
            stats=Stats(
                stats.n_prompt,
                stats.n_reused,
                stats.n_tokens,
                stats.prompt_ns,
                stats.decode_ns,
                stats.logits_hash,
            ),
        )
