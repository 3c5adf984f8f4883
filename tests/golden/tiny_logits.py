"""Next-token log-probs and greedy continuations of the tiny llamas: tiny_logits.py OUT_DIR

tiny_logits.safetensors, tiny_logits_tied.safetensors   for each sequence i of 8
    ids.i          (tokens) u32
    logprobs.i     (tokens, 300) f32: row t is the distribution of token t + 1
    greedy.i       (40) u32: the likeliest continuation; end-of-text does not end it
    greedy_logprobs.i, greedy_gaps.i   (40) f32: its log-probs, and how far the second-best was behind
tiny_logits_q8_0.safetensors   of tiny_llama.q8_0.gguf, dequantised: ids.i, logprobs.i of the last token only, (300)
"""
import os
import sys

import torch

from common import greedy, load, logprobs, save, sequences


def main(out):
    for name, target in (("tiny_llama", "tiny_logits"), ("tiny_llama_tied", "tiny_logits_tied")):
        model, tensors, nearest = load(os.path.join(out, name)).double(), {}, 9.0
        for i, ids in enumerate(sequences()):
            continuation, chosen, gaps = greedy(model, ids, 40)
            whole = torch.cat([ids, torch.tensor(continuation)])
            assert whole[len(ids):].equal(logprobs(model, whole).argmax(-1)[len(ids) - 1:-1]), "the cache changes the choice"
            tensors |= {f"ids__{i}": ids, f"logprobs__{i}": logprobs(model, ids), f"greedy__{i}": continuation,
                        f"greedy_logprobs__{i}": chosen, f"greedy_gaps__{i}": gaps}
            nearest = min(nearest, *gaps)
        save(os.path.join(out, target + ".safetensors"), **tensors)
        print(f"{target}: nearest tie of a greedy step {nearest:.3g}")
    model, tensors = load(out, gguf_file="tiny_llama.q8_0.gguf").double(), {}
    for i, ids in enumerate(sequences()):
        tensors |= {f"ids__{i}": ids, f"logprobs__{i}": logprobs(model, ids)[-1]}
    save(os.path.join(out, "tiny_logits_q8_0.safetensors"), **tensors)


if __name__ == "__main__":
    main(sys.argv[1])
