"""clusterfusion inspect."""
import math
import os

from checkpoints import CONFIG, tensor_shapes, write_checkpoint
from conftest import run, run_ok

KEYS = ["path", "shape", "files", "dtypes", "n_tensors", "n_parameters", "weight_bytes",
        "token_bytes", "hash", "session", "backend", "backend_text"]


def inspect_json(model, *words):
    return run_ok("inspect", "-m", model, "--format", "json", *words).json


def test_json_states_what_the_checkpoint_is(bare):
    shapes = tensor_shapes(CONFIG)
    n_parameters = sum(math.prod(shape) for shape in shapes.values())
    result = inspect_json(bare)
    assert list(result) == KEYS
    assert result["path"] == str(bare)
    assert result["shape"] == {
        "n_layers": 2, "d_model": 32, "n_heads": 4, "d_head": 8, "d_rotary": 2, "d_ffn": 64,
        "n_vocab": 260, "n_context": 128, "rope_theta": 10000.0,
        "layer_norm_eps": result["shape"]["layer_norm_eps"], "activation": "gelu",
        "parallel_residual": True, "attention_bias": True, "tied_embeddings": False,
        "bos_token": 256, "eos_token": 256}
    assert abs(result["shape"]["layer_norm_eps"] - 1e-5) < 1e-11
    size = (bare / "model.safetensors").stat().st_size
    assert result["files"] == [{"name": "model.safetensors", "format": "safetensors",
                                "bytes": size}]
    assert result["dtypes"] == {"F32": len(shapes)}
    assert result["n_tensors"] == len(shapes)
    assert result["n_parameters"] == n_parameters
    assert result["weight_bytes"] == 4 * n_parameters
    # A token reads every weight but the other rows of the embedding.
    assert result["token_bytes"] == 4 * (n_parameters - 259 * 32)
    assert len(result["hash"]) == 32


def test_memory_follows_the_options(bare):
    session = inspect_json(bare)["session"]
    assert (session["n_context"], session["kv_dtype"]) == (128, "F16")
    # Keys and values of two layers of 32, two bytes each; a backend may round a context up.
    assert session["kv_bytes"] >= 128 * 2 * 2 * 32 * 2
    assert session["scratch_bytes"] > 0
    twice = inspect_json(bare, "-c", 256)["session"]
    assert twice["kv_bytes"] >= 256 * 2 * 2 * 32 * 2
    exact = inspect_json(bare, "--kv", "f32")["session"]
    assert exact["kv_dtype"] == "F32" and exact["kv_bytes"] > session["kv_bytes"]


def test_the_hash_tells_weights_apart(bare, tmp_path):
    same = write_checkpoint(tmp_path / "same", tokenizer=False)
    data = bytearray((same / "model.safetensors").read_bytes())
    assert inspect_json(same)["hash"] == inspect_json(bare)["hash"]
    data[-1] ^= 1
    (same / "model.safetensors").write_bytes(data)
    assert inspect_json(same)["hash"] != inspect_json(bare)["hash"]


def test_the_hash_can_be_left_out(bare):
    assert inspect_json(bare, "--no-hash")["hash"] is None
    assert "hash" not in run_ok("inspect", "-m", bare, "--no-hash").text


def test_tensors_are_listed_if_asked_for(bare):
    tensors = inspect_json(bare, "--tensors")["tensors"]
    shapes = tensor_shapes(CONFIG)
    assert {tensor["name"].removeprefix("gpt_neox."): tensor["shape"] for tensor in tensors} == \
        {name.removeprefix("gpt_neox."): shape for name, shape in shapes.items()}
    assert all(tensor["dtype"] == "F32" and tensor["file"] == "model.safetensors"
               for tensor in tensors)
    text = run_ok("inspect", "-m", bare, "--tensors").text
    assert all(name in text for name in shapes)


def test_text_says_the_same(bare):
    result, text = inspect_json(bare), run_ok("inspect", "-m", bare).text
    for part in (result["path"], "2 layers", "hidden 32", "4 heads of 8", "ffn 64",
                 "model.safetensors", "F32", str(result["n_parameters"]), result["hash"],
                 str(result["session"]["kv_bytes"]), result["backend_text"]):
        assert part in text


def test_the_default_is_the_bundled_model(classics):
    assert inspect_json(classics)["hash"] == \
        run_ok("inspect", "--format", "json").json["hash"]


def test_a_missing_folder_is_named():
    result = run("inspect", "-m", "/nowhere/model")
    assert result.code == 1 and "/nowhere/model" in result.err and result.out == b""


def test_a_path_that_is_no_utf8_is_repaired(bare, tmp_path):
    folder = os.fsencode(tmp_path) + b"/caf\xe9"
    os.symlink(bare, folder)
    assert inspect_json(os.fsdecode(folder))["path"] == f"{tmp_path}/caf\ufffd"
