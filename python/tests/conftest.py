"""The bundled model, the golden checkpoints, and the command line to hold the package against."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import clusterfusion
import pytest
from clusterfusion import _native

# A shell that starts this in the background leaves SIGINT ignored; the tests of Ctrl-C need it.
signal.signal(signal.SIGINT, signal.default_int_handler)

ROOT = Path(__file__).resolve().parents[2]
SHARED = Path(os.environ.get("CF_TEST_DATA", ROOT.parent / "shared" / "data"))
CLASSICS_GOLDEN = ROOT / "tests" / "data" / "classics_golden"
GOLDEN = ["base1000", "hd80", "seq-pct100", "v5-config", "bin"]


@pytest.fixture(scope="session")
def model():
    """The bundled model, shared by all tests: what one leaves behind must not reach another."""
    with clusterfusion.Model(n_threads=2) as model:
        yield model


@pytest.fixture
def own_model():
    """The bundled model, one a test."""
    with clusterfusion.Model(n_threads=1) as model:
        yield model


@pytest.fixture(params=GOLDEN)
def golden(request):
    """(folder, expected outputs) of each golden checkpoint."""
    folder = SHARED / "golden" / request.param
    if not folder.exists():
        pytest.skip(f"golden/{request.param} is not among the shared data")
    return folder, json.loads((folder / "golden.json").read_text())


@pytest.fixture(scope="session")
def classics_golden() -> dict[str, Any]:
    """The bundled model's outputs by transformers in float64."""
    expected: dict[str, Any] = json.loads((CLASSICS_GOLDEN / "golden.json").read_text())
    return expected


def command_line(*words: Any) -> Any:
    """The program's JSON."""
    done = subprocess.run(
        [_native.program(), *map(str, words), "--format", "json"],
        capture_output=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    return json.loads(done.stdout)
