#!/usr/bin/env python3
"""Times builds of bench_token against each other on this machine's GPU, in turn.

    python3 bench/compare.py [--models 2.8b,410m] [--contexts 64,2048] [--rounds 3] [NAME=]PROGRAM ...

A card's clock gives way when it is warm, and cards of one kind differ by some percent: so figures of two
runs say little. Here each round runs all programs one after the other. Prints a row a model and
context: the median over the rounds of the milliseconds of launches in a row, with the first program's
for comparison. Exit code 1 if a program fails.
"""

import argparse
import csv
import statistics
import subprocess
import sys
from pathlib import Path


def run(program, model, contexts):
    """Milliseconds of launches in a row, by context."""
    command = [program, "--launches", model, *contexts]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    if found.returncode != 0:
        sys.exit(f"{' '.join(command)}: exit code {found.returncode}\n{found.stderr.rstrip()}")
    lines = [line for line in found.stdout.splitlines() if not line.startswith("#")]
    times = {row["context"]: float(row["ms_in_a_row"]) for row in csv.DictReader(lines)}
    missing = [context for context in contexts if context not in times]
    if missing:
        sys.exit(f"{' '.join(command)}: no line for context {', '.join(missing)}")
    return times


def compare(programs, model, contexts, n_rounds):
    """Medians by name and context."""
    rounds = {name: [] for name in programs}
    for _ in range(n_rounds):
        for name, program in programs.items():
            rounds[name].append(run(program, model, contexts))
    return {
        name: {c: statistics.median(times[c] for times in found) for c in contexts}
        for name, found in rounds.items()
    }


def print_rows(model, contexts, medians):
    first, *others = medians
    for context in contexts:
        base = medians[first][context]
        cells = [model, context, f"{base:.4f}"]
        for name in others:
            ms = medians[name][context]
            cells.append(f"{ms:.4f} ({100 * (ms / base - 1):+.1f} %)")
        print(f"| {' | '.join(cells)} |", flush=True)


def named(argument):
    name, separator, program = argument.partition("=")
    program = program if separator else argument
    return (name if separator else Path(program).name), str(Path(program).resolve())


def parse(arguments):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("programs", nargs="+", metavar="[NAME=]PROGRAM", type=named)
    parser.add_argument("--models", default="2.8b", help="separated by commas (2.8b)")
    parser.add_argument("--contexts", default="64,2048", help="separated by commas (64,2048)")
    parser.add_argument("--rounds", default=3, type=int, help="of all programs (3)")
    options = parser.parse_args(arguments)
    if options.rounds < 1:
        parser.error(f"--rounds is {options.rounds}, expected at least 1")
    if len(dict(options.programs)) < len(options.programs):
        parser.error("two programs have the same name: give them names, NAME=PROGRAM")
    return options


def main(arguments=None):
    options = parse(arguments)
    programs, contexts = dict(options.programs), options.contexts.split(",")
    names = ["model", "context", *programs]
    print(f"| {' | '.join(names)} |\n|{' --- |' * len(names)}", flush=True)
    for model in options.models.split(","):
        print_rows(model, contexts, compare(programs, model, contexts, options.rounds))


if __name__ == "__main__":
    main()
