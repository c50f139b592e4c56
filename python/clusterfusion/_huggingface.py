"""A transformers model that generates through this library: accelerate and restore."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

from ._errors import InvalidArgumentError, UnsupportedError
from ._model import Model, Shape
from ._options import GenerateOptions

_ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
}
_BUFFERS = (".attention.bias", ".attention.masked_bias", ".rotary_emb.inv_freq")
_ATTRIBUTE = "_clusterfusion"

#: GenerationConfig's fields that are understood, or that change nothing that generate() returns for
#: one sequence without beams. Any other field must have one of the values that leave it without
#: effect.
_UNDERSTOOD = {
    "max_new_tokens", "max_length", "min_new_tokens", "min_length", "do_sample", "temperature",
    "top_k", "top_p", "min_p", "repetition_penalty", "eos_token_id", "bos_token_id",
    "pad_token_id", "use_cache", "early_stopping", "length_penalty", "transformers_version",
    "max_matching_ngram_size", "num_beam_groups", "compile_config", "disable_compile",
    "prefill_chunk_size", "remove_invalid_values", "decoder_start_token_id",
}  # fmt: skip
_WITHOUT_EFFECT: dict[str, Any] = {
    "num_beams": 1,
    "num_return_sequences": 1,
    "typical_p": 1.0,
    "epsilon_cutoff": 0.0,
    "eta_cutoff": 0.0,
    "top_h": 1.0,
    "diversity_penalty": 0.0,
    "encoder_repetition_penalty": 1.0,
    "no_repeat_ngram_size": 0,
    "encoder_no_repeat_ngram_size": 0,
    "guidance_scale": 1.0,
    "renormalize_logits": False,
}
#: Fields that only assisted generation reads.
_ASSISTANT = ("assistant_", "num_assistant_", "is_assistant", "target_lookbehind")


class _CannotError(Exception):
    """Why a call goes to the original generate."""


class Acceleration:
    """What an accelerated model carries: its Model, and how to see that it is still the same."""

    def __init__(self, hf_model: Any, n_context: int | None, n_threads: int | None) -> None:
        tensors = _tensors_of(hf_model)
        device = next(iter(tensors.values())).device
        dtypes = {str(tensor.dtype) for tensor in tensors.values()}
        if device.type == "cuda":
            _await_weights(device)
        self.original: Callable[..., Any] = hf_model.generate
        self.model = Model.from_tensors(
            _shape_of(hf_model.config),
            tensors,
            backend="cpu" if device.type == "cpu" else "cuda",
            device=device.index or 0,
            n_threads=n_threads,
            n_context=n_context,
            kv_dtype="f32" if dtypes == {"torch.float32"} else "f16",
        )
        self.n_context = n_context or self.model.shape.n_context
        self._weights = _fingerprint(hf_model)

    def generate(self, hf_model: Any, *args: Any, **kwargs: Any) -> Any:
        """Through the library if it can do all that is asked, through the original if not."""
        try:
            call = _Call(self, hf_model, *args, **kwargs)
        except _CannotError as reason:
            warnings.warn(
                f"clusterfusion: {reason}; transformers generates this itself", stacklevel=3
            )
            return self.original(*args, **kwargs)
        return call.run()

    def check_weights(self, hf_model: Any) -> None:
        if _fingerprint(hf_model) != self._weights:
            raise _CannotError(
                "the weights changed since accelerate(); restore and accelerate again"
            )


class _Call:
    """One call of generate, understood whole, or refused with _CannotError."""

    def __init__(
        self,
        acceleration: Acceleration,
        hf_model: Any,
        inputs: Any = None,
        generation_config: Any = None,
        *more: Any,
        streamer: Any = None,
        **kwargs: Any,
    ) -> None:
        if more:
            raise _CannotError("positional arguments beyond generation_config")
        if not hasattr(hf_model, "_prepare_generation_config"):
            raise _CannotError("this version of transformers is not known")
        acceleration.check_weights(hf_model)
        _check_mode(hf_model)
        for name in ("logits_processor", "stopping_criteria"):
            if name in kwargs and not kwargs[name]:  # empty lists
                del kwargs[name]
        config, rest = hf_model._prepare_generation_config(
            generation_config, **{name: it for name, it in kwargs.items() if it is not None}
        )
        if inputs is None:
            inputs = rest.pop("input_ids", None)
        _check_inputs(inputs, rest.pop("attention_mask", None))
        for name in rest:
            raise _CannotError(f"the argument {name}")
        _check_config(config)
        is_default = _length_is_default(hf_model, generation_config, kwargs)
        self.acceleration = acceleration
        self.inputs = inputs
        self.streamer = streamer
        self.ids: list[int] = inputs[0].tolist()
        n_new = _n_new_tokens(
            config, len(self.ids), is_default, hf_model.config.max_position_embeddings
        )
        self._check_room(len(self.ids) + n_new - 1)  # the last token is chosen, not evaluated
        self.options = _options(config, len(self.ids), n_new)

    def _check_room(self, n_needed: int) -> None:
        if n_needed > self.acceleration.n_context:
            raise _CannotError(
                f"{n_needed} tokens, the context holds {self.acceleration.n_context} "
                "(accelerate's n_context)"
            )

    def run(self) -> Any:
        import torch

        if self.options.get("do_sample"):  # torch.manual_seed() governs
            self.options["seed"] = int(torch.randint(2**63 - 1, ()).item())
        if self.streamer is not None:
            self.streamer.put(self.inputs.cpu())
        new: list[int] = []
        with self.acceleration.model.stream(self.ids, **self.options) as stream:
            for token in stream:
                if token.id is None:
                    continue
                new.append(token.id)
                if self.streamer is not None:
                    self.streamer.put(torch.tensor([token.id]))
        if self.streamer is not None:
            self.streamer.end()
        ending = torch.tensor([new], dtype=self.inputs.dtype, device=self.inputs.device)
        return torch.cat([self.inputs, ending], dim=1)


def accelerate(hf_model: Any, *, n_context: int | None = None, n_threads: int | None = None) -> Any:
    """Lets a loaded ``GPTNeoXForCausalLM`` generate through this library; returns the same object.

        model = clusterfusion.accelerate(AutoModelForCausalLM.from_pretrained("pythia-160m"))
        model.generate(**tokenizer("Call me", return_tensors="pt"), max_new_tokens=32)

    ``generate`` then takes this way for one sequence, greedy or sampled, with Hugging Face's
    arguments and GenerationConfig; what it cannot do so (batches, beams, logits processors, past
    key values given from outside, dictionaries in return, …) goes to the original with a warning
    that says why. Sampling draws its seed from PyTorch: ``torch.manual_seed`` repeats it, with
    other random numbers than the original's. Forward hooks are not called.

    Weights are used in place where they are contiguous, else copied; on the CPU they may be
    float32, float16 or bfloat16, on a GPU float16 or bfloat16; biases and LayerNorms, a thousandth
    of them, are copied to the GPU in another form. After a change of weights ``generate`` falls
    back; accelerate anew.

    n_context: tokens that prompt and new text may have together; None: the trained context.
    n_threads: CPU threads; None: one per processor that the process may use.

    Raises TypeError (another class of model), UnsupportedError (a config or dtype that the library
    does not know, or a device), InvalidArgumentError (accelerated already), OutOfMemoryError.
    """
    names = {cls.__name__ for cls in type(hf_model).__mro__}
    if "GPTNeoXForCausalLM" not in names:
        raise TypeError(f"hf_model is {type(hf_model).__name__}, expected GPTNeoXForCausalLM")
    if _ATTRIBUTE in vars(hf_model):
        raise InvalidArgumentError("hf_model is accelerated already")
    acceleration = Acceleration(hf_model, n_context, n_threads)

    def generate(*args: Any, **kwargs: Any) -> Any:
        return acceleration.generate(hf_model, *args, **kwargs)

    generate.__doc__ = acceleration.original.__doc__
    hf_model.generate = generate
    setattr(hf_model, _ATTRIBUTE, acceleration)
    return hf_model


def restore(hf_model: Any) -> Any:
    """Undoes accelerate: ``generate`` is the original again; returns the same object."""
    acceleration = vars(hf_model).get(_ATTRIBUTE)
    if acceleration is None:
        raise InvalidArgumentError("hf_model is not accelerated")
    del hf_model.generate
    delattr(hf_model, _ATTRIBUTE)
    acceleration.model.close()
    return hf_model


def _await_weights(device: Any) -> None:
    """The library reads them in streams of its own: what writes them must be complete."""
    import torch

    torch.cuda.synchronize(device)


def _tensors_of(hf_model: Any) -> dict[str, Any]:
    """The model's weights by name, contiguous; buffers left out."""
    tied = hf_model.config.tie_word_embeddings
    heads = ("lm_head.weight", "embed_out.weight")
    return {
        name: tensor.detach().contiguous()
        for name, tensor in hf_model.state_dict().items()
        if not name.endswith(_BUFFERS) and not (tied and name in heads)
    }


def _shape_of(config: Any) -> Shape:
    scaling = getattr(config, "rope_scaling", None)
    rope = dict(getattr(config, "rope_parameters", None) or scaling or {})
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind != "default":
        raise UnsupportedError(f"config: rope_type is {kind}, expected default")
    if config.hidden_act not in _ACTIVATIONS:
        raise UnsupportedError(f"config: hidden_act is {config.hidden_act}")
    theta = rope.get("rope_theta", getattr(config, "rotary_emb_base", 10000.0))
    fraction = rope.get("partial_rotary_factor", getattr(config, "rotary_pct", 0.25))
    d_head = config.hidden_size // config.num_attention_heads
    return Shape(
        n_layers=config.num_hidden_layers,
        d_model=config.hidden_size,
        n_heads=config.num_attention_heads,
        d_head=d_head,
        d_rotary=int(d_head * fraction),
        d_ffn=config.intermediate_size,
        n_vocab=config.vocab_size,
        n_context=config.max_position_embeddings,
        rope_theta=float(theta),
        layer_norm_eps=config.layer_norm_eps,
        activation=_ACTIVATIONS[config.hidden_act],
        parallel_residual=config.use_parallel_residual,
        attention_bias=getattr(config, "attention_bias", True),
        tied_embeddings=config.tie_word_embeddings,
    )


def _fingerprint(hf_model: Any) -> list[tuple[int, int]]:
    """Where each weight lies, and how often it was written to, which inference tensors do not know."""
    return [
        (weight.data_ptr(), 0 if weight.is_inference() else weight._version)
        for weight in hf_model.parameters()
    ]


def _check_mode(hf_model: Any) -> None:
    config = hf_model.config
    if hf_model.training and (config.hidden_dropout or config.attention_dropout):
        raise _CannotError("the model is in training mode, with dropout")


def _check_inputs(inputs: Any, mask: Any) -> None:
    if inputs is None or inputs.dim() != 2 or inputs.is_floating_point():
        raise _CannotError("no input_ids of shape [1, length]")
    if inputs.shape[0] != 1:
        raise _CannotError(f"a batch of {inputs.shape[0]}")
    if inputs.shape[1] == 0:
        raise _CannotError("an empty prompt")
    if mask is not None and not bool((mask == 1).all()):
        raise _CannotError("an attention_mask with zeros")


def _check_config(config: Any) -> None:
    """Refuses every field that is set and neither understood nor without effect."""
    for name, value in vars(config).items():
        if name.startswith("_") or name in _UNDERSTOOD or name.startswith(_ASSISTANT):
            continue
        if value is None or value is False or value == _WITHOUT_EFFECT.get(name, []):
            continue
        raise _CannotError(f"{name}={value!r}")


def _length_is_default(hf_model: Any, generation_config: Any, kwargs: dict[str, Any]) -> bool:
    """Whether nobody said max_length: its default counts from the end of the prompt."""
    given = [kwargs.get("max_length"), hf_model.generation_config.max_length]
    if generation_config is not None:
        given.append(generation_config.max_length)
    return all(value is None for value in given)


def _n_new_tokens(config: Any, n_prompt: int, is_default: bool, n_positions: int) -> int:
    if config.max_new_tokens is not None:
        n_new = int(config.max_new_tokens)
    elif is_default:
        n_new = min(int(config.max_length), n_positions - n_prompt)
    else:
        n_new = int(config.max_length) - n_prompt
    if n_new < 1:
        raise _CannotError(f"{n_new} new tokens")
    return n_new


def _options(config: Any, n_prompt: int, n_new: int) -> GenerateOptions:
    """GenerationConfig in this package's words."""
    n_least = config.min_new_tokens
    if n_least is None:
        n_least = max(0, (config.min_length or 0) - n_prompt)
    stops = config.eos_token_id
    options = GenerateOptions(
        max_new_tokens=n_new,
        min_new_tokens=int(n_least),
        do_sample=bool(config.do_sample),
        repetition_penalty=config.repetition_penalty or 1.0,
        eos_token_id=[] if stops is None else stops,
    )
    if config.do_sample:
        options["temperature"] = config.temperature or 1.0
        options["top_k"] = config.top_k
        options["top_p"] = config.top_p
        options["min_p"] = getattr(config, "min_p", None)
    return options
