"""Many clients at once, of several kinds, some of which vanish: every answer is checked.

    load.py [URL [--pid PID]] [--requests N] [--connections N] [--threads N] [--growth MIB]

Without URL it starts a server of its own (of --threads), which must end as it should. Each kind of
request is first made alone; under load its answer must be the same text, and the same
log-probabilities within a tolerance. The memory of that server, or of the process --pid, is
watched. Prints a summary; the exit code is 0 if no answer was lost or mixed up and memory stayed
bounded.
"""
import argparse
import asyncio
import json
import random
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
from conftest import serving

# Prompts are evaluated in other portions under load; see test_openai.py.
TOLERANCE = 5e-3

# How long an answer may take, in a queue of hundreds.
PATIENCE_S = 300

# What a server may still grow by after it has seen its connections once, in MiB: buffers of
# connections that come and go, and the allocator's slack.
GROWTH_MIB = 64

BEGINNINGS = ["It was a dark night, and", "The captain of the ship", "Elizabeth looked at",
              "\"My dear Watson,\" said", "Alice was", "Peter flew over the", "The Count",
              "In the jungle the"]

ENDLESS = {"max_tokens": 400, "ignore_eos": True, "stream": True}


@dataclass
class Kind:
    """A request, and its answer when it was made alone."""

    body: dict
    vanishes: bool = False
    text: str = ""
    logprobs: list = field(default_factory=list)


@dataclass
class Report:
    """What came of a load."""

    n_right: int = 0
    n_vanished: int = 0
    faults: list = field(default_factory=list)
    seconds: float = 0
    settled_mib: float = 0
    largest_mib: float = 0
    bound_mib: float = GROWTH_MIB

    @property
    def grown_mib(self) -> float:
        return self.largest_mib - self.settled_mib

    @property
    def fine(self) -> bool:
        return not self.faults and self.n_right > 0 and self.grown_mib <= self.bound_mib


def make_kinds() -> list:
    kinds = []
    for number, prompt in enumerate(BEGINNINGS):
        sampled = {"temperature": 0.8, "seed": number, "max_tokens": 10}
        greedy = {"temperature": 0, "max_tokens": 8, "logprobs": 2}
        score = {"max_tokens": 0, "echo": True, "logprobs": 1}
        for settings in (sampled, greedy, score, {**sampled, "stream": True},
                         {**greedy, "stream": True}):
            kinds.append(Kind({"prompt": prompt, **settings}))
        kinds.append(Kind({"prompt": prompt, **ENDLESS}, vanishes=True))
    return kinds


def gather(parts: list) -> tuple:
    """Text and log-probabilities of the parts of an answer."""
    choices = [choice for part in parts for choice in part["choices"]]
    logprobs = [value for choice in choices if choice["logprobs"]
                for value in choice["logprobs"]["token_logprobs"]]
    return "".join(choice["text"] for choice in choices), logprobs


async def read_stream(answer) -> list:
    parts = []
    async for line in answer.content:
        if line.startswith(b"data: [DONE]"):
            return parts
        if line.startswith(b"data: "):
            parts.append(json.loads(line[6:]))
            if "error" in parts[-1]:
                raise RuntimeError(parts[-1]["error"]["message"])
    raise RuntimeError("the stream ended without its mark")


async def ask(session, url: str, kind: Kind) -> tuple:
    async with session.post(url + "/v1/completions", json=kind.body) as answer:
        if answer.status != 200:
            raise RuntimeError(f"{answer.status}: {(await answer.text())[:200]}")
        parts = await read_stream(answer) if kind.body.get("stream") else [await answer.json()]
    return gather(parts)


async def vanish(session, url: str, kind: Kind, source: random.Random) -> None:
    """Goes away before the answer begins, or in the middle of it."""
    answer = await session.post(url + "/v1/completions", json=kind.body)
    if source.random() < 0.7:
        await answer.content.readany()
    answer.close()


def compare(kind: Kind, text: str, logprobs: list) -> str | None:
    if text != kind.text:
        return f"{kind.body}: expected {kind.text!r}, found {text!r}"
    if len(logprobs) != len(kind.logprobs):
        return f"{kind.body}: expected {len(kind.logprobs)} values, found {len(logprobs)}"
    for found, expected in zip(logprobs, kind.logprobs):
        if (found is None) != (expected is None) or \
                found is not None and abs(found - expected) > TOLERANCE:
            return f"{kind.body}: expected {expected}, found {found}"
    return None


def memory_mib(pid: int | None) -> float:
    if pid is None:
        return 0
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    return 0


async def work(url: str, session, kinds: list, numbers, report: Report, seed: int) -> None:
    """One client: takes the next request until none is left."""
    source = random.Random(seed)
    for _ in numbers:
        kind = source.choice(kinds)
        try:
            if kind.vanishes:
                await vanish(session, url, kind, source)
                report.n_vanished += 1
                continue
            fault = compare(kind, *await ask(session, url, kind))
        except (aiohttp.ClientError, RuntimeError, TimeoutError, OSError) as error:
            fault = f"{kind.body}: {error!r}"
        if fault is None:
            report.n_right += 1
        else:
            report.faults.append(fault)


async def watch(pid: int | None, report: Report, n_settled: int) -> None:
    """The memory once the first requests are through, and the most after that."""
    while True:
        found = memory_mib(pid)
        if report.n_right + report.n_vanished + len(report.faults) < n_settled:
            report.settled_mib = report.largest_mib = max(report.settled_mib, found)
        report.largest_mib = max(report.largest_mib, found)
        await asyncio.sleep(0.1)


async def load(url: str, n_requests: int, n_connections: int, pid: int | None = None) -> Report:
    kinds, report = make_kinds(), Report()
    limits = {"timeout": aiohttp.ClientTimeout(total=PATIENCE_S),
              "connector": aiohttp.TCPConnector(limit=n_connections)}
    async with aiohttp.ClientSession(**limits) as session:
        for kind in kinds:
            if not kind.vanishes:
                kind.text, kind.logprobs = await ask(session, url, kind)
        numbers = iter(range(n_requests))  # shared: each number is one request
        begin = time.monotonic()
        watcher = asyncio.create_task(watch(pid, report, n_requests // 4))
        await asyncio.gather(*(work(url, session, kinds, numbers, report, seed)
                               for seed in range(n_connections)))
        report.seconds = time.monotonic() - begin
        watcher.cancel()
    return report


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("url", nargs="?")
    parser.add_argument("--requests", type=int, default=10000)
    parser.add_argument("--connections", type=int, default=200)
    parser.add_argument("--pid", type=int)
    parser.add_argument("--threads", type=int, default=1, help="of a server of its own")
    parser.add_argument("--growth", type=float, default=GROWTH_MIB, help="of memory, at most")
    given = parser.parse_args()
    size = given.requests, given.connections
    if given.url is not None:
        report = asyncio.run(load(given.url, *size, given.pid))
    else:
        with serving("--threads", given.threads) as server:
            report = asyncio.run(load(server.url, *size, server.process.pid))
    report.bound_mib = given.growth
    for fault in report.faults[:20]:
        print(fault)
    print(f"{report.n_right} right, {report.n_vanished} vanished, {len(report.faults)} wrong, in "
          f"{report.seconds:.1f} s; memory {report.settled_mib:.0f} MiB, at most "
          f"{report.largest_mib:.0f} MiB")
    return 0 if report.fine else 1


if __name__ == "__main__":
    sys.exit(main())
