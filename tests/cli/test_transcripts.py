"""Transcripts of the shell: commands after "$ ", then what they print, then [exit code] if not 0.

The program runs in a folder that holds a small model, `tiny`; its stderr follows its stdout.
"""
import re
import shlex
import subprocess
from pathlib import Path

import pytest
from conftest import PROGRAM, TIMEOUT_S

TRANSCRIPTS = sorted((Path(__file__).parent / "transcripts").glob("*.txt"))


def steps(text):
    """(command, what is expected) of each step; lines that begin with # are comments."""
    lines = [line for line in text.splitlines(keepends=True) if not line.startswith("#")]
    for part in re.split(r"^\$ ", "".join(lines), flags=re.M)[1:]:
        command, _, expected = part.partition("\n")
        yield command, expected


def play(command, folder):
    script = f'clusterfusion() {{ {shlex.quote(str(PROGRAM))} "$@"; }}; {command}'
    done = subprocess.run(["bash", "-c", script], cwd=folder, stdin=subprocess.DEVNULL,
                          capture_output=True, timeout=TIMEOUT_S, check=False)
    code = f"[{done.returncode}]\n" if done.returncode else ""
    return done.stdout.decode() + done.stderr.decode() + code


@pytest.mark.parametrize("path", TRANSCRIPTS, ids=lambda path: path.stem)
def test_the_transcript_is_what_happens(path, tiny, request):
    if path.stem == "classics":
        request.getfixturevalue("classics")  # skips where the bundled model is not there
    for command, expected in steps(path.read_text()):
        assert f"$ {command}\n{play(command, tiny.parent / 'transcripts')}" == \
            f"$ {command}\n{expected}"


@pytest.fixture(autouse=True, scope="module")
def stage(tiny):
    folder = tiny.parent / "transcripts"
    folder.mkdir(exist_ok=True)
    (folder / "tiny").symlink_to(tiny)
