"""Text to ids and back."""

from __future__ import annotations

import os
from collections.abc import Sequence
from ctypes import byref, c_size_t, create_string_buffer, string_at

from . import _native
from ._arrays import token_array
from ._errors import InvalidArgumentError
from ._handles import Handle, call, create
from ._native import cf_token, lib


def encode_text(text: str | bytes, name: str) -> bytes:
    """UTF-8 of ``text``; what is not Unicode becomes U+FFFD, as invalid bytes do."""
    if isinstance(text, str):
        return text.encode("utf-8", "surrogatepass")
    if isinstance(text, (bytes, bytearray, memoryview)):
        return bytes(text)
    raise TypeError(f"{name} is {type(text).__name__}, expected str or bytes")


def path_bytes(path: str | os.PathLike[str]) -> bytes:
    """``path`` for C, where a zero byte would end it."""
    name = os.fsencode(path)
    if b"\0" in name:
        raise InvalidArgumentError(f"path is {path!r}: no path holds a zero character")
    return name


class Tokenizer:
    """The tokenizer of GPT-2 and GPT-NeoX, read from a ``tokenizer.json`` or a folder with one.

    Immutable; any number of threads may use it. Raises NotFoundError, ReadError, BadFileError,
    UnsupportedError (another kind of tokenizer), OutOfMemoryError.

    ``len(tokenizer)`` is one more than the largest id that has text.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        name = path_bytes(path)
        self._handle = create(lib.cf_tokenizer_open, lib.cf_tokenizer_close, (), name)

    @property
    def handle(self) -> Handle:
        return self._handle

    def __len__(self) -> int:
        return int(lib.cf_tokenizer_n_vocab(self._handle))

    def encode(self, text: str | bytes, *, special: bool = True) -> list[int]:
        """The ids of ``text``. Without ``special``, text that spells a special token is ordinary.

        Bytes that are not UTF-8 are read as U+FFFD. Nothing is put before or after the text.
        """
        data = encode_text(text, "text")
        flags = 0 if special else _native.ENCODE_NO_SPECIAL
        capacity = 3 * len(data)  # always enough
        ids = (cf_token * capacity)()
        n = c_size_t()
        call(lib.cf_tokenizer_encode, self._handle, data, len(data), flags, ids, capacity, byref(n))
        return ids[: n.value]

    def decode(self, ids: Sequence[int], *, skip_special: bool = False) -> str:
        """The text of ``ids``; bytes that are not UTF-8 become U+FFFD, ids without text nothing."""
        array = token_array(ids, "ids")
        flags = _native.DECODE_SKIP_SPECIAL if skip_special else 0
        n = c_size_t()
        # Three bytes for one: what a byte that is not UTF-8 becomes.
        capacity = 3 * sum(len(self.token_bytes(id)) for id in array if id >= 0)
        text = create_string_buffer(max(capacity, 1))
        call(
            lib.cf_tokenizer_decode,
            self._handle,
            array,
            len(array),
            flags,
            text,
            capacity,
            byref(n),
        )
        return text.raw[: n.value].decode("utf-8")

    def token_bytes(self, id: int) -> bytes:
        """The bytes that one id stands for, not always whole characters; empty if it has none."""
        n = c_size_t()
        address = lib.cf_tokenizer_bytes(self._handle, _checked(id), byref(n))
        return string_at(address, n.value)

    def is_special(self, id: int) -> bool:
        """Whether ``id`` is a special token such as ``<|endoftext|>``."""
        return bool(lib.cf_tokenizer_is_special(self._handle, _checked(id)))

    def find(self, text: str) -> int | None:
        """The id of the token that is spelled exactly ``text``; None if there is none."""
        data = encode_text(text, "text")
        id = -1 if b"\0" in data else int(lib.cf_tokenizer_find(self._handle, data))
        return None if id < 0 else id


def _checked(id: int) -> int:
    if not 0 <= id < 2**31:
        raise InvalidArgumentError(f"id is {id}, expected 0 to {2**31 - 1}")
    return id
