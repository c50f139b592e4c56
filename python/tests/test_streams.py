"""Streams, threads, callbacks, and ways to end things early."""

from __future__ import annotations

import gc
import os
import pickle
import signal
import threading
import time

import clusterfusion
import pytest

TEXT = "It was a dark night, and the wind was high. " * 30


def test_a_streams_texts_are_the_generations(model):
    options = {"max_new_tokens": 40, "do_sample": True, "seed": 3, "stop_strings": ["qqq", " the "]}
    expected = model.generate("Call me", **options)
    with model.stream("Call me", **options) as stream:
        assert stream.result.finish_reason == "none"
        tokens = list(stream)
    assert "".join(tokens) == expected.text
    assert [token.id for token in tokens if token.id is not None] == expected.ids
    assert stream.result.logprobs == expected.logprobs
    assert stream.result.stats.logits_hash == expected.stats.logits_hash
    assert list(stream) == []


def test_a_stream_can_be_left_and_the_model_used_on(own_model):
    expected = own_model.generate("Call me", max_new_tokens=5).ids
    for token in own_model.stream("Call me", max_new_tokens=100):
        assert token.id == expected[0]
        break
    stream = own_model.stream("Call me", max_new_tokens=100)
    assert next(stream).id == expected[0]
    stream.close()
    stream.close()
    assert stream.result.ids == expected[:1] and list(stream) == []
    assert own_model.generate("Call me", max_new_tokens=5).ids == expected
    assert len(own_model._idle) <= 2  # sessions came back


def test_streams_of_one_model_can_be_interleaved(own_model):
    expected = [own_model.generate(p, max_new_tokens=6).ids for p in ("Call me", "The")]
    streams = [own_model.stream(p, max_new_tokens=6) for p in ("Call me", "The")]
    found = [[token.id for token in pair if token.id is not None] for pair in zip(*streams)]
    assert [list(ids) for ids in zip(*found)] == expected


def test_a_stream_outlives_its_models_closing(own_model):
    expected = own_model.generate("Call me", max_new_tokens=6).ids
    stream = own_model.stream("Call me", max_new_tokens=6)
    next(stream)
    own_model.close()
    for _ in stream:
        pass
    assert stream.result.ids == expected
    with pytest.raises(clusterfusion.InvalidArgumentError, match="closed"):
        own_model.generate("Call me")
    assert own_model.closed and "closed" in repr(own_model)


def test_the_garbage_collector_may_find_everything_in_a_cycle():
    for _ in range(20):
        model = clusterfusion.Model(n_threads=1)
        stream = model.stream("Call me", max_new_tokens=5)
        next(stream)
        model.cycle = [model, stream, model.session()]  # type: ignore[attr-defined]
        del model, stream
    gc.collect()


def test_threads_share_a_model(own_model):
    prompts = ["Call me", "The", "It was", "Alice"] * 3
    expected = [own_model.generate(p, max_new_tokens=12).ids for p in prompts]
    found: list = [None] * len(prompts)

    def work(i: int) -> None:
        found[i] = own_model.generate(prompts[i], max_new_tokens=12).ids
        own_model.score(prompts[i] + " once more")
        own_model.tokenize(prompts[i])

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(prompts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    assert found == expected


def test_a_session_has_one_use_at_a_time(model):
    with model.session() as session:
        stream = session.stream("Call me", max_new_tokens=5)
        next(stream)
        with pytest.raises(RuntimeError, match="in use"):
            session.eval([1])
        stream.close()
        session.rewind()
        assert session.eval([1]).hidden_states is None


def test_progress_is_told_and_may_cancel(own_model):
    told: list = []
    own_model.score(TEXT, progress=lambda *step: told.append(step))
    assert told and told[-1][0] == "score" and told[-1][1] == told[-1][2]
    with pytest.raises(clusterfusion.CancelledError) as caught:
        own_model.score(TEXT, progress=lambda *step: False)
    assert isinstance(caught.value, KeyboardInterrupt)
    with pytest.raises(clusterfusion.CancelledError):
        own_model.hash(progress=lambda *step: False)


def test_what_a_callback_raises_comes_out_of_the_call(own_model):
    class MineError(Exception):
        pass

    def progress(what: str, done: int, total: int) -> bool:
        raise MineError(what)

    with pytest.raises(MineError, match="score"):
        own_model.score(TEXT, progress=progress)
    with pytest.raises(MineError, match="hash"):
        own_model.hash(progress=progress)
    with own_model.session() as session:
        with pytest.raises(MineError, match="prompt"):
            session.eval([1, 2, 3], progress=progress)
        assert session.tokens == []
    assert own_model.score("Call me").n_scored > 0


def test_a_callback_may_use_the_model(own_model):
    """From within the library's call, and from another thread meanwhile."""
    found: list = []

    def progress(what: str, done: int, total: int) -> None:
        if not found:
            found.append(own_model.generate("Call me", max_new_tokens=3).ids)
            thread = threading.Thread(
                target=lambda: found.append(own_model.generate("Call me", max_new_tokens=3).ids)
            )
            thread.start()
            thread.join(60)

    own_model.score(TEXT, progress=progress)
    assert len(found) == 2 and found[0] == found[1]


@pytest.mark.parametrize("work", ["generate", "score", "stream"])
def test_ctrl_c_ends_it_and_the_model_can_be_used_on(own_model, work):
    expected = own_model.generate("Call me", max_new_tokens=3).ids

    def run() -> None:
        while True:
            if work == "generate":
                own_model.generate("Call me", max_new_tokens=400, ignore_eos=True)
            elif work == "score":
                own_model.score(TEXT)
            else:
                list(own_model.stream("Call me", max_new_tokens=400, ignore_eos=True))

    timer = threading.Timer(0.3, lambda: os.kill(os.getpid(), signal.SIGINT))
    start = time.monotonic()
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        run()
    assert time.monotonic() - start < 10
    assert own_model.generate("Call me", max_new_tokens=3).ids == expected


def test_other_threads_run_while_the_library_works(own_model):
    """The interpreter is not held during a call: a counter goes on."""
    counted = 0
    done = threading.Event()

    def count() -> None:
        nonlocal counted
        while not done.is_set():
            counted += 1
            time.sleep(0.0005)

    thread = threading.Thread(target=count)
    thread.start()
    own_model.score(TEXT)
    done.set()
    thread.join()
    assert counted > 3


def test_results_can_be_pickled(model):
    found = model.generate("Call me", max_new_tokens=3)
    assert pickle.loads(pickle.dumps(found)) == found
    with pytest.raises(clusterfusion.Error) as caught:
        clusterfusion.Model("/nowhere")
    again = pickle.loads(pickle.dumps(caught.value))
    assert type(again) is type(caught.value) and str(again) == str(caught.value)
