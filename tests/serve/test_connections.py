"""Clients that are slow, silent, many, rude or gone: answered or closed, and the server goes on."""
import json
import random
import resource
import socket
import time

import pytest

from conftest import SLOWDOWN

BODY = json.dumps({"prompt": "It was", "max_tokens": 4, "temperature": 0}).encode()
HEAD = (f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(BODY)}\r\n").encode()


def connect(server) -> socket.socket:
    return socket.create_connection((server.host, server.port), timeout=30 * SLOWDOWN)


def receive_all(connection) -> bytes:
    data = b""
    while piece := connection.recv(65536):
        data += piece
    return data


def exchange(server, data: bytes) -> bytes:
    """Sends bytes and reads until the server closes."""
    with connect(server) as connection:
        connection.sendall(data)
        return receive_all(connection)


def check_alive(server):
    assert server.complete(prompt="a", max_tokens=1)


def test_a_request_may_come_byte_by_byte(server):
    with connect(server) as connection:
        for byte in HEAD + b"Connection: close\r\n\r\n" + BODY:
            connection.sendall(bytes([byte]))
        assert receive_all(connection).startswith(b"HTTP/1.1 200")


def test_requests_may_be_sent_ahead(server):
    data = exchange(server, 3 * (HEAD + b"\r\n" + BODY) + HEAD + b"Connection: close\r\n\r\n" + BODY)
    assert data.count(b"HTTP/1.1 200") == 4


def test_bodies_may_be_chunked(server):
    head = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n" \
           b"Connection: close\r\n\r\n"
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(BODY[i:i + 7]), BODY[i:i + 7])
                      for i in range(0, len(BODY), 7))
    assert exchange(server, head + chunks + b"0\r\n\r\n").startswith(b"HTTP/1.1 200")


def test_the_old_protocol_is_answered_and_closed(server):
    data = exchange(server, b"GET /health HTTP/1.0\r\n\r\n")
    assert data.startswith(b"HTTP/1.") and b"200 OK" in data and data.endswith(b'{"status":"ok"}')
    body = json.dumps({"prompt": "It", "max_tokens": 3, "stream": True}).encode()
    data = exchange(server, b"POST /v1/completions HTTP/1.0\r\nContent-Length: %d\r\n\r\n%s" %
                    (len(body), body))
    assert data.endswith(b"data: [DONE]\n\n")


GET = b"GET /health HTTP/1.1\r\nHost: x\r\n"
POST = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\n"

NO_HTTP = {
    "nonsense": b"nonsense\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00" * 50,
    "a version": b"GET / HTTP/9.9\r\nHost: x\r\n\r\n",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "HTTP/0.9": b"GET /\r\n\r\n",
    "a method alone": b"GET\r\n\r\n",
    "a method": b"G(T / HTTP/1.1\r\nHost: x\r\n\r\n",
    "two spaces": b"GET  / HTTP/1.1\r\nHost: x\r\n\r\n",
    "no host": b"GET /health HTTP/1.1\r\n\r\n",
    "two hosts": GET + b"Host: y\r\n\r\n",
    "no colon": GET + b"Header\r\n\r\n",
    "no name": GET + b": value\r\n\r\n",
    "a space in a name": GET + b"Na me: value\r\n\r\n",
    "a folded header": GET + b"A: b\r\n c\r\n\r\n",
    "a zero byte": GET + b"A: b\0c\r\n\r\n",
    "a return alone": GET + b"A: b\rc\r\n\r\n",
    "a negative length": POST + b"Content-Length: -5\r\n\r\n",
    "a length in letters": POST + b"Content-Length: x\r\n\r\n",
    "no length": POST + b"Content-Length:\r\n\r\n",
    "a length and a space": POST + b"Content-Length: 5 \r\n\r\n12345",
    "two lengths": POST + b"Content-Length: 4\r\nContent-Length: 5\r\n\r\n{}{}",
    "a length and chunks": POST + b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n",
    "an unknown coding": POST + b"Transfer-Encoding: gzip\r\n\r\n",
    "half a head": GET,
}

TOO_LARGE = {
    "many headers": GET + b"X-Header: value\r\n" * 5000 + b"\r\n",
    "more headers than are taken": GET + b"A:b\r\n" * 128 + b"\r\n",
    "a long header": GET + b"A: " + b"b" * 16384 + b"\r\n\r\n",
    "a long target": b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
    "a long length": POST + b"Content-Length: 99999999999999999999999\r\n\r\n",
}


def refused(server, data: bytes) -> tuple:
    """The status and the code of the error object that a refused request is answered with."""
    with connect(server) as connection:
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        head, _, body = receive_all(connection).partition(b"\r\n\r\n")
    lines = head.decode().lower().split("\r\n")
    assert "content-type: application/json" in lines and f"content-length: {len(body)}" in lines
    error = json.loads(body)["error"]
    assert error["type"] == "invalid_request_error" and error["message"]
    return int(lines[0].split()[1]), error["code"]


@pytest.mark.parametrize("data", NO_HTTP.values(), ids=NO_HTTP)
def test_what_is_no_http_is_refused(server, data):
    assert refused(server, data) == (400, "invalid_http")


# After a good request, what the HTTP library leaves for the server to see, and what it mends.
SEEN = ("a method", "no host", "two hosts", "a space in a name", "a return alone", "two lengths",
        "a length and chunks", "an unknown coding")
MENDED = ("two spaces", "no name", "a folded header", "a zero byte")


@pytest.mark.parametrize("name", NO_HTTP)
@pytest.mark.parametrize("ahead", [True, False], ids=["ahead", "later"])
def test_what_is_no_http_after_a_good_request_is_not_taken_for_it(server, name, ahead):
    good, first = GET + b"\r\n", b'{"status":"ok"}'
    with connect(server) as connection:
        connection.sendall(good + NO_HTTP[name] if ahead else good)
        answer = b""
        while first not in answer:
            answer += connection.recv(65536)
        if not ahead:
            connection.sendall(NO_HTTP[name])
        connection.shutdown(socket.SHUT_WR)
        second = (answer + receive_all(connection)).split(first)[1]
    if name in SEEN:
        head, _, body = second.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 40") and b"\r\nConnection: close" in head
        assert json.loads(body)["error"]["code"] in ("invalid_http", "method_not_allowed")
    elif name not in MENDED:
        assert not second or second.split()[1] in (b"400", b"505")
    check_alive(server)


@pytest.mark.parametrize("data", TOO_LARGE.values(), ids=TOO_LARGE)
def test_what_is_too_large_is_refused(server, data):
    status, code = refused(server, data)
    assert status == 413 and code in ("head_too_large", "body_too_large")
    check_alive(server)


def test_as_much_as_is_taken_is_answered(server):
    end = b"Connection: close\r\n\r\n"
    for fields in (b"A:b\r\n" * 126, b"A: " + b"b" * (16384 - len(GET + end) - 5) + b"\r\n"):
        assert exchange(server, GET + fields + end).startswith(b"HTTP/1.1 200")


def test_no_damage_to_a_request_is_answered_with_a_page(server):
    """Bytes of a request are changed, left out or doubled; all answers are JSON."""
    source = random.Random(7)
    whole = HEAD + b"Connection: close\r\n\r\n"
    for _ in range(200):
        data = bytearray(whole)
        for _ in range(source.randint(1, 3)):
            at = source.randrange(len(data))
            data[at:at + 1] = source.choice([b"", bytes([source.randrange(256)]),
                                             data[at:at + 1] * 2, b"\r\n", b" ", b":"])
        with connect(server) as connection:
            connection.sendall(bytes(data) + BODY)
            connection.shutdown(socket.SHUT_WR)
            answer = receive_all(connection)
        if answer:
            assert b"<html" not in answer and b" 500 " not in answer.split(b"\r\n")[0], data
    check_alive(server)


def test_half_requests_are_dropped(server):
    for data in (HEAD, HEAD + b"\r\n", HEAD + b"\r\n" + BODY[:9], b"POST"):
        with connect(server) as connection:
            connection.sendall(data)
    check_alive(server)


def test_silent_connections_are_closed(serve):
    server = serve("--timeout", 1)
    for data in (b"", HEAD, HEAD + b"\r\n" + BODY[:5]):
        with connect(server) as connection:
            connection.sendall(data)
            start = time.monotonic()
            receive_all(connection)
            assert 0.5 < time.monotonic() - start < 10
    check_alive(server)


@pytest.mark.parametrize("before", [b"", GET + b"\r\n"], ids=["first", "second"])
@pytest.mark.parametrize("start", [b"", HEAD + b"\r\n"], ids=["head", "body"])
def test_requests_that_trickle_in_are_given_up(serve, before, start):
    """A byte now and then is no silence, but there is an end to it."""
    server = serve("--timeout", 1)
    with connect(server) as connection:
        connection.sendall(before + start)
        begin = time.monotonic()
        rest = iter(BODY if start else HEAD)
        with pytest.raises(OSError):
            while time.monotonic() - begin < 10:
                connection.sendall(bytes([next(rest)]))
                time.sleep(0.2)
        assert time.monotonic() - begin < 5
    check_alive(server)


def test_thousands_of_idle_connections_cost_little(serve):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    n = min(3000, hard - 200)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, n + 100), hard))
    server = serve()
    idle = []
    try:
        for i in range(n):
            idle.append(connect(server))
            if i % 3 == 1:
                idle[-1].sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\n")
        check_alive(server)
        start = time.monotonic()
        assert server.get("/health").status == 200
        assert time.monotonic() - start < 2
        with open(f"/proc/{server.process.pid}/status", encoding="ascii") as status:
            facts = dict(line.split(":", 1) for line in status)
        assert int(facts["Threads"]) < 64
    finally:
        for connection in idle:
            connection.close()
    check_alive(server)


def test_a_client_that_reads_nothing_holds_nobody_up(server):
    body = json.dumps({"prompt": ["It was"] * 8, "max_tokens": 400, "logprobs": 20, "stream": True,
                       "ignore_eos": True}).encode()
    with connect(server) as connection:
        connection.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n"
                           % len(body) + body)
        check_alive(server)
    check_alive(server)


def test_a_declared_length_beyond_all_bounds_is_refused_at_once(server):
    head = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 999999999999\r\n\r\n"
    with connect(server) as connection:
        connection.sendall(head)
        assert b" 413 " in connection.recv(65536).split(b"\r\n")[0]
    check_alive(server)


def test_a_body_is_asked_for_only_if_it_is_wanted(serve):
    server = serve("--api-key", "k", "--max-body", 1)
    key, length = b"Authorization: Bearer k\r\n", f"Content-Length: {len(BODY)}\r\n".encode()
    end = b"Expect: 100-continue\r\n\r\n"
    with connect(server) as connection:
        connection.sendall(HEAD + key + b"Connection: close\r\n" + end)
        assert connection.recv(65536).startswith(b"HTTP/1.1 100")
        connection.sendall(BODY)
        assert receive_all(connection).startswith(b"HTTP/1.1 200")
    for status, head in ((401, POST + length), (413, POST + key + b"Content-Length: 2000000\r\n"),
                         (404, b"POST /nothing HTTP/1.1\r\nHost: x\r\n" + key + length),
                         (405, b"POST /health HTTP/1.1\r\nHost: x\r\n" + length)):
        answer = exchange(server, head + end)
        assert answer.startswith(b"HTTP/1.1 %d " % status), answer
        assert b"\r\nConnection: close\r\n" in answer and b'{"error":' in answer


@pytest.mark.parametrize("target, start", [
    (b"http://x/health", b'{"status":'), (b"HTTPS://x:8080/health?a=b", b'{"status":'),
    (b"http://x/v1/models/classics", b'{"id":"classics"'), (b"http://x", b"<!doctype html>"),
    (b"/%68ealth", b'{"status":')])
def test_a_target_may_be_written_in_other_forms(server, target, start):
    answer = exchange(server, b"GET %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n" % target)
    assert answer.startswith(b"HTTP/1.1 200") and answer.split(b"\r\n\r\n")[1].startswith(start)
