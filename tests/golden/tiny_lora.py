"""A random LoRA on tiny_llama/, written by peft, and the log-probs with it: tiny_lora.py OUT_DIR

tiny_lora/                       rank 4, alpha 8, on all seven linears; neither factor is zero
tiny_lora_logits.safetensors     ids.i (tokens) u32, logprobs.i (tokens, 300) f32: the sequences of tiny_logits.safetensors
"""
import json
import os
import sys

import torch
from peft import LoraConfig, PeftModel, get_peft_model

from common import TARGETS, generator, load, logprobs, save, sequences


def main(out):
    base = os.path.join(out, "tiny_llama")
    config = LoraConfig(r=4, lora_alpha=8, target_modules=TARGETS, lora_dropout=0.0, bias="none", task_type="CAUSAL_LM")
    model, rng = get_peft_model(load(base), config).eval(), generator(3)
    with torch.no_grad():  # log-ratios of about a nat a critique, of both signs
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.copy_(0.07 * torch.randn(parameter.shape, generator=rng))
    # What peft would write here is the path on the machine that ran this.
    model.peft_config["default"].base_model_name_or_path = "tiny_llama"
    folder = os.path.join(out, "tiny_lora")
    model.save_pretrained(folder)
    os.remove(os.path.join(folder, "README.md"))
    # peft writes a set, in another order each time.
    path = os.path.join(folder, "adapter_config.json")
    with open(path, encoding="utf-8") as file:
        written = json.load(file)
    written["target_modules"] = sorted(written["target_modules"], key=TARGETS.index)
    with open(path, "w", encoding="utf-8") as file:
        json.dump(written, file, indent=2)
    again = PeftModel.from_pretrained(load(base), folder).double().eval()
    tensors, moved = {}, 0.0
    for i, ids in enumerate(sequences()):
        tensors |= {f"ids__{i}": ids, f"logprobs__{i}": logprobs(again, ids)}
        assert torch.allclose(logprobs(model, ids).double(), tensors[f"logprobs__{i}"], atol=1e-5)
        with again.disable_adapter():
            moved = max(moved, (logprobs(again, ids) - tensors[f"logprobs__{i}"]).abs().max().item())
    save(os.path.join(out, "tiny_lora_logits.safetensors"), **tensors)
    print(f"tiny_lora: moves a log-prob by up to {moved:.3g}")


if __name__ == "__main__":
    main(sys.argv[1])
