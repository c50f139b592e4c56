"""Log-probabilities in OpenAI's legacy form, of new tokens and of prompts."""
import json
import math
import subprocess

import pytest

from conftest import PROGRAM

PROMPT = "It was a bright morning, and the naïve sea was – at last – calm."
GREEDY = {"temperature": 0}


def run_json(*words):
    return json.loads(subprocess.run([PROGRAM, *map(str, words)], capture_output=True, check=True,
                                     timeout=120).stdout)


def check_form(logprobs, n_top, echo=False):
    """Lists of one length, the chosen token among the alternatives, the same float in both."""
    n = len(logprobs["tokens"])
    assert set(logprobs) == {"tokens", "token_logprobs", "top_logprobs", "text_offset"}
    assert {len(values) for values in logprobs.values()} == {n}
    assert logprobs["text_offset"] == sorted(logprobs["text_offset"])
    for i in range(n):
        if echo and i == 0:
            assert logprobs["token_logprobs"][0] is None and logprobs["top_logprobs"][0] is None
            continue
        token, logprob = logprobs["tokens"][i], logprobs["token_logprobs"][i]
        top = logprobs["top_logprobs"][i]
        assert top[token] == logprob <= 0
        best = max(top.values())
        assert len(top) == max(n_top, 1) if logprob == best else len(top) in (n_top, n_top + 1)
    return n


def test_new_tokens_have_those_of_the_command_line(server):
    expected = run_json("generate", "-p", PROMPT, "-n", 20, "--temperature", 0, "--format", "json",
                        "--top-logprobs", 4)
    logprobs = server.choice(prompt=PROMPT, max_tokens=20, logprobs=4, **GREEDY)["logprobs"]
    assert check_form(logprobs, 4) == 20
    assert logprobs["token_logprobs"] == expected["logprobs"]
    for ours, theirs in zip(logprobs["top_logprobs"], expected["top_logprobs"]):
        assert sorted(ours.values()) == sorted(top["logprob"] for top in theirs)


@pytest.mark.parametrize("n_top", [0, 1, 5, 64])
def test_prompts_have_those_of_the_command_line(server, n_top):
    expected = run_json("score", "-p", PROMPT, "--format", "json")
    choice = server.choice(prompt=PROMPT, max_tokens=0, logprobs=n_top, echo=True, **GREEDY)
    assert check_form(choice["logprobs"], n_top, echo=True) == len(expected["ids"])
    assert choice["logprobs"]["token_logprobs"] == expected["token_logprobs"]
    assert choice["text"] == PROMPT
    assert choice["finish_reason"] == "length"


def test_a_harness_gets_the_prompt_and_one_token_more(server):
    """What lm-evaluation-harness sends; it takes the last token off, whatever that is."""
    ids = server.post("/tokenize", {"prompt": PROMPT}).json["tokens"]
    for bias in ({}, {"0": 100}):
        choice = server.choice(prompt=[ids], max_tokens=1, logprobs=1, echo=True, seed=1234,
                               logit_bias=bias, **GREEDY)
        assert check_form(choice["logprobs"], 1, echo=True) == len(ids) + 1
        assert (choice["logprobs"]["tokens"][-1] == "<|endoftext|>") == bool(bias)


def test_offsets_count_characters_of_the_text(server):
    choice = server.choice(prompt=PROMPT, max_tokens=12, logprobs=1, echo=True, **GREEDY)
    logprobs, text = choice["logprobs"], choice["text"]
    for offset, token in zip(logprobs["text_offset"], logprobs["tokens"]):
        if not token.startswith("bytes:"):
            assert text[offset:offset + len(token)] == token
        else:
            assert not text[offset].isascii()
    choice = server.choice(prompt=PROMPT, max_tokens=12, logprobs=1, **GREEDY)
    assert choice["logprobs"]["text_offset"][0] == 0
    assert "".join(choice["logprobs"]["tokens"]) == choice["text"]


def test_they_are_of_the_raw_logits(server):
    plain = server.choice(prompt=PROMPT, max_tokens=1, logprobs=64, **GREEDY)["logprobs"]
    hot = server.choice(prompt=PROMPT, max_tokens=1, logprobs=64, temperature=2, seed=4, top_k=64,
                        logit_bias={"5": 3}, repetition_penalty=1.3)["logprobs"]
    same = set(plain["top_logprobs"][0]) & set(hot["top_logprobs"][0])
    assert len(same) >= 64
    assert all(plain["top_logprobs"][0][t] == hot["top_logprobs"][0][t] for t in same)


def test_a_prompt_of_one_token_has_none(server):
    choice = server.choice(prompt=[[5]], max_tokens=0, logprobs=2, echo=True)
    assert choice["logprobs"]["token_logprobs"] == [None]
    assert choice["logprobs"]["text_offset"] == [0]


def test_prompts_as_long_as_the_context_are_scored(server):
    ids = [(7 * i) % 4000 + 1 for i in range(512)]
    choice = server.choice(prompt=ids, max_tokens=1, logprobs=1, echo=True, **GREEDY)
    values = choice["logprobs"]["token_logprobs"]
    assert len(values) == 513 and all(math.isfinite(value) for value in values[1:])
    expected = run_json("score", "--ids", ",".join(map(str, ids)), "--format", "json")
    assert values[:512] == expected["token_logprobs"]


def test_ids_without_text_and_parts_of_characters_have_names(server):
    ids = server.post("/tokenize", {"prompt": "ÿ"}).json["tokens"]
    choice = server.choice(prompt=[[1, *ids, 2]], max_tokens=0, logprobs=0, echo=True)
    assert choice["logprobs"]["tokens"][1:3] == ["bytes:\\xc3", "bytes:\\xbf"]
    assert choice["logprobs"]["text_offset"] == [0, 1, 1, 2]
