#!/usr/bin/env python3
"""Write a model folder's reference outputs, as transformers computes them.

The saved weights are widened to float64 and run on the CPU.  The folder given
by --out gets

  golden.json             ids, their log-probabilities and a greedy continuation
  logits.f32              [ids, vocabulary], little-endian float32
  hidden.f32              [layers + 1, ids, hidden]: the embeddings, the state
                          after each layer but the last, and the state after
                          the final norm
  tokenizer_vectors.jsonl texts with their ids and the text decoded from them,
                          by the reference tokenizer (where the model folder
                          has a tokenizer.json)

Needs torch, transformers and tokenizers.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
import transformers
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.utils.logging import disable_progress_bar

DEFAULT_TEXT = (
    "All children, except one, grow up. They soon know that they will grow "
    "up, and the way Wendy knew was this. One day when she was two years old "
    "she was playing in a garden, and she plucked another flower and ran with "
    "it to her mother."
)

VECTOR_TEXTS = (
    "", "a", " ", "Hello, world!", "hello WORLD", "Call me Ishmael.",
    "The Project ClusterFusion", " leading space", "trailing space ",
    "two  spaces", "three   spaces   here", "          ten spaces",
    "a" + " " * 31 + "b", "\n", "\n\n", "\n\n\n", " \n", "\n ", " \n \n ",
    "line one\nline two", "paragraph\n\nparagraph", "ends with newline\n",
    "CR\r\nLF\r\n\r\nend", "\r", "\r\n", "tab\tseparated\t\ttwice", "\t",
    "\x00",
    "a\x0bb\x0cc", "bell\x07 escape\x1b[0m delete\x7f",
    "I'm you're he's we've they'll I'd don't", "I'M YOU'RE HE'S DON'T",
    "'tis 'twas o'clock", "it''s 's 't", "``quoted'' \"twice\"",
    "0 1 12 123 1234 12345678901234567890", "3.14159 1,000,000 50% $9.99 1e-5",
    "2nd 3rd x2 v1.0", "1813-01-28T12:30:00Z", "...!!!???---***",
    "dash--dash -- em\u2014dash", "_emphasis_ **bold** `code`",
    "if (x < 10) { return x->y[0] && !z; }  // done",
    "https://example.org/a?b=c&d=e#f",
    "caf\u00e9 na\u00efve \u0152uvre \u00a3100",
    "cafe\u0301 nai\u0308ve", "\u212b \ufb01 \uac01 \u1100\u1161",
    "\u201ccurly\u201d \u2018quotes\u2019 \u2026",
    "\u00a0nbsp\u00a0\u00a0twice",
    "\u2003em\u2003space\u3000wide",
    "\u0395\u03bb\u03bb\u03ac\u03b4\u03b1 \u041c\u043e\u0441\u043a\u0432\u0430",
    "\u65e5\u672c\u8a9e \u4e2d\u6587 \ud55c\uad6d\uc5b4",
    "\u0939\u093f\u0928\u094d\u0926\u0940 \u0e44\u0e17\u0e22",
    "\u0645\u0631\u062d\u0628\u0627 \u05e9\u05dc\u05d5\u05dd",
    "\U0001f600 \U0001f44d\U0001f3fd",
    "\U0001f468\u200d\U0001f469\u200d\U0001f467 \U0001f1eb\U0001f1f7",
    "\ufeffBOM \ufffd", "\u221e \u2260 \u00bd \u00b2 \u2163",
    "<|endoftext|>", "a<|endoftext|>b", "x <|endoftext|> y",
    "<|endoftext|><|endoftext|>", "<|endoftext|", "<|ENDOFTEXT|>",
    "incomprehensibilities antidisestablishmentarianism",
    "\"My dear Mr. Bennet,\" said his lady to him one day, \"have you heard "
    "that Netherfield Park is let at last?\"",
)


@dataclass(frozen=True)
class Greedy:
    """A greedy continuation and how clear its choices were."""

    prompt: list[int]
    ids: list[int]
    min_margin: float


@torch.no_grad()
def continue_greedily(model: PreTrainedModel, prompt: list[int],
                      length: int) -> Greedy:
    """Take the likeliest id `length` times, without a cache."""
    ids = list(prompt)
    min_margin = float("inf")
    for _ in range(length):
        logits = model(torch.tensor([ids]), use_cache=False).logits[0, -1]
        best = logits.topk(2)
        min_margin = min(min_margin, float(best.values[0] - best.values[1]))
        ids.append(int(best.indices[0]))
    return Greedy(prompt, ids[len(prompt):], min_margin)


def find_greedy(model: PreTrainedModel, ids: list[int], prompt_length: int,
                length: int, min_margin: float) -> Greedy:
    """The first stretch of the ids whose continuation has clear choices.

    Where two logits nearly tie, a computation in lower precision may rightly
    choose the other one; such a continuation is no use as a reference.
    """
    for start in range(len(ids) - prompt_length + 1):
        greedy = continue_greedily(model, ids[start:start + prompt_length],
                                   length)
        if greedy.min_margin >= min_margin:
            return greedy
    raise SystemExit(f"no prompt in the text keeps a margin of {min_margin}")


@torch.no_grad()
def write_outputs(model: PreTrainedModel, ids: list[int], greedy: Greedy,
                  folder: Path) -> None:
    """Write golden.json, logits.f32 and hidden.f32."""
    outputs = model(torch.tensor([ids]), use_cache=False,
                    output_hidden_states=True)
    logits = outputs.logits[0]
    hidden = torch.stack(outputs.hidden_states)[:, 0]
    chances = logits.log_softmax(-1)
    logprobs = [float(chances[at, wanted]) for at, wanted in enumerate(ids[1:])]
    logits.numpy().astype("<f4").tofile(folder / "logits.f32")
    hidden.numpy().astype("<f4").tofile(folder / "hidden.f32")
    golden = {
        "ids": ids,
        "logits_shape": list(logits.shape),
        "hidden_shape": list(hidden.shape),
        "token_logprobs": [None, *logprobs],
        "greedy_prompt": greedy.prompt,
        "greedy": greedy.ids,
        "greedy_min_margin": greedy.min_margin,
        "precision": "float64",
        "transformers_version": transformers.__version__,
        "command": shlex.join(["python3", *sys.argv]),
    }
    text = json.dumps(golden).replace(', "', ',\n "')
    (folder / "golden.json").write_text(text + "\n", encoding="utf-8")


def write_vectors(tokenizer: Tokenizer, path: Path) -> None:
    """Write each text with its ids and what they decode to."""
    with path.open("w", encoding="utf-8", newline="\n") as lines:
        for text in VECTOR_TEXTS:
            ids = tokenizer.encode(text).ids
            decoded = tokenizer.decode(ids, skip_special_tokens=False)
            line = {"text": text, "ids": ids, "decoded": decoded}
            lines.write(json.dumps(line) + "\n")


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n", 1)[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    add = parser.add_argument
    add("--model", type=Path, required=True, help="the model's folder")
    add("--out", type=Path, required=True, help="the folder to write")
    add("--text", default=DEFAULT_TEXT, help="the text to take the ids from")
    add("--ids", type=int, nargs="+", metavar="ID",
        help="the ids themselves, for a model without a tokenizer")
    add("--count", type=int, default=48, help="ids to take")
    add("--prompt-length", type=int, default=8, help="ids of the greedy prompt")
    add("--greedy-length", type=int, default=32, help="ids to continue it by")
    add("--min-margin", type=float, default=0.01,
        help="least gap between the two best logits of the continuation")
    return parser.parse_args()


def main() -> None:
    """Load the model, compute, write."""
    args = parse_arguments()
    vocabulary = args.model / "tokenizer.json"
    tokenizer = (Tokenizer.from_file(str(vocabulary))
                 if vocabulary.exists() else None)
    ids = args.ids
    if ids is None:
        if tokenizer is None:
            raise SystemExit(f"{args.model} has no tokenizer.json: give --ids")
        ids = tokenizer.encode(args.text).ids
    if len(ids) < args.count:
        raise SystemExit(f"the text gives {len(ids)} ids, not {args.count}")
    ids = ids[:args.count]
    disable_progress_bar()
    model = AutoModelForCausalLM.from_pretrained(
        args.model, attn_implementation="sdpa").double().eval()
    greedy = find_greedy(model, ids, args.prompt_length, args.greedy_length,
                         args.min_margin)
    args.out.mkdir(parents=True, exist_ok=True)
    write_outputs(model, ids, greedy, args.out)
    if tokenizer is not None:
        write_vectors(tokenizer, args.out / "tokenizer_vectors.jsonl")
        print(tokenizer.decode(greedy.prompt), "->",
              tokenizer.decode(greedy.ids))


if __name__ == "__main__":
    main()
