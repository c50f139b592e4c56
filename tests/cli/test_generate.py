"""clusterfusion generate."""
import json
import math
import re

import pytest
from checkpoints import write_checkpoint
from conftest import run, run_ok

KEYS = ["prompt_ids", "ids", "text", "finish_reason", "logprobs", "stats"]
STATS_LINE = re.compile(
    r"^prompt (\d+) tokens, [\d.]+ ms, [\d.]+ tokens/s; generated (\d+) tokens, [\d.]+ ms, "
    r"[\d.]+ tokens/s; (stop|length); logits ([0-9a-f]{16}); .+\n$")


def generate_json(model, *words, **settings):
    return run_ok("generate", "-m", model, "--format", "json", *words, **settings).json


def test_text_is_prompt_text_newline_and_a_stats_line(tiny):
    result = run_ok("generate", "-m", tiny, "-p", "hello", "-n", 12, "--ignore-eos")
    whole = generate_json(tiny, "-p", "hello", "-n", 12, "--ignore-eos")
    assert result.text == "hello" + whole["text"] + "\n"
    match = STATS_LINE.match(result.err)
    assert match and match.groups() == ("3", "12", "length", whole["stats"]["logits_hash"])


def test_no_prompt_leaves_the_prompt_out(tiny):
    words = ("generate", "-m", tiny, "-p", "hello", "-n", 5, "--ignore-eos")
    assert "hello" + run_ok(*words, "--no-prompt").text == run_ok(*words).text


def test_json_has_exactly_its_keys(tiny):
    result = generate_json(tiny, "-p", "hello", "-n", 7, "--ignore-eos")
    assert list(result) == KEYS
    assert result["prompt_ids"] == [257, 258, 111]
    assert len(result["ids"]) == len(result["logprobs"]) == 7
    assert all(value < 0 for value in result["logprobs"])
    assert result["finish_reason"] == "length"
    stats = result["stats"]
    assert (stats["n_prompt"], stats["n_tokens"]) == (3, 7)
    assert re.fullmatch("[0-9a-f]{16}", stats["logits_hash"])
    assert stats["backend"] in ("cpu", "cuda")


def test_log_probabilities_are_those_that_score_gives(tiny):
    result = generate_json(tiny, "-p", "hello", "-n", 20, "--ignore-eos", "--kv", "f32",
                           "--temperature", 1, "--repetition-penalty", 1.3)
    ids = ",".join(map(str, result["prompt_ids"] + result["ids"]))
    scored = run_ok("score", "-m", tiny, "--ids", ids, "--kv", "f32", "--format", "json").json
    # Sums of 32 terms in another order: float32's 6e-8 × 32 × logits of some 10 units.
    for a, b in zip(result["logprobs"], scored["token_logprobs"][3:]):
        assert a == pytest.approx(b, abs=5e-5)


def test_each_id_that_the_config_lists_ends_it(tiny, tmp_path):
    words = ("-p", "hello", "-n", 20, "--ignore-eos")
    ids = generate_json(tiny, *words)["ids"]
    end = next(i for i in range(5, 20) if ids[i] not in ids[:i])
    other = write_checkpoint(tmp_path / "other", eos_token_id=[256, ids[end]])
    stopped = generate_json(other, *words[:-1])
    assert stopped["ids"] == ids[:end + 1] and stopped["finish_reason"] == "stop"
    assert generate_json(other, *words)["ids"] == ids


def test_the_prompt_may_come_from_a_file_or_stdin(tiny, tmp_path):
    words = ("-n", 6, "--ignore-eos")
    expected = generate_json(tiny, "-p", "hello\n", *words)["ids"]
    path = tmp_path / "prompt"
    path.write_bytes(b"hello\n")
    assert generate_json(tiny, "--prompt-file", path, *words)["ids"] == expected
    assert generate_json(tiny, "--prompt-file", "-", *words, stdin=b"hello\n")["ids"] == expected
    assert generate_json(tiny, "--prompt-ids", "257,258,111,10", *words)["ids"] == expected


def test_ids_are_enough_without_a_tokenizer(bare, tiny):
    words = ("--prompt-ids", "1,2,3", "-n", 6, "--ignore-eos")
    result = generate_json(bare, *words)
    assert result["ids"] == generate_json(tiny, *words)["ids"]
    assert result["text"] == ""
    text = run_ok("generate", "-m", bare, *words).text
    assert text == " ".join(map(str, [1, 2, 3] + result["ids"])) + "\n"
    text = run_ok("generate", "-m", bare, *words, "--no-prompt").text
    assert text == " ".join(map(str, result["ids"])) + "\n"


def test_text_without_a_tokenizer_is_refused(bare, tiny):
    for words in (("-p", "a"), ("--prompt-ids", "1", "--stop", "x")):
        result = run("generate", "-m", bare, *words)
        assert result.code == 1
        assert "tokenizer.json: not found" in result.err and "--tokenizer FILE" in result.err
    assert run_ok("generate", "-m", bare, "--tokenizer", tiny, "-p", "a", "-n", 1)


def test_ids_with_a_tokenizer_print_their_text(tiny):
    result = run_ok("generate", "-m", tiny, "--prompt-ids", "257,258,111", "-n", 0)
    assert result.text == "hello\n"


def test_the_end_of_text_token_is_among_the_ids_and_ends(tiny):
    for seed in range(40):
        words = ("-p", "hello", "-n", 100, "--temperature", 3, "--seed", seed)
        result = generate_json(tiny, *words)
        if result["finish_reason"] == "stop":
            assert result["ids"][-1] == 256 and result["ids"].count(256) == 1
            assert len(result["logprobs"]) == len(result["ids"])
            longer = generate_json(tiny, *words, "--ignore-eos")
            assert longer["ids"][:len(result["ids"])] == result["ids"]
            assert len(longer["ids"]) == 100
            return
    pytest.fail("no end of text in 40 generations of 100 tokens among 260")


def test_a_stop_text_ends_and_is_not_printed(tiny):
    words = ("-p", "hello", "-n", 60, "--temperature", 2, "--ignore-eos")
    whole = generate_json(tiny, *words)["text"]
    middle = len(whole) // 2
    stop = whole[middle:middle + 3]
    stopped = generate_json(tiny, *words, "--stop", "never there", "--stop", stop)
    assert stopped["finish_reason"] == "stop"
    assert stopped["text"] == whole[:whole.index(stop)]
    text = run_ok("generate", "-m", tiny, *words, "--stop", stop, "--no-prompt").text
    assert text == stopped["text"] + "\n"


def test_the_same_seed_gives_the_same_text_and_another_another(tiny):
    def text(seed):
        return run_ok("generate", "-m", tiny, "-p", "hello", "-n", 40, "--temperature", 1.5,
                      "--ignore-eos", "--seed", seed).out
    assert text(7) == text(7)
    assert len({text(seed) for seed in (0, 1, 2, 18446744073709551615)}) == 4


def test_greedy_takes_no_notice_of_the_seed(tiny):
    assert generate_json(tiny, "-p", "hello", "-n", 20, "--seed", 1)["ids"] == \
        generate_json(tiny, "-p", "hello", "-n", 20, "--seed", 2)["ids"]


def test_top_k_of_one_is_greedy(tiny):
    greedy = generate_json(tiny, "-p", "hello", "-n", 20)["ids"]
    for words in (("--top-k", 1), ("--top-p", "1e-6"), ("--min-p", 0.999999)):
        assert generate_json(tiny, "-p", "hello", "-n", 20, "--temperature", 1, *words)["ids"] == \
            greedy


def test_threads_change_no_bit(tiny):
    one, two = (generate_json(tiny, "-p", "hello", "-n", 40, "-t", n) for n in (1, 2))
    assert one["ids"] == two["ids"] and one["logprobs"] == two["logprobs"]
    assert one["stats"]["logits_hash"] == two["stats"]["logits_hash"]


def test_a_full_context_ends_with_length(tiny):
    result = generate_json(tiny, "-p", "hello", "-n", 1000, "-c", 20, "--ignore-eos")
    assert result["finish_reason"] == "length"
    assert 17 <= len(result["ids"]) <= 18  # the last token chosen needs no place


def test_a_prompt_longer_than_the_context_is_refused(tiny):
    result = run("generate", "-m", tiny, "-p", "x y z x y z x y z", "-c", 4)
    assert result.code == 1 and result.out == b""
    assert "4" in result.err and "17" in result.err


def test_no_new_tokens_are_no_failure(tiny):
    result = generate_json(tiny, "-p", "hello", "-n", 0)
    assert result["ids"] == [] and result["text"] == "" and result["finish_reason"] == "length"
    assert run_ok("generate", "-m", tiny, "-p", "hello", "-n", 0).text == "hello\n"


def test_an_id_outside_the_vocabulary_is_named(tiny):
    result = run("generate", "-m", tiny, "--prompt-ids", "1,260")
    assert result.code == 1 and "260" in result.err


def test_an_empty_prompt_file_is_refused(tiny, tmp_path):
    path = tmp_path / "empty"
    path.write_bytes(b"")
    result = run("generate", "-m", tiny, "--prompt-file", path)
    assert result.code == 1 and "expected text of at least one token" in result.err


def test_a_missing_prompt_file_is_named(tiny):
    result = run("generate", "-m", tiny, "--prompt-file", "/nowhere/prompt")
    assert result.code == 1 and "/nowhere/prompt: No such file" in result.err


def test_a_folder_is_no_prompt_file(tiny, tmp_path):
    result = run("generate", "-m", tiny, "--prompt-file", tmp_path)
    assert result.code == 1 and "Is a directory" in result.err


def test_zero_bytes_and_bad_utf8_are_read_as_characters(tiny):
    result = generate_json(tiny, "--prompt-file", "-", "-n", 1, stdin=b"a\0b")
    assert result["prompt_ids"] == [97, 0, 98]
    result = generate_json(tiny, "--prompt-file", "-", "-n", 1, stdin=b"a\xffb")
    assert result["prompt_ids"] == [97, 0xEF, 0xBF, 0xBD, 98]


def test_json_is_utf8_whatever_the_tokens(tiny):
    for seed in range(5):
        result = run_ok("generate", "-m", tiny, "-p", "hello", "-n", 60, "--temperature", 5,
                        "--seed", seed, "--format", "json")
        json.loads(result.out.decode("utf-8", "strict"))


def test_alternatives_are_the_most_probable_tokens(tiny):
    result = generate_json(tiny, "-p", "hello", "-n", 5, "--ignore-eos", "--top-logprobs", 3)
    assert list(result) == KEYS + ["top_logprobs"]
    for id_, logprob, top in zip(result["ids"], result["logprobs"], result["top_logprobs"]):
        assert len(top) == 3
        assert top[0] == {"id": id_, "logprob": logprob}  # greedy
        assert [item["logprob"] for item in top] == \
            sorted((item["logprob"] for item in top), reverse=True)


def test_penalties_keep_tokens_from_coming_again(tiny):
    plain = generate_json(tiny, "-p", "hello", "-n", 50, "--ignore-eos")["ids"]
    for option in ("--presence-penalty", "--frequency-penalty", "--repetition-penalty"):
        varied = generate_json(tiny, "-p", "hello", "-n", 50, "--ignore-eos", option, 100)["ids"]
        assert len(set(varied)) > len(set(plain))


def test_numbers_survive_the_way_through_json(tiny):
    out = run_ok("generate", "-m", tiny, "-p", "hello", "-n", 30, "--format", "json").text
    digits = re.search(r'"logprobs":\[([^\]]*)\]', out).group(1).split(",")
    assert all(math.isfinite(float(value)) for value in digits)
    assert max(len(value.strip("-").replace(".", "").lstrip("0")) for value in digits) >= 8


def test_cuda_where_there_is_none_is_refused(tiny):
    result = run("generate", "-m", tiny, "-p", "a", "-n", 1, "--backend", "cuda")
    assert result.code == 0 or (result.code == 1 and "clusterfusion generate: " in result.err)


def test_the_bundled_model_is_the_default(classics):
    words = ("-p", "It was a", "-n", 8)
    assert run_ok("generate", *words).out == run_ok("generate", "-m", classics, *words).out


def test_the_bundled_model_writes_words(classics):
    text = run_ok("generate", "-p", "It was a bright morning, and", "-n", 64, "--temperature",
                  "0.7").text
    words = re.findall("[A-Za-z]+", text)
    common = {"the", "and", "of", "to", "a", "in", "he", "she", "was", "it", "that", "his", "her",
              "i", "with", "as", "had", "for", "you", "not", "at", "on", "be", "is", "but"}
    # In English prose about 40 % of the words are among these; in noise nearly none.
    assert sum(word.lower() in common for word in words) > 0.2 * len(words)
