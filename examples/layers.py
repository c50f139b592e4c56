"""What the model would say after each layer: the logit lens.

    python examples/layers.py [FOLDER] [PROMPT]

Needs NumPy. The LM head is applied to the state after each layer, normalised; only the last state
has gone through the model's own final LayerNorm.
"""

import sys
from pathlib import Path

import clusterfusion
import numpy

folder = sys.argv[1] if len(sys.argv) > 1 else None
prompt = sys.argv[2] if len(sys.argv) > 2 else "It was a dark night, and the"

with clusterfusion.Model(folder) as model:
    states = model.hidden_states(prompt)[:, -1]  # [n_layers + 1][d_model], at the last token
    logits = model.logits(prompt, n_last=1)[0]  # [n_vocab]
    # How near the state is, layer by layer, to the one that the logits are made of.
    final = states[-1]
    for layer, state in enumerate(states):
        centred = state - state.mean()
        cosine = centred @ final / (numpy.linalg.norm(centred) * numpy.linalg.norm(final))
        print(f"after layer {layer}: cosine with the final state {cosine:+.3f}")
    best = [int(id) for id in numpy.argsort(-logits)[:5]]
    print("next:", ", ".join(repr(model.detokenize([id])) for id in best))
    print("model:", Path(model.info.path or "").name)
