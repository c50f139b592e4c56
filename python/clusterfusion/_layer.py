"""One decoder layer for one token in one launch, as operators of PyTorch.

Imported when one of its functions is first asked for, since it needs PyTorch. Called directly, a
function checks its arguments and launches; under ``torch.compile``, and for tensors that only stand
for others, it goes through the operator of the same name in ``torch.ops.clusterfusion``.
"""

from __future__ import annotations

from functools import partial

import torch

from ._errors import UnsupportedError
from ._layer_calls import allocate_apart, attention_up, decoder_layer

FourTensors = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]
ThreeTensors = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def _stands_for_others(tensor: object) -> bool:
    """Whether this is a tensor that only stands for others. What is none is refused by the checks."""
    return type(tensor) not in (torch.Tensor, torch.nn.Parameter) and isinstance(
        tensor, torch.Tensor
    )


def pythia_2b8_attention_only(
    hidden_states: torch.Tensor,
    qkv_weight: torch.Tensor,
    qkv_bias: torch.Tensor,
    o_weight: torch.Tensor,
    o_bias: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    ln_weight: torch.Tensor,
    ln_bias: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    post_ln_weight: torch.Tensor,
    post_ln_bias: torch.Tensor,
    mlp_up_weight: torch.Tensor,
    mlp_up_bias: torch.Tensor,
    current_seq_len: int,
    *,
    gelu: str = "erf",
) -> FourTensors:
    """``neox_attention_up`` of Pythia-2.8B: 32 heads of 80, 20 rotary dims, width 2560, MLP 10240.

    ``hidden_states + attn_output + F.linear(mlp_intermediate, down_weight, down_bias)`` is the
    layer's output.
    """
    if isinstance(mlp_up_weight, torch.Tensor) and mlp_up_weight.shape != (10240, 2560):
        raise ValueError(
            f"mlp_up_weight has shape {list(mlp_up_weight.shape)}, expected [10240, 2560]"
        )
    return neox_attention_up(
        hidden_states, qkv_weight, qkv_bias, o_weight, o_bias, k_cache, v_cache, ln_weight, ln_bias,
        cos, sin, post_ln_weight, post_ln_bias, mlp_up_weight, mlp_up_bias, current_seq_len,
        n_heads=32, rotary_dims=20, gelu=gelu,
    )  # fmt: skip


def neox_attention_up(
    hidden_states: torch.Tensor,
    qkv_weight: torch.Tensor,
    qkv_bias: torch.Tensor,
    o_weight: torch.Tensor,
    o_bias: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    ln_weight: torch.Tensor,
    ln_bias: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    post_ln_weight: torch.Tensor,
    post_ln_bias: torch.Tensor,
    mlp_up_weight: torch.Tensor,
    mlp_up_bias: torch.Tensor,
    current_seq_len: int,
    *,
    n_heads: int,
    rotary_dims: int,
    layer_norm_eps: float = 1e-5,
    gelu: str = "erf",
) -> FourTensors:
    """Attention and the activated up projection of one layer for one token, in one launch.

    With d the hidden size, f the MLP's and h = d / n_heads; on one GPU, contiguous, aligned to 16
    bytes, and of one dtype, float16 or bfloat16, but for cos and sin, which are float32:

    hidden_states: [1, 1, d].
    qkv_weight, qkv_bias: [3 d, d], [3 d]; rows per head [head][q|k|v][h], as the checkpoint's.
    o_weight, o_bias: [d, d], [d].
    k_cache, v_cache: [max_len, d]; row ``current_seq_len`` is written, those before it are read.
    ln_weight, ln_bias, post_ln_weight, post_ln_bias: [d]; both normalise hidden_states.
    cos, sin: [rotary_dims] or [h], of this position; entries past rotary_dims are not read.
    mlp_up_weight, mlp_up_bias: [f, d], [f].
    current_seq_len: tokens in the cache already, 0 … max_len - 1.
    gelu: "erf" (exact) or "tanh" (its tanh form, by the hardware's approximation of tanh).

    Returns attn_output [1, d], mlp_intermediate [f], and the new key (rotated) and value
    [1, n_heads, h]. Runs on the current stream and may be captured in a CUDA graph; gradients are
    not recorded. Under torch.compile of PyTorch before 2.15 caches begin where their storage does. Raises TypeError, ValueError, NoDeviceError or UnsupportedError, naming the
    argument, before anything is launched.
    """
    if torch.compiler.is_compiling() or _stands_for_others(hidden_states):
        found: FourTensors = torch.ops.clusterfusion.neox_attention_up(
            hidden_states, qkv_weight, qkv_bias, o_weight, o_bias, k_cache, v_cache, ln_weight,
            ln_bias, cos, sin, post_ln_weight, post_ln_bias, mlp_up_weight, mlp_up_bias,
            current_seq_len, n_heads, rotary_dims, layer_norm_eps, gelu,
        )  # fmt: skip
        return found
    return attention_up(
        hidden_states, qkv_weight, qkv_bias, o_weight, o_bias, k_cache, v_cache, ln_weight, ln_bias,
        cos, sin, post_ln_weight, post_ln_bias, mlp_up_weight, mlp_up_bias, current_seq_len,
        n_heads, rotary_dims, layer_norm_eps, gelu,
    )  # fmt: skip


def neox_decoder_layer(
    hidden_states: torch.Tensor,
    qkv_weight: torch.Tensor,
    qkv_bias: torch.Tensor,
    o_weight: torch.Tensor,
    o_bias: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    ln_weight: torch.Tensor,
    ln_bias: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    post_ln_weight: torch.Tensor,
    post_ln_bias: torch.Tensor,
    mlp_up_weight: torch.Tensor,
    mlp_up_bias: torch.Tensor,
    mlp_down_weight: torch.Tensor,
    mlp_down_bias: torch.Tensor,
    current_seq_len: int,
    *,
    n_heads: int,
    rotary_dims: int,
    layer_norm_eps: float = 1e-5,
    gelu: str = "erf",
    parallel_residual: bool = True,
) -> ThreeTensors:
    """A whole decoder layer for one token, in one launch.

    As ``neox_attention_up``, and with mlp_down_weight [d, f] and mlp_down_bias [d]. Returns the
    layer's output, of hidden_states' shape, and the new key and value. The sequential form of the
    residual (parallel_residual=False) is refused: UnsupportedError.
    """
    if not parallel_residual:
        raise UnsupportedError("parallel_residual is False: the sequential residual is not there")
    if torch.compiler.is_compiling() or _stands_for_others(hidden_states):
        found: ThreeTensors = torch.ops.clusterfusion.neox_decoder_layer(
            hidden_states, qkv_weight, qkv_bias, o_weight, o_bias, k_cache, v_cache, ln_weight,
            ln_bias, cos, sin, post_ln_weight, post_ln_bias, mlp_up_weight, mlp_up_bias,
            mlp_down_weight, mlp_down_bias, current_seq_len, n_heads, rotary_dims, layer_norm_eps,
            gelu,
        )  # fmt: skip
        return found
    return decoder_layer(
        hidden_states, qkv_weight, qkv_bias, o_weight, o_bias, k_cache, v_cache, ln_weight, ln_bias,
        cos, sin, post_ln_weight, post_ln_bias, mlp_up_weight, mlp_up_bias, mlp_down_weight,
        mlp_down_bias, current_seq_len, n_heads, rotary_dims, layer_norm_eps, gelu,
    )  # fmt: skip


# ------------------------------------------------------------------------------------------------
# Registration
# ------------------------------------------------------------------------------------------------

_INPUTS = (
    "Tensor hidden_states, Tensor qkv_weight, Tensor qkv_bias, Tensor o_weight, Tensor o_bias, "
    "Tensor(a!) k_cache, Tensor(b!) v_cache, Tensor ln_weight, Tensor ln_bias, Tensor cos, "
    "Tensor sin, Tensor post_ln_weight, Tensor post_ln_bias, Tensor mlp_up_weight, "
    "Tensor mlp_up_bias, "
)
_NUMBERS = "int current_seq_len, int n_heads, int rotary_dims, float layer_norm_eps, str gelu"
_library = torch.library.Library("clusterfusion", "DEF")
_library.define(
    f"neox_attention_up({_INPUTS}{_NUMBERS}) -> (Tensor, Tensor, Tensor, Tensor)"
)
_library.define(
    f"neox_decoder_layer({_INPUTS}Tensor mlp_down_weight, Tensor mlp_down_bias, {_NUMBERS})"
    " -> (Tensor, Tensor, Tensor)"
)

_library.impl("neox_attention_up", partial(attention_up, allocate=allocate_apart), "CUDA")
_library.impl("neox_decoder_layer", partial(decoder_layer, allocate=allocate_apart), "CUDA")


#: Of PyTorch 2.11, the compiler reads from the wrong place a tensor that is written to and begins
#: within its storage; 2.15 does not. Those between were not tried.
_LOSES_OFFSETS = tuple(map(int, torch.__version__.split(".")[:2])) < (2, 15)


def _check_offsets(k_cache: torch.Tensor, v_cache: torch.Tensor) -> None:
    for name, tensor in (("k_cache", k_cache), ("v_cache", v_cache)):
        if _LOSES_OFFSETS and tensor.storage_offset() != 0:
            raise ValueError(
                f"{name} begins {tensor.storage_offset()} elements into its storage, expected 0: "
                f"torch.compile of PyTorch {torch.__version__} is not known to read such a cache "
                "right; give it memory of its own"
            )


@torch.library.register_fake("clusterfusion::neox_attention_up", lib=_library)
def _(hidden_states, *arguments):  # type: ignore[no-untyped-def]
    _check_offsets(*arguments[4:6])
    mlp_up_weight, n_heads = arguments[12], arguments[15]
    d_model = hidden_states.shape[-1]
    heads = (1, n_heads, d_model // n_heads)
    return (
        hidden_states.new_empty((1, d_model)),
        hidden_states.new_empty((mlp_up_weight.shape[0],)),
        hidden_states.new_empty(heads),
        hidden_states.new_empty(heads),
    )


@torch.library.register_fake("clusterfusion::neox_decoder_layer", lib=_library)
def _(hidden_states, *arguments):  # type: ignore[no-untyped-def]
    _check_offsets(*arguments[4:6])
    d_model, n_heads = hidden_states.shape[-1], arguments[17]
    heads = (1, n_heads, d_model // n_heads)
    return (
        torch.empty_like(hidden_states),
        hidden_states.new_empty(heads),
        hidden_states.new_empty(heads),
    )
