"""Bad input: one exception of the right class, whose message names the argument."""

from __future__ import annotations

import math

import clusterfusion
import pytest
from clusterfusion import (
    BadFileError,
    ContextFullError,
    InvalidArgumentError,
    NotFoundError,
    Status,
    UnsupportedError,
)
from conftest import SHARED


@pytest.mark.parametrize(
    "options, error, words",
    [
        ({"max_new_tokens": -1}, InvalidArgumentError, "max_new_tokens is -1"),
        ({"max_new_tokens": 1.5}, TypeError, "max_new_tokens is float"),
        ({"max_new_tokens": True}, TypeError, "max_new_tokens is bool"),
        ({"min_new_tokens": 2**40}, InvalidArgumentError, "min_new_tokens"),
        ({"do_sample": True, "temperature": 0.0}, InvalidArgumentError, "temperature is 0"),
        ({"do_sample": True, "temperature": -1}, InvalidArgumentError, "temperature is -1"),
        ({"do_sample": True, "temperature": math.nan}, InvalidArgumentError, "temperature is nan"),
        ({"do_sample": True, "temperature": 1e12}, InvalidArgumentError, "temperature"),
        ({"do_sample": True, "temperature": "1"}, TypeError, "temperature is str"),
        ({"do_sample": True, "top_k": -1}, InvalidArgumentError, "top_k is -1"),
        ({"do_sample": True, "top_k": 2**33}, InvalidArgumentError, "top_k"),
        ({"do_sample": True, "top_p": 0}, InvalidArgumentError, "top_p is 0"),
        ({"do_sample": True, "top_p": 1.5}, InvalidArgumentError, "top_p is 1.5"),
        ({"do_sample": True, "min_p": 1.0}, InvalidArgumentError, "min_p"),
        ({"repetition_penalty": 0}, InvalidArgumentError, "repetition_penalty is 0"),
        ({"presence_penalty": 1e9}, InvalidArgumentError, "presence_penalty"),
        ({"logit_bias": {10**6: 1.0}}, InvalidArgumentError, "bias"),
        ({"logit_bias": {2**40: 1.0}}, InvalidArgumentError, "logit_bias"),
        ({"logit_bias": {5: math.nan}}, InvalidArgumentError, "bias"),
        ({"stop_strings": ""}, InvalidArgumentError, "stop_strings"),
        ({"stop_strings": ["a\0"]}, InvalidArgumentError, "stop_strings"),
        ({"stop_strings": [7]}, TypeError, "stop_strings is int"),
        ({"eos_token_id": 10**6}, InvalidArgumentError, "stop_ids"),
        ({"seed": -1}, InvalidArgumentError, "seed is -1"),
        ({"seed": 2**64}, InvalidArgumentError, "seed"),
        ({"n_top": 65}, InvalidArgumentError, "n_top is 65"),
        ({"no_such_option": 1}, TypeError, "no_such_option"),
    ],
)
def test_generation_options(model, options, error, words):
    with pytest.raises(error, match=words):
        model.generate("Call me", **options)


@pytest.mark.parametrize(
    "prompt, error, words",
    [
        ("", InvalidArgumentError, "the prompt is empty"),
        ([], InvalidArgumentError, "the prompt is empty"),
        ([5, -1], InvalidArgumentError, "token 1 has id -1"),
        ([4096], InvalidArgumentError, "token 0 has id 4096, the vocabulary has 0 to 4095"),
        ([2**31], InvalidArgumentError, "prompt: element 0 is 2147483648"),
        ([1, 2.0], TypeError, "prompt: element 1 is float"),
        ([[1, 2]], TypeError, "prompt: element 0 is list"),
        (None, TypeError, "prompt is NoneType"),
        ([1] * 513, ContextFullError, "513 tokens, the context holds 512"),
    ],
)
def test_prompts(model, prompt, error, words):
    with pytest.raises(error, match=words):
        model.generate(prompt)


@pytest.mark.parametrize(
    "options, words",
    [
        ({"backend": "gpu"}, "backend is 'gpu', expected one of auto, cpu, cuda"),
        ({"device": -1}, "device is -1"),
        ({"kv_dtype": "bf16"}, "kv_dtype is 'bf16'"),
        ({"n_threads": 0}, "n_threads is 0"),
        ({"n_threads": 1025}, "n_threads is 1025"),
        ({"n_context": 2**24 + 1}, "n_context is 16777217"),
        ({"n_chunk": -3}, "n_chunk is -3"),
        ({"path": "a\0b"}, "zero character"),
    ],
)
def test_model_options(options, words):
    with pytest.raises(InvalidArgumentError, match=words):
        clusterfusion.Model(**options)


def test_other_arguments(model):
    with pytest.raises(InvalidArgumentError, match="array is 'list'"):
        model.logits([1], array="list")
    with pytest.raises(InvalidArgumentError, match="n_logits is 2, expected 0 to 1"):
        model.logits([1], n_last=2)
    with pytest.raises(InvalidArgumentError, match="no tokens to evaluate"):
        model.logits([])
    with pytest.raises(ContextFullError, match="600 tokens after 0, the context holds 512"):
        model.logits([1] * 600)
    with pytest.raises(InvalidArgumentError, match="n_stride"):
        model.score("Call me", n_window=4, n_stride=5)
    with pytest.raises(InvalidArgumentError):
        model.detokenize([-1])


def test_folders(tmp_path):
    with pytest.raises(NotFoundError, match="nowhere") as caught:
        clusterfusion.Model(tmp_path / "nowhere")
    assert isinstance(caught.value, FileNotFoundError) and caught.value.status is Status.NOT_FOUND
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(BadFileError, match=r"config\.json") as damaged:
        clusterfusion.Model(tmp_path)
    assert isinstance(damaged.value, ValueError)
    (tmp_path / "tokenizer.json").write_text('{"model": {"type": "Unigram"}}')
    with pytest.raises(clusterfusion.Error, match=r"tokenizer\.json"):
        clusterfusion.Tokenizer(tmp_path)


def test_text_needs_a_tokenizer():
    folder = SHARED / "golden" / "base1000"
    if not folder.exists():
        pytest.skip("golden/base1000 is not among the shared data")
    with clusterfusion.Model(folder, n_threads=1) as model:
        for function in (model.generate, model.score, model.logits):
            with pytest.raises(NotFoundError, match="tokenizer="):
                function("text")
        with pytest.raises(InvalidArgumentError, match="tokenizer="):
            model.tokenize("text")
        with pytest.raises(InvalidArgumentError, match="stop strings need a tokenizer"):
            model.generate([1], stop_strings=".")


def test_options_without_effect_are_warned_of(model):
    with pytest.warns(UserWarning, match="temperature has no effect without do_sample") as caught:
        model.generate("Call me", max_new_tokens=1, temperature=0.5)
    assert caught[0].filename == __file__


def test_backends_that_cannot_run_say_why():
    clusterfusion.check_backend("cpu")
    clusterfusion.check_backend("auto")
    try:
        clusterfusion.check_backend("cuda")
    except (UnsupportedError, clusterfusion.NoDeviceError) as error:
        with pytest.raises(type(error)):
            clusterfusion.Model(backend="cuda")
