"""OpenAI's Python client, unchanged, against the server; answers are those of the command line."""
import contextlib
import time

import openai
import pytest
from conftest import command_line, serving

PROMPT = "It was a dark night, and"
OTHER = "The captain of the ship"

# Prompts are evaluated in other portions here than there: sums of floats differ by some units of
# the last place of a logit, 2^-24 × 16, and the KV cache's half floats may round to the other side.
TOLERANCE = 5e-3


@pytest.fixture(scope="module")
def client(server):
    return openai.OpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0)


def complete(client, prompt=PROMPT, **settings):
    settings = {"max_tokens": 12, "temperature": 0, **settings}
    return client.completions.create(model="classics", prompt=prompt, **settings)


def generate(prompt=PROMPT, n=12, *words):
    return command_line("generate", "-p", prompt, "-n", n, *words)


def test_the_model_is_listed_and_described(client):
    [model] = client.models.list().data
    assert client.models.retrieve(model.id) == model
    assert model.id == "classics" and model.owned_by
    assert model.model_extra["meta"]["n_params"] == command_line("inspect")["n_parameters"]
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("nothing")


def test_a_completion_is_what_the_command_line_generates(client):
    answer, expected = complete(client), generate()
    assert answer.object == "text_completion" and answer.id.startswith("cmpl-")
    [choice] = answer.choices
    assert choice.text == expected["text"]
    assert choice.finish_reason == "length" == expected["finish_reason"]
    assert answer.usage.prompt_tokens == len(expected["prompt_ids"])
    assert answer.usage.completion_tokens == 12
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + 12
    assert answer.system_fingerprint


def test_ids_are_a_prompt_like_their_text(client):
    ids = generate(n=0)["prompt_ids"]
    assert complete(client, ids).choices[0].text == complete(client).choices[0].text


@pytest.mark.parametrize("settings", [{}, {"temperature": 1, "seed": 5},
                                      {"temperature": 0.8, "seed": 6, "top_p": 0.9,
                                       "max_tokens": 60}])
def test_a_stream_joins_to_the_whole_answer(client, settings):
    whole = complete(client, **settings)
    chunks = list(complete(client, stream=True, stream_options={"include_usage": True},
                           **settings))
    assert "".join(c.choices[0].text for c in chunks if c.choices) == whole.choices[0].text
    assert chunks[-1].choices == [] and chunks[-1].usage.total_tokens == whole.usage.total_tokens
    reasons = [c.choices[0].finish_reason for c in chunks if c.choices]
    assert reasons[-1] == whole.choices[0].finish_reason and set(reasons[:-1]) == {None}
    assert len({chunk.id for chunk in chunks}) == 1


def test_a_stream_comes_piece_by_piece(client):
    """The first text is there long before the last."""
    begin, times = time.monotonic(), []
    for _ in complete(client, stream=True, max_tokens=300, extra_body={"ignore_eos": True}):
        times.append(time.monotonic() - begin)
    assert len(times) >= 300
    assert times[0] < 0.5 * times[-1]


def test_log_probabilities_are_those_of_the_command_line(client):
    logprobs = complete(client, logprobs=5).choices[0].logprobs
    expected = generate(PROMPT, 12, "--top-logprobs", 5)
    assert logprobs.token_logprobs == pytest.approx(expected["logprobs"], abs=TOLERANCE)
    text = complete(client).choices[0].text
    assert "".join(logprobs.tokens) == text
    for token, logprob, top, offset in zip(logprobs.tokens, logprobs.token_logprobs,
                                           logprobs.top_logprobs, logprobs.text_offset):
        assert top[token] == logprob == max(top.values())  # greedy
        assert 5 <= len(top) <= 6
        assert text[offset:].startswith(token)


def test_streamed_log_probabilities_are_the_same(client):
    whole = complete(client, logprobs=2).choices[0].logprobs
    parts = [chunk.choices[0].logprobs for chunk in complete(client, logprobs=2, stream=True)
             if chunk.choices and chunk.choices[0].logprobs]
    assert [token for part in parts for token in part.tokens] == whole.tokens
    assert [x for part in parts for x in part.text_offset] == whole.text_offset
    assert [x for part in parts for x in part.token_logprobs] == \
        pytest.approx(whole.token_logprobs, abs=TOLERANCE)


def test_echo_scores_a_prompt_as_the_command_line_does(client):
    choice = complete(client, echo=True, max_tokens=0, logprobs=1).choices[0]
    expected = command_line("score", "-p", PROMPT)["token_logprobs"]
    assert choice.text == PROMPT == "".join(choice.logprobs.tokens)
    assert choice.logprobs.token_logprobs[0] is None is expected[0]
    assert choice.logprobs.token_logprobs[1:] == pytest.approx(expected[1:], abs=TOLERANCE)
    assert choice.logprobs.top_logprobs[0] is None
    for token, logprob, top in list(zip(choice.logprobs.tokens, choice.logprobs.token_logprobs,
                                        choice.logprobs.top_logprobs))[1:]:
        assert top[token] == logprob and max(top.values()) >= logprob


def test_echo_puts_the_prompt_before_the_text(client):
    plain, echoed = complete(client), complete(client, echo=True)
    assert echoed.choices[0].text == PROMPT + plain.choices[0].text


def test_choices_come_in_the_order_prompt_times_n(client):
    settings = {"temperature": 1, "seed": 3, "n": 3}
    answer = complete(client, [PROMPT, OTHER], **settings)
    assert [choice.index for choice in answer.choices] == list(range(6))
    texts = [choice.text for choice in answer.choices]
    assert len(set(texts)) == 6
    assert [c.text for c in complete(client, PROMPT, **settings).choices] == texts[:3]
    greedy = [choice.text for choice in complete(client, [PROMPT, OTHER]).choices]
    assert greedy == [generate(PROMPT)["text"], generate(OTHER)["text"]]
    assert answer.usage.completion_tokens <= 6 * 12


def test_a_seed_gives_the_same_text_again(client):
    texts = [complete(client, temperature=1, seed=seed, max_tokens=30).choices[0].text
             for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]
    expected = generate(PROMPT, 30, "--temperature", 1, "--seed", 1)["text"]
    assert texts[0] == expected


def test_a_stop_text_ends_the_answer_and_never_leaks(client):
    text = complete(client, max_tokens=40).choices[0].text
    stop = text[10:13]
    whole = complete(client, max_tokens=40, stop=[stop, "never to be seen"]).choices[0]
    assert whole.text == text[:text.index(stop)] and whole.finish_reason == "stop"
    seen = ""
    for chunk in complete(client, max_tokens=40, stop=stop, stream=True):
        seen += chunk.choices[0].text
        assert stop not in seen
    assert seen == whole.text


def test_banned_tokens_do_not_come(client):
    first = command_line("generate", "-p", PROMPT, "-n", 1)["ids"][0]
    text = complete(client, logit_bias={str(first): -100}).choices[0].text
    assert text != complete(client).choices[0].text


@pytest.mark.parametrize("settings, word", [
    ({"max_tokens": -1}, "max_tokens"),
    ({"max_tokens": "many"}, "max_tokens"),
    ({"temperature": -1}, "temperature"),
    ({"prompt": ["a", 1]}, "prompt"),
    ({"prompt": [10**9]}, "prompt"),
    ({"prompt": "word " * 3000}, "context"),
    ({"suffix": "the end"}, "suffix"),
    ({"stop": [""]}, "stop"),
    ({"n": 0}, "n"),
])
def test_what_is_wrong_is_named(client, settings, word):
    with pytest.raises(openai.BadRequestError) as caught:
        complete(client, **settings)
    assert caught.value.status_code == 400
    assert word in caught.value.body["message"] and caught.value.body["type"]


def test_a_base_model_does_not_chat(client):
    with pytest.raises(openai.BadRequestError, match="chat template"):
        client.chat.completions.create(model="classics",
                                       messages=[{"role": "user", "content": "Hello"}])


def test_a_key_is_asked_for_when_it_is_set():
    with serving("--api-key", "secret") as server:
        def reach(key):
            client = openai.OpenAI(base_url=server.url + "/v1", api_key=key, max_retries=0)
            return complete(client, max_tokens=1)
        assert reach("secret").choices
        with pytest.raises(openai.AuthenticationError):
            reach("guess")


def running(server):
    """What is in work or waits for it, by /metrics."""
    lines = [line for line in server.get("/metrics").splitlines() if line and line[0] != "#"]
    values = dict(line.rsplit(" ", 1) for line in lines)
    return int(values["clusterfusion_choices_running"]) + \
        int(values["clusterfusion_requests_waiting"])


def test_a_client_that_goes_away_ends_its_work(server, client):
    for _ in range(4):
        stream = complete(client, stream=True, max_tokens=400, extra_body={"ignore_eos": True})
        with contextlib.closing(stream):
            next(iter(stream))
    deadline = time.monotonic() + 10
    while running(server) > 0 and time.monotonic() < deadline:
        time.sleep(0.02)
    assert running(server) == 0
    assert complete(client).choices[0].text == generate()["text"]
