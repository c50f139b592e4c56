"""POST /v1/completions: what each field does, and the form of the answers."""
import json
import subprocess

import pytest

from conftest import PROGRAM

GREEDY = {"temperature": 0}
PROMPT = "It was a bright morning, and"


def run_json(*words):
    return json.loads(subprocess.run([PROGRAM, *map(str, words)], capture_output=True, check=True,
                                     timeout=120).stdout)


def test_an_answer_has_the_form_of_openai(server):
    answer = server.complete(prompt=PROMPT, max_tokens=5)
    assert set(answer) == {"id", "object", "created", "model", "system_fingerprint", "choices",
                           "usage"}
    assert answer["id"].startswith("cmpl-")
    assert answer["object"] == "text_completion"
    assert answer["model"] == "classics"
    assert set(answer["choices"][0]) == {"index", "text", "logprobs", "finish_reason"}
    assert answer["choices"][0]["logprobs"] is None
    assert answer["usage"]["completion_tokens"] == 5
    assert answer["usage"]["total_tokens"] == answer["usage"]["prompt_tokens"] + 5
    assert server.complete(prompt=PROMPT, max_tokens=1)["id"] != answer["id"]


def test_greedy_text_is_that_of_the_command_line(server):
    expected = run_json("generate", "-p", PROMPT, "-n", 40, "--temperature", 0, "--format", "json")
    choice = server.choice(prompt=PROMPT, max_tokens=40, **GREEDY)
    assert choice["text"] == expected["text"]
    assert choice["finish_reason"] == expected["finish_reason"]


def test_sixteen_tokens_are_the_default(server):
    for fields in ({}, {"max_tokens": None}):
        usage = server.complete(prompt=PROMPT, ignore_eos=True, **fields)["usage"]
        assert usage["completion_tokens"] == 16


def test_prompts_come_as_text_texts_ids_or_lists_of_ids(server):
    ids = server.post("/tokenize", {"prompt": PROMPT}).json["tokens"]
    text = server.choice(prompt=PROMPT, max_tokens=8, **GREEDY)["text"]
    assert server.choice(prompt=ids, max_tokens=8, **GREEDY)["text"] == text
    assert server.choice(prompt=[PROMPT], max_tokens=8, **GREEDY)["text"] == text
    both = server.complete(prompt=[ids, ids[:2]], max_tokens=8, **GREEDY)["choices"]
    assert [choice["index"] for choice in both] == [0, 1]
    assert both[0]["text"] == text
    assert both[1]["text"] == server.choice(prompt=ids[:2], max_tokens=8, **GREEDY)["text"]


def test_no_prompt_is_the_end_of_text_token(server):
    text = server.choice(prompt=[0], max_tokens=8, **GREEDY)["text"]
    for fields in ({}, {"prompt": None}, {"prompt": ""}):
        assert server.choice(max_tokens=8, **GREEDY, **fields)["text"] == text


def test_choices_are_ordered_by_prompt_then_by_number(server):
    prompts = ["She said", "The whale"]
    answer = server.complete(prompt=prompts, n=3, seed=5, max_tokens=6)
    assert [choice["index"] for choice in answer["choices"]] == list(range(6))
    for i, prompt in enumerate(prompts):
        alone = server.complete(prompt=prompt, n=3, seed=5, max_tokens=6)["choices"]
        assert [choice["text"] for choice in alone] == [
            choice["text"] for choice in answer["choices"][3 * i:3 * i + 3]]


def test_a_seed_repeats_and_choices_of_one_seed_differ(server):
    texts = [[choice["text"] for choice in
              server.complete(prompt=PROMPT, n=4, seed=seed, max_tokens=12)["choices"]]
             for seed in (7, 7, 8)]
    assert texts[0] == texts[1] != texts[2]
    assert len(set(texts[0])) == 4
    assert server.choice(prompt=PROMPT, seed=9, max_tokens=12)["text"] == texts[0][2]


def test_without_a_seed_answers_differ(server):
    assert len({server.choice(prompt=PROMPT, max_tokens=12)["text"] for _ in range(4)}) > 1


def test_best_of_gives_the_most_probable_on_average(server):
    fields = {"prompt": PROMPT, "seed": 3, "max_tokens": 6, "logprobs": 0, "ignore_eos": True}
    every = server.complete(n=6, **fields)["choices"]
    every.sort(key=lambda choice: -sum(choice["logprobs"]["token_logprobs"]))
    answer = server.complete(n=2, best_of=6, **fields)
    assert [c["text"] for c in answer["choices"]] == [c["text"] for c in every[:2]]
    assert answer["usage"]["completion_tokens"] == 36


def test_stop_strings_end_the_text_before_them(server):
    text = server.choice(prompt=PROMPT, max_tokens=40, **GREEDY)["text"]
    for stop in (text[9:12], [text[20:24], "never", text[9:12]], [text[9:10], "x" * 1000]):
        choice = server.choice(prompt=PROMPT, max_tokens=40, stop=stop, **GREEDY)
        first = min(text.find(one) for one in ([stop] if isinstance(stop, str) else stop)
                    if one in text)
        assert choice["text"] == text[:first]
        assert choice["finish_reason"] == "stop"


def test_penalties_and_biases_change_the_text(server):
    plain = server.choice(prompt=PROMPT, max_tokens=30, logprobs=0, **GREEDY)
    for fields in ({"repetition_penalty": 1.5}, {"presence_penalty": 2.0},
                   {"frequency_penalty": 2.0}):
        assert server.choice(prompt=PROMPT, max_tokens=30, **GREEDY, **fields)["text"] != \
            plain["text"]
    first = server.post("/tokenize", {"prompt": plain["logprobs"]["tokens"][0]}).json["tokens"][0]
    banned = server.choice(prompt=PROMPT, max_tokens=1, logprobs=0, logit_bias={str(first): -100},
                           **GREEDY)
    assert banned["logprobs"]["tokens"] != plain["logprobs"]["tokens"][:1]
    forced = server.choice(prompt=PROMPT, max_tokens=3, logprobs=0, logit_bias={"259": 100},
                           **GREEDY)
    assert forced["text"] == " a a a"


def test_filters_that_leave_one_token_are_greedy(server):
    greedy = server.choice(prompt=PROMPT, max_tokens=12, **GREEDY)["text"]
    for fields in ({"top_k": 1}, {"top_p": 0}, {"top_p": 1e-6}, {"min_p": 1}):
        assert server.choice(prompt=PROMPT, max_tokens=12, **fields)["text"] == greedy


def test_the_end_of_text_can_be_asked_for_or_ignored(server):
    end = {"0": 100}
    choice = server.choice(prompt=PROMPT, logit_bias=end, max_tokens=5, logprobs=1, **GREEDY)
    assert (choice["text"], choice["finish_reason"]) == ("", "stop")
    assert choice["logprobs"]["tokens"] == ["<|endoftext|>"]
    choice = server.choice(prompt=PROMPT, logit_bias=end, max_tokens=5, ignore_eos=True, **GREEDY)
    assert choice["text"] == 5 * "<|endoftext|>"
    answer = server.complete(prompt=PROMPT, logit_bias=end, max_tokens=5, min_tokens=3, **GREEDY)
    assert answer["usage"]["completion_tokens"] == 4
    assert answer["choices"][0]["finish_reason"] == "stop"


def test_unknown_fields_and_nulls_are_ignored(server):
    nulls = {name: None for name in (
        "temperature", "top_p", "top_k", "min_p", "n", "best_of", "stop", "seed", "echo",
        "presence_penalty", "frequency_penalty", "repetition_penalty", "logit_bias", "logprobs",
        "stream", "stream_options", "ignore_eos", "min_tokens", "suffix", "user", "model")}
    assert server.choice(prompt=PROMPT, user="me", metadata={"a": [1]}, mirostat=2, max_tokens=1)
    assert server.choice(prompt=PROMPT, max_tokens=1, **nulls)


def test_generation_ends_where_the_context_does(server):
    answer = server.complete(prompt=[5] * 510, max_tokens=1000, ignore_eos=True)
    assert answer["usage"]["completion_tokens"] == 3
    assert answer["choices"][0]["finish_reason"] == "length"


def test_a_prompt_that_was_read_before_is_not_read_again(serve):
    server = serve("--parallel", 2)
    ids = list(range(100, 300))
    first = server.complete(prompt=ids, max_tokens=4, **GREEDY)
    assert first["usage"]["prompt_tokens_details"]["cached_tokens"] == 0
    other = server.complete(prompt=list(range(500, 600)), max_tokens=4, **GREEDY)
    assert other["usage"]["prompt_tokens_details"]["cached_tokens"] == 0
    again = server.complete(prompt=ids[:150] + [7, 8], max_tokens=4, **GREEDY)
    assert again["usage"]["prompt_tokens_details"]["cached_tokens"] == 150
    again = server.complete(prompt=ids, max_tokens=4, **GREEDY)
    assert again["usage"]["prompt_tokens_details"]["cached_tokens"] == 150
    assert again["choices"] == first["choices"]


@pytest.mark.parametrize("text", ["naïve – “quoted” 日本語 🙂", "a\u0000b", "<|endoftext|>", "\n"])
def test_any_text_is_a_prompt(server, text):
    assert server.choice(prompt=text, echo=True, max_tokens=0)["text"] == text
