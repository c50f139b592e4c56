#!/usr/bin/env python3
"""What PyTorch and Hugging Face need for a token of the same models, on the GPU that is here.

    python3 bench/peers_torch.py [--models 14m,160m,…] [--kinds eager,graph,…] [--contexts 64,2048]
                                 [--csv FILE] [--seconds N]

Random float16 weights of the real shapes, batch 1, a whole token: embedding, layers, LM head, argmax;
the id found is the next token's input. Each peer has its best form: inference mode, one matrix for q k
v, keys and values written in place and read by scaled_dot_product_attention at exactly the context's
length, warmed up, the median of at least 50 tokens.

    eager     PyTorch's operators, one after the other
    graph     the same, recorded as one CUDA graph
    compile   layers and head through torch.compile, the whole token recorded as one CUDA graph
    tuned     the same with Inductor's matrix-vector products and coordinate descent tuning
    generate  GPTNeoXForCausalLM.generate with a static cache, which transformers compiles

Prints CSV, and appends it to FILE. No measurement begins after N seconds; what was left out is said.
"""

import argparse
import datetime
import os
import statistics
import sys
import time

import torch
import torch.nn.functional as F

MODELS = {  # layers, hidden size, heads, vocabulary
    "14m": (6, 128, 4, 50304), "31m": (6, 256, 8, 50304), "70m": (6, 512, 8, 50304),
    "160m": (12, 768, 12, 50304), "410m": (24, 1024, 16, 50304), "1b": (16, 2048, 8, 50304),
    "1.4b": (24, 2048, 16, 50304), "2.8b": (32, 2560, 32, 50304), "6.9b": (32, 4096, 32, 50432),
    "12b": (36, 5120, 40, 50688),
}
N_TIMES = 60
N_GRAPH_TIMES = 200
N_NEW = 64
N_CONTEXT = 2048
DEVICE = "cuda"


def random(*shape, around=0.0, scale=0.02):
    return torch.randn(*shape, device=DEVICE, dtype=torch.float16).mul_(scale).add_(around)


def random_layer(d_model, n_heads):
    """The tensors of a layer, its cache of N_CONTEXT positions among them."""
    tensors = {}
    for name, rows, columns in (("qkv", 3 * d_model, d_model), ("dense", d_model, d_model),
                                ("up", 4 * d_model, d_model), ("down", d_model, 4 * d_model)):
        tensors[name] = random(rows, columns)
        tensors[name + "_bias"] = random(rows)
    for name in ("norm1", "norm2"):
        tensors[name] = random(d_model, around=1.0)
        tensors[name + "_bias"] = random(d_model)
    for name in ("keys", "values"):
        tensors[name] = random(1, n_heads, N_CONTEXT, d_model // n_heads, scale=1.0)
    return tensors


def fused_linear(x, t, name):
    return F.linear(x, t[name], t[name + "_bias"])


def split_linear(x, t, name):
    """Inductor makes a matrix-vector kernel of a product only where the bias is added apart."""
    return F.linear(x, t[name]) + t[name + "_bias"]


def norm(x, t, name):
    return F.layer_norm(x, (x.shape[-1],), t[name], t[name + "_bias"])


def rotate(x, cosines, sines):
    d_rotary = cosines.shape[-1]
    first, second = x[..., :d_rotary].chunk(2, -1)
    turned = torch.cat((-second, first), -1)
    return torch.cat((x[..., :d_rotary] * cosines + turned * sines, x[..., d_rotary:]), -1)


def layer(x, t, cosines, sines, context, linear):
    """A GPT-NeoX layer with a parallel residual."""
    n_heads, d_head = t["keys"].shape[1], t["keys"].shape[3]
    qkv = linear(norm(x, t, "norm1"), t, "qkv").view(1, 1, n_heads, 3 * d_head)
    q, k, v = qkv.transpose(1, 2).split(d_head, -1)
    t["keys"][:, :, context - 1:context] = rotate(k, cosines, sines)
    t["values"][:, :, context - 1:context] = v
    attended = F.scaled_dot_product_attention(
        rotate(q, cosines, sines), t["keys"][:, :, :context], t["values"][:, :, :context])
    attended = linear(attended.transpose(1, 2).reshape(1, 1, -1), t, "dense")
    return x + attended + linear(F.gelu(linear(norm(x, t, "norm2"), t, "up")), t, "down")


def next_id(x, t):
    return F.linear(norm(x, t, "norm"), t["head"]).argmax(-1)


class Model:
    def __init__(self, name):
        n_layers, d_model, n_heads, n_vocab = MODELS[name]
        self.d_model, self.d_head = d_model, d_model // n_heads
        self.layers = [random_layer(d_model, n_heads) for _ in range(n_layers)]
        self.outer = {"head": random(n_vocab, d_model), "norm": random(d_model, around=1.0),
                      "norm_bias": random(d_model)}
        self.embed = random(n_vocab, d_model)
        self.id = torch.zeros(1, 1, device=DEVICE, dtype=torch.long)

    def n_bytes(self, context):
        """Read for a token: the matrices, norms and biases of all layers, the head, the cache."""
        weights = sum(t.numel() for tensors in self.layers for name, t in tensors.items()
                      if name not in ("keys", "values"))
        cache = 2 * len(self.layers) * self.d_model * context
        return 2 * (weights + sum(t.numel() for t in self.outer.values()) + cache)

    def token(self, context, layer, next_id, linear=fused_linear):
        d_rotary = self.d_head // 4
        frequencies = 10000 ** (-torch.arange(0, d_rotary, 2, device=DEVICE) / d_rotary)
        angles = ((context - 1) * frequencies).repeat(2)
        cosines, sines = angles.cos().half(), angles.sin().half()

        def run():
            x = F.embedding(self.id, self.embed)
            for tensors in self.layers:
                x = layer(x, tensors, cosines, sines, context, linear)
            self.id.copy_(next_id(x, self.outer))

        return run


def median_ms(run, n_times):
    """Median and best time of a run, by the GPU's clock."""
    times = []
    for _ in range(n_times):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        run()
        end.record()
        torch.cuda.synchronize()
        times.append(begin.elapsed_time(end))
    return statistics.median(times), min(times)


def recorded(run):
    """What replays `run` as a CUDA graph."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            run()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    for _ in range(10):
        graph.replay()
    return graph


def time_eager(model, context):
    run = model.token(context, layer, next_id)
    for _ in range(10):
        run()
    return median_ms(run, N_TIMES)


def time_graph(model, context):
    graph = recorded(model.token(context, layer, next_id))
    return median_ms(graph.replay, N_GRAPH_TIMES)


def compiled_graph(model, context, linear):
    torch.compiler.reset()
    layer_compiled = torch.compile(layer, fullgraph=True, dynamic=False)
    next_compiled = torch.compile(next_id, fullgraph=True, dynamic=False)
    graph = recorded(model.token(context, layer_compiled, next_compiled, linear))
    return median_ms(graph.replay, N_GRAPH_TIMES)


def time_compile(model, context):
    return compiled_graph(model, context, fused_linear)


def time_tuned(model, context):
    import torch._inductor.config as inductor
    with inductor.patch(coordinate_descent_tuning=True):
        return compiled_graph(model, context, split_linear)


class Clock:
    """A logits processor that does nothing but to note when it is called."""

    def __init__(self):
        self.events = []

    def __call__(self, ids, scores):
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        self.events.append(event)
        return scores

    def times(self):
        torch.cuda.synchronize()
        return [a.elapsed_time(b) for a, b in zip(self.events[1:], self.events[2:])]


def hugging_face_model(name):
    import transformers
    n_layers, d_model, n_heads, n_vocab = MODELS[name]
    config = transformers.GPTNeoXConfig(
        hidden_size=d_model, num_hidden_layers=n_layers, num_attention_heads=n_heads,
        intermediate_size=4 * d_model, vocab_size=n_vocab, max_position_embeddings=N_CONTEXT,
        rotary_pct=0.25, use_parallel_residual=True, hidden_act="gelu")
    torch.set_default_dtype(torch.float16)
    with torch.device(DEVICE):
        model = transformers.GPTNeoXForCausalLM(config).eval()
    torch.set_default_dtype(torch.float32)
    return model


def time_generate(name, context):
    """From a prompt that leaves the context in the midst of the N_NEW tokens."""
    model = hugging_face_model(name)
    prompt = torch.randint(0, 50000, (1, max(1, context - N_NEW // 2)), device=DEVICE)
    times = []
    for run in range(5):  # the first ones compile
        clock = Clock()
        model.generate(prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=N_NEW,
                       min_new_tokens=N_NEW, do_sample=False, pad_token_id=0,
                       cache_implementation="static", logits_processor=[clock])
        times = times + clock.times() if run >= 3 else []
    return statistics.median(times), min(times)


KINDS = {"eager": time_eager, "graph": time_graph, "compile": time_compile, "tuned": time_tuned}


def header():
    import transformers
    return (f"# {torch.cuda.get_device_name()}, PyTorch {torch.__version__}, "
            f"transformers {transformers.__version__}, CUDA {torch.version.cuda}, "
            f"{datetime.date.today()}: peers_torch.py, random float16 weights, batch 1\n"
            "model,context,kind,ms_median,ms_best,bytes\n")


def measure(name, kind, context, model):
    if kind == "generate":
        return (*time_generate(name, context), 0)
    return (*KINDS[kind](model, context), model.n_bytes(context))


def lines(options):
    deadline = time.monotonic() + options.seconds
    for kind_group in (("eager", "graph"), ("compile",), ("tuned",), ("generate",)):
        kinds = [kind for kind in kind_group if kind in options.kinds.split(",")]
        for name in options.models.split(",") if kinds else ():
            model = None if kinds == ["generate"] else Model(name)
            for kind in kinds:
                for context in map(int, options.contexts.split(",")):
                    if time.monotonic() > deadline:
                        print(f"# left out for want of time: {name} {kind} {context}")
                        continue
                    median, best, n_bytes = measure(name, kind, context, model)
                    yield f"{name},{context},{kind},{median:.4f},{best:.4f},{n_bytes}\n"
            del model
            torch.cuda.empty_cache()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", default="14m,31m,70m,160m,410m,1b,1.4b,2.8b")
    parser.add_argument("--kinds", default="eager,graph,compile,tuned,generate")
    parser.add_argument("--contexts", default="64")
    parser.add_argument("--csv", default=os.devnull, help="a file to append to")
    parser.add_argument("--seconds", type=float, default=3600)
    options = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("peers_torch.py: no GPU here")
    torch.manual_seed(0)
    with open(options.csv, "a", encoding="utf-8") as csv, torch.inference_mode():
        sys.stdout.write(header())
        if csv.tell() == 0:
            csv.write(header())
        for line in lines(options):
            sys.stdout.write(line)
            sys.stdout.flush()
            csv.write(line)
            csv.flush()


if __name__ == "__main__":
    main()
