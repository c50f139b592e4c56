"""accelerate and restore: a transformers model that generates through the library."""

from __future__ import annotations

import json
import warnings

import clusterfusion
import pytest
from conftest import ROOT

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

CLASSICS = ROOT / "models" / "classics"
PROMPT = [2697, 1640, 12, 1814, 431, 12, 2268, 396]


def load(folder=CLASSICS, dtype=torch.float32):
    return transformers.AutoModelForCausalLM.from_pretrained(folder, torch_dtype=dtype).eval()


@pytest.fixture
def hf_model():
    return load()


@pytest.fixture
def ids():
    return torch.tensor([PROMPT])


@pytest.fixture
def fast(hf_model):
    """Accelerated; a fallback is an error."""
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="clusterfusion")
        yield clusterfusion.accelerate(hf_model, n_threads=2)


def test_greedy_ids_are_the_originals(golden):
    folder, expected = golden
    hf_model = load(folder)
    prompt = torch.tensor([expected["greedy_prompt"]])
    options = {"max_new_tokens": len(expected["greedy"]), "eos_token_id": None}
    before = hf_model.generate(prompt, do_sample=False, **options)
    clusterfusion.accelerate(hf_model, n_threads=1)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="clusterfusion")
        after = hf_model.generate(prompt, do_sample=False, **options)
    assert torch.equal(before, after) and after.dtype == prompt.dtype
    assert after[0, prompt.shape[1] :].tolist() == expected["greedy"]


def test_greedy_text_is_that_of_float64(fast, ids):
    expected = json.loads((ROOT / "tests/data/classics_golden/golden.json").read_text())
    assert expected["greedy_prompt"] == PROMPT
    found = fast.generate(ids, max_new_tokens=len(expected["greedy"]))
    assert found[0, len(PROMPT) :].tolist() == expected["greedy"]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_weights_are_used_in_place(ids, dtype):
    hf_model = load(dtype=getattr(torch, dtype))
    fast = clusterfusion.accelerate(hf_model, n_threads=2)
    model = fast._clusterfusion.model
    assert model.info.weight_bytes == sum(
        p.numel() * p.element_size() for p in hf_model.parameters()
    )
    addresses = {p.data_ptr() for p in hf_model.parameters()}
    from clusterfusion._native import lib

    tensors = [lib.cf_model_tensor(model._model, i).contents for i in range(model.info.n_tensors)]
    assert {tensor.data for tensor in tensors} == addresses
    assert fast.generate(ids, max_new_tokens=4).shape == (1, len(PROMPT) + 4)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"max_length": 30},
        {"max_new_tokens": 5},
        {"repetition_penalty": 1.5, "max_new_tokens": 20},
        {"min_new_tokens": 6, "max_new_tokens": 12, "eos_token_id": [12, 14]},
        {"eos_token_id": 12, "max_new_tokens": 40},
    ],
    ids=str,
)
def test_options_mean_what_they_mean_in_transformers(hf_model, ids, options):
    before = hf_model.generate(ids, **options)
    clusterfusion.accelerate(hf_model, n_threads=2)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="clusterfusion")
        assert torch.equal(hf_model.generate(ids, **options), before)
        config = transformers.GenerationConfig(**options)
        assert torch.equal(hf_model.generate(inputs=ids, generation_config=config), before)
        mask = torch.ones_like(ids)
        again = hf_model.generate(input_ids=ids, attention_mask=mask, **options)
        assert torch.equal(again, before)


def test_sampling_follows_pytorchs_seed(fast, ids):
    options = {"max_new_tokens": 20, "do_sample": True, "temperature": 0.9, "top_p": 0.95}
    found = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        found.append(fast.generate(ids, **options).tolist())
    assert found[0] == found[1] != found[2]


def test_sampling_with_one_choice_is_greedy(fast, ids):
    greedy = fast.generate(ids, max_new_tokens=10)
    assert torch.equal(fast.generate(ids, max_new_tokens=10, do_sample=True, top_k=1), greedy)


def test_streamers_hear_of_each_token(fast, ids):
    class Listener:
        def __init__(self):
            self.heard = []

        def put(self, value):
            self.heard += value.flatten().tolist()

        def end(self):
            self.heard.append("end")

    listener = Listener()
    found = fast.generate(ids, max_new_tokens=5, streamer=listener)
    assert listener.heard == [*found[0].tolist(), "end"]


@pytest.mark.parametrize(
    "options, reason",
    [
        ({"num_beams": 2}, "num_beams=2"),
        ({"do_sample": True, "num_return_sequences": 2}, "num_return_sequences=2"),
        ({"return_dict_in_generate": True}, "return_dict_in_generate=True"),
        ({"no_repeat_ngram_size": 2}, "no_repeat_ngram_size=2"),
        ({"suppress_tokens": [5]}, "suppress_tokens"),
        ({"do_sample": True, "typical_p": 0.5}, "typical_p=0.5"),
        ({"logits_processor": [lambda ids, scores: scores]}, "logits_processor"),
        ({"past_key_values": "new"}, "past_key_values"),
        ({"attention_mask": torch.tensor([[0] + [1] * 7])}, "attention_mask"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_it_cannot_do_goes_to_the_original(hf_model, ids, options, reason):
    options = {"max_new_tokens": 3, **options}

    def ask():
        given = dict(options)
        if "past_key_values" in given:
            given["past_key_values"] = transformers.DynamicCache()
        torch.manual_seed(0)
        found = hf_model.generate(ids, **given)
        return found if torch.is_tensor(found) else found.sequences

    before = ask()
    clusterfusion.accelerate(hf_model)
    with pytest.warns(UserWarning, match=f"clusterfusion: .*{reason}") as caught:
        after = ask()
    assert torch.equal(before, after)
    assert any(warning.filename == __file__ for warning in caught)


def test_what_the_context_does_not_hold_goes_to_the_original(hf_model, ids):
    before = hf_model.generate(ids, max_new_tokens=3)
    clusterfusion.accelerate(hf_model, n_context=len(PROMPT) + 1)
    with pytest.warns(UserWarning, match="10 tokens, the context holds 9"):
        assert torch.equal(hf_model.generate(ids, max_new_tokens=3), before)
    with warnings.catch_warnings():  # the last token is chosen, not evaluated
        warnings.filterwarnings("error", message="clusterfusion")
        assert torch.equal(hf_model.generate(ids, max_new_tokens=2), before[:, :-1])


def test_a_batch_goes_to_the_original(hf_model, ids):
    batch = torch.cat([ids, ids.flip(1)])
    before = hf_model.generate(batch, max_new_tokens=3)
    clusterfusion.accelerate(hf_model)
    with pytest.warns(UserWarning, match="a batch of 2"):
        assert torch.equal(hf_model.generate(batch, max_new_tokens=3), before)


def test_changed_weights_go_to_the_original(fast, ids):
    with torch.no_grad():
        fast.gpt_neox.final_layer_norm.bias.add_(1.0)
    with pytest.warns(UserWarning, match="weights changed"):
        changed = fast.generate(ids, max_new_tokens=8)
    clusterfusion.accelerate(clusterfusion.restore(fast))
    assert torch.equal(fast.generate(ids, max_new_tokens=8), changed)
    fast.half()
    with pytest.warns(UserWarning, match="weights changed"):
        fast.generate(ids, max_new_tokens=1)


def test_restore_gives_the_original_back(hf_model, ids):
    original = hf_model.generate
    assert clusterfusion.accelerate(hf_model) is hf_model and hf_model.generate != original
    with pytest.raises(clusterfusion.InvalidArgumentError, match="already"):
        clusterfusion.accelerate(hf_model)
    assert clusterfusion.restore(hf_model) is hf_model and hf_model.generate == original
    with pytest.raises(clusterfusion.InvalidArgumentError, match="not accelerated"):
        clusterfusion.restore(hf_model)


def test_other_models_are_refused(hf_model):
    with pytest.raises(TypeError, match="Linear, expected GPTNeoXForCausalLM"):
        clusterfusion.accelerate(torch.nn.Linear(2, 2))
    with pytest.raises(clusterfusion.UnsupportedError, match="float64"):
        clusterfusion.accelerate(hf_model.double())
    with pytest.raises(clusterfusion.UnsupportedError, match="meta"):
        clusterfusion.accelerate(hf_model.float().to("meta"))


def test_torch_arrays_share_memory_with_nobody_and_make_a_model(model):
    logits = model.logits([1, 2, 3], array="torch")
    assert logits.shape == (3, 4096) and logits.dtype == torch.float32
    assert logits.numpy().tobytes() == model.logits([1, 2, 3], array="memoryview").tobytes()
    assert model.generate(torch.tensor([35, 394]), max_new_tokens=2).prompt_ids == [35, 394]
    weights = {name: p.detach() for name, p in load(dtype=torch.float16).state_dict().items()}
    with clusterfusion.Model.from_tensors(model.shape, weights) as made:
        assert made.hash() == model.hash()
    name = next(name for name in weights if name.endswith("dense.weight"))
    weights[name] = weights[name].t()
    with pytest.raises(clusterfusion.InvalidArgumentError, match=f"{name} is not contiguous"):
        clusterfusion.Model.from_tensors(model.shape, weights)


def why_no_gpu():
    if not torch.cuda.is_available():
        return "PyTorch sees no GPU"
    try:
        clusterfusion.check_backend("cuda")
    except clusterfusion.Error as error:
        return str(error)
    return ""


def test_weights_made_in_inference_mode_do_as_well(ids):
    with torch.inference_mode():
        hf_model = load()
        before = hf_model.generate(ids, max_new_tokens=8)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="clusterfusion")
        after = clusterfusion.accelerate(hf_model).generate(ids, max_new_tokens=8)
    assert torch.equal(before, after)


needs_gpu = pytest.mark.skipif(bool(why_no_gpu()), reason=why_no_gpu() or "there is a GPU")


@needs_gpu
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_a_model_on_a_gpu_generates_there(ids, dtype):
    hf_model = load(dtype=getattr(torch, dtype)).cuda()
    tensors = {name: p.detach().cpu() for name, p in hf_model.state_dict().items()}
    clusterfusion.accelerate(hf_model)
    fast = hf_model._clusterfusion
    assert "cuda" in fast.model.info.backend
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="clusterfusion")
        found = hf_model.generate(ids.cuda(), max_new_tokens=32)
    assert found.is_cuda and found.dtype == ids.dtype
    with clusterfusion.Model.from_tensors(fast.model.shape, tensors, backend="cpu") as cpu:
        expected = cpu.generate(PROMPT, max_new_tokens=32)
    assert found[0, len(PROMPT) :].tolist() == expected.ids


@needs_gpu
def test_weights_on_a_gpu_are_used_in_place_and_given_back(ids):
    from clusterfusion._native import lib

    hf_model = load(dtype=torch.float16).cuda()
    before = hf_model.generate(ids.cuda(), max_new_tokens=8)
    matrices = {p.data_ptr() for p in hf_model.parameters() if p.dim() == 2}
    n_bytes = sum(p.numel() * 2 for p in hf_model.parameters())
    torch.cuda.synchronize()
    free = torch.cuda.mem_get_info()[0]
    model = clusterfusion.accelerate(hf_model, n_context=64)._clusterfusion.model
    tensors = [lib.cf_model_tensor(model._model, i).contents for i in range(model.info.n_tensors)]
    assert {tensor.data for tensor in tensors if tensor.n_dims == 2} == matrices
    assert free - torch.cuda.mem_get_info()[0] < n_bytes // 2
    hf_model.generate(ids.cuda(), max_new_tokens=8)
    assert clusterfusion.restore(hf_model) is hf_model
    assert torch.equal(hf_model.generate(ids.cuda(), max_new_tokens=8), before)
    assert torch.cuda.mem_get_info()[0] >= free - 2**25  # what PyTorch itself may have taken
