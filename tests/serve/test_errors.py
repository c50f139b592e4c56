"""What a client does wrong: an error object with the right status and the field's name."""
import json

import pytest

DEEP = b"[" * 100_000

WRONG_BODIES = [
    b"", b"{", b"nonsense", b"[]", b"1", b"null", b'"text"', b'{"prompt": "a"} x', b"\xff\xfe",
    b'{"prompt": "\xff"}', b'{"prompt": "a", "prompt": "b"}', b'{"prompt": "\\ud800"}',
    b'{"temperature": 1e999}', b'{"max_tokens": 99999999999999999999999}', b'{"temperature": NaN}',
    DEEP, b'{"prompt": ' + DEEP, b'{"prompt": "a",}', b"\x00",
]

WRONG_FIELDS = [
    ("prompt", 5), ("prompt", True), ("prompt", {}), ("prompt", 1.5), ("prompt", []),
    ("prompt", [[]]), ("prompt", [""" """, 5]), ("prompt", [5, "a"]), ("prompt", [[5], "a", 7]),
    ("prompt", [[5, "a"]]), ("prompt", [[[5]]]), ("prompt", [1.5]), ("prompt", [None]),
    ("prompt", [-1]), ("prompt", [4096]), ("prompt", [1 << 40]), ("prompt", [[0, 4096]]),
    ("prompt", [True]), ("prompt", ["a"] * 2049), ("prompt", [5] * 513),
    ("prompt", "word " * 600), ("prompt", "a" * 1_000_000),
    ("model", 5), ("model", ["classics"]),
    ("max_tokens", -1), ("max_tokens", 1.5), ("max_tokens", "5"), ("max_tokens", True),
    ("max_tokens", 1 << 40), ("min_tokens", -1), ("min_tokens", "1"),
    ("temperature", -0.1), ("temperature", 2.1), ("temperature", "1"), ("temperature", True),
    ("temperature", []), ("top_p", -0.1), ("top_p", 1.1), ("top_p", "x"), ("top_k", -2),
    ("top_k", 1.5), ("top_k", 1 << 33), ("min_p", -0.1), ("min_p", 1.1), ("min_p", {}),
    ("n", 0), ("n", -1), ("n", 129), ("n", 1.0), ("n", "2"), ("best_of", 0), ("best_of", 129),
    ("best_of", "2"), ("stop", 5), ("stop", ""), ("stop", [""]), ("stop", [5]), ("stop", {}),
    ("stop", ["x"] * 33), ("stop", "x" * 1025), ("stop", "a\u0000b"), ("stop", [["a"]]),
    ("seed", 1.5), ("seed", "1"), ("seed", True),
    ("presence_penalty", 2.1), ("presence_penalty", -2.1), ("presence_penalty", "1"),
    ("frequency_penalty", 2.1), ("frequency_penalty", -2.1), ("frequency_penalty", []),
    ("repetition_penalty", 0), ("repetition_penalty", -1), ("repetition_penalty", "1"),
    ("logit_bias", []), ("logit_bias", 5), ("logit_bias", {"a": 1}), ("logit_bias", {"": 1}),
    ("logit_bias", {"-1": 1}), ("logit_bias", {"4096": 1}), ("logit_bias", {"5": 101}),
    ("logit_bias", {"5": -101}), ("logit_bias", {"5": "1"}), ("logit_bias", {"5": None}),
    ("logit_bias", {"99999999999999999999": 1}),
    ("logprobs", -1), ("logprobs", 65), ("logprobs", True), ("logprobs", "1"), ("logprobs", 1.5),
    ("echo", "yes"), ("echo", 1), ("stream", "yes"), ("stream", 1),
    ("stream_options", {}), ("stream_options", {"include_usage": True}),
    ("stream_options", 5), ("ignore_eos", 1), ("ignore_eos", "true"), ("suffix", "end"),
    ("suffix", ""), ("suffix", 5),
]


@pytest.mark.parametrize("body", WRONG_BODIES, ids=lambda body: repr(body[:24]))
@pytest.mark.parametrize("path", ["/v1/completions", "/tokenize", "/detokenize"])
def test_a_body_that_is_no_json_object_is_refused(server, path, body):
    answer = server.post(path, body)
    assert answer.status == 400
    assert answer.error["param"] in (None, "prompt", "tokens")


@pytest.mark.parametrize("name, value", WRONG_FIELDS, ids=lambda v: repr(v)[:30])
def test_a_wrong_field_is_refused_by_its_name(server, name, value):
    error = server.refuse(**{"prompt": "a", name: value})
    assert error["param"] == name
    assert error["type"] == "invalid_request_error"
    if name not in ("prompt", "n", "best_of"):
        assert name in error["message"]


@pytest.mark.parametrize("number", ["9223372036854775808", "-9223372036854775809", "1" * 40,
                                    "1e400"])
def test_a_number_beyond_all_bounds_is_named_as_such(server, number):
    answer = server.post("/v1/completions", b'{"prompt": "a", "seed": %s}' % number.encode())
    assert answer.status == 400
    assert answer.error["code"] == "invalid_value" and "64 bits" in answer.error["message"]
    assert "column" in answer.error["message"]
    assert server.complete(prompt="a", max_tokens=1, seed=2**63 - 1)


def test_fields_that_do_not_go_together_are_refused(server):
    error = server.refuse(prompt="a", min_tokens=5, max_tokens=4)
    assert error["param"] == "min_tokens" and "max_tokens, 4, found 5" in error["message"]
    assert server.refuse(prompt="a", min_tokens=17)["param"] == "min_tokens"
    assert server.choice(prompt="a", min_tokens=4, max_tokens=4)["text"]
    assert server.refuse(prompt="a", n=3, best_of=2)["param"] == "best_of"
    assert server.refuse(prompt="a", n=1, best_of=2, stream=True)["param"] == "best_of"
    assert server.refuse(prompt=["a"] * 2000, n=3)["param"] == "n"
    assert server.refuse(prompt=["a"] * 2000, best_of=3)["param"] == "best_of"
    assert server.refuse(stream=True, stream_options={"include_usage": 1})["param"] == \
        "include_usage"


def test_an_answer_of_too_many_log_probabilities_is_refused(server):
    error = server.refuse(prompt=["a " * 200] * 200, n=8, echo=True, logprobs=64, max_tokens=1)
    assert error["param"] == "logprobs" and "2097152" in error["message"]
    assert server.choice(prompt="a " * 200, echo=True, logprobs=64, max_tokens=1)["logprobs"]


def test_a_prompt_beyond_the_context_names_both_numbers(server):
    error = server.refuse(prompt=[5] * 600)
    assert error["code"] == "context_length_exceeded"
    assert "600" in error["message"] and "512" in error["message"]
    assert server.choice(prompt=[5] * 512, max_tokens=1)["finish_reason"] == "length"


def test_biases_that_leave_no_token_are_refused(server):
    everything = {str(i): -100 for i in range(1024)}
    assert server.choice(prompt="a", logit_bias=everything, max_tokens=4)["text"]
    assert server.refuse(prompt="a", logit_bias={**everything, "1024": 1})["param"] == "logit_bias"


def test_every_refusal_leaves_the_server_as_it_was(server):
    before = server.choice(prompt="She", max_tokens=8, temperature=0)
    for name, value in WRONG_FIELDS[:20]:
        server.refuse(**{"prompt": "a", name: value})
    assert server.choice(prompt="She", max_tokens=8, temperature=0) == before
    assert server.metric("choices_running") == server.metric("requests_waiting") == 0


@pytest.mark.parametrize("path", ["/v1", "/v1/", "/v1/completion", "/v1/completions/", "/V1/models",
                                  "/x" * 500, "//v1/models", "/v1/models/other", "/health%00",
                                  "/v1/models/classics%00x", "/v1/models%00/classics", "/health%",
                                  "/health%0", "/%zz", "http:/health", "http://x/nothing",
                                  "ftp://x/health"])
def test_a_path_that_is_not_there_is_404(server, path):
    answer = server.get(path)
    assert answer.status == 404
    assert answer.error["code"] in ("not_found", "model_not_found")


@pytest.mark.parametrize("method, path, allowed", [
    ("GET", "/v1/completions", "POST"), ("PUT", "/v1/completions", "POST"),
    ("POST", "/v1/models", "GET"), ("DELETE", "/v1/models/classics", "GET"),
    ("POST", "/health", "GET"), ("GET", "/tokenize", "POST"), ("PATCH", "/", "GET"),
    ("GET", "/v1/chat/completions", "POST")])
def test_a_wrong_method_is_405_and_names_the_right_one(server, method, path, allowed):
    answer = server.request(method, path, b"{}" if method != "GET" else None)
    assert answer.status == 405
    assert allowed in answer.headers["allow"]
    assert answer.error["code"] == "method_not_allowed"


def test_chat_says_that_a_base_model_has_no_template(server):
    answer = server.post("/v1/chat/completions",
                         {"model": "classics", "messages": [{"role": "user", "content": "Hi"}]})
    assert answer.status == 400
    assert "chat template" in answer.error["message"]


def test_large_bodies_are_413(serve):
    server = serve("--max-body", 1)
    answer = server.post("/v1/completions", b'{"prompt": "' + b"a" * (2 << 20) + b'"}')
    assert answer.status == 413
    assert answer.error["code"] == "body_too_large"
    assert "2097166 bytes, at most 1048576" in answer.error["message"]
    answer = server.post("/v1/completions", iter([b"a" * 65536] * 20))
    assert answer.status == 413
    assert "goes on after the 1048576 bytes" in answer.error["message"]
    body = json.dumps({"prompt": "a", "max_tokens": 1, "user": "u" * 900_000}).encode()
    assert server.post("/v1/completions", body).status == 200
