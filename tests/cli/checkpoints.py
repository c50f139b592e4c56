"""Makes small checkpoints with random weights, whole ones and damaged ones."""
import array
import json
import random
import struct
from pathlib import Path

CONFIG = {
    "architectures": ["GPTNeoXForCausalLM"],
    "model_type": "gpt_neox",
    "vocab_size": 260,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "hidden_act": "gelu",
    "max_position_embeddings": 128,
    "layer_norm_eps": 1e-5,
    "rotary_pct": 0.25,
    "rotary_emb_base": 10000,
    "use_parallel_residual": True,
    "tie_word_embeddings": False,
    "bos_token_id": 256,
    "eos_token_id": 256,
    "torch_dtype": "float32",
}


def tensor_shapes(config: dict) -> dict:
    """Names and shapes of the weights that `config` implies."""
    d, ffn, vocab = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
    shapes = {"gpt_neox.embed_in.weight": [vocab, d], "embed_out.weight": [vocab, d],
              "gpt_neox.final_layer_norm.weight": [d], "gpt_neox.final_layer_norm.bias": [d]}
    for layer in range(config["num_hidden_layers"]):
        prefix = f"gpt_neox.layers.{layer}."
        for norm in ("input_layernorm", "post_attention_layernorm"):
            shapes[prefix + norm + ".weight"] = [d]
            shapes[prefix + norm + ".bias"] = [d]
        for name, n_out, n_in in (("attention.query_key_value", 3 * d, d),
                                  ("attention.dense", d, d), ("mlp.dense_h_to_4h", ffn, d),
                                  ("mlp.dense_4h_to_h", d, ffn)):
            shapes[prefix + name + ".weight"] = [n_out, n_in]
            shapes[prefix + name + ".bias"] = [n_out]
    return shapes


def random_tensors(config: dict, seed: int = 1) -> dict:
    """(shape, bytes) of each tensor; logits come out some units apart, so that text varies."""
    source = random.Random(seed)
    tensors = {}
    for name, shape in tensor_shapes(config).items():
        count = shape[0] * (shape[1] if len(shape) == 2 else 1)
        middle, spread = (1.0, 0.1) if "norm.weight" in name else (0.0, 0.3)
        values = array.array("f", (source.gauss(middle, spread) for _ in range(count)))
        tensors[name] = (shape, values.tobytes())
    return tensors


def safetensors_bytes(tensors: dict) -> bytes:
    header, data = {}, b""
    for name, (shape, content) in tensors.items():
        header[name] = {"dtype": "F32", "shape": shape,
                        "data_offsets": [len(data), len(data) + len(content)]}
        data += content
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + data


def byte_letters() -> list:
    """GPT-2's printable stand-in for each byte."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = iter(range(256, 512))
    return [chr(byte) if byte in plain else chr(next(others)) for byte in range(256)]


def tokenizer_json() -> dict:
    """A token for each byte, "he" (257) and "ll" (258), and <|endoftext|> (256)."""
    vocab = {letter: byte for byte, letter in enumerate(byte_letters())}
    vocab.update({"<|endoftext|>": 256, "he": 257, "ll": 258})
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True,
             "use_regex": True}
    return {
        "version": "1.0", "truncation": None, "padding": None,
        "added_tokens": [{"id": 256, "content": "<|endoftext|>", "single_word": False,
                          "lstrip": False, "rstrip": False, "normalized": False,
                          "special": True}],
        "normalizer": {"type": "NFC"}, "pre_tokenizer": level, "post_processor": level,
        "decoder": level,
        "model": {"type": "BPE", "dropout": None, "unk_token": None,
                  "continuing_subword_prefix": None, "end_of_word_suffix": None,
                  "fuse_unk": False, "vocab": vocab, "merges": ["h e", "l l"]},
    }


def write_checkpoint(folder: Path, *, tokenizer: bool = True, **changes) -> Path:
    """Writes config.json, model.safetensors and tokenizer.json; `changes` go into the config."""
    config = {**CONFIG, **changes}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "model.safetensors").write_bytes(safetensors_bytes(random_tensors(config)))
    if tokenizer:
        (folder / "tokenizer.json").write_text(json.dumps(tokenizer_json()))
    return folder
