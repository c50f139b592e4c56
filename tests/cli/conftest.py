"""The program under test, and models to run it on."""
import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from checkpoints import write_checkpoint

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = Path(os.environ.get("CF_CLI", ROOT / "build" / "bin" / "clusterfusion"))
SHARED = Path(os.environ.get("CF_TEST_DATA", ROOT.parent / "shared" / "data"))
TIMEOUT_S = 120


@dataclass
class Result:
    """What a run of the program gave."""

    code: int
    out: bytes
    err: str

    @property
    def text(self) -> str:
        return self.out.decode()

    @property
    def json(self):
        return json.loads(self.out, parse_constant=refuse_constant)


def refuse_constant(word: str):
    raise AssertionError(f"{word} is not JSON")


def run(*words, stdin: bytes = b"", **settings) -> Result:
    """Runs the program to its end; every message it prints must be UTF-8."""
    done = subprocess.run([PROGRAM, *map(str, words)], input=stdin, capture_output=True,
                          timeout=TIMEOUT_S, check=False, **settings)
    return Result(done.returncode, done.stdout, done.stderr.decode())


def run_ok(*words, **settings) -> Result:
    result = run(*words, **settings)
    assert result.code == 0, result.err
    return result


def shared(name: str) -> Path:
    """A file or folder of the shared test data; skips the test where it is not there."""
    path = SHARED / name
    if not path.exists():
        pytest.skip(f"{name} is not among the shared data")
    return path


@pytest.fixture(scope="session")
def tiny(tmp_path_factory) -> Path:
    """A checkpoint of two layers with a tokenizer."""
    return write_checkpoint(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def bare(tmp_path_factory) -> Path:
    """The same without a tokenizer."""
    return write_checkpoint(tmp_path_factory.mktemp("bare"), tokenizer=False)


@pytest.fixture(scope="session")
def classics() -> Path:
    """The bundled model."""
    path = ROOT / "models" / "classics"
    if not (path / "config.json").exists():
        pytest.skip("models/classics is not there")
    return path
