"""Servers under test, and a client of the standard library alone."""
import http.client
import json
import os
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = Path(os.environ.get("CF_CLI", ROOT / "build" / "bin" / "clusterfusion"))
# Time limits are longer by this where the program is slower than a test expects.
SLOWDOWN = float(os.environ.get("CF_TEST_SLOWDOWN", "1"))
TIMEOUT_S = 60 * SLOWDOWN


def refuse_constant(word: str):
    raise AssertionError(f"{word} is not JSON")


@dataclass
class Answer:
    """A response that has come to its end."""

    status: int
    headers: dict
    body: bytes

    @property
    def json(self):
        assert self.headers["content-type"] == "application/json"
        return json.loads(self.body, parse_constant=refuse_constant)

    @property
    def error(self) -> dict:
        """The error object, whose form is checked."""
        assert set(self.json) == {"error"}
        error = self.json["error"]
        assert set(error) == {"message", "type", "param", "code"}
        assert error["message"] and error["type"]
        return error


class Server:
    """A server process, and requests to it."""

    def __init__(self, *words, **settings):
        self.process = subprocess.Popen(
            [PROGRAM, "serve", "--port", "0", *map(str, words)], stderr=subprocess.PIPE, text=True,
            **settings)
        line = self.process.stderr.readline()
        assert line.startswith("listening on http://"), line + self.process.stderr.read()
        self.url = line.split()[-1]
        self.host, port = self.url.removeprefix("http://").rsplit(":", 1)
        self.port = int(port)

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection(self.host, self.port, timeout=TIMEOUT_S)

    def request(self, method: str, path: str, body=None, headers=None) -> Answer:
        """One request on a connection of its own; `body` is bytes, an iterator of bytes, whose
        length is then not declared, or becomes JSON."""
        connection = self.connect()
        try:
            is_raw = body is None or isinstance(body, (bytes, Iterator))
            data = body if is_raw else json.dumps(body).encode()
            connection.request(method, path, data, headers or {})
            response = connection.getresponse()
            names = {name.lower(): value for name, value in response.getheaders()}
            return Answer(response.status, names, response.read())
        finally:
            connection.close()

    def get(self, path: str, **settings) -> Answer:
        return self.request("GET", path, **settings)

    def post(self, path: str, body, **settings) -> Answer:
        return self.request("POST", path, body, **settings)

    def complete(self, **fields) -> dict:
        """A completion that must succeed."""
        answer = self.post("/v1/completions", fields)
        assert answer.status == 200, answer.body
        return answer.json

    def choice(self, **fields) -> dict:
        choices = self.complete(**fields)["choices"]
        assert len(choices) == 1
        return choices[0]

    def refuse(self, status: int = 400, **fields) -> dict:
        answer = self.post("/v1/completions", fields)
        assert answer.status == status, answer.body
        return answer.error

    def stream(self, **fields) -> list:
        """The events of a streamed completion, the end mark checked and taken off."""
        answer = self.post("/v1/completions", {"stream": True, **fields})
        assert answer.status == 200, answer.body
        assert answer.headers["content-type"].startswith("text/event-stream")
        return parse_events(answer.body)

    def metric(self, name: str) -> int:
        for line in self.get("/metrics").body.decode().splitlines():
            if line.startswith(f"clusterfusion_{name} "):
                return int(line.split()[1])
        raise AssertionError(f"no metric {name}")

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Ends the server; returns its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            return self.process.wait(TIMEOUT_S)
        finally:
            self.process.kill()
            self.process.stderr.close()


def parse_events(body: bytes) -> list:
    """Server-sent events of JSON, each whole, ended by [DONE]."""
    text = body.decode()
    assert text.endswith("\n\n")
    events = text.removesuffix("\n\n").split("\n\n")
    assert all(event.startswith("data: ") for event in events)
    assert events[-1] == "data: [DONE]"
    return [json.loads(event.removeprefix("data: "), parse_constant=refuse_constant)
            for event in events[:-1]]


@pytest.fixture(scope="session")
def serve():
    """Starts servers that end with the tests, and with exit code 0."""
    servers = []

    def start(*words, **settings) -> Server:
        servers.append(Server(*words, **settings))
        return servers[-1]

    yield start
    for server in servers:
        if server.process.poll() is None:
            assert server.stop() == 0


@pytest.fixture(scope="session")
def server(serve) -> Server:
    """The bundled model."""
    return serve()
