#!/usr/bin/env python3
"""Writes the small PyTorch checkpoints beside this file: python3 make.py

Made with PyTorch 1.12.1, which still writes the legacy form by option. All of them hold the same one
layer of GPT-NeoX: element i of the weight with index k in the sorted list of names is
((7 i + 13 k) mod 64 - 32) / 64, which F16, BF16 and F32 all hold exactly.

zip       F32, an OrderedDict with _metadata, as save_pretrained() writes; buffers of other dtypes
legacy    F16, the form before PyTorch 1.6; two tensors share a storage (tied embeddings)
sharded   BF16, parameters, two zip shards with an index; views with an offset into one storage
hostile   zip: a pickle that calls os.system
strided   zip: a transposed tensor
nested    zip: the state_dict within a dict
"""
import collections
import json
import os
import shutil

import torch

HIDDEN, HEADS, FFN, VOCAB = 8, 2, 16, 16
LAYER = "gpt_neox.layers.0."
SIZES = {
    "embed_out.weight": [VOCAB, HIDDEN],
    "gpt_neox.embed_in.weight": [VOCAB, HIDDEN],
    "gpt_neox.final_layer_norm.bias": [HIDDEN],
    "gpt_neox.final_layer_norm.weight": [HIDDEN],
    LAYER + "attention.dense.bias": [HIDDEN],
    LAYER + "attention.dense.weight": [HIDDEN, HIDDEN],
    LAYER + "attention.query_key_value.bias": [3 * HIDDEN],
    LAYER + "attention.query_key_value.weight": [3 * HIDDEN, HIDDEN],
    LAYER + "input_layernorm.bias": [HIDDEN],
    LAYER + "input_layernorm.weight": [HIDDEN],
    LAYER + "mlp.dense_4h_to_h.bias": [HIDDEN],
    LAYER + "mlp.dense_4h_to_h.weight": [HIDDEN, FFN],
    LAYER + "mlp.dense_h_to_4h.bias": [FFN],
    LAYER + "mlp.dense_h_to_4h.weight": [FFN, HIDDEN],
    LAYER + "post_attention_layernorm.bias": [HIDDEN],
    LAYER + "post_attention_layernorm.weight": [HIDDEN],
}
BUFFERS = {
    LAYER + "attention.bias": torch.ones(1, 1, 4, 4, dtype=torch.bool).tril(),
    LAYER + "attention.masked_bias": torch.tensor(-1e9),
    LAYER + "attention.rotary_emb.inv_freq": torch.tensor([1.0], dtype=torch.float64),
}


def weight(k, size, dtype):
    n = 1
    for extent in size:
        n *= extent
    values = (7 * torch.arange(n) + 13 * k) % 64 - 32
    return (values.to(torch.float32) / 64).to(dtype).reshape(size)


def weights(dtype):
    assert list(SIZES) == sorted(SIZES)
    return collections.OrderedDict((name, weight(k, size, dtype))
                                   for k, (name, size) in enumerate(SIZES.items()))


def folder(name, **changes):
    path = os.path.join(os.path.dirname(os.path.abspath(__file__)), name)
    shutil.rmtree(path, ignore_errors=True)
    os.makedirs(path)
    config = {"model_type": "gpt_neox", "vocab_size": VOCAB, "hidden_size": HIDDEN,
              "num_hidden_layers": 1, "num_attention_heads": HEADS, "intermediate_size": FFN,
              "max_position_embeddings": 16, "rotary_pct": 0.5, "eos_token_id": 0, **changes}
    with open(os.path.join(path, "config.json"), "w") as file:
        json.dump(config, file, indent=2)
    return path


def write_zip():
    state = weights(torch.float32)
    state.update(BUFFERS)
    state._metadata = collections.OrderedDict([("", {"version": 1}), ("gpt_neox", {"version": 2})])
    torch.save(state, os.path.join(folder("zip"), "pytorch_model.bin"))


def write_legacy():
    state = weights(torch.float16)
    state["embed_out.weight"] = state["gpt_neox.embed_in.weight"]
    torch.save(state, os.path.join(folder("legacy", tie_word_embeddings=True), "pytorch_model.bin"),
               _use_new_zipfile_serialization=False)


def write_sharded():
    path = folder("sharded")
    state = weights(torch.bfloat16)
    both = torch.cat([state[LAYER + "attention.query_key_value.weight"].flatten(),
                      state[LAYER + "attention.dense.weight"].flatten()])
    cut = 3 * HIDDEN * HIDDEN
    state[LAYER + "attention.query_key_value.weight"] = both[:cut].reshape(3 * HIDDEN, HIDDEN)
    state[LAYER + "attention.dense.weight"] = both[cut:].reshape(HIDDEN, HIDDEN)
    names = list(state)
    shards = [names[:8], names[8:]]
    weight_map = {}
    for i, members in enumerate(shards):
        file = f"pytorch_model-{i + 1:05}-of-{len(shards):05}.bin"
        torch.save({name: torch.nn.Parameter(state[name], requires_grad=False)
                    for name in members}, os.path.join(path, file))
        weight_map.update({name: file for name in members})
    with open(os.path.join(path, "pytorch_model.bin.index.json"), "w") as file:
        json.dump({"metadata": {"total_size": 2 * sum(t.numel() for t in state.values())},
                   "weight_map": weight_map}, file, indent=2)


class Hostile:
    def __reduce__(self):
        return os.system, ("echo this must never run",)


def write_refused():
    one = torch.zeros(2, 3)
    torch.save({"embed_out.weight": Hostile()}, os.path.join(folder("hostile"), "pytorch_model.bin"))
    torch.save({"embed_out.weight": one.t()}, os.path.join(folder("strided"), "pytorch_model.bin"))
    torch.save({"step": 3, "model": {"embed_out.weight": one}},
               os.path.join(folder("nested"), "pytorch_model.bin"))


write_zip()
write_legacy()
write_sharded()
write_refused()
