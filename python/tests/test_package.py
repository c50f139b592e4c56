"""The package as it is installed: what import brings, the command line, the types."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import clusterfusion
import pytest
from clusterfusion import _native
from conftest import ROOT


def python(*words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *words],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, **variables},
        cwd="/",
    )


def test_import_brings_neither_numpy_nor_pytorch():
    code = (
        "import sys, clusterfusion\n"
        "model = clusterfusion.Model(n_threads=1)\n"
        "model.generate('Call me', max_new_tokens=2); model.score('Call me')\n"
        "model.logits([1], array='memoryview')\n"
        "print([name for name in ('numpy', 'torch', 'transformers') if name in sys.modules])"
    )
    done = python("-c", code)
    assert done.stdout == "[]\n", done.stderr


def test_it_works_where_numpy_cannot_be_had():
    code = (
        "import importlib.util, sys\n"
        "find = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name, *a: None if name == 'numpy' else find(name, *a)\n"
        "sys.modules['numpy'] = None\n"
        "import clusterfusion\n"
        "logits = clusterfusion.Model(n_threads=1).logits([1, 2])\n"
        "print(type(logits).__name__, logits.shape, logits.format)"
    )
    done = python("-c", code)
    assert done.stdout == "memoryview (2, 4096) f\n", done.stderr


def test_the_module_is_the_command_line():
    done = python("-m", "clusterfusion", "--version")
    assert clusterfusion.__version__ in done.stdout and done.returncode == 0
    done = python("-m", "clusterfusion", "generate", "-p", "Call me", "-n", "2", "--no-prompt")
    expected = clusterfusion.Model().generate("Call me", max_new_tokens=2)
    assert done.stdout.rstrip("\n") == expected.text.rstrip("\n"), done.stderr
    assert python("-m", "clusterfusion", "generate", "--no-such-option").returncode == 2


def test_the_library_can_be_named(tmp_path):
    code = "import clusterfusion._native as n; print(n.LIBRARY_PATH)"
    path = str(_native.LIBRARY_PATH)
    assert python("-c", code, CLUSTERFUSION_LIBRARY=path).stdout.strip() == path
    done = python("-c", code, CLUSTERFUSION_LIBRARY=str(tmp_path / "none.so"))
    assert done.returncode == 1 and "CLUSTERFUSION_LIBRARY is" in done.stderr
    (tmp_path / "text.so").write_text("not a library")
    done = python("-c", code, CLUSTERFUSION_LIBRARY=str(tmp_path / "text.so"))
    assert done.returncode == 1 and "ImportError" in done.stderr


def test_everything_public_has_a_docstring():
    for name in clusterfusion.__all__:
        thing = getattr(clusterfusion, name)
        assert thing.__doc__, name
        methods = vars(thing).items() if isinstance(thing, type) else []
        if issubclass(thing, Exception) if isinstance(thing, type) else False:
            continue
        for method, function in methods:
            if callable(function) and not method.startswith("_"):
                assert function.__doc__, f"{name}.{method}"


def test_the_types_are_strict():
    pytest.importorskip("mypy")
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--config-file", "pyproject.toml"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout


def test_the_examples_run():
    examples = sorted((ROOT / "examples").glob("*.py"))
    assert examples
    for path in examples:
        done = python(str(path))
        assert done.returncode == 0 and done.stdout, done.stderr
    assert Path(clusterfusion.__file__).parent.joinpath("py.typed").exists()
