#!/usr/bin/env python3
"""Times llama.cpp on a GPT-NeoX checkpoint folder, to hold ClusterFusion's figures against.

Converts the folder's safetensors to GGUF (F16 matrices, F32 vectors, as llama.cpp keeps them), then
times prompts and decoding in every setting that might suit it, and prints the best of each as CSV:
what, tokens, threads, setting, best and median tokens/s. Needs llama-cpp-python and gguf.

    python3 bench/peer_llamacpp.py FOLDER --threads 2
"""

import argparse
import ctypes
import json
import os
import statistics
import sys
import tempfile
import time

import gguf
import llama_cpp
import numpy as np

LAYER_NAMES = {
    "input_layernorm": "attn_norm",
    "attention.query_key_value": "attn_qkv",
    "attention.dense": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.dense_h_to_4h": "ffn_up",
    "mlp.dense_4h_to_h": "ffn_down",
}
OUTER_NAMES = {
    "embed_in.weight": "token_embd.weight",
    "final_layer_norm.weight": "output_norm.weight",
    "final_layer_norm.bias": "output_norm.bias",
    "embed_out.weight": "output.weight",
}


def read_safetensors(path):
    """Yields (name, array) of a file's F16 and F32 tensors."""
    data = np.memmap(path, dtype=np.uint8, mode="r")
    length = int.from_bytes(data[:8].tobytes(), "little")
    header = json.loads(data[8 : 8 + length].tobytes())
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        begin, end = (8 + length + offset for offset in entry["data_offsets"])
        dtype = {"F16": np.float16, "F32": np.float32}[entry["dtype"]]
        yield name, data[begin:end].view(dtype).reshape(entry["shape"])


def peer_name(name):
    """The GGUF name of a checkpoint's tensor; None for a buffer."""
    name = name.removeprefix("gpt_neox.")
    if name in OUTER_NAMES:
        return OUTER_NAMES[name]
    parts = name.split(".")
    module, kind = ".".join(parts[2:-1]), parts[-1]
    if module not in LAYER_NAMES:
        return None
    return f"blk.{parts[1]}.{LAYER_NAMES[module]}.{kind}"


def split_heads(array, n_heads):
    """[head][q|k|v][width] rows → all of q, all of k, all of v."""
    parts = array.reshape(n_heads, 3, -1, *array.shape[1:])
    return np.ascontiguousarray(np.swapaxes(parts, 0, 1)).reshape(array.shape)


def convert(folder, path):
    with open(os.path.join(folder, "config.json"), encoding="utf-8") as file:
        config = json.load(file)
    heads = config["num_attention_heads"]
    width = config["hidden_size"] // heads
    writer = gguf.GGUFWriter(path, "gptneox")
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_rope_dimension_count(int(width * config.get("rotary_pct", 0.25)))
    writer.add_head_count(heads)
    writer.add_parallel_residual(config.get("use_parallel_residual", True))
    writer.add_layer_norm_eps(config["layer_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    writer.add_tokenizer_model("none")
    names = sorted(n for n in os.listdir(folder) if n.endswith(".safetensors"))
    for name in names:
        for tensor, array in read_safetensors(os.path.join(folder, name)):
            target = peer_name(tensor)
            if target is None:
                continue
            if ".attn_qkv." in target:
                array = split_heads(array, heads)
            dtype = np.float16 if array.ndim == 2 else np.float32
            writer.add_tensor(target, np.ascontiguousarray(array.astype(dtype)))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


class Peer:
    """A llama.cpp context in one setting."""

    def __init__(self, path, threads, flash, mmap, context):
        model_params = llama_cpp.llama_model_default_params()
        model_params.n_gpu_layers = 0
        model_params.use_mmap = mmap
        self.model = llama_cpp.llama_model_load_from_file(path.encode(), model_params)
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = context
        params.n_batch = params.n_ubatch = 512
        params.n_threads = params.n_threads_batch = threads
        params.flash_attn_type = 1 if flash else 0
        params.no_perf = True
        self.context = llama_cpp.llama_init_from_model(self.model, params)
        if not self.model or not self.context:
            sys.exit("llama.cpp could not open the model")

    def close(self):
        llama_cpp.llama_free(self.context)
        llama_cpp.llama_model_free(self.model)

    def clear(self):
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self.context), False)

    def step(self, ids):
        array = (llama_cpp.llama_token * len(ids))(*ids)
        batch = llama_cpp.llama_batch_get_one(array, len(ids))
        if llama_cpp.llama_decode(self.context, batch) != 0:
            sys.exit("llama_decode failed")
        llama_cpp.llama_synchronize(self.context)

    def time_prompt(self, n):
        self.clear()
        ids = [i * 7919 % 50000 for i in range(n)]
        start = time.perf_counter()
        self.step(ids)
        return time.perf_counter() - start

    def time_decode(self, n):
        self.clear()
        start = time.perf_counter()
        for i in range(n):
            self.step([i * 7919 % 50000])
        return time.perf_counter() - start


def best_setting(path, threads, kind, n, repeats):
    """The setting with the fastest run, and all its times."""
    best = None
    for flash in (False, True):
        for mmap in (True, False):
            peer = Peer(path, threads, flash, mmap, 1024)
            run = peer.time_prompt if kind == "prompt" else peer.time_decode
            run(n)
            times = [run(n) for _ in range(repeats)]
            peer.close()
            setting = f"flash={'on' if flash else 'off'} mmap={'on' if mmap else 'off'}"
            if best is None or min(times) < min(best[1]):
                best = (setting, times)
    return best


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--prompt", default="128,512")
    parser.add_argument("--decode", default="64,128")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--gguf", help="keep the converted file here; reused if it is there")
    return parser.parse_args()


def silence(_level, _text, _user):
    """llama.cpp's log has no place among the figures."""


def main():
    arguments = parse_arguments()
    callback = llama_cpp.llama_log_callback(silence)
    llama_cpp.llama_log_set(callback, ctypes.c_void_p(0))
    llama_cpp.llama_backend_init()
    with tempfile.TemporaryDirectory() as scratch:
        path = arguments.gguf or os.path.join(scratch, "model.gguf")
        if not os.path.exists(path):
            convert(arguments.folder, path)
        print("what,tokens,threads,setting,best_tokens_per_s,median_tokens_per_s")
        for kind in ("prompt", "decode"):
            for n in map(int, filter(None, getattr(arguments, kind).split(","))):
                setting, times = best_setting(path, arguments.threads, kind, n, arguments.repeats)
                print(
                    f"{kind},{n},{arguments.threads},{setting},"
                    f"{n / min(times):.1f},{n / statistics.median(times):.1f}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
