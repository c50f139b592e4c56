"""The layer operators' speed against PyTorch's: run tests/test_attention_only.py as a script."""

from __future__ import annotations

import argparse
import csv
import datetime
import subprocess
import sys
from pathlib import Path

import clusterfusion
import torch
from layer_reference import EPS, PYTHIA_2B8, arguments, layer_weights, rotation, token

F = torch.nn.functional
N_LAYERS, N_TIMES, N_WARM_UP = 32, 60, 10
PEERS = ("PyTorch, eager", "PyTorch, CUDA graph", "PyTorch, torch.compile and CUDA graph")
HEADER = [
    "work", "context", "how", "us_a_layer", "ms_32_layers", "percent_of_ceiling",
    "times_eager", "times_graph", "times_compiled",
]  # fmt: skip


def median_us(run):
    """Median of N_TIMES, in µs a layer, of a function that runs N_LAYERS."""
    for _ in range(N_WARM_UP):
        run()
    times = []
    for _ in range(N_TIMES):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        begin.record()
        run()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end))
    return sorted(times)[N_TIMES // 2] * 1e3 / N_LAYERS


def in_graph(run):
    """The same in a CUDA graph."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            run()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    return graph.replay


def read_ceiling():
    """Bytes a second of this library's read kernel: 2 GiB, once, the best of 20."""
    with clusterfusion.Model(backend="cuda") as model:
        return model.measure(n_tokens=0).read_bytes_per_s


def pytorch_layer(shape, whole):
    """The same work as the best code for PyTorch that we know, on a cache [head][max_len][width]."""
    heads, d_head, rotary = shape.heads, shape.d // shape.heads, shape.rotary

    def rotate(x, cos, sin):
        a, b = x[..., :rotary].chunk(2, -1)
        turned = x[..., :rotary] * cos + torch.cat([-b, a], -1) * sin
        return torch.cat([turned, x[..., rotary:]], -1)

    def run(x, w, k_cache, v_cache, cos, sin, n):
        normed = F.layer_norm(x, (shape.d,), w.ln, w.ln_bias, EPS)
        qkv = F.linear(normed, w.qkv, w.qkv_bias).view(1, 1, heads, 3 * d_head)
        q, k, v = qkv.transpose(1, 2).chunk(3, -1)
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        k_cache[:, :, n], v_cache[:, :, n] = k[:, :, 0], v[:, :, 0]
        found = F.scaled_dot_product_attention(q, k_cache[:, :, : n + 1], v_cache[:, :, : n + 1])
        output = F.linear(found.transpose(1, 2).reshape(1, 1, shape.d), w.o, w.o_bias)
        normed = F.layer_norm(x, (shape.d,), w.post_ln, w.post_ln_bias, EPS)
        mlp = F.gelu(F.linear(normed, w.up, w.up_bias))
        return x + output + F.linear(mlp, w.down, w.down_bias) if whole else (output, mlp)

    return run


class Layers:
    """N_LAYERS layers with weights and caches of their own, ours and PyTorch's way."""

    def __init__(self, shape, dtype, n):
        self.shape, self.n = shape, n
        self.weights = [layer_weights(shape, dtype) for _ in range(N_LAYERS)]
        self.tokens = [token(shape, dtype, n) for _ in range(N_LAYERS)]
        d_head = shape.d // shape.heads
        self.caches = torch.randn(
            N_LAYERS, 2, 1, shape.heads, 2048, d_head, device="cuda", dtype=dtype
        )
        self.hidden = self.tokens[0].hidden
        cos, sin = rotation(shape, n, past_rotary=False)
        self.cos, self.sin = cos.to(dtype), sin.to(dtype)
        self.given = [arguments(w, t) for w, t in zip(self.weights, self.tokens)]
        self.options = {"n_heads": shape.heads, "rotary_dims": shape.rotary}

    def ours(self):
        for given in self.given:
            clusterfusion.pythia_2b8_attention_only(*given, self.n)

    def ours_whole(self):
        x = self.hidden
        for given, w in zip(self.given, self.weights):
            x = clusterfusion.neox_decoder_layer(
                x, *given[1:], w.down, w.down_bias, self.n, **self.options
            )[0]

    def pytorch(self, layer, whole):
        x = self.hidden
        for w, (k, v) in zip(self.weights, self.caches):
            found = layer(x, w, k, v, self.cos, self.sin, self.n)
            x = found if whole else x

    def bytes_a_layer(self, whole):
        w, d = self.weights[0], self.shape.d
        n = sum(t.numel() * 2 for name, t in vars(w).items() if whole or "down" not in name)
        return n + 4 * self.n * d  # and the cache


def ways(layers, whole):
    """What is timed, by name: ours twice, then PyTorch's three, each made just before it is timed."""
    ours = layers.ours_whole if whole else layers.ours
    eager = pytorch_layer(PYTHIA_2B8, whole)
    yield "clusterfusion, CUDA graph", in_graph(ours)
    yield "clusterfusion, calls from Python", ours
    yield PEERS[0], lambda: layers.pytorch(eager, whole)
    yield PEERS[1], in_graph(lambda: layers.pytorch(eager, whole))
    compiled = torch.compile(eager, fullgraph=True)
    yield PEERS[2], in_graph(lambda: layers.pytorch(compiled, whole))


def rows_of(work, n, times, floor_us):
    """
    Rows of the table for one kind of work, from µs a layer by way, and those that reading alone takes.
    The last columns say how many times as fast as each peer a way is.
    """
    return [
        [work, n, how, f"{us:.2f}", f"{us * N_LAYERS / 1e3:.3f}", f"{100 * floor_us / us:.1f}"]
        + [f"{times[peer] / us:.2f}" for peer in PEERS]
        for how, us in times.items()
    ]


def measure(dtype, n, ceiling):
    """Rows of the table for one context."""
    layers = Layers(PYTHIA_2B8, dtype, n)
    rows = []
    for work, whole in (("attention + up", False), ("whole layer", True)):
        times = {}
        for how, run in ways(layers, whole):
            tell(f"{work}, {n} positions: {how}")
            times[how] = median_us(run)
        tell("")
        found = rows_of(work, n, times, layers.bytes_a_layer(whole) / ceiling * 1e6)
        print("\n".join(f"| {' | '.join(map(str, row))} |" for row in found), flush=True)
        rows += found
    return rows


def tell(what):
    """What is being timed, on a terminal's last line; nothing into a pipe."""
    if sys.stderr.isatty():
        print(f"\r\033[K{what}", end="", file=sys.stderr, flush=True)


def driver_version():
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        found = subprocess.run(query, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return "?"
    return found.split()[0]


def main():
    parser = argparse.ArgumentParser(description="The layer operators' speed against PyTorch's.")
    parser.add_argument("--csv", type=Path, help="also write the table there")
    parser.add_argument("--contexts", default="64,2047", help="tokens in the cache")
    options = parser.parse_args()
    with torch.inference_mode():
        ceiling = read_ceiling()
        facts = (
            f"{torch.cuda.get_device_name()}, driver {driver_version()}, PyTorch "
            f"{torch.__version__}, {datetime.date.today()}, float16, medians of {N_TIMES}, read "
            f"ceiling {ceiling * 1e-12:.3f} TB/s, python {' '.join(sys.argv)}"
        )
        print(f"{facts}\n\n| {' | '.join(HEADER)} |\n|{' --- |' * len(HEADER)}", flush=True)
        rows = []
        for n in map(int, options.contexts.split(",")):
            rows += measure(torch.float16, n, ceiling)
    if options.csv:
        with options.csv.open("w", newline="") as file:
            file.write(f"# {facts}\n")
            csv.writer(file, lineterminator="\n").writerows([HEADER, *rows])
