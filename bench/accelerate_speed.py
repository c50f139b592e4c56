#!/usr/bin/env python3
"""`generate` of a transformers model on a GPU, after accelerate: ms a token, and the original's.

    python3 bench/accelerate_speed.py [--model 2.8b] [--tokens N] [--rounds N]

Random float16 weights of the real shape, batch 1, greedy, a prompt of 8 tokens; the whole call of
`generate` over its new tokens, after one call to warm up. The original runs with the dynamic cache
that it has by itself; what it gives with a compiled static cache is in bench/peers_torch.py. Prints
CSV: what, tokens, median ms a token, the best, card, date.
"""

import argparse
import datetime
import statistics
import time
import warnings

import clusterfusion
import torch
from peers_torch import MODELS
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM


def make(name):
    n_layers, d_model, n_heads, n_vocab = MODELS[name]
    config = GPTNeoXConfig(
        vocab_size=n_vocab, hidden_size=d_model, num_hidden_layers=n_layers,
        num_attention_heads=n_heads, intermediate_size=4 * d_model, max_position_embeddings=2048,
        bos_token_id=0, eos_token_id=0, dtype=torch.float16,
    )  # fmt: skip
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float16)
    with torch.device("cuda"):
        return GPTNeoXForCausalLM(config).eval()


def times(model, n_tokens, n_rounds):
    ids = torch.tensor([[510, 1390, 3999, 1300, 273, 19, 12, 187]], device="cuda")
    found = []
    for _ in range(n_rounds + 1):
        torch.cuda.synchronize()
        begin = time.perf_counter()
        answer = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=n_tokens,
                                min_new_tokens=n_tokens, do_sample=False, pad_token_id=0)  # fmt: skip
        torch.cuda.synchronize()
        found.append(1e3 * (time.perf_counter() - begin) / (answer.shape[1] - ids.shape[1]))
    return found[1:], answer


@torch.inference_mode()
def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="2.8b", choices=MODELS)
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    card = f"{torch.cuda.get_device_name()},{datetime.date.today()}"
    model = make(options.model)
    print("what,tokens,median_ms,best_ms,card,date")
    warnings.filterwarnings("error", message="clusterfusion")
    for what in "original", "accelerated":
        if what == "accelerated":
            clusterfusion.accelerate(model)
        found, answer = times(model, options.tokens, options.rounds)
        n = answer.shape[1] - 8
        print(f"{what},{n},{statistics.median(found):.3f},{min(found):.3f},{card}", flush=True)


if __name__ == "__main__":
    main()
