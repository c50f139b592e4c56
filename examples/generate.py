"""Text from a model as it comes, then what the model thinks of it.

python examples/generate.py [FOLDER] [PROMPT]
"""

import sys

import clusterfusion

folder = sys.argv[1] if len(sys.argv) > 1 else None  # None: the small bundled model
prompt = sys.argv[2] if len(sys.argv) > 2 else "It was a dark night, and"

with clusterfusion.Model(folder) as model:
    print(prompt, end="", flush=True)
    stream = model.stream(prompt, max_new_tokens=60, do_sample=True, temperature=0.7, top_p=0.95)
    for token in stream:
        print(token, end="", flush=True)
    print()

    stats = stream.result.stats
    score = model.score(prompt + stream.result.text)
    print(f"{stats.n_tokens} tokens, {stats.decode_tokens_per_s:.0f} tokens/s")
    print(f"perplexity {score.perplexity:.1f} over {score.n_scored} tokens")
