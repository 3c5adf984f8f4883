"""Ids and log-probs of two real models by transformers in f32: real_families.py NAME GGUF OUT_DIR

NAME is qwen2 (Qwen2.5-Coder-0.5B-Instruct) or gemma3 (Gemma-3-270M, a base model), GGUF the file that
scripts/fetch-models.py makes; weights are dequantised. Neither file is in this repository.

real_NAME.json          ids, ids as a whole document, and the text decoded again, of the texts of tokenizer.py
real_NAME.safetensors   for each prompt i of 6
    ids.i                       u32, the whole prompt as a document
    top_ids.i, top_logprobs.i   (64) u32, f32: the likeliest next tokens
    greedy.i, greedy_gaps.i     (24) u32, f32: the likeliest continuation, and how far the second-best was behind
    scored_logprobs.i           (24) f32: the continuation's log-probs
The last prompt is longer than gemma's window of 512.
"""
import os
import sys

import torch
from tokenizers import normalizers
from transformers import AutoTokenizer

from common import greedy, load, logprobs, save, save_json
from tokenizer import TEXTS

PROMPTS = [
    "The capital of France is",
    "def fibonacci(n):\n    \"\"\"Return the n-th Fibonacci number.\"\"\"\n",
    "Q: What is 17 + 25?\nA:",
    "Once upon a time, in a village by the sea, there lived",
    "Die wichtigsten Städte Österreichs sind",
    "".join(f"Line {i}: the {i % 7}th colour of the list is number {i * i % 101}.\n" for i in range(40)) + "Line 40: the",
]
TOP, STEPS = 64, 24


def load_tokenizer(name, folder, file):
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=file)
    if name == "qwen2":
        # The family's own tokenizer brings text into normal form C first; a GGUF file does not say so.
        tokenizer.backend_tokenizer.normalizer = normalizers.NFC()
    return tokenizer


def main(name, gguf, out):
    folder, file = os.path.split(gguf)
    tokenizer, model = load_tokenizer(name, folder, file), load(folder, gguf_file=file)

    def text(value):
        ids = tokenizer.encode(value, add_special_tokens=False)
        return {"text": value, "ids": ids, "document": tokenizer.encode(value),
                "decoded": tokenizer.decode(ids, skip_special_tokens=True)}

    save_json(os.path.join(out, f"real_{name}.json"), [text(value) for value in TEXTS])
    tensors = {}
    for i, prompt in enumerate(PROMPTS):
        ids = tokenizer(prompt, return_tensors="pt").input_ids[0]
        continuation, _, gaps = greedy(model, ids, STEPS)
        whole = torch.cat([ids, torch.tensor(continuation)])
        rows = logprobs(model, whole)[len(ids) - 1:-1]
        top = rows[0].topk(TOP)
        scored = rows.gather(-1, whole[len(ids):, None])[:, 0]
        tensors |= {f"ids__{i}": ids, f"top_ids__{i}": top.indices, f"top_logprobs__{i}": top.values,
                    f"greedy__{i}": continuation, f"greedy_gaps__{i}": gaps, f"scored_logprobs__{i}": scored}
        print(f"{i}: {len(ids)} tokens, smallest gap {min(gaps):.4f}:", repr(tokenizer.decode(continuation))[:90])
    save(os.path.join(out, f"real_{name}.safetensors"), **tensors)


if __name__ == "__main__":
    main(*sys.argv[1:])
