#!/usr/bin/env python3
"""Make the small tokenizer of the tests, and vectors of it by the reference.

Writes tests/data/tokenizer/tokenizer.json (byte-level BPE of 600 entries,
trained on TEXT, with added tokens of every kind) and vectors.jsonl beside it:
one object a line with "hex" (the text's bytes), "ids", "ordinary" (the ids when
special tokens are ordinary text) and "decoded".

Needs tokenizers.
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers
from tokenizers import pre_tokenizers, processors, trainers

FRAGMENTS = [
    "'s", "'S", "'re", "'ll", "don't", "'", "''", " ", "  ", "   ", " " * 7, " " * 30,
    "\n", "\r\n", "\t", "\u00a0", "\u3000", "\u2003", "\u0085", "\u200b", "\ufeff",
    "\u180e", "\x1c", "\x00", "0", "12", "\u0663", "\u2167", "\u00bd", "e\u0301",
    "a\u0323\u0302", "q\u0302\u0323", "\u1100\u1161\u11a8", "\uac00\u11a8",
    "\uac00\u11a7", "\U0001f469\u200d\U0001f467", "<|endoftext|>", "<|endof", "|>",
    "<tag>", "<tag>s", "\ufb01", "\u212b", "\u0344", "\u0958", "\U0001d15e", "the",
    " the", "word", "\u0120", "...", "=", "\u65e5\u672c", "\u0439", "\u0438\u0306",
    "\u09c7\u09be", "\u1e9b\u0323", "\n\n ", "\u0898\u0301", "\U00011935\U00011930",
    "\U0002ebf0", "\U00010d40", "\u1c89",
]


def train(text: str) -> Tokenizer:
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = byte_level
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
    tokenizer.train_from_iterator(
        text.split("\n"),
        trainers.BpeTrainer(
            vocab_size=600,
            special_tokens=["<|endoftext|>", "<|padding|>"],
            initial_alphabet=byte_level.alphabet(),
            show_progress=False,
        ),
    )
    spaces = [AddedToken(" " * n, normalized=True) for n in range(24, 1, -1)]
    tokenizer.add_tokens(spaces)
    tokenizer.add_tokens([AddedToken("<tag>", normalized=False)])
    tokenizer.add_tokens([AddedToken("A\u030angstr\u00f6m", normalized=True)])
    return tokenizer


def texts(seed: int, n: int) -> list[bytes]:
    random_source = random.Random(seed)
    found = [b"", b"A\xcc\x8angstr\xc3\xb6m", b"\xff", b"a\xe2\x82b", b"\xed\xa0\x80", b"\xf0\x9f\x98"]
    found += [fragment.encode() for fragment in FRAGMENTS]
    for _ in range(n):
        count = random_source.randint(2, 9)
        found.append("".join(random_source.choices(FRAGMENTS, k=count)).encode())
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("text", type=Path, help="what it is trained on")
    parser.add_argument("--out", type=Path, default=Path("tests/data/tokenizer"))
    arguments = parser.parse_args()

    path = arguments.out / "tokenizer.json"
    train(arguments.text.read_text(encoding="utf-8")).save(str(path))
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")), separators=(",", ":")) + "\n")
    tokenizer = Tokenizer.from_file(str(path))
    ordinary = Tokenizer.from_file(str(path))
    ordinary.encode_special_tokens = True
    with open(arguments.out / "vectors.jsonl", "w", encoding="ascii") as file:
        for data in texts(1, 200):
            text = data.decode("utf-8", errors="replace")
            ids = tokenizer.encode(text).ids
            vector = {
                "hex": data.hex(),
                "ids": ids,
                "ordinary": ordinary.encode(text).ids,
                "decoded": tokenizer.decode(ids, skip_special_tokens=False),
            }
            file.write(json.dumps(vector) + "\n")


if __name__ == "__main__":
    main()
