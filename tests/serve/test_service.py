"""Everything around completions: models, tokens, metrics, keys, origins, queues, signals."""
import json
import signal
import subprocess
import threading
import time

import pytest

from conftest import PROGRAM, Server

LONG = {"prompt": "It was", "max_tokens": 300, "ignore_eos": True}


def test_models_are_listed_and_found(server):
    listing = server.get("/v1/models").json
    assert listing["object"] == "list"
    [model] = listing["data"]
    assert (model["id"], model["object"]) == ("classics", "model")
    assert {"created", "owned_by"} <= set(model)
    assert server.get("/v1/models/classics").json == model


def test_an_alias_is_the_models_name(serve):
    server = serve("--alias", "EleutherAI/small one")
    assert server.get("/v1/models").json["data"][0]["id"] == "EleutherAI/small one"
    assert server.get("/v1/models/EleutherAI/small%20one").status == 200
    assert server.complete(prompt="a", max_tokens=1)["model"] == "EleutherAI/small one"
    assert server.get("/v1/models/classics").status == 404


def test_health_and_the_page_answer(server):
    assert server.get("/health").json == {"status": "ok"}
    page = server.get("/")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert page.body.lower().startswith(b"<!doctype html>")
    head = server.request("HEAD", "/")
    assert head.status == 200 and head.body == b""
    assert int(head.headers["content-length"]) == len(page.body)


@pytest.mark.parametrize("text", ["It was a bright morning.", "", "naïve 日本 🙂", " a\n\n  b",
                                  "<|endoftext|>", "a\u0000b"])
def test_text_becomes_tokens_and_text_again(server, text):
    ids = json.loads(subprocess.run(
        [PROGRAM, "tokenize", "--jsonl"], input=json.dumps(text).encode() + b"\n",
        capture_output=True, check=True).stdout)
    answer = server.post("/tokenize", {"prompt": text, "add_special_tokens": False}).json
    assert answer["tokens"] == ids and answer["count"] == len(ids)
    assert answer["max_model_len"] == 512
    assert server.post("/tokenize", {"content": text, "add_special": True}).json["tokens"] == ids
    answer = server.post("/detokenize", {"tokens": ids}).json
    assert answer["prompt"] == answer["content"] == text


def test_pieces_are_text_or_bytes(server):
    tokens = server.post("/tokenize", {"content": "It ÿ", "with_pieces": True}).json["tokens"]
    assert tokens[0]["piece"] == "It"
    data = b"".join(bytes(t["piece"]) if isinstance(t["piece"], list) else t["piece"].encode()
                    for t in tokens)
    assert data.decode() == "It ÿ"
    assert any(isinstance(token["piece"], list) for token in tokens)


def test_special_tokens_can_be_read_as_text(server):
    answer = server.post("/tokenize", {"content": "<|endoftext|>", "parse_special": False}).json
    assert len(answer["tokens"]) > 1


@pytest.mark.parametrize("path, body", [
    ("/tokenize", {}), ("/tokenize", {"prompt": 5}), ("/tokenize", {"content": ["a"]}),
    ("/tokenize", {"content": "a", "with_pieces": 1}), ("/detokenize", {}),
    ("/detokenize", {"tokens": "a"}), ("/detokenize", {"tokens": [1.5]}),
    ("/detokenize", {"tokens": [-1]}), ("/detokenize", {"tokens": [4096]}),
    ("/detokenize", {"tokens": [[1]]})])
def test_wrong_token_requests_are_refused(server, path, body):
    answer = server.post(path, body)
    assert answer.status == 400
    assert answer.error["message"]


def test_what_would_hold_other_connections_up_is_413(server):
    for path, body, param in (
            ("/tokenize", {"content": "a" * 1048577}, "content"),
            ("/tokenize", {"prompt": " b" * 65537, "with_pieces": True}, "with_pieces"),
            ("/tokenize", {"prompt": " b" * 65537, "return_token_strs": True}, "return_token_strs"),
            ("/detokenize", {"tokens": [5] * 262145}, "tokens")):
        answer = server.post(path, body)
        assert answer.status == 413 and answer.error["code"] == "text_too_long"
        assert answer.error["param"] == param and "at most" in answer.error["message"]
    assert server.post("/tokenize", {"content": " b" * 524288}).json["count"] > 65536
    assert server.post("/detokenize", {"tokens": [5] * 262144}).status == 200


def test_the_tokenizer_tells_its_special_tokens(server):
    info = server.get("/tokenizer_info").json
    assert info["eos_token"] == info["bos_token"] == "<|endoftext|>"
    assert server.post("/tokenize", {"prompt": info["eos_token"]}).json["tokens"] == [0]


def test_metrics_are_prometheus_text_and_count(server):
    answer = server.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    names = set()
    for line in answer.body.decode().splitlines():
        if line.startswith("# TYPE "):
            names.add(line.split()[2])
        elif not line.startswith("#"):
            name, value = line.rsplit(" ", 1)
            float(value)
            assert any(name.startswith(known) for known in names)
    before = server.metric("generated_tokens_total"), server.metric("prompt_tokens_total")
    server.complete(prompt=[5, 6, 7], max_tokens=4, ignore_eos=True)
    assert server.metric("generated_tokens_total") == before[0] + 4
    assert server.metric("prompt_tokens_total") == before[1] + 3


def test_any_origin_may_ask(server):
    answer = server.request("OPTIONS", "/v1/completions", headers={
        "Origin": "http://example.org", "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization, content-type, x-own"})
    assert answer.status == 204
    assert answer.headers["access-control-allow-origin"] == "*"
    assert "POST" in answer.headers["access-control-allow-methods"]
    assert "x-own" in answer.headers["access-control-allow-headers"]
    for path in ("/v1/models", "/nothing"):
        headers = server.get(path).headers
        assert headers["access-control-allow-origin"] == "*"
        assert headers["access-control-expose-headers"] == "Retry-After"


def test_a_key_is_asked_for_if_one_is_set(serve):
    server = serve("--api-key", "secret")
    body = {"prompt": "a", "max_tokens": 1}
    for header in (None, "Bearer wrong", "Bearer ", "Bearer secre", "Bearer secrets", "secret",
                   "Basic secret", "Bearer secretsecret"):
        headers = {"Authorization": header} if header else {}
        for method, path in (("POST", "/v1/completions"), ("GET", "/v1/models"),
                             ("GET", "/metrics"), ("POST", "/tokenize")):
            answer = server.request(method, path, body if method == "POST" else None, headers)
            assert answer.status == 401
            assert answer.error["code"] == "invalid_api_key"
            assert answer.headers["www-authenticate"] == "Bearer"
    headers = {"Authorization": "Bearer secret"}
    assert server.post("/v1/completions", body, headers=headers).status == 200
    assert server.get("/v1/models", headers=headers).status == 200
    assert server.get("/health").status == server.get("/").status == 200
    assert server.request("OPTIONS", "/v1/completions").status == 204


def test_a_full_queue_is_429(serve):
    server = serve("--parallel", 1, "--max-queue", 1)
    answers = []
    threads = [threading.Thread(target=lambda: answers.append(server.post("/v1/completions", LONG)))
               for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    statuses = sorted(answer.status for answer in answers)
    assert set(statuses) == {200, 429} and statuses.count(200) >= 2
    for answer in answers:
        if answer.status == 429:
            assert answer.error["type"] == "rate_limit_error"
            assert answer.headers["retry-after"]
    assert server.complete(prompt="a", max_tokens=1)


def test_requests_are_computed_in_turns(serve):
    """A short request is answered long before the many long ones that came first."""
    server = serve("--parallel", 2)
    ends = {}

    def ask(name, fields):
        server.complete(**fields)
        ends[name] = time.monotonic()

    many = {**LONG, "prompt": ["It was"] * 8, "max_tokens": 50}
    threads = [threading.Thread(target=ask, args=("many", many))]
    threads[0].start()
    while server.metric("choices_running") == 0:
        time.sleep(0.005)
    threads += [threading.Thread(target=ask, args=("short", {"prompt": "a", "max_tokens": 2}))]
    threads[1].start()
    for thread in threads:
        thread.join()
    assert ends["short"] < ends["many"]


def test_many_clients_get_the_answers_they_would_get_alone(server):
    prompts = [f"The {word} said" for word in "king queen whale boy girl man old dog".split()]
    fields = {"max_tokens": 12, "temperature": 0.8}
    alone = [server.choice(prompt=prompt, seed=i, **fields)["text"]
             for i, prompt in enumerate(prompts)]
    wrong = []

    def ask(i):
        for _ in range(4):
            text = server.choice(prompt=prompts[i % 8], seed=i % 8, **fields)["text"]
            if text != alone[i % 8]:
                wrong.append((i, text))

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(64)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_when_what_runs_is_done(number):
    server = Server("--parallel", 1)
    answers = []
    threads = [threading.Thread(target=lambda: answers.append(server.post("/v1/completions", LONG)))
               for _ in range(4)]
    for thread in threads:
        thread.start()
    while server.metric("choices_running") < 1 or server.metric("requests_waiting") < 3:
        time.sleep(0.005)
    assert server.stop(number) == 0
    for thread in threads:
        thread.join()
    assert sorted(answer.status for answer in answers) == [200, 503, 503, 503]
    for answer in answers:
        if answer.status == 503:
            assert answer.error["code"] == "shutting_down"
        else:
            assert answer.json["usage"]["completion_tokens"] == LONG["max_tokens"]


def test_a_taken_port_is_an_error(server):
    result = subprocess.run([PROGRAM, "serve", "--port", str(server.port)], capture_output=True,
                            text=True, timeout=60, check=False)
    assert result.returncode == 1
    assert str(server.port) in result.stderr
