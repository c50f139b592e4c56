"""Damaged checkpoints: one clear error that names file and tensor, exit code 1."""
import json
import struct

import pytest
from checkpoints import CONFIG, random_tensors, safetensors_bytes, write_checkpoint
from conftest import run

DENSE = "gpt_neox.layers.1.attention.dense.weight"


@pytest.fixture
def folder(tmp_path):
    return write_checkpoint(tmp_path / "model", tokenizer=False)


def check(folder, *parts):
    """Every command that opens a model fails in the same words."""
    messages = set()
    for words in (("inspect", "-m", folder), ("generate", "-m", folder, "--prompt-ids", "1"),
                  ("score", "-m", folder, "--ids", "1,2"),
                  ("bench", "-m", folder, "-p", "1", "-n", "1")):
        result = run(*words)
        assert result.code == 1 and result.out == b"", result.err
        assert len(result.err.splitlines()) == 1
        messages.add(result.err.split(": ", 1)[1])
    assert len(messages) == 1
    message = messages.pop()
    for part in parts:
        assert part in message


def rewrite(folder, change):
    """Applies `change` to the header and the data of the weights."""
    path = folder / "model.safetensors"
    data = path.read_bytes()
    n = struct.unpack("<Q", data[:8])[0]
    header, body = json.loads(data[8:8 + n]), data[8 + n:]
    change(header)
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + body)


@pytest.mark.parametrize("n_bytes", [0, 4, 8, 100, -1, -40000])
def test_a_truncated_file(folder, n_bytes):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:n_bytes])
    check(folder, "model.safetensors")


@pytest.mark.parametrize("length", [0, 1, 1 << 40, (1 << 64) - 1])
def test_a_header_of_absurd_length(folder, length):
    path = folder / "model.safetensors"
    path.write_bytes(struct.pack("<Q", length) + path.read_bytes()[8:])
    check(folder, "model.safetensors")


def test_a_header_that_is_no_json(folder):
    path = folder / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[9] = ord("x")
    path.write_bytes(data)
    check(folder, "model.safetensors")


def test_a_missing_tensor(folder):
    tensors = random_tensors(CONFIG)
    del tensors[DENSE]
    (folder / "model.safetensors").write_bytes(safetensors_bytes(tensors))
    check(folder, DENSE.removeprefix("gpt_neox."))


def test_a_tensor_too_many(folder):
    tensors = random_tensors(CONFIG)
    tensors["gpt_neox.layers.0.surprise.weight"] = ([1], b"\0\0\0\0")
    (folder / "model.safetensors").write_bytes(safetensors_bytes(tensors))
    check(folder, "model.safetensors", "layers.0.surprise.weight")


def test_a_tensor_of_another_shape(folder):
    def change(header):
        header[DENSE]["shape"] = [64, 16]
    rewrite(folder, change)
    check(folder, "model.safetensors", DENSE.removeprefix("gpt_neox."), "[64,16]", "[32,32]")


def test_a_tensor_of_an_unknown_type(folder):
    def change(header):
        header[DENSE]["dtype"] = "I32"
    rewrite(folder, change)
    check(folder, "model.safetensors", DENSE.removeprefix("gpt_neox."), "I32")


@pytest.mark.parametrize("offsets", [[0, 1 << 62], [-4, 4092], [4096, 0], [1 << 62, (1 << 62) + 4096]])
def test_a_tensor_outside_the_file(folder, offsets):
    def change(header):
        header[DENSE]["data_offsets"] = offsets
    rewrite(folder, change)
    check(folder, "model.safetensors", DENSE.removeprefix("gpt_neox."))


def test_tensors_that_overlap(folder):
    def change(header):
        other = header["gpt_neox.layers.0.attention.dense.weight"]
        header[DENSE]["data_offsets"] = other["data_offsets"]
    rewrite(folder, change)
    check(folder, "model.safetensors", "attention.dense.weight")


def test_no_weights(folder):
    (folder / "model.safetensors").unlink()
    check(folder, "model.safetensors")


def test_no_config(folder):
    (folder / "config.json").unlink()
    check(folder, "config.json")


@pytest.mark.parametrize("content", ["", "{", "[]", "nul", '{"a":1,"a":2}', "[" * 100000])
def test_a_config_that_is_none(folder, content):
    (folder / "config.json").write_text(content)
    check(folder, "config.json")


@pytest.mark.parametrize("key, value", [
    ("model_type", "llama"), ("hidden_size", 0), ("hidden_size", -32), ("hidden_size", "32"),
    ("hidden_size", 33), ("num_hidden_layers", 1 << 40), ("num_attention_heads", 0),
    ("vocab_size", None), ("vocab_size", 1 << 31), ("hidden_act", "swoosh"),
    ("rotary_pct", 2), ("rotary_pct", -1), ("layer_norm_eps", "small"),
    ("rope_scaling", {"type": "yarn", "factor": 4}), ("intermediate_size", 1.5),
])
def test_a_config_out_of_bounds(folder, key, value):
    (folder / "config.json").write_text(json.dumps({**CONFIG, key: value}))
    check(folder, "config.json", key)


def test_a_folder_that_is_a_file(folder):
    check(folder / "config.json", "config.json")


def test_a_bad_tokenizer_beside_a_good_model(folder):
    (folder / "tokenizer.json").write_text('{"model":')
    result = run("generate", "-m", folder, "--prompt-ids", "1")
    assert result.code == 1 and "tokenizer.json" in result.err
