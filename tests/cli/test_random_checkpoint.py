"""tools/random_checkpoint: what it writes can be opened, is the same each time, and is never lost."""
import json
import os
import subprocess
from pathlib import Path

import pytest
from conftest import PROGRAM, run_ok

TOOL = Path(os.environ.get("CF_RANDOM_CHECKPOINT", PROGRAM.parent / "random_checkpoint"))


def write(*words):
    if not TOOL.exists():
        pytest.skip("random_checkpoint is not built")
    return subprocess.run([TOOL, *map(str, words)], capture_output=True, text=True, check=False)


def write_ok(*words):
    done = write(*words)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("dtype, n_bytes", [("f16", 2), ("bf16", 2), ("f32", 4)])
def test_a_named_shape_is_written_in_each_dtype(tmp_path, dtype, n_bytes):
    out = write_ok("--dtype", dtype, "--layers", 2, "--context", 64, "pythia-14m", tmp_path)
    hidden, ffn, vocab = 128, 512, 50304
    layer = 4 * hidden + 4 * hidden * hidden + 4 * hidden + 2 * ffn * hidden + ffn + hidden
    n_parameters = 2 * layer + 2 * vocab * hidden + 2 * hidden
    assert f"{n_parameters} parameters, {n_parameters * n_bytes} bytes" in out
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["num_hidden_layers"] == 2 and config["max_position_embeddings"] == 64
    result = run_ok("generate", "-m", tmp_path, "--prompt-ids", "1,2,3", "-n", 4, "--ignore-eos",
                    "--format", "json")
    assert len(result.json["ids"]) == 4
    assert all(-20 < logprob < 0 for logprob in result.json["logprobs"])


def test_the_same_seed_gives_the_same_bytes(tmp_path):
    files = []
    for i, seed in enumerate((7, 7, 8)):
        write_ok("--seed", seed, "--layers", 1, "pythia-14m", tmp_path / str(i))
        files.append((tmp_path / str(i) / "model.safetensors").read_bytes())
    assert files[0] == files[1] != files[2]


def test_shards_hold_the_same_tensors(tmp_path):
    write_ok("pythia-14m", tmp_path / "one")
    write_ok("--shards", 3, "pythia-14m", tmp_path / "three")
    assert len(list((tmp_path / "three").glob("model-0000?-of-00003.safetensors"))) == 3
    asked = ("--ids", "1,2,3,4,5", "--format", "json")
    one, three = (run_ok("score", "-m", tmp_path / name, *asked).json for name in ("one", "three"))
    assert one == three


def test_a_checkpoint_is_replaced_only_by_force(tmp_path):
    write_ok("--shards", 2, "pythia-14m", tmp_path)
    refused = write("pythia-14m", tmp_path)
    assert refused.returncode == 1 and "--force" in refused.stderr
    write_ok("--force", "--layers", 1, "pythia-14m", tmp_path)
    assert not (tmp_path / "model.safetensors.index.json").exists()


@pytest.mark.parametrize("words", [(), ("pythia-14m",), ("pythia-15m", "x"),
                                   ("--dtype", "f64", "pythia-14m", "x"),
                                   ("--layers", "0", "pythia-14m", "x"),
                                   ("--shards", "7", "pythia-14m", "x"),
                                   ("--seed", "-1", "pythia-14m", "x"), ("--nonsense",)])
def test_misuse_is_told_apart_from_failure(words):
    done = write(*words)
    assert done.returncode == 2 and done.stderr and not done.stdout


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    done = write("pythia-14m", tmp_path / "no" / "where")
    assert done.returncode == 1 and "where: No such file" in done.stderr
