"""Owners of the library's objects, and callbacks from it."""

from __future__ import annotations

import signal
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ctypes import byref, c_void_p
from typing import TYPE_CHECKING, Any

from ._errors import CancelledError, check
from ._native import cf_error, cf_progress_fn

if TYPE_CHECKING:
    from types import FrameType

#: ``progress(what, done, total)``: a short word, units done, units in all. False stops the work.
ProgressFn = Callable[[str, int, int], object]


def call(function: Any, *arguments: Any) -> None:
    """Calls a fallible function of the library; raises what it answers."""
    error = cf_error()
    check(function(*arguments, byref(error)), error)


class Handle:
    """One object of the library, freed when nobody holds this, or at once by ``free``.

    ``needs`` are the handles that must outlive it. The finalizer holds on to them, not the handle:
    so the order of freeing holds even where the garbage collector finds all of them in one cycle.
    """

    def __init__(self, pointer: c_void_p, free: Any, *needs: Handle | None) -> None:
        self._as_parameter_ = pointer
        self._finalizer = weakref.finalize(self, _free, free, pointer, needs)
        self._finalizer.atexit = False  # the process gives everything back; threads may still run

    @property
    def alive(self) -> bool:
        return self._finalizer.alive

    def free(self) -> None:
        self._finalizer()


def _free(free: Any, pointer: c_void_p, _needs: tuple[Handle | None, ...]) -> None:
    free(pointer)


def create(function: Any, free: Any, needs: tuple[Handle | None, ...], *arguments: Any) -> Handle:
    """Calls a function that creates an object, whose place comes last but the error."""
    pointer = c_void_p()
    call(function, *arguments, byref(pointer))
    return Handle(pointer, free, *needs)


class _Interrupts:
    """Holds back Ctrl-C while C may call back, and passes it on where it can be caught.

    Python runs a signal's handler wherever it next runs anything: here often at the first step into
    a callback, before its ``try``. ctypes drops what is raised there and answers C with garbage.
    """

    def __init__(self) -> None:
        self._caught: list[tuple[int, FrameType | None]] = []
        self._handler: Any = None

    def __enter__(self) -> _Interrupts:
        handler = signal.getsignal(signal.SIGINT)
        if threading.current_thread() is threading.main_thread() and callable(handler):
            signal.signal(signal.SIGINT, lambda *caught: self._caught.append(caught))
            self._handler = handler
        return self

    def pass_on(self) -> None:
        """Lets the program's own handler have what came; it raises KeyboardInterrupt, if any."""
        while self._caught:
            self._handler(*self._caught.pop())

    def __exit__(self, *_: object) -> None:
        if self._handler is not None:
            signal.signal(signal.SIGINT, self._handler)
        self.pass_on()


def _silent(what: str, done: int, total: int) -> bool:
    return True


@contextmanager
def progress_callback(progress: ProgressFn | None) -> Iterator[Any]:
    """A C callback around ``progress``, and whatever it raised, raised again behind the call.

    There is a callback even without a ``progress``: it is where Ctrl-C is noticed during long work.
    """
    raised: list[BaseException] = []
    function = progress or _silent

    with _Interrupts() as interrupts:

        def trampoline(_user: int | None, what: bytes, done: int, total: int) -> bool:
            try:
                interrupts.pass_on()
                return function(what.decode(), done, total) is not False
            except BaseException as error:  # must not unwind through C
                raised.append(error)
                return False

        try:
            yield cf_progress_fn(trampoline)
        except CancelledError:
            if not raised:
                raise
        if raised:
            raise raised[0]
