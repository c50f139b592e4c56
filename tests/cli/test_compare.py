"""bench/compare.py, on programs that print what bench_token would."""

import subprocess
import sys
from pathlib import Path

COMPARE = Path(__file__).resolve().parents[2] / "bench" / "compare.py"
HEADER = "model,context,ms_median,ms_best,ms_in_a_row,bytes,ceiling_tb_per_s,percent_of_ceiling"


def program(folder, name, times):
    """One that gives these milliseconds in its first, second … run, at any context."""
    path = folder / name
    path.write_text(
        f"""#!{sys.executable}
import pathlib, sys
count = pathlib.Path({str(folder / (name + ".runs"))!r})
n = len(count.read_text()) if count.exists() else 0
count.write_text("x" * (n + 1))
assert sys.argv[1] == "--launches"
print("# a card")
print({HEADER!r})
for context in sys.argv[3:]:
    print(f"{{sys.argv[2]}},{{context}},9,9,{{{times!r}[n]}},1,1,1")
"""
    )
    path.chmod(0o755)
    return path


def compare(*arguments):
    command = [sys.executable, COMPARE, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_medians_of_rounds_are_compared_with_the_first_program(tmp_path):
    old = program(tmp_path, "old", [2.0, 9.0, 1.0])
    new = program(tmp_path, "new", [1.0, 1.5, 7.0])
    found = compare("--models", "14m", "--contexts", "64", "--rounds", 3, old, f"mine={new}")
    assert found.returncode == 0, found.stderr
    assert found.stdout.splitlines() == [
        "| model | context | old | mine |",
        "| --- | --- | --- | --- |",
        "| 14m | 64 | 2.0000 | 1.5000 (-25.0 %) |",
    ]


def test_every_model_and_context_has_a_row(tmp_path):
    one = program(tmp_path, "one", [1.0, 2.0])
    found = compare("--models", "14m,2.8b", "--contexts", "64,2048", "--rounds", 1, one)
    assert [line.split("|")[1:4] for line in found.stdout.splitlines()[2:]] == [
        [" 14m ", " 64 ", " 1.0000 "],
        [" 14m ", " 2048 ", " 1.0000 "],
        [" 2.8b ", " 64 ", " 2.0000 "],
        [" 2.8b ", " 2048 ", " 2.0000 "],
    ]


def test_a_program_that_fails_is_named_with_what_it_said(tmp_path):
    path = tmp_path / "broken"
    path.write_text("#!/bin/sh\necho 'no such GPU' >&2\nexit 3\n")
    path.chmod(0o755)
    found = compare(path)
    assert found.returncode == 1
    assert "broken" in found.stderr and "exit code 3" in found.stderr
    assert "no such GPU" in found.stderr


def test_a_program_without_the_line_is_named(tmp_path):
    path = tmp_path / "silent"
    path.write_text(f"#!/bin/sh\necho {HEADER}\n")
    path.chmod(0o755)
    found = compare("--contexts", "64", path)
    assert found.returncode == 1 and "no line for context 64" in found.stderr


def test_two_programs_of_one_name_and_no_rounds_are_refused(tmp_path):
    one = program(tmp_path, "one", [1.0])
    assert compare(one, one).returncode == 2
    assert compare("--rounds", 0, one).returncode == 2
