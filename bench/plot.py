#!/usr/bin/env python3
"""Draws docs/h200.svg from bench/results/h200.csv and bench/results/h200_peers.csv.

    python3 bench/plot.py [--ours FILE] [--peers FILE] [--out FILE] [--context 64]

Milliseconds a token on a logarithmic scale, a row a model: this library, its peers, and the floor, which
is the bytes of a token at the read ceiling that the same run measured. Colours follow the reader's theme.
"""

import argparse
import csv
import math
from pathlib import Path
from xml.sax.saxutils import escape

ROOT = Path(__file__).resolve().parent.parent
MODELS = ["14m", "31m", "70m", "160m", "410m", "1b", "1.4b", "2.8b", "6.9b", "12b"]
KINDS = {  # of h200_peers.csv: what it is called, its class in the style below
    "eager": ("PyTorch, eager", "eager"),
    "generate": ("Hugging Face generate, compiled", "generate"),
    "graph": ("PyTorch, CUDA graph", "graph"),
    "compile": ("torch.compile, CUDA graph", "compile"),
    "tuned": ("torch.compile, tuned, CUDA graph", "tuned"),
}
WIDTH, LEFT, RIGHT, TOP, ROW = 860, 72, 84, 96, 34
STYLE = """
text { font: 13px system-ui, sans-serif; fill: #24292f }
.small { font-size: 11px; fill: #57606a }
.grid { stroke: #d0d7de; stroke-width: 1 }
.span { stroke: #d0d7de; stroke-width: 2 }
.floor { stroke: #24292f; stroke-width: 2.5 }
.ours { fill: #0969da } .eager { fill: #8c959f } .generate { fill: #bf8700 }
.graph { fill: #cf222e } .compile { fill: #8250df } .tuned { fill: #1a7f37 }
.value { font-weight: 600; fill: #0969da }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3 } .small { fill: #9198a1 } .grid, .span { stroke: #3d444d }
  .floor { stroke: #e6edf3 } .ours, .value { fill: #4493f8 } .eager { fill: #9198a1 }
  .generate { fill: #d29922 } .graph { fill: #f85149 } .compile { fill: #ab7df8 }
  .tuned { fill: #3fb950 }
}
"""


def read(path):
    """The rows below the comments; of lines that are there twice, the last."""
    with open(path, encoding="utf-8") as file:
        lines = file.readlines()
    notes = [line[1:].strip() for line in lines if line.startswith("#")]
    header, *rows = [line for line in lines if not line.startswith("#")]
    rows = [row for row in rows if row != header]
    return notes, list(csv.DictReader([header, *rows]))


def collect(ours, peers, context):
    """By model: the floor, ours, and the peers by kind, in milliseconds."""
    found = {}
    for row in ours:
        if int(row["context"]) == context:
            floor = float(row["bytes"]) / (float(row["ceiling_tb_per_s"]) * 1e9)
            found[row["model"]] = {"floor": floor, "ours": float(row["ms_median"]), "peers": {}}
    for row in peers:
        if int(row["context"]) == context and row["model"] in found and row["kind"] in KINDS:
            found[row["model"]]["peers"][row["kind"]] = float(row["ms_median"])
    return {model: found[model] for model in MODELS if model in found}


class Scale:
    """Milliseconds to pixels, logarithmic."""

    def __init__(self, low, high):
        self.low, self.high = math.log10(low), math.log10(high)

    def __call__(self, ms):
        share = (math.log10(ms) - self.low) / (self.high - self.low)
        return LEFT + share * (WIDTH - LEFT - RIGHT)


def ticks(low, high):
    values = [m * 10.0 ** e for e in range(-4, 4) for m in (1, 2, 5)]
    return [v for v in values if low <= v <= high]


def draw_grid(scale, low, high, bottom):
    for value in ticks(low, high):
        x = scale(value)
        yield f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP - 12}" y2="{bottom}"/>'
        yield (f'<text class="small" x="{x:.1f}" y="{bottom + 16}" text-anchor="middle">'
               f'{value:g}</text>')


def draw_model(scale, y, model, data):
    values = [data["floor"], data["ours"], *data["peers"].values()]
    yield f'<text x="{LEFT - 12}" y="{y + 4}" text-anchor="end">{model}</text>'
    yield (f'<line class="span" x1="{scale(min(values)):.1f}" x2="{scale(max(values)):.1f}" '
           f'y1="{y}" y2="{y}"/>')
    for kind, ms in data["peers"].items():
        yield (f'<circle class="{KINDS[kind][1]}" cx="{scale(ms):.1f}" cy="{y}" r="5">'
               f'<title>{model}, {escape(KINDS[kind][0])}: {ms:.3f} ms</title></circle>')
    x = scale(data["ours"])
    yield (f'<rect class="ours" x="{x - 5.5:.1f}" y="{y - 5.5}" width="11" height="11">'
           f'<title>{model}, ClusterFusion: {data["ours"]:.3f} ms</title></rect>')
    x = scale(data["floor"])
    yield (f'<line class="floor" x1="{x:.1f}" x2="{x:.1f}" y1="{y - 10}" y2="{y + 10}">'
           f'<title>{model}, floor: {data["floor"]:.3f} ms</title></line>')
    yield (f'<text class="value" x="{WIDTH - RIGHT + 12}" y="{y + 4}">{data["ours"]:.3f} ms'
           f'</text>')


def draw_legend(kinds):
    entries = [("floor", "floor: bytes at the read ceiling"), ("ours", "ClusterFusion")]
    entries += [(KINDS[kind][1], KINDS[kind][0]) for kind in KINDS if kind in kinds]
    for i, (name, text) in enumerate(entries):
        x, y = LEFT + i % 3 * 236, 42 + i // 3 * 18
        if name == "floor":
            yield f'<line class="floor" x1="{x}" x2="{x}" y1="{y - 10}" y2="{y + 2}"/>'
        elif name == "ours":
            yield f'<rect class="ours" x="{x - 5}" y="{y - 9}" width="10" height="10"/>'
        else:
            yield f'<circle class="{name}" cx="{x}" cy="{y - 4}" r="5"/>'
        yield f'<text class="small" x="{x + 12}" y="{y}">{escape(text)}</text>'


def draw(models, context, notes):
    values = [v for m in models.values() for v in (m["floor"], m["ours"], *m["peers"].values())]
    low, high = min(values) / 1.25, max(values) * 1.25
    scale, bottom = Scale(low, high), TOP + ROW * len(models)
    kinds = {kind for data in models.values() for kind in data["peers"]}
    yield (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {bottom + 60}" '
           f'role="img" aria-label="Milliseconds a token">')
    yield f"<style>{STYLE}</style>"
    yield (f'<text x="{LEFT - 6}" y="20">Milliseconds a token, batch 1, float16, context {context}'
           f' (logarithmic; left is faster)</text>')
    yield from draw_legend(kinds)
    yield from draw_grid(scale, low, high, bottom)
    for i, (model, data) in enumerate(models.items()):
        yield from draw_model(scale, TOP + ROW * i + ROW // 2, model, data)
    for i, note in enumerate(notes):
        yield f'<text class="small" x="{LEFT - 6}" y="{bottom + 36 + 16 * i}">{escape(note)}</text>'
    yield "</svg>"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ours", default=ROOT / "bench/results/h200.csv")
    parser.add_argument("--peers", default=ROOT / "bench/results/h200_peers.csv")
    parser.add_argument("--out", default=ROOT / "docs/h200.svg")
    parser.add_argument("--context", type=int, default=64)
    options = parser.parse_args()
    our_notes, ours = read(options.ours)
    peer_notes, peers = read(options.peers)
    models = collect(ours, peers, options.context)
    notes = [f"{who}: {lines[0].split(': ')[0]}"
             for who, lines in (("ClusterFusion", our_notes), ("Peers", peer_notes)) if lines]
    Path(options.out).write_text("\n".join(draw(models, options.context, notes)) + "\n",
                                 encoding="utf-8")


if __name__ == "__main__":
    main()
