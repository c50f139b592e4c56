"""A load of mixed requests, short enough for every run; load.py does longer ones."""
import asyncio

import aiohttp
from conftest import serving
from load import load


def test_no_answer_is_lost_or_mixed_up():
    # One thread, so that a machine busy with other things computes no slower than it must.
    with serving("--threads", 1) as server:
        report = asyncio.run(load(server.url, 600, 100, server.process.pid))
        assert report.faults == []
        assert report.n_right + report.n_vanished == 600
        assert report.n_right > 300 and report.n_vanished > 30
        assert report.fine, f"grown by {report.grown_mib} MiB"


def test_64_clients_at_once_are_all_answered(server):
    async def one(session, seed):
        body = {"prompt": "It was", "max_tokens": 16, "temperature": 1, "seed": seed}
        async with session.post(server.url + "/v1/completions", json=body) as answer:
            assert answer.status == 200
            return (await answer.json())["choices"][0]["text"]

    async def all_of_them():
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
            return await asyncio.gather(*(one(session, seed) for seed in range(64)))

    texts = asyncio.run(all_of_them())
    assert len(set(texts)) > 50
    body = {"prompt": "It was", "max_tokens": 16, "temperature": 1}
    for seed in range(0, 64, 9):
        alone = server.post("/v1/completions", {**body, "seed": seed})["choices"][0]["text"]
        assert alone == texts[seed]


def test_a_queue_that_is_full_says_so():
    async def one(session, url):
        body = {"prompt": "It was", "max_tokens": 200, "ignore_eos": True}
        async with session.post(url + "/v1/completions", json=body) as answer:
            return answer.status, await answer.json()

    async def all_of_them(url):
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
            return await asyncio.gather(*(one(session, url) for _ in range(12)))

    with serving("--threads", 1, "--parallel", 1, "--max-queue", 2) as server:
        answers = asyncio.run(all_of_them(server.url))
    statuses = [status for status, _ in answers]
    assert set(statuses) == {200, 429}
    # One in work, two in wait, and what had come before the worker took the first.
    assert 2 <= statuses.count(200) <= 4
    assert all("error" in body for status, body in answers if status == 429)
