"""Model: what it computes, against transformers' golden outputs and against the command line."""

from __future__ import annotations

import json
import math
import struct

import clusterfusion
import pytest
from conftest import CLASSICS_GOLDEN, ROOT, command_line

numpy = pytest.importorskip("numpy")

# float32 arithmetic agrees with the reference to 2e-5 of the logits' size, which is up to 4.3 here;
# a log-probability is the difference of two such numbers (tests/cli/test_golden.py).
LOGITS, LOGPROBS = 4.3 * 2e-5, 2 * 4.3 * 2e-5
PROMPTS = ["Call me", "It was a dark night, and", "\n\nCHAPTER", "a", "naïve café  twice"]
SAMPLED = {"do_sample": True, "temperature": 0.8, "top_p": 0.9, "seed": 11}


def float32(numbers):
    """Numbers as the float32 that they were, from the nine digits of the command line too."""
    return [struct.pack("f", math.nan if number is None else number) for number in numbers]


def array(path, shape):
    return numpy.fromfile(path, dtype="<f4").reshape(shape)


# ------------------------------------------------------------------------------------------------
# Against transformers
# ------------------------------------------------------------------------------------------------


def test_greedy_ids_are_the_references(golden):
    folder, expected = golden
    assert expected["greedy_min_margin"] > LOGPROBS
    with clusterfusion.Model(folder, backend="cpu", kv_dtype="f32", n_threads=1) as model:
        n = len(expected["greedy"])
        found = model.generate(expected["greedy_prompt"], max_new_tokens=n, ignore_eos=True)
    assert found.ids == expected["greedy"]
    assert found.text == "" and found.finish_reason == "length"


def test_logits_and_hidden_states_are_the_references(golden):
    folder, expected = golden
    with clusterfusion.Model(folder, backend="cpu", kv_dtype="f32", n_threads=1) as model:
        logits = model.logits(expected["ids"])
        hidden = model.hidden_states(expected["ids"])
        last = model.logits(expected["ids"], n_last=1)
    reference = array(folder / "logits.f32", expected["logits_shape"])
    assert logits.shape == reference.shape and logits.dtype == numpy.float32
    numpy.testing.assert_allclose(logits, reference, rtol=0, atol=LOGITS)
    reference = array(folder / "hidden.f32", expected["hidden_shape"])
    assert hidden.shape == reference.shape
    # LayerNorm's outputs are of the size of the logits and no larger depth of sums.
    numpy.testing.assert_allclose(hidden, reference, rtol=2e-5, atol=LOGITS)
    # One row is summed in another order than many.
    numpy.testing.assert_allclose(last, logits[-1:], rtol=0, atol=LOGITS)


def test_log_probabilities_are_the_references(golden):
    folder, expected = golden
    with clusterfusion.Model(folder, backend="cpu", kv_dtype="f32", n_threads=1) as model:
        found = model.score(expected["ids"], n_top=2)
    assert found.ids == expected["ids"] and math.isnan(found.token_logprobs[0])
    assert found.token_logprobs[1:] == pytest.approx(expected["token_logprobs"][1:], abs=LOGPROBS)
    assert found.top[0] == [] and all(len(top) == 2 for top in found.top[1:])


def test_the_bundled_model_goes_on_as_the_reference(model, classics_golden):
    n = len(classics_golden["greedy"])
    found = model.generate(classics_golden["greedy_prompt"], max_new_tokens=n)
    assert found.ids == classics_golden["greedy"]
    assert found.text == model.detokenize(found.ids)


def test_the_bundled_tokenizer_is_the_references(model):
    lines = (CLASSICS_GOLDEN / "tokenizer_vectors.jsonl").read_text().splitlines()
    for vector in map(json.loads, lines):
        assert model.tokenize(vector["text"]) == vector["ids"]
        assert model.detokenize(vector["ids"]) == vector["decoded"]


# ------------------------------------------------------------------------------------------------
# Against the command line: the same bits
# ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prompt", PROMPTS)
@pytest.mark.parametrize(
    "options, words",
    [
        ({}, []),
        (SAMPLED, ["--temperature", 0.8, "--top-p", 0.9, "--seed", 11]),
        (
            {"do_sample": True, "top_k": 9, "min_p": 0.02, "repetition_penalty": 1.3, "seed": 2**63},
            ["--temperature", 1, "--top-k", 9, "--min-p", 0.02, "--repetition-penalty", 1.3,
             "--seed", 2**63],
        ),
        (
            {"stop_strings": [".", " the"], "presence_penalty": 0.5, "frequency_penalty": 0.1},
            ["--stop", ".", "--stop", " the", "--presence-penalty", 0.5, "--frequency-penalty",
             0.1],
        ),
    ],
    ids=["greedy", "top_p", "top_k", "stops"],
)  # fmt: skip
def test_generations_are_the_command_lines(model, prompt, options, words):
    found = model.generate(prompt, max_new_tokens=24, **options)
    expected = command_line("generate", "-p", prompt, "-n", 24, "-t", 2, *words)
    assert found.text == expected["text"]
    assert found.ids == expected["ids"] and found.prompt_ids == expected["prompt_ids"]
    assert found.finish_reason == expected["finish_reason"]
    assert float32(found.logprobs) == float32(expected["logprobs"])
    assert f"{found.stats.logits_hash:016x}" == expected["stats"]["logits_hash"]
    assert found.stats.n_tokens == len(found.ids) and found.stats.n_reused == 0


def test_scores_are_the_command_lines(model):
    text = (ROOT / "models" / "classics" / "README.md").read_text()[:3000]
    found = model.score(text)
    expected = command_line("score", "-p", text, "-t", 2)
    assert found.ids == expected["ids"] and len(found.ids) > model.shape.n_context
    assert float32(found.token_logprobs) == float32(expected["token_logprobs"])
    assert found.perplexity == pytest.approx(expected["perplexity"], rel=1e-8)
    assert found.n_scored == expected["n_scored"]


def test_the_hash_and_shape_are_the_command_lines(model):
    expected = command_line("inspect")
    assert model.hash() == expected["hash"]
    shape = {name: getattr(model.shape, name) for name in ("n_layers", "d_model", "n_vocab")}
    assert shape.items() <= expected["shape"].items()


# ------------------------------------------------------------------------------------------------
# With itself
# ------------------------------------------------------------------------------------------------


def test_a_call_does_not_depend_on_those_before_it(own_model):
    first = own_model.generate("Call me", max_new_tokens=6)
    own_model.generate("Call me now", max_new_tokens=9, **SAMPLED)
    own_model.score("Call me later")
    again = own_model.generate("Call me", max_new_tokens=6)
    assert (again.ids, again.logprobs) == (first.ids, first.logprobs)
    assert again.stats.logits_hash == first.stats.logits_hash


def test_the_cache_is_reused_when_asked_for(own_model):
    first = own_model.generate("It was a dark night, and", max_new_tokens=6)
    prompt = first.prompt_ids + first.ids
    again = own_model.generate(prompt, max_new_tokens=2, reuse_cache=True)
    assert again.stats.n_reused == len(prompt) - 1
    fresh = own_model.generate(prompt, max_new_tokens=2)
    assert fresh.stats.n_reused == 0 and fresh.ids == again.ids


def test_a_random_seed_is_told_and_repeats_the_text(model):
    first = model.generate("The", max_new_tokens=30, do_sample=True, seed=None)
    other = model.generate("The", max_new_tokens=30, do_sample=True, seed=None)
    again = model.generate("The", max_new_tokens=30, do_sample=True, seed=first.seed)
    assert again.ids == first.ids and other.ids != first.ids


def test_alternatives_begin_with_the_greedy_token(model):
    found = model.generate("Call me", max_new_tokens=5, n_top=3)
    for id, logprob, top in zip(found.ids, found.logprobs, found.top):
        assert top[0] == (id, logprob) and len(top) == 3
        assert top[0][1] >= top[1][1] >= top[2][1]


def test_a_bias_bans_and_demands(model):
    greedy = model.generate("Call me", max_new_tokens=1).ids[0]
    banned = model.generate("Call me", max_new_tokens=1, logit_bias={greedy: -math.inf})
    assert banned.ids != [greedy]
    demanded = model.generate("Call me", max_new_tokens=3, logit_bias={77: 1e6})
    assert demanded.ids == [77] * 3


def test_eos_ids_replace_the_models_own(model):
    free = model.generate("Call me", max_new_tokens=8).ids
    found = model.generate("Call me", max_new_tokens=8, eos_token_id=[free[3]])
    assert found.ids == free[: free.index(free[3]) + 1] and found.finish_reason == "stop"
    later = model.generate("Call me", max_new_tokens=8, eos_token_id=free[0], min_new_tokens=2)
    assert len(later.ids) > 2 and later.ids[0] != free[0]


def test_no_maximum_means_until_the_context_is_full():
    with clusterfusion.Model(n_context=24, n_threads=1) as model:
        found = model.generate("Call me", max_new_tokens=None, ignore_eos=True)
    # The last token is chosen, not evaluated: one more fits than the context holds.
    assert len(found.prompt_ids) + len(found.ids) == 25


def test_logits_give_the_log_probabilities(model):
    ids = model.tokenize("It was a dark night, and the wind was high.")
    logits = model.logits(ids).astype(numpy.float64)
    logprobs = logits - numpy.log(numpy.exp(logits).sum(axis=1, keepdims=True))
    expected = [logprobs[i, id] for i, id in enumerate(ids[1:])]
    assert model.score(ids).token_logprobs[1:] == pytest.approx(expected, abs=1e-4)


def test_a_memoryview_holds_what_numpys_array_does(model):
    logits = model.logits([1, 2, 3], array="memoryview")
    assert isinstance(logits, memoryview) and logits.shape == (3, model.shape.n_vocab)
    assert logits.tobytes() == model.logits([1, 2, 3]).tobytes()
    assert logits[2, 5] == model.logits([1, 2, 3])[2, 5]


def test_ids_may_be_any_sequence_of_integers(model):
    expected = model.generate([35, 394], max_new_tokens=3).ids
    for ids in ((35, 394), numpy.array([35, 394]), numpy.array([35, 394], dtype=numpy.uint16)):
        assert model.generate(ids, max_new_tokens=3).ids == expected


def test_sessions_evaluate_step_by_step(model):
    ids = [35, 394, 360, 14]
    with model.session() as session:
        whole = session.eval(ids, n_logits=None).logits
        assert session.tokens == ids
        session.rewind(2)
        again, hidden = session.eval(ids[2:], n_logits=2, hidden_states=True)
        assert session.tokens == ids and session.n_context == model.shape.n_context
    assert hidden.shape == (model.shape.n_layers + 1, 2, model.shape.d_model)
    numpy.testing.assert_allclose(again, whole[2:], rtol=0, atol=5e-3)  # an fp16 KV cache
    with pytest.raises(clusterfusion.InvalidArgumentError, match="closed"):
        session.eval([1])


def test_the_tokenizer_knows_special_tokens(model):
    tokenizer = model.tokenizer
    end = tokenizer.find("<|endoftext|>")
    assert end == model.shape.eos_token and tokenizer.is_special(end)
    assert tokenizer.find("no such token") is None and not tokenizer.is_special(50)
    assert model.tokenize("<|endoftext|>") == [end]
    assert end not in model.tokenize("<|endoftext|>", special=False)
    assert model.detokenize([end, 35], skip_special=True) == model.detokenize([35])
    assert tokenizer.token_bytes(end) == b"<|endoftext|>"
    assert len(tokenizer) <= model.shape.n_vocab


def test_text_that_is_not_unicode_becomes_replacement_characters(model):
    assert model.detokenize(model.tokenize(b"a\xffb")) == "a\ufffdb"
    assert "\ufffd" in model.detokenize(model.tokenize("a\ud800b"))
    assert model.detokenize(model.tokenize("zero \0 byte")) == "zero \0 byte"


def test_numpy_arrays_make_a_model(model):
    header_bytes = (ROOT / "models" / "classics" / "model.safetensors").read_bytes()
    n = int.from_bytes(header_bytes[:8], "little")
    tensors = {}
    for name, entry in json.loads(header_bytes[8 : 8 + n]).items():
        if name != "__metadata__":
            begin, end = entry["data_offsets"]
            data = numpy.frombuffer(header_bytes[8 + n + begin : 8 + n + end], dtype=numpy.float16)
            tensors[name] = data.reshape(entry["shape"])
    with clusterfusion.Model.from_tensors(model.shape, tensors, n_threads=2) as made:
        assert made.hash() == model.hash() and made.info.path is None
        found = made.generate([35, 394, 360], max_new_tokens=8)
        assert found.ids == model.generate([35, 394, 360], max_new_tokens=8).ids
    tensors["gpt_neox.layers.0.attention.dense.weight"] = numpy.zeros((256, 255), numpy.float16)
    with pytest.raises(clusterfusion.Error, match=r"layers\.0\.attention\.dense\.weight"):
        clusterfusion.Model.from_tensors(model.shape, tensors)


def test_facts_about_a_model(model):
    info = model.info
    assert info.backend in ("cpu", "cuda") and info.path.endswith("classics") and info.n_files == 1
    assert info.weight_bytes == 2 * info.n_parameters
    assert model.session_memory.kv_bytes > 0
    assert f"{info.n_parameters:,}" in repr(model)
    assert model.measure().read_bytes_per_s > 1e8
