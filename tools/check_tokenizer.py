#!/usr/bin/env python3
"""Compare the library's tokenizer with the reference, case by case.

    tools/check_tokenizer.py build/libclusterfusion.so tokenizer.json
        [--cases N] [--seed S] [--code-points] [--file TEXT]...

Random texts of awkward characters, random ids, random bytes; with
--code-points every code point alone and among letters, numbers and marks; with
--file also whole texts. Prints what differs and fails if anything does.

Needs tokenizers.
"""

from __future__ import annotations

import argparse
import ctypes
import random
import sys
from pathlib import Path

from tokenizers import Tokenizer

from make_test_tokenizer import FRAGMENTS

# Where normalization, classes or spaces are interesting.
BLOCKS = [
    (0x00, 0x20), (0x20, 0x7F), (0x20, 0x7F), (0x80, 0x100), (0x300, 0x370), (0x300, 0x400),
    (0x590, 0x700), (0x8C0, 0xE80), (0xF00, 0x1000), (0x1100, 0x1200), (0x1AB0, 0x1B80),
    (0x1E00, 0x2000), (0x2000, 0x2070), (0x2100, 0x2200), (0x2E80, 0x3400), (0x3040, 0x3100),
    (0xAC00, 0xAC80), (0xF900, 0xFB50), (0x105C0, 0x10600), (0x10A00, 0x11F60),
    (0x10D20, 0x10D90), (0x11380, 0x11400), (0x11900, 0x11960), (0x16D40, 0x16D80),
    (0x1D150, 0x1D1B0), (0x1E000, 0x1E600), (0x1F300, 0x1F700), (0x2F800, 0x2FA20),
]  # fmt: skip


class Library:
    """The tokenizer of the shared library, through its C interface."""

    def __init__(self, library: Path, path: Path) -> None:
        self.c = ctypes.CDLL(str(library.resolve()))
        self.c.cf_tokenizer_n_vocab.restype = ctypes.c_size_t
        self.handle = ctypes.c_void_p()
        error = ctypes.create_string_buffer(4 + 1024)
        if self.c.cf_tokenizer_open(str(path).encode(), ctypes.byref(self.handle), error) != 0:
            sys.exit(error.raw[4:].split(b"\0", 1)[0].decode())
        self.n_vocab = self.c.cf_tokenizer_n_vocab(self.handle)

    def encode(self, text: bytes, flags: int = 0) -> list[int]:
        capacity = max(3 * len(text), 1)
        ids = (ctypes.c_int32 * capacity)()
        n_ids = ctypes.c_size_t()
        status = self.c.cf_tokenizer_encode(
            self.handle, text, ctypes.c_size_t(len(text)), flags, ids,
            ctypes.c_size_t(capacity), ctypes.byref(n_ids), None,
        )  # fmt: skip
        assert status == 0, status
        return ids[: n_ids.value]

    def decode(self, ids: list[int], flags: int = 0) -> str:
        array = (ctypes.c_int32 * max(len(ids), 1))(*ids)
        capacity = 1024 * len(ids) + 1
        text = ctypes.create_string_buffer(capacity)
        n_bytes = ctypes.c_size_t()
        status = self.c.cf_tokenizer_decode(
            self.handle, array, ctypes.c_size_t(len(ids)), flags, text,
            ctypes.c_size_t(capacity), ctypes.byref(n_bytes), None,
        )  # fmt: skip
        assert status == 0, status
        return text.raw[: n_bytes.value].decode()


class Comparison:
    def __init__(self, library: Path, path: Path) -> None:
        self.ours = Library(library, path)
        self.reference = Tokenizer.from_file(str(path))
        self.ordinary = Tokenizer.from_file(str(path))
        self.ordinary.encode_special_tokens = True
        self.n_cases = 0
        self.n_different = 0

    def note(self, same: bool, case: object) -> None:
        self.n_cases += 1
        self.n_different += not same
        if not same and self.n_different <= 20:
            print("differs:", ascii(case)[:300])

    def text(self, text: str) -> None:
        data = text.encode()
        self.note(self.ours.encode(data) == self.reference.encode(text).ids, text)

    def ordinary_text(self, text: str) -> None:
        data = text.encode()
        self.note(self.ours.encode(data, 1) == self.ordinary.encode(text).ids, ("ordinary", text))

    def data(self, data: bytes) -> None:
        text = data.decode("utf-8", errors="replace")
        self.note(self.ours.encode(data) == self.reference.encode(text).ids, data)

    def ids(self, ids: list[int], skip: bool) -> None:
        expected = self.reference.decode(ids, skip_special_tokens=skip)
        self.note(self.ours.decode(ids, int(skip)) == expected, (ids, skip))


def random_text(source: random.Random) -> str:
    blocks = source.sample(BLOCKS, source.randint(1, 4))
    parts = []
    for _ in range(source.randint(1, 14)):
        if source.random() < 0.5:
            parts.append(source.choice(FRAGMENTS))
        else:
            parts.append(chr(source.randrange(*source.choice(blocks))))
    return "".join(parts)


def compare_random(comparison: Comparison, source: random.Random, n_cases: int) -> None:
    awkward = [*b"\xe2\x82\xac\xf0\x9f\x98\x80\xed\xa0\xc0\xf5A "]
    for _ in range(n_cases):
        text = random_text(source)
        comparison.text(text)
        comparison.ordinary_text(text)
        n = source.randint(1, 14)
        comparison.data(bytes(source.choice([source.randrange(256), *awkward]) for _ in range(n)))
        ids = [source.randrange(comparison.ours.n_vocab + 30) for _ in range(n)]
        comparison.ids(ids, skip=source.random() < 0.5)


def compare_code_points(comparison: Comparison) -> None:
    for code in range(0x110000):
        if 0xD800 <= code < 0xE000:
            continue
        c = chr(code)
        for text in (c, f"a{c}b", f"1 {c}{c} 2", f"!{c}\u0301{c}\u0327e\u0323{c}\u0345"):
            comparison.text(text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("library", type=Path)
    parser.add_argument("tokenizer", type=Path)
    parser.add_argument("--cases", type=int, default=20000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--code-points", action="store_true")
    parser.add_argument("--file", type=Path, action="append", default=[])
    arguments = parser.parse_args()

    comparison = Comparison(arguments.library, arguments.tokenizer)
    compare_random(comparison, random.Random(arguments.seed), arguments.cases)
    if arguments.code_points:
        compare_code_points(comparison)
    for path in arguments.file:
        comparison.data(path.read_bytes())
    print(f"{comparison.n_cases} cases, {comparison.n_different} differ")
    sys.exit(comparison.n_different > 0)


if __name__ == "__main__":
    main()
