"""The layer operators against a float64 reference, and as a script their speed against PyTorch.

    pytest tests/test_attention_only.py
    python tests/test_attention_only.py [--csv FILE]

The tests need PyTorch, those that compute a GPU; they are skipped by name without. Tolerances are
derived below, an output at a time.
"""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

torch = pytest.importorskip("torch")
clusterfusion = pytest.importorskip("clusterfusion")

from layer_reference import (
    EPS,
    PYTHIA_2B8,
    arguments,
    assert_near,
    expected,
    layer_weights,
    rotation,
    token,
)

F = torch.nn.functional
BENCH = str(Path(__file__).resolve().parents[1] / "bench")


def why_not() -> str:
    """Why there is no GPU to run on; empty if there is."""
    if not torch.cuda.is_available():
        return "PyTorch sees no GPU"
    try:
        clusterfusion.check_backend("cuda")
    except clusterfusion.Error as error:
        return str(error)
    return ""


needs_gpu = pytest.mark.skipif(bool(why_not()), reason=why_not() or "there is a GPU")
LENGTHS = [0, 1, 63, 64, 65, 777, 2047]
DTYPES = [torch.float16, torch.bfloat16]
#: Other shapes of the family: head widths 64, 128, 256 and 96; full rotary; sizes that leave rests.
OTHERS = [
    SimpleNamespace(d=512, heads=8, rotary=16, ffn=2048),
    SimpleNamespace(d=4096, heads=32, rotary=32, ffn=16384),
    SimpleNamespace(d=2048, heads=8, rotary=64, ffn=8192),
    SimpleNamespace(d=6144, heads=64, rotary=24, ffn=24576),
    SimpleNamespace(d=1280, heads=16, rotary=80, ffn=5128),
]

def poison():
    """Fills what PyTorch's allocator will hand out next with NaN."""
    for n_bytes in [512 * 2**i for i in range(8)] * 8:
        torch.full((n_bytes // 4,), float("nan"), device="cuda")
    held = [torch.full((n // 2,), float("nan"), device="cuda", dtype=torch.float16)
            for n in (512, 1024, 5120, 5120, 8192, 20480, 40960) for _ in range(8)]  # fmt: skip
    del held


def attention_up(shape, w, t, **options):
    poison()
    if shape is PYTHIA_2B8:
        return clusterfusion.pythia_2b8_attention_only(*arguments(w, t), t.n, **options)
    return clusterfusion.neox_attention_up(
        *arguments(w, t), t.n, n_heads=shape.heads, rotary_dims=shape.rotary, **options
    )


def decoder_layer(shape, w, t, **options):
    poison()
    return clusterfusion.neox_decoder_layer(
        *arguments(w, t), w.down, w.down_bias, t.n,
        n_heads=shape.heads, rotary_dims=shape.rotary, **options,
    )  # fmt: skip


def check_all(shape, dtype, n, gelu="erf"):
    torch.manual_seed(n)
    w, t = layer_weights(shape, dtype), token(shape, dtype, n)
    k_before, v_before = t.k.clone(), t.v.clone()
    want = expected(shape, w, t, gelu)
    d_head = shape.d // shape.heads
    output, mlp, k_new, v_new = attention_up(shape, w, t, gelu=gelu)
    assert output.shape == (1, shape.d) and mlp.shape == (shape.ffn,)
    assert k_new.shape == v_new.shape == (1, shape.heads, d_head)
    assert_near(output, want.output, "attn_output")
    assert_near(mlp, want.mlp, "mlp_intermediate")
    assert_near(k_new, want.k, "k_new")
    assert_near(v_new, want.v, "v_new")
    for cache, before, new in ((t.k, k_before, k_new), (t.v, v_before, v_new)):
        assert torch.equal(cache[n], new.flatten())
        before[n] = cache[n]
        assert torch.equal(cache.view(torch.int16), before.view(torch.int16))
    layer, k_again, v_again = decoder_layer(shape, w, t, gelu=gelu)
    assert layer.shape == t.hidden.shape
    assert_near(layer, want.layer, "layer")
    assert torch.equal(k_again, k_new) and torch.equal(v_again, v_new)


# ------------------------------------------------------------------------------------------------
# Tests
# ------------------------------------------------------------------------------------------------


@needs_gpu
@pytest.mark.parametrize("n", LENGTHS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_pythia_2b8_is_near_float64(dtype, n):
    check_all(PYTHIA_2B8, dtype, n)


@needs_gpu
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_tanh_form_is_near_float64(dtype):
    check_all(PYTHIA_2B8, dtype, 64, gelu="tanh")


@needs_gpu
@pytest.mark.parametrize("shape", OTHERS, ids=lambda shape: str(shape.d))
def test_other_shapes_are_near_float64(shape):
    for n in (0, 100, 1000):
        check_all(shape, torch.float16, n)


@needs_gpu
def test_the_parts_make_the_layer():
    w, t = layer_weights(PYTHIA_2B8, torch.float16), token(PYTHIA_2B8, torch.float16, 64)
    output, mlp, _, _ = attention_up(PYTHIA_2B8, w, t)
    joined = t.hidden + output + F.linear(mlp, w.down, w.down_bias)
    layer = decoder_layer(PYTHIA_2B8, w, t)[0]
    # Four more roundings to float16, of numbers as large as the largest.
    assert (joined - layer).abs().max() <= 4 * 2.0**-11 * layer.abs().max()


@needs_gpu
def test_cos_and_sin_of_the_rotary_dims_alone_are_enough():
    w, t = layer_weights(PYTHIA_2B8, torch.float16), token(PYTHIA_2B8, torch.float16, 9)
    want = attention_up(PYTHIA_2B8, w, t)
    t.cos, t.sin = rotation(PYTHIA_2B8, 9, past_rotary=False)
    assert all(map(torch.equal, want, attention_up(PYTHIA_2B8, w, t)))


@needs_gpu
def test_the_same_input_gives_the_same_bits():
    w, t = layer_weights(PYTHIA_2B8, torch.float16), token(PYTHIA_2B8, torch.float16, 1500)
    want = attention_up(PYTHIA_2B8, w, t)
    for _ in range(50):
        assert all(map(torch.equal, want, attention_up(PYTHIA_2B8, w, t)))


@needs_gpu
def test_a_launch_waits_for_what_wrote_its_inputs():
    """Weights and inputs that the kernel just before it in the stream writes."""
    shape = PYTHIA_2B8
    one, other = layer_weights(shape, torch.float16), layer_weights(shape, torch.float16)
    t = token(shape, torch.float16, 200)
    want = attention_up(shape, other, t)
    for _ in range(20):
        w = SimpleNamespace(**{name: tensor.clone() for name, tensor in vars(one).items()})
        attention_up(shape, w, t)
        for name, tensor in vars(other).items():
            getattr(w, name).copy_(tensor)
        found = clusterfusion.pythia_2b8_attention_only(*arguments(w, t), t.n)
        assert all(map(torch.equal, want, found))


@needs_gpu
def test_a_graph_replays_with_what_its_inputs_then_hold():
    shape = PYTHIA_2B8
    weights = [layer_weights(shape, torch.float16) for _ in range(4)]
    t, later = token(shape, torch.float16, 65), token(shape, torch.float16, 65)

    def chain(x):
        for w in weights:
            x = clusterfusion.neox_decoder_layer(
                x, *arguments(w, t)[1:], w.down, w.down_bias, t.n,
                n_heads=shape.heads, rotary_dims=shape.rotary,
            )[0]  # fmt: skip
        return x, *clusterfusion.pythia_2b8_attention_only(x, *arguments(w, t)[1:], t.n)

    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = chain(t.hidden)
    for source in (t.hidden.clone(), later.hidden):
        t.hidden.copy_(source)
        want = [each.clone() for each in chain(t.hidden)]
        for each in captured:
            each.fill_(float("nan"))
        graph.replay()
        assert all(map(torch.equal, want, captured))


@torch.compile(fullgraph=True)
def compiled_parts_and_layer(hidden, *rest):
    shape = PYTHIA_2B8
    parts = clusterfusion.neox_attention_up(
        hidden, *rest[:14], 64, n_heads=shape.heads, rotary_dims=shape.rotary
    )
    layer = clusterfusion.neox_decoder_layer(
        hidden, *rest, 64, n_heads=shape.heads, rotary_dims=shape.rotary
    )
    return *parts, *layer


@needs_gpu
def test_it_works_under_torch_compile():
    shape = PYTHIA_2B8
    w, t = layer_weights(shape, torch.float16), token(shape, torch.float16, 64)
    t.k, t.v = t.k.clone(), t.v.clone()
    want = (*attention_up(shape, w, t), *decoder_layer(shape, w, t))
    t.k[64], t.v[64] = 0, 0
    found = compiled_parts_and_layer(*arguments(w, t), w.down, w.down_bias)
    assert all(map(torch.equal, want, found))
    assert torch.equal(t.k[64], want[2].flatten()) and torch.equal(t.v[64], want[3].flatten())


@needs_gpu
def test_a_cache_within_its_storage_is_right_or_refused_under_torch_compile():
    """PyTorch 2.11 lost the offset of v, which is behind k in one tensor: NaN came out."""
    shape = PYTHIA_2B8
    w, t = layer_weights(shape, torch.float16), token(shape, torch.float16, 64)
    assert t.v.storage_offset() > 0
    want = (*attention_up(shape, w, t), *decoder_layer(shape, w, t))
    try:
        found = compiled_parts_and_layer(*arguments(w, t), w.down, w.down_bias)
    except Exception as error:
        assert "v_cache begins" in str(error)
    else:
        assert all(map(torch.equal, want, found))


@needs_gpu
def test_the_operators_pass_pytorchs_own_check():
    shape = OTHERS[0]
    w, t = layer_weights(shape, torch.float16), token(shape, torch.float16, 5, max_len=16)
    t.k[:], t.v[:] = 1, 2
    numbers = (5, shape.heads, shape.rotary, EPS, "erf")
    checks = ("test_schema", "test_faketensor")
    torch.library.opcheck(
        torch.ops.clusterfusion.neox_attention_up, (*arguments(w, t), *numbers), test_utils=checks
    )
    torch.library.opcheck(
        torch.ops.clusterfusion.neox_decoder_layer,
        (*arguments(w, t), w.down, w.down_bias, *numbers),
        test_utils=checks,
    )


@needs_gpu
def test_streams_side_by_side_do_not_disturb_each_other():
    """Two graphs and direct calls, each on a stream of its own, all of one prepared layer."""
    shape = PYTHIA_2B8
    w = [layer_weights(shape, torch.float16) for _ in range(4)]
    tokens = [token(shape, torch.float16, n, max_len=128) for n in (50, 60, 70)]
    want = [[attention_up(shape, each, t)[:2] for each in w] for t in tokens]
    streams = [torch.cuda.Stream() for _ in tokens]
    graphs, captured = [torch.cuda.CUDAGraph() for _ in range(2)], []
    for graph, t in zip(graphs, tokens):
        with torch.cuda.graph(graph):
            captured.append([
                clusterfusion.pythia_2b8_attention_only(*arguments(each, t), t.n)[:2] for each in w
            ])
    torch.cuda.synchronize()
    for _ in range(100):
        for graph, stream in zip(graphs, streams):
            with torch.cuda.stream(stream):
                graph.replay()
        with torch.cuda.stream(streams[2]):
            t = tokens[2]
            direct = [
                clusterfusion.pythia_2b8_attention_only(*arguments(each, t), t.n)[:2] for each in w
            ]
    torch.cuda.synchronize()
    for found, wanted in zip([*captured, direct], want):
        for one, other in zip(found, wanted):
            assert all(map(torch.equal, one, other))


NAMES = ["hidden_states", "qkv_weight", "qkv_bias", "o_weight", "o_bias", "k_cache", "v_cache",
         "ln_weight", "ln_bias", "cos", "sin", "post_ln_weight", "post_ln_bias", "mlp_up_weight",
         "mlp_up_bias"]  # fmt: skip


def misaligned(tensor):
    """The same values, 2 bytes past an aligned address."""
    flat = torch.empty(tensor.numel() + 8, dtype=tensor.dtype, device=tensor.device)
    return flat[1 : tensor.numel() + 1].view(tensor.shape).copy_(tensor)


def apart(tensor):
    """The same values with gaps between them."""
    wide = torch.zeros(*tensor.shape, 2, dtype=tensor.dtype, device=tensor.device)
    return wide[..., 0].copy_(tensor)


SPOILED = {
    "dtype": (lambda tensor: tensor.double(), "float64"),
    "device": (lambda tensor: tensor.cpu(), "cpu"),
    "shape": (lambda tensor: tensor[..., :-8].contiguous(), "has shape|has .* dims"),
    "gaps": (apart, "is not contiguous"),
    "address": (misaligned, "expected a multiple of 16 bytes"),
    "type": (lambda tensor: tensor.tolist(), "is list, expected a tensor"),
}


@needs_gpu
@pytest.mark.parametrize("spoil", SPOILED)
@pytest.mark.parametrize("name", NAMES)
def test_a_bad_tensor_is_named(name, spoil):
    if spoil == "address" and name in ("cos", "sin"):
        pytest.skip("float32 needs 4 bytes")
    shape = OTHERS[0]
    w, t = layer_weights(shape, torch.float16), token(shape, torch.float16, 5, max_len=8)
    change, message = SPOILED[spoil]
    given = arguments(w, t)
    given[NAMES.index(name)] = change(given[NAMES.index(name)])
    if spoil == "shape" and name == "hidden_states":  # it says how long all others must be
        name = "qkv_weight"
    if spoil == "shape" and name == "mlp_up_weight":
        message = "has shape"
    if spoil == "dtype" and name == "hidden_states":
        message = "float64, expected torch.float16 or torch.bfloat16"
    if spoil == "gaps" and name == "hidden_states":
        given[0] = apart(t.hidden.view(-1)).view(1, 1, -1)
    # What is like a call that was accepted is not looked at again: this one must not pass as such.
    clusterfusion.neox_attention_up(*arguments(w, t), 5, n_heads=8, rotary_dims=16)
    before = (t.k.view(torch.int16).clone(), t.v.view(torch.int16).clone())
    with pytest.raises((ValueError, TypeError), match=f"{name} .*({message})"):
        clusterfusion.neox_attention_up(*given, 5, n_heads=8, rotary_dims=16)
    assert torch.equal(t.k.view(torch.int16), before[0])
    assert torch.equal(t.v.view(torch.int16), before[1])


@needs_gpu
def test_a_tensor_that_was_changed_in_place_is_looked_at_again():
    shape = OTHERS[0]
    w, t = layer_weights(shape, torch.float16), token(shape, torch.float16, 5, max_len=8)
    options = {"n_heads": 8, "rotary_dims": 16}
    clusterfusion.neox_attention_up(*arguments(w, t), 5, **options)
    w.o.t_()
    with pytest.raises(ValueError, match="o_weight is not contiguous"):
        clusterfusion.neox_attention_up(*arguments(w, t), 5, **options)


@needs_gpu
@pytest.mark.parametrize(
    "changes, exception, message",
    [
        ({"current_seq_len": 8}, ValueError, "current_seq_len is 8, expected 0 to 7"),
        ({"current_seq_len": -1}, ValueError, "current_seq_len is -1"),
        ({"current_seq_len": 1.0}, TypeError, "current_seq_len is float"),
        ({"n_heads": 7}, ValueError, "n_heads is 7"),
        ({"n_heads": 0}, ValueError, "n_heads is 0"),
        ({"rotary_dims": 15}, ValueError, "cos has shape|rotary is 15"),
        ({"gelu": "fast"}, ValueError, "gelu is 'fast'"),
        ({"layer_norm_eps": 0.0}, ValueError, "layer_norm_eps is 0"),
    ],
    ids=str,
)
def test_a_bad_number_is_named(changes, exception, message):
    shape = OTHERS[0]
    w, t = layer_weights(shape, torch.float16), token(shape, torch.float16, 5, max_len=8)
    options = {"current_seq_len": 5, "n_heads": 8, "rotary_dims": 16, **changes}
    with pytest.raises(exception, match=message):
        clusterfusion.neox_attention_up(*arguments(w, t), **options)


@needs_gpu
def test_caches_that_cannot_be_are_refused():
    shape = OTHERS[0]
    w, t = layer_weights(shape, torch.float16), token(shape, torch.float16, 5, max_len=8)
    options = {"n_heads": 8, "rotary_dims": 16}
    given = arguments(w, t)
    given[6] = given[5]
    with pytest.raises(ValueError, match="v_cache is the memory of k_cache"):
        clusterfusion.neox_attention_up(*given, 5, **options)
    given[6] = t.v[:6]
    with pytest.raises(ValueError, match="v_cache has 6 rows, k_cache 8"):
        clusterfusion.neox_attention_up(*given, 5, **options)
    with pytest.raises(NotImplementedError, match="parallel_residual"):
        clusterfusion.neox_decoder_layer(
            *arguments(w, t), w.down, w.down_bias, 5, parallel_residual=False, **options
        )
    with pytest.raises(ValueError, match=r"mlp_up_weight has shape .*expected \[10240, 2560\]"):
        clusterfusion.pythia_2b8_attention_only(*arguments(w, t), 5)


def test_without_a_gpu_the_first_argument_says_so():
    shape = [torch.zeros(dims, dtype=torch.float16) for dims in
             ([1, 1, 64], [192, 64], [192], [64, 64], [64], [8, 64], [8, 64], [64], [64])]  # fmt: skip
    rest = [torch.zeros(16), torch.zeros(16), *shape[7:], torch.zeros(256, 64), torch.zeros(256)]
    wanted = ValueError if torch.cuda.is_available() else RuntimeError
    with pytest.raises(wanted, match="hidden_states"):
        clusterfusion.neox_attention_up(*shape, *rest, 0, n_heads=4, rotary_dims=16)


def test_the_table_says_how_much_faster_than_each_peer(monkeypatch):
    monkeypatch.syspath_prepend(BENCH)
    import layer_speed

    times = {"ours": 40.0, **dict(zip(layer_speed.PEERS, (400.0, 100.0, 60.0)))}
    ours, eager, *_ = layer_speed.rows_of("whole layer", 64, times, floor_us=34.0)
    assert len(ours) == len(layer_speed.HEADER)
    assert ours == ["whole layer", 64, "ours", "40.00", "1.280", "85.0", "10.00", "2.50", "1.50"]
    assert eager[-3:] == ["1.00", "0.25", "0.15"]


if __name__ == "__main__":
    sys.path.insert(0, BENCH)
    import layer_speed

    sys.exit(f"no GPU: {why_not()}" if why_not() else layer_speed.main())
