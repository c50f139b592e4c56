"""Exceptions: one a status of the library, each also of the Python class that the header names."""

from __future__ import annotations

from typing import ClassVar

from . import _native
from ._native import Status


class Error(Exception):
    """What every error of the library is. ``status`` is its kind, ``str()`` its message."""

    status: ClassVar[Status]


class InvalidArgumentError(Error, ValueError):
    """An argument is outside its bounds; the message names it."""

    status = Status.INVALID_ARGUMENT


class ContextFullError(Error, ValueError):
    """More tokens than the context holds."""

    status = Status.CONTEXT_FULL


class BufferTooSmallError(Error, BufferError):
    """A buffer is too small."""

    status = Status.BUFFER_TOO_SMALL


class NotFoundError(Error, FileNotFoundError):
    """A file is not there."""

    status = Status.NOT_FOUND


class ReadError(Error, OSError):
    """A file could not be read."""

    status = Status.IO


class BadFileError(Error, ValueError):
    """A file is damaged or not what its name says."""

    status = Status.BAD_FILE


class UnsupportedError(Error, NotImplementedError):
    """Something that the library does not know, named."""

    status = Status.UNSUPPORTED


class OutOfMemoryError(Error, MemoryError):
    """Memory is missing; the message says for what."""

    status = Status.OUT_OF_MEMORY


class NoDeviceError(Error, RuntimeError):
    """There is no usable device."""

    status = Status.NO_DEVICE


class DeviceError(Error, RuntimeError):
    """The device failed, or the numbers that it gave are not finite."""

    status = Status.DEVICE


class CancelledError(Error, KeyboardInterrupt):
    """The caller's own ``progress`` said to stop."""

    status = Status.CANCELLED


BY_STATUS: dict[Status, type[Error]] = {
    cls.status: cls
    for cls in (
        InvalidArgumentError,
        ContextFullError,
        BufferTooSmallError,
        NotFoundError,
        ReadError,
        BadFileError,
        UnsupportedError,
        OutOfMemoryError,
        NoDeviceError,
        DeviceError,
        CancelledError,
    )
}


def check(status: int, error: _native.cf_error) -> None:
    """Raises what ``status`` stands for, with the library's message; nothing for OK."""
    if status != Status.OK:
        raise BY_STATUS[Status(status)](error.message.decode("utf-8", "replace"))
