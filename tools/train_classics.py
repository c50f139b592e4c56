#!/usr/bin/env python3
"""Train the small bundled GPT-NeoX model and its tokenizer on a text file.

The text holds one paragraph a line, with empty lines between paragraphs and a
line `<|endoftext|>` between books.  The script holds out every fiftieth block
of eight paragraphs, trains a byte-level BPE tokenizer and a model of the
Pythia form on the rest, and writes a folder that transformers can load:
config.json, generation_config.json, tokenizer_config.json, tokenizer.json and
model.safetensors (fp16).

A text of a few megabytes is little for even a few million parameters, so the
model is regularised: dropout, weight decay, and (with --teachers) a share of
the loss taken from the averaged predictions of larger models, which are
trained first on the same text and then thrown away.

With --evaluate FOLDER nothing is trained: the script splits the same text,
and prints the held-out loss of the model that lies in that folder.

Needs torch, transformers, tokenizers and safetensors.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, normalizers
from tokenizers import pre_tokenizers, processors, trainers
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM
from transformers.utils.logging import disable_progress_bar

END_OF_TEXT = "<|endoftext|>"
END_ID = 0
PARAGRAPHS_A_BLOCK = 8
HOLD_OUT_EVERY = 50
SAMPLE_PROMPTS = (
    "It was a dark night, and",
    "Elizabeth looked at Mr. Darcy",
    "Alice was",
)


@dataclass(frozen=True)
class Shape:
    """The sizes of one model."""

    hidden: int
    layers: int
    heads: int
    vocab: int
    context: int

    def config(self, dropout: float = 0.0) -> dict:
        """The model's config.json, in the spelling of the Pythia models."""
        return {
            "architectures": ["GPTNeoXForCausalLM"],
            "attention_bias": True,
            "attention_dropout": dropout,
            "bos_token_id": END_ID,
            "eos_token_id": END_ID,
            "hidden_act": "gelu",
            "hidden_dropout": dropout,
            "hidden_size": self.hidden,
            "initializer_range": 0.02,
            "intermediate_size": 4 * self.hidden,
            "layer_norm_eps": 1e-05,
            "max_position_embeddings": self.context,
            "model_type": "gpt_neox",
            "num_attention_heads": self.heads,
            "num_hidden_layers": self.layers,
            "rotary_emb_base": 10000,
            "rotary_pct": 0.25,
            "tie_word_embeddings": False,
            "torch_dtype": "float16",
            "use_cache": True,
            "use_parallel_residual": True,
            "vocab_size": self.vocab,
        }


@dataclass(frozen=True)
class Recipe:
    """How one model is trained."""

    epochs: int
    batch: int
    peak_rate: float
    weight_decay: float
    dropout: float
    compile: bool


@dataclass(frozen=True)
class HeldOut:
    """The loss on the held-out text."""

    nats_per_token: float
    bits_per_byte: float

    def __str__(self) -> str:
        return (f"{self.nats_per_token:.4f} nats per token, "
                f"{self.bits_per_byte:.4f} bits per byte")


@dataclass(frozen=True)
class Corpus:
    """The tokenised text: the training stream and the held-out stream."""

    train: torch.Tensor
    held_out: torch.Tensor
    held_out_bytes: int


def progress(line: str) -> None:
    """Show one line of progress, where someone may be watching."""
    if sys.stderr.isatty():
        print(line, file=sys.stderr, flush=True)


def split_text(text: str) -> tuple[list[str], list[str]]:
    """Split the text into training books and held-out blocks.

    Blocks of eight consecutive paragraphs are counted through all the books;
    each fiftieth is held out.  A block never crosses from one book to another.
    """
    books: list[str] = []
    held_out: list[str] = []
    counted = 0
    for book in text.split(END_OF_TEXT):
        paragraphs = [line for line in book.split("\n") if line.strip()]
        kept: list[str] = []
        for first in range(0, len(paragraphs), PARAGRAPHS_A_BLOCK):
            block = paragraphs[first:first + PARAGRAPHS_A_BLOCK]
            counted += 1
            if counted % HOLD_OUT_EVERY == 0:
                held_out.append("\n\n".join(block))
            else:
                kept.extend(block)
        if kept:
            books.append("\n\n".join(kept))
    return books, held_out


def train_tokenizer(books: list[str], vocab: int) -> Tokenizer:
    """Train a byte-level BPE tokenizer that can spell every byte sequence."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.post_processor = processors.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(books, trainer)
    if tokenizer.get_vocab_size() != vocab:
        raise SystemExit(f"the text is too short for {vocab} tokens: "
                         f"it gave {tokenizer.get_vocab_size()}")
    return tokenizer


def encode_stream(tokenizer: Tokenizer, texts: list[str]) -> torch.Tensor:
    """The ids of all the texts, each led by the end-of-text id."""
    ids: list[int] = []
    for encoding in tokenizer.encode_batch(texts):
        ids.append(END_ID)
        ids.extend(encoding.ids)
    return torch.tensor(ids)


def windows(stream: torch.Tensor, context: int, batch: int,
            generator: torch.Generator) -> Iterator[torch.Tensor]:
    """One epoch of batches [batch, context + 1], in random order.

    The windows do not overlap but for the one id that is the last target of
    one and the first input of the next.  The cut starts at a random place, so
    that the windows differ from epoch to epoch.
    """
    shift = int(torch.randint(context, (1,), generator=generator))
    count = (len(stream) - 1 - shift) // context
    starts = shift + context * torch.randperm(count, generator=generator)
    reach = torch.arange(context + 1, device=stream.device)
    for first in range(0, count - batch + 1, batch):
        chosen = starts[first:first + batch].to(stream.device)
        yield stream[chosen[:, None] + reach]


@torch.no_grad()
def held_out_loss(model: GPTNeoXForCausalLM, corpus: Corpus) -> HeldOut:
    """The mean loss on the held-out stream, in float32.

    The window moves on by half its length, and only its second half counts
    (but for the first window), so that each id is predicted from at least
    half a window of text.  The end-of-text ids between blocks do not count.
    """
    context = model.config.max_position_embeddings
    half = context // 2
    stream = F.pad(corpus.held_out, (0, context), value=END_ID)
    cut = stream.unfold(0, context + 1, half)
    inputs, targets = cut[:, :-1], cut[:, 1:].clone()
    targets[1:, :half] = END_ID
    was_training = model.training
    model.eval()
    nats = 0.0
    for rows, wanted in zip(inputs.split(16), targets.split(16)):
        logits = model(rows, use_cache=False).logits.float()
        nats += F.cross_entropy(logits.flatten(0, 1), wanted.flatten(),
                                ignore_index=END_ID, reduction="sum").item()
    model.train(was_training)
    counted = int((targets != END_ID).sum())
    return HeldOut(nats / counted, nats / math.log(2) / corpus.held_out_bytes)


def step_loss(model: GPTNeoXForCausalLM, teachers: list[GPTNeoXForCausalLM],
              share: float, window: torch.Tensor) -> torch.Tensor:
    """The loss on one batch, a share of it against the teachers' average."""
    logits = model(window[:, :-1], use_cache=False).logits.float().flatten(0, 1)
    loss = F.cross_entropy(logits, window[:, 1:].flatten())
    if not teachers:
        return loss
    with torch.no_grad():
        wanted = torch.zeros_like(logits)
        for teacher in teachers:
            guess = teacher(window[:, :-1], use_cache=False).logits
            wanted += guess.float().flatten(0, 1).softmax(-1) / len(teachers)
    return (1 - share) * loss + share * F.cross_entropy(logits, wanted)


def make_optimizer(model: GPTNeoXForCausalLM,
                   recipe: Recipe) -> torch.optim.AdamW:
    """AdamW, with weight decay on the matrices alone."""
    matrices = [p for p in model.parameters() if p.dim() >= 2]
    vectors = [p for p in model.parameters() if p.dim() < 2]
    groups = [{"params": matrices, "weight_decay": recipe.weight_decay},
              {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=recipe.peak_rate, betas=(0.9, 0.98))


def rate_at(step: int, steps: int, peak: float) -> float:
    """The learning rate: a linear rise over 4 %, then a cosine to zero."""
    rise = max(1, steps // 25)
    if step < rise:
        return peak * (step + 1) / rise
    return peak * 0.5 * (1 + math.cos(math.pi * (step - rise) / (steps - rise)))


def train(shape: Shape, recipe: Recipe, corpus: Corpus, seed: int,
          teachers: list[GPTNeoXForCausalLM], share: float,
          name: str) -> GPTNeoXForCausalLM:
    """Train one model; return it as it was when the held-out loss was least."""
    torch.manual_seed(seed)
    device = corpus.train.device
    config = GPTNeoXConfig(**shape.config(recipe.dropout))
    model = GPTNeoXForCausalLM(config).float().to(device).train()
    optimizer = make_optimizer(model, recipe)
    generator = torch.Generator().manual_seed(seed)
    loss_of: Callable = step_loss
    if recipe.compile:
        loss_of = torch.compile(step_loss)
    context = shape.context
    longest_shift = context - 1
    batches = (len(corpus.train) - 1 - longest_shift) // context // recipe.batch
    if batches < 1:
        raise SystemExit("the text is too short for one batch")
    steps = batches * recipe.epochs
    best, best_state, step = float("inf"), None, 0
    for epoch in range(1, recipe.epochs + 1):
        seen = torch.zeros((), device=device)
        epoch_windows = windows(corpus.train, context, recipe.batch, generator)
        for _, window in zip(range(batches), epoch_windows):
            for group in optimizer.param_groups:
                group["lr"] = rate_at(step, steps, recipe.peak_rate)
            with torch.autocast(device.type, torch.bfloat16):
                loss = loss_of(model, teachers, share, window)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            seen += loss.detach()
            step += 1
        held_out = held_out_loss(model, corpus)
        progress(f"{name}: epoch {epoch} of {recipe.epochs}, training loss "
                 f"{seen.item() / batches:.4f}, held out {held_out}")
        if held_out.nats_per_token < best:
            best = held_out.nats_per_token
            best_state = copy.deepcopy(model.state_dict())
    model.load_state_dict(best_state)
    return model.eval()


def write_json(path: Path, value: dict) -> None:
    """Write one JSON file, readable by people too."""
    text = json.dumps(value, indent=2, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8")


def save_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    """Write the tokenizer's files, spelled as those of GPT-NeoX-20B.

    There each merge is one string ("a b"), and the decoder's settings, which
    decoding does not heed, are those of the pre-tokenizer.
    """
    value = json.loads(tokenizer.to_str())
    value["decoder"]["add_prefix_space"] = False
    merges = value["model"]["merges"]
    value["model"]["merges"] = [
        merge if isinstance(merge, str) else " ".join(merge)
        for merge in merges]
    write_json(folder / "tokenizer.json", value)
    write_json(folder / "tokenizer_config.json", {
        "add_prefix_space": False,
        "bos_token": END_OF_TEXT,
        "clean_up_tokenization_spaces": False,
        "eos_token": END_OF_TEXT,
        "tokenizer_class": "PreTrainedTokenizerFast",
        "unk_token": END_OF_TEXT,
    })


def save_model(model: GPTNeoXForCausalLM, shape: Shape, folder: Path) -> None:
    """Write the weights in fp16 and the configuration.

    The output matrix is named `embed_out.weight`, as the Pythia models name
    it; some versions of transformers call it `lm_head.weight` in memory.
    """
    weights = {}
    for name, parameter in model.named_parameters():
        name = name.replace("lm_head.", "embed_out.")
        weights[name] = parameter.detach().to("cpu", torch.float16).contiguous()
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    write_json(folder / "config.json", shape.config())
    write_json(folder / "generation_config.json",
               {"bos_token_id": END_ID, "eos_token_id": END_ID})


def load_saved(folder: Path, device: torch.device) -> GPTNeoXForCausalLM:
    """The saved weights again, widened to float32."""
    model = GPTNeoXForCausalLM.from_pretrained(folder).float()
    return model.to(device).eval()


@torch.no_grad()
def continue_text(model: GPTNeoXForCausalLM, tokenizer: Tokenizer, prompt: str,
                  length: int, temperature: float, top_p: float,
                  seed: int) -> str:
    """Continue a prompt by sampling from the likeliest ids."""
    generator = torch.Generator().manual_seed(seed)
    ids = tokenizer.encode(prompt).ids
    for _ in range(length):
        recent = torch.tensor([ids[-model.config.max_position_embeddings:]])
        logits = model(recent, use_cache=False).logits[0, -1].float()
        chances = (logits / temperature).softmax(-1)
        chances, order = chances.sort(descending=True)
        chances[chances.cumsum(0) - chances > top_p] = 0
        pick = torch.multinomial(chances, 1, generator=generator)
        ids.append(int(order[pick]))
        if ids[-1] == END_ID:
            break
    return tokenizer.decode(ids, skip_special_tokens=True)


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n", 1)[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    add = parser.add_argument
    add("--text", type=Path, required=True, help="the text to train on")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--out", type=Path, help="the folder to write")
    what.add_argument("--evaluate", type=Path, metavar="FOLDER",
                      help="print the held-out loss of this model instead")
    add("--vocab", type=int, default=4096, help="entries of the tokenizer")
    add("--context", type=int, default=512, help="positions of the model")
    add("--hidden", type=int, default=256)
    add("--layers", type=int, default=6)
    add("--heads", type=int, default=4)
    add("--epochs", type=int, default=44)
    add("--batch", type=int, default=32, help="windows a step")
    add("--rate", type=float, default=2e-3, help="peak learning rate")
    add("--weight-decay", type=float, default=0.5)
    add("--dropout", type=float, default=0.1)
    add("--teachers", type=int, default=3, help="larger models to learn from")
    add("--teacher-hidden", type=int, default=384)
    add("--teacher-layers", type=int, default=6)
    add("--teacher-heads", type=int, default=6)
    add("--teacher-epochs", type=int, default=20)
    add("--teacher-rate", type=float, default=1.5e-3)
    add("--teacher-weight-decay", type=float, default=1.0)
    add("--teacher-dropout", type=float, default=0.2)
    add("--teacher-share", type=float, default=0.8,
        help="share of the loss taken against the teachers")
    add("--seed", type=int, default=1)
    add("--compile", action="store_true", help="use torch.compile")
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    return parser.parse_args()


def train_teachers(args: argparse.Namespace,
                   corpus: Corpus) -> list[GPTNeoXForCausalLM]:
    """Train the larger models, each from another seed."""
    shape = Shape(args.teacher_hidden, args.teacher_layers, args.teacher_heads,
                  args.vocab, args.context)
    recipe = Recipe(args.teacher_epochs, args.batch, args.teacher_rate,
                    args.teacher_weight_decay, args.teacher_dropout,
                    args.compile)
    teachers = []
    for number in range(1, args.teachers + 1):
        teacher = train(shape, recipe, corpus, args.seed + number, [], 0.0,
                        f"teacher {number}")
        print(f"teacher {number}, held out: {held_out_loss(teacher, corpus)}",
              flush=True)
        teachers.append(teacher.requires_grad_(False))
    return teachers


def prepare(args: argparse.Namespace) -> tuple[Tokenizer, Corpus]:
    """Read the text, train the tokenizer or read it, tokenise."""
    books, held_out = split_text(args.text.read_text(encoding="utf-8"))
    if not held_out:
        raise SystemExit("the text is too short to hold a part of it out")
    if args.evaluate:
        tokenizer = Tokenizer.from_file(str(args.evaluate / "tokenizer.json"))
    else:
        tokenizer = train_tokenizer(books, args.vocab)
    corpus = Corpus(encode_stream(tokenizer, books).to(args.device),
                    encode_stream(tokenizer, held_out).to(args.device),
                    sum(len(block.encode()) for block in held_out))
    print(f"{len(corpus.train)} training tokens; held out: {len(held_out)} "
          f"blocks, {corpus.held_out_bytes} bytes, "
          f"{len(corpus.held_out) - len(held_out)} tokens")
    return tokenizer, corpus


def main() -> None:
    """Train, save, and state the held-out loss of what was saved."""
    args = parse_arguments()
    started = time.monotonic()
    torch.set_float32_matmul_precision("high")
    disable_progress_bar()
    tokenizer, corpus = prepare(args)
    if args.evaluate:
        saved = load_saved(args.evaluate, torch.device(args.device))
        print(f"held out: {held_out_loss(saved, corpus)}")
        return
    teachers = train_teachers(args, corpus)
    shape = Shape(args.hidden, args.layers, args.heads, args.vocab,
                  args.context)
    recipe = Recipe(args.epochs, args.batch, args.rate, args.weight_decay,
                    args.dropout, args.compile)
    model = train(shape, recipe, corpus, args.seed, teachers,
                  args.teacher_share, "model")
    print(f"trained: {held_out_loss(model, corpus)}")
    args.out.mkdir(parents=True, exist_ok=True)
    save_tokenizer(tokenizer, args.out)
    save_model(model, shape, args.out)
    saved = load_saved(args.out, torch.device(args.device))
    print(f"parameters: {sum(p.numel() for p in saved.parameters())}")
    print(f"saved in fp16, held out: {held_out_loss(saved, corpus)}")
    print(f"time: {time.monotonic() - started:.0f} s")
    saved = saved.cpu()
    for prompt in SAMPLE_PROMPTS:
        text = continue_text(saved, tokenizer, prompt, length=100,
                             temperature=0.7, top_p=0.9, seed=args.seed)
        print(f"---\n{text}")


if __name__ == "__main__":
    main()
