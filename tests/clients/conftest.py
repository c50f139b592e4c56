"""What the client tests share: a running server, and the command line to hold its answers against."""
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # browser.py and load.py lie beside the tests

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = Path(os.environ.get("CF_CLI", ROOT / "build" / "bin" / "clusterfusion"))
START_S = 60
TIMEOUT_S = 300


class Server:
    """A server of the bundled model at a free port of this machine."""

    def __init__(self, *words):
        # Its messages go to a file: nobody reads a pipe while the tests talk to it.
        self.log = tempfile.TemporaryFile("w+")
        self.process = subprocess.Popen([PROGRAM, "serve", "--port", "0", *map(str, words)],
                                        stderr=self.log)
        self.url = self._wait_for_url()

    def messages(self) -> str:
        self.log.seek(0)
        return self.log.read()

    def _wait_for_url(self) -> str:
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline and self.process.poll() is None:
            found = re.search(r"listening on (http://\S+)\n", self.messages())
            if found:
                return found.group(1)
            time.sleep(0.02)
        self.process.kill()
        raise RuntimeError("the server did not start:\n" + self.messages())

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise

    def get(self, path: str) -> str:
        with urllib.request.urlopen(self.url + path, timeout=TIMEOUT_S) as answer:
            return answer.read().decode()

    def post(self, path: str, body) -> dict:
        question = urllib.request.Request(self.url + path, json.dumps(body).encode(),
                                          {"Content-Type": "application/json"})
        with urllib.request.urlopen(question, timeout=TIMEOUT_S) as answer:
            return json.load(answer)


@contextlib.contextmanager
def serving(*words):
    """A server for a with statement, which also checks that it ends as it should."""
    server = Server(*words)
    try:
        yield server
        assert server.process.poll() is None, server.messages()
    finally:
        code = server.stop() if server.process.poll() is None else server.process.returncode
    assert code == 0, server.messages()


@pytest.fixture(scope="session")
def server():
    with serving() as running:
        yield running


def command_line(*words, stdin: bytes = b"") -> dict:
    """The JSON that a command of the program prints."""
    done = subprocess.run([PROGRAM, *map(str, words), "--format", "json"], input=stdin,
                          capture_output=True, timeout=TIMEOUT_S, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return json.loads(done.stdout)
