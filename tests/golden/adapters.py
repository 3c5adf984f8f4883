"""Adapters of every shape that trainers write, and PEFT's log-probs with each: adapters.py OUT_DIR

adapters/NAME/                      the folder as peft writes it, without its README, weights in f32
adapters/NAME.safetensors
    ids.i                           (tokens) u32 of two sequences, those of tiny_families.py
    next.i                          (tokens - 1) f32: log-prob of token t + 1 with the adapter, in f64
    plain.i                         the same without it

The base is tiny_llama3, whose head is its own, or tiny_gemma3, whose head is its embedding and whose embedding is scaled.
"""
import json
import os
import shutil
import sys

import torch
from peft import LoraConfig, PeftModel, get_peft_model

from common import generator, load, save
from tiny_families import of_next, sequences

CASES = {
    "patterns": ("tiny_llama3", dict(
        r=4, lora_alpha=6, target_modules=["q_proj", "v_proj", "down_proj", "up_proj"],
        rank_pattern={"layers.0.self_attn.q_proj": 2, r".*\.(down|up)_proj": 8},
        alpha_pattern={"v_proj": 1, r"model\.layers\.1\..*": 11})),
    "rslora": ("tiny_llama3", dict(r=4, lora_alpha=3, use_rslora=True, target_modules="all-linear", rank_pattern={"k_proj": 1})),
    "layers": ("tiny_llama3", dict(r=2, lora_alpha=4, target_modules=["o_proj", "gate_proj"], layers_to_transform=[1],
                                   layers_pattern="layers")),
    "expression": ("tiny_gemma3", dict(
        r=2, lora_alpha=4, exclude_modules=r".*\.2\..*",
        target_modules=r"(?:.*?(?:self_attn|mlp).*?(?:k_proj|down_proj).*?)|(?:\bmodel\.layers\.[\d]{1,}\.(?:mlp)\.(?:up_proj))")),
    "ends": ("tiny_llama3", dict(r=3, lora_alpha=5, target_modules=["q_proj", "embed_tokens", "lm_head"],
                                 rank_pattern={"lm_head": 2})),
    "tied_ends": ("tiny_gemma3", dict(r=2, lora_alpha=5, target_modules=["down_proj", "embed_tokens"])),
    "tied_head": ("tiny_gemma3", dict(r=2, lora_alpha=5, target_modules=["down_proj", "lm_head"])),
}


def main(out):
    ids, folder = sequences(), os.path.join(out, "adapters")
    os.makedirs(folder, exist_ok=True)
    for seed, (name, (base, keys)) in enumerate(CASES.items(), 31):
        path, rng = os.path.join(folder, name), generator(seed)
        shutil.rmtree(path, ignore_errors=True)
        model = load(os.path.join(out, base))
        plain = [of_next(model.double(), sequence) for sequence in ids]
        adapted = get_peft_model(load(os.path.join(out, base)), LoraConfig(task_type="CAUSAL_LM", **keys)).eval()
        with torch.no_grad():
            for key, parameter in adapted.named_parameters():
                if "lora_" in key:
                    parameter.copy_(0.15 * torch.randn(parameter.shape, generator=rng))
        adapted.peft_config["default"].base_model_name_or_path = base
        adapted.save_pretrained(path)
        os.remove(os.path.join(path, "README.md"))
        config_path = os.path.join(path, "adapter_config.json")
        with open(config_path, encoding="utf-8") as file:
            written = json.load(file)
        if isinstance(written["target_modules"], list):
            written["target_modules"].sort()
        with open(config_path, "w", encoding="utf-8") as file:
            json.dump(written, file, indent=1)
        # What counts is what peft makes of its own files.
        again = PeftModel.from_pretrained(load(os.path.join(out, base)), path).eval().double()
        scored = [of_next(again, sequence) for sequence in ids]
        kept = {f"ids__{i}": sequence for i, sequence in enumerate(ids)}
        kept |= {f"next__{i}": row for i, row in enumerate(scored)} | {f"plain__{i}": row for i, row in enumerate(plain)}
        save(os.path.join(folder, f"{name}.safetensors"), **kept)
        moved = (scored[0] - plain[0]).abs().max().item()
        print(f"{name}: {len(again.targeted_module_names)} modules, moves log-probs by up to {moved:.2f}")


if __name__ == "__main__":
    main(sys.argv[1])
