"""Streamed completions: server-sent events that join to what is not streamed."""
import json
import time
from concurrent.futures import ThreadPoolExecutor

from conftest import SLOWDOWN, parse_events

GREEDY = {"temperature": 0}
PROMPT = "It was a bright morning, and"


def join(events) -> dict:
    """Text and finish of each choice, by its index."""
    texts, ends = {}, {}
    for event in events:
        for choice in event["choices"]:
            i = choice["index"]
            assert i not in ends
            texts[i] = texts.get(i, "") + choice["text"]
            if choice["finish_reason"] is not None:
                ends[i] = choice["finish_reason"]
    assert set(texts) == set(ends)
    return {i: (texts[i], ends[i]) for i in texts}


def whole(server, **fields) -> dict:
    return {choice["index"]: (choice["text"], choice["finish_reason"])
            for choice in server.complete(**fields)["choices"]}


def test_a_stream_joins_to_the_whole(server):
    for fields in ({"prompt": PROMPT, "max_tokens": 30, **GREEDY},
                   {"prompt": PROMPT, "max_tokens": 9, "echo": True, "seed": 1},
                   {"prompt": [PROMPT, "The", [5, 6]], "max_tokens": 9, "n": 3, "seed": 2},
                   {"prompt": PROMPT, "max_tokens": 0, "echo": True},
                   {"prompt": PROMPT, "max_tokens": 0}):
        assert join(server.stream(**fields)) == whole(server, **fields)


def test_chunks_have_one_id_and_the_form_of_openai(server):
    events = server.stream(prompt=PROMPT, max_tokens=4)
    assert len({event["id"] for event in events}) == 1
    for event in events:
        assert set(event) == {"id", "object", "created", "model", "system_fingerprint", "choices"}
        assert event["object"] == "text_completion"


def test_usage_comes_last_if_it_is_asked_for(server):
    events = server.stream(prompt=PROMPT, max_tokens=4, stream_options={"include_usage": True})
    assert all(event["usage"] is None for event in events[:-1])
    assert events[-1]["choices"] == []
    assert events[-1]["usage"]["completion_tokens"] == 4


def test_logprobs_of_a_stream_are_those_of_the_whole(server):
    fields = {"prompt": PROMPT, "max_tokens": 6, "logprobs": 3, "echo": True, **GREEDY}
    expected = server.choice(**fields)["logprobs"]
    joined = {name: [] for name in expected}
    for event in server.stream(**fields):
        for name, values in (event["choices"][0]["logprobs"] or {}).items():
            joined[name] += values
    assert joined == expected


def test_a_stop_string_never_leaks(server):
    text = server.choice(prompt=PROMPT, max_tokens=40, **GREEDY)["text"]
    for start in range(5, 15):
        stop = text[start:start + 7]
        events = server.stream(prompt=PROMPT, max_tokens=40, stop=[stop], **GREEDY)
        assert join(events)[0] == (text[:text.find(stop)], "stop")


def test_no_character_is_cut(server):
    """The bytes of a character are a token each here, and come in one piece all the same."""
    ids = server.post("/tokenize", {"prompt": "ÿ"}).json["tokens"]
    assert len(ids) == 2
    # The first byte is the more probable one, until the penalties have told on it.
    fields = {"prompt": "ÿ", "max_tokens": 6, "logit_bias": {str(i): 40 for i in ids},
              "presence_penalty": 2, "frequency_penalty": 2, **GREEDY}
    choice = server.choice(logprobs=0, **fields)
    assert ["bytes:\\xc3", "bytes:\\xbf"] in [choice["logprobs"]["tokens"][i:i + 2] for i in range(5)]
    pieces = [event["choices"][0]["text"] for event in server.stream(**fields)]
    assert "".join(pieces) == choice["text"]
    assert any("ÿ" in piece for piece in pieces)


def test_the_first_token_comes_before_the_last(server):
    connection = server.connect()
    body = json.dumps({"prompt": PROMPT, "max_tokens": 400, "stream": True, "ignore_eos": True})
    start = time.monotonic()
    connection.request("POST", "/v1/completions", body)
    response = connection.getresponse()
    first = response.readline()
    first_s = time.monotonic() - start
    rest = response.read()
    assert first_s < 0.5 * (time.monotonic() - start)
    assert len(parse_events(first + rest)) > 100
    connection.close()


def test_streams_computed_together_are_each_whole_and_come_piece_by_piece(server):
    def ask(i: int) -> tuple:
        fields = {"prompt": PROMPT, "max_tokens": 200, "seed": i, "ignore_eos": True}
        connection = server.connect()
        connection.request("POST", "/v1/completions", json.dumps({"stream": True, **fields}))
        response, pieces = connection.getresponse(), []
        while piece := response.read1(65536):
            pieces.append(piece)
        connection.close()
        assert join(parse_events(b"".join(pieces))) == whole(server, **fields)
        return len(pieces)

    with ThreadPoolExecutor(8) as pool:
        assert all(n > 10 for n in pool.map(ask, range(8)))


def test_a_connection_is_kept_after_a_stream(server):
    connection = server.connect()
    for _ in range(3):
        connection.request("POST", "/v1/completions",
                           json.dumps({"prompt": PROMPT, "max_tokens": 2, "stream": True}))
        response = connection.getresponse()
        assert response.getheader("transfer-encoding") == "chunked"
        parse_events(response.read())
        assert connection.sock is not None
    connection.close()


def test_a_client_that_goes_away_ends_its_work(server):
    for fields in ({"stream": True}, {}):
        before = server.metric("requests_cancelled_total")
        connection = server.connect()
        connection.request("POST", "/v1/completions", json.dumps(
            {"prompt": [PROMPT] * 64, "n": 16, "max_tokens": 400, "ignore_eos": True, **fields}))
        if fields:
            connection.getresponse().readline()
        else:
            while server.metric("choices_running") == 0:
                time.sleep(0.01)
        connection.sock.shutdown(2)
        connection.close()
        start = time.monotonic()
        while server.metric("requests_cancelled_total") == before:
            assert time.monotonic() - start < 10 * SLOWDOWN
            time.sleep(0.01)
        assert server.metric("choices_running") == 0
