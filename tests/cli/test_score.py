"""clusterfusion score."""
import math
import random

import pytest
from conftest import run, run_ok

KEYS = ["ids", "token_logprobs", "sum_logprob", "perplexity", "n_scored"]


def random_ids(n, seed=3):
    source = random.Random(seed)
    return [source.randrange(260) for _ in range(n)]


def score_json(model, ids, *words):
    text = ",".join(map(str, ids))
    return run_ok("score", "-m", model, "--ids", text, "--format", "json", *words).json


def test_json_has_exactly_its_keys_and_they_agree(bare):
    ids = random_ids(50)
    result = score_json(bare, ids)
    assert list(result) == KEYS
    assert result["ids"] == ids and result["n_scored"] == 49
    logprobs = result["token_logprobs"]
    assert logprobs[0] is None and len(logprobs) == 50
    assert result["sum_logprob"] == pytest.approx(math.fsum(logprobs[1:]), rel=1e-8)
    assert result["perplexity"] == pytest.approx(math.exp(-result["sum_logprob"] / 49), rel=1e-7)


def test_one_token_has_nothing_to_score(bare):
    result = score_json(bare, [5])
    assert result == {"ids": [5], "token_logprobs": [None], "sum_logprob": 0.0,
                      "perplexity": None, "n_scored": 0}
    assert "scored       0" in run_ok("score", "-m", bare, "--ids", "5").text


def test_text_gives_what_its_ids_give(tiny, tmp_path):
    text = "hello, hello\n"
    expected = run_ok("score", "-m", tiny, "-p", text, "--format", "json").json
    path = tmp_path / "text"
    path.write_text(text)
    for words in (("--file", path), ("--file", "-")):
        assert run_ok("score", "-m", tiny, *words, "--format", "json",
                      stdin=text.encode()).json == expected
    assert score_json(tiny, expected["ids"]) == expected


def test_the_summary_agrees_with_the_json(tiny):
    result = run_ok("score", "-m", tiny, "-p", "hello hello", "--format", "json").json
    lines = dict(line.split(None, 1) for line in
                 run_ok("score", "-m", tiny, "-p", "hello hello").text.splitlines())
    assert int(lines["tokens"]) == len(result["ids"])
    assert int(lines["scored"]) == result["n_scored"]
    assert float(lines["log-prob"].split()[0]) == pytest.approx(result["sum_logprob"], rel=1e-8)
    assert float(lines["perplexity"]) == pytest.approx(result["perplexity"], rel=1e-8)
    n_bytes = len("hello hello") - len("he")  # the first token is not scored
    bits = -result["sum_logprob"] / math.log(2) / n_bytes
    assert float(lines["bits"].split()[-1]) == pytest.approx(bits, rel=1e-7)


def test_windows_score_each_token_in_its_own_context(bare):
    """A token has before it what the first window holds that holds the token before it."""
    ids = random_ids(40)
    n_window, n_stride = 16, 6
    whole = score_json(bare, ids, "--window", n_window, "--stride", n_stride, "--kv", "f32")
    expected = []
    for begin in range(0, len(ids), n_stride):
        part = score_json(bare, ids[begin:begin + n_window + 1], "--kv", "f32")["token_logprobs"]
        expected += part[len(expected) - begin:]
    assert whole["token_logprobs"][0] is None and expected[0] is None
    assert len(expected) == len(ids)
    assert whole["token_logprobs"][1:] == pytest.approx(expected[1:], abs=5e-5)


def test_text_longer_than_the_context_is_scored_whole(bare):
    result = score_json(bare, random_ids(500))
    assert result["n_scored"] == 499 and None not in result["token_logprobs"][1:]


@pytest.mark.parametrize("words, message", [
    (("--window", 129), "--window: expected at most the context of 128 tokens, found 129"),
    (("--stride", 129), "--stride: expected at most the window of 128 tokens, found 129"),
    (("--window", 20, "-c", 10), "--window: expected at most the context of 10"),
])
def test_windows_beyond_the_context_are_refused(bare, words, message):
    result = run("score", "-m", bare, "--ids", "1,2,3", *words)
    assert result.code == 2 and message in result.err and result.out == b""


def test_text_needs_a_tokenizer(bare):
    result = run("score", "-m", bare, "-p", "hello")
    assert result.code == 1 and "tokenizer.json: not found" in result.err


def test_an_id_outside_the_vocabulary_is_named(bare):
    result = run("score", "-m", bare, "--ids", "1,2,260,3")
    assert result.code == 1 and "260" in result.err


def test_an_empty_file_is_refused(tiny):
    result = run("score", "-m", tiny, "--file", "-", stdin=b"")
    assert result.code == 1 and "at least one token" in result.err


def test_threads_change_no_bit(bare):
    ids = random_ids(100)
    assert score_json(bare, ids, "-t", 1) == score_json(bare, ids, "-t", 2)


def test_the_bundled_model_prefers_english_to_noise(classics):
    def perplexity(text):
        return run_ok("score", "-p", text, "--format", "json").json["perplexity"]
    assert perplexity("It was a bright morning, and the old man went down to the sea.") < \
        0.1 * perplexity("sea the to down; went It bright morning old and man was the, a.")
