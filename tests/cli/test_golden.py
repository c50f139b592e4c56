"""The golden checkpoints through the command line, against the reference's float32 outputs."""
import json

import pytest
from conftest import run_ok, shared

MODELS = ["base1000", "hd80", "seq-pct100", "v5-config", "bin"]

# float32 logits agree to 2e-5 of their size, with an fp16 KV cache to 5e-3; their size is up to 4.3,
# and a log-probability is the difference of two such: a logit and a mean of logits.
EXACT, HALF = 2 * 4.3 * 2e-5, 2 * 4.3 * 5e-3


def golden(name):
    folder = shared(f"golden/{name}")
    return folder, json.loads((folder / "golden.json").read_text())


@pytest.mark.parametrize("name", MODELS)
def test_greedy_ids_are_the_references(name):
    folder, expected = golden(name)
    assert expected["greedy_min_margin"] > EXACT  # or rounding might choose another token
    prompt = ",".join(map(str, expected["greedy_prompt"]))
    result = run_ok("generate", "-m", folder, "--prompt-ids", prompt, "-n",
                    len(expected["greedy"]), "--ignore-eos", "--kv", "f32", "--format", "json").json
    assert result["ids"] == expected["greedy"]
    assert result["text"] == ""


@pytest.mark.parametrize("kv, tolerance", [("f32", EXACT), ("f16", HALF)])
@pytest.mark.parametrize("name", MODELS)
def test_log_probabilities_are_the_references(name, kv, tolerance):
    folder, expected = golden(name)
    result = run_ok("score", "-m", folder, "--ids", ",".join(map(str, expected["ids"])), "--kv",
                    kv, "--format", "json").json
    assert result["token_logprobs"][0] is None and expected["token_logprobs"][0] is None
    assert result["token_logprobs"][1:] == pytest.approx(expected["token_logprobs"][1:],
                                                         abs=tolerance)


@pytest.mark.parametrize("name", MODELS)
def test_they_can_be_inspected(name):
    folder, expected = golden(name)
    result = run_ok("inspect", "-m", folder, "--format", "json").json
    assert result["shape"]["n_vocab"] == expected["logits_shape"][1]
    assert result["shape"]["n_layers"] == expected["hidden_shape"][0] - 1
    assert result["files"][0]["format"] == ("pytorch zip" if name == "bin" else "safetensors")
