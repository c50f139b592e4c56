"""Random layers for the tests of the layer operators, and what they give in float64."""

from __future__ import annotations

from types import SimpleNamespace

import torch

F = torch.nn.functional
EPS = 1e-5
PYTHIA_2B8 = SimpleNamespace(d=2560, heads=32, rotary=20, ffn=10240)

# ------------------------------------------------------------------------------------------------
# Inputs
# ------------------------------------------------------------------------------------------------


def layer_weights(shape, dtype):
    """Random weights of one layer, of the size that trained ones have."""

    def random(*dims, scale=0.02, offset=0.0):
        return (torch.randn(*dims, device="cuda") * scale + offset).to(dtype)

    d, ffn = shape.d, shape.ffn
    return SimpleNamespace(
        qkv=random(3 * d, d), qkv_bias=random(3 * d, scale=0.1), o=random(d, d),
        o_bias=random(d, scale=0.1), up=random(ffn, d), up_bias=random(ffn, scale=0.1),
        down=random(d, ffn), down_bias=random(d, scale=0.1), ln=random(d, scale=0.1, offset=1),
        ln_bias=random(d, scale=0.1), post_ln=random(d, scale=0.1, offset=1),
        post_ln_bias=random(d, scale=0.1),
    )  # fmt: skip


def rotation(shape, n, past_rotary=True):
    """cos and sin of position n; past the rotary dims 1 and 0."""
    half = shape.rotary // 2
    angles = n / 10000 ** (torch.arange(half, dtype=torch.float64) / half)
    angles = torch.cat([angles, angles])
    rest = (shape.d // shape.heads - shape.rotary) * past_rotary
    cos = torch.cat([angles.cos(), torch.ones(rest)])
    sin = torch.cat([angles.sin(), torch.zeros(rest)])
    return cos.float().cuda(), sin.float().cuda()


def token(shape, dtype, n, max_len=2048):
    """A hidden state, and a cache of n positions; NaN where nothing may be read."""
    cache = torch.full((2, max_len, shape.d), float("nan"), device="cuda", dtype=dtype)
    cache[:, :n] = torch.randn(2, n, shape.d, device="cuda").to(dtype)
    hidden = torch.randn(1, 1, shape.d, device="cuda").to(dtype)
    cos, sin = rotation(shape, n)
    return SimpleNamespace(hidden=hidden, k=cache[0], v=cache[1], cos=cos, sin=sin, n=n)


def arguments(w, t):
    """Up to mlp_up_bias, in the operators' order."""
    return [t.hidden, w.qkv, w.qkv_bias, w.o, w.o_bias, t.k, t.v, w.ln, w.ln_bias, t.cos, t.sin,
            w.post_ln, w.post_ln_bias, w.up, w.up_bias]  # fmt: skip


# ------------------------------------------------------------------------------------------------
# The reference, and how far from it a result may be
# ------------------------------------------------------------------------------------------------


def expected(shape, w, t, gelu="erf"):
    """Each output in float64, with a bound of each element's error.

    The kernel accumulates in float32, whose rounding is some 2^-24 a step and lost beside these:

    - the LayerNorms' outputs, attention's and the activated MLP's are rounded to float16 before
      they are multiplied: a relative error of at most h = 2^-11 each;
    - outputs, and the new key and value before attention, are rounded to the tensors' dtype: at
      most r = 2^-11 (float16) or 2^-8 (bfloat16).

    Errors of inputs x_i of a product Σ w_i x_i are independent, so their sum has at most the
    deviation sqrt(Σ w_i² e_i²); SIGMAS of these are allowed, which 10^5 elements exceed with a
    probability of 10^-4 even if each e_i were as large as its bound always. What was allowed for a
    product's result is the e_i of the next.
    """
    bits = 2.0**-11 if t.hidden.dtype == torch.float16 else 2.0**-8
    half, sigmas, d_head = 2.0**-11, 6.0, shape.d // shape.heads
    x = t.hidden.double().flatten()
    w = SimpleNamespace(**{name: tensor.double() for name, tensor in vars(w).items()})

    def product(matrix, bias, vector, error):
        return matrix @ vector + bias, (matrix.square() @ error.square()).sqrt()

    def rotate(head):
        a, b = head[:, : shape.rotary // 2], head[:, shape.rotary // 2 : shape.rotary]
        cos, sin = t.cos.double()[: shape.rotary], t.sin.double()[: shape.rotary]
        turned = head[:, : shape.rotary] * cos + torch.cat([-b, a], 1) * sin
        return torch.cat([turned, head[:, shape.rotary :]], 1)

    normed = F.layer_norm(x, (shape.d,), w.ln, w.ln_bias, EPS)
    qkv, error = product(w.qkv, w.qkv_bias, normed, sigmas * half * normed.abs())
    q, k, v = qkv.view(shape.heads, 3, d_head).unbind(1)
    # A rotated element's error is at most √2 of the larger of two: one bound for a head.
    q_error, k_error, v_error = (
        2**0.5 * e.amax(1, keepdim=True).expand_as(q)
        for e in error.view(shape.heads, 3, d_head).unbind(1)
    )
    q, k = rotate(q), rotate(k)
    k_error, v_error = k_error + bits * k.abs(), v_error + bits * v.abs()
    keys = torch.cat([t.k[: t.n].double().view(t.n, shape.heads, d_head), k[None]])
    values = torch.cat([t.v[: t.n].double().view(t.n, shape.heads, d_head), v[None]])
    scores = torch.einsum("hd,nhd->nh", q, keys) / d_head**0.5
    score_error = torch.einsum("hd,nhd->nh", q_error.square(), keys.square())
    score_error[-1] += (q.square() * k_error.square()).sum(1)
    score_error = (score_error / d_head).sqrt()
    p = torch.softmax(scores, 0)
    attended = torch.einsum("nh,nhd->hd", p, values)
    # The derivative of the softmax's output by a score is p (v - output).
    away = (values - attended).abs()
    attended_error = torch.einsum("nh,nh,nhd->hd", p, score_error, away) * score_error.max().exp()
    attended_error += p[-1][:, None] * v_error + half * attended.abs()
    attended, attended_error = attended.flatten(), attended_error.flatten()
    output, output_error = product(w.o, w.o_bias, attended, attended_error)
    normed = F.layer_norm(x, (shape.d,), w.post_ln, w.post_ln_bias, EPS)
    up, up_error = product(w.up, w.up_bias, normed, sigmas * half * normed.abs())
    mlp = F.gelu(up, approximate={"erf": "none", "tanh": "tanh"}[gelu])
    mlp_error = 1.13 * up_error  # GELU's steepest slope
    if gelu == "tanh":  # the hardware's tanh: 2^-11, relative
        mlp_error = mlp_error + 0.5 * up.abs() * 2.0**-10.9
    down, down_error = product(w.down, w.down_bias, mlp, mlp_error + sigmas * half * mlp.abs())
    layer, layer_error = x + output + down, (output_error.square() + down_error.square()).sqrt()
    least = 1e-6  # below the smallest normal float16, and float32's rounding
    return SimpleNamespace(
        output=(output, output_error + bits * output.abs() + least),
        mlp=(mlp, mlp_error + bits * mlp.abs() + least),
        k=(k, k_error + least),
        v=(v, v_error + least),
        layer=(layer, layer_error + bits * layer.abs() + least),
    )


def assert_near(found, expected_and_bound, name):
    value, bound = (each.flatten() for each in expected_and_bound)
    assert found.numel() == value.numel(), name
    assert torch.isfinite(found).all(), f"{name}: not finite"
    excess = (found.double().flatten() - value).abs() / bound
    assert excess.max() <= 1, f"{name}: {excess.max():.2f} of the bound, at {excess.argmax()}"
