"""Writes tests/golden/peft_adapter: a LoRA adapter as PEFT itself saves it.

    pip install torch transformers peft
    python tests/golden/peft_roundtrip.py [FOLDER]

A random two-layer llama (hidden 32, vocabulary 64) is wrapped by PEFT, both factors are filled with random
numbers (PEFT starts B at zero), and the adapter is saved. Beside it goes golden.json: a few values of each
factor as Python read them, which `src/model/lora/peft/tests.rs` holds against our loader.
"""

import json
import pathlib
import sys

import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM

here = pathlib.Path(__file__).resolve().parent
folder = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else here / "peft_adapter"

torch.manual_seed(7)
model = LlamaForCausalLM(
    LlamaConfig(
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        vocab_size=64,
    )
)
wrapped = get_peft_model(
    model,
    LoraConfig(
        r=4,
        lora_alpha=6,
        task_type="CAUSAL_LM",
        target_modules=["q_proj", "v_proj", "o_proj", "gate_proj", "down_proj"],
    ),
)
with torch.no_grad():
    for name, parameter in wrapped.named_parameters():
        if "lora_" in name:
            parameter.normal_(std=0.1)
wrapped.save_pretrained(folder)
(folder / "README.md").unlink(missing_ok=True)

tensors = load_file(folder / "adapter_model.safetensors")
golden = {
    name: {"shape": list(t.shape), "first": t[0, 0].item(), "last": t[-1, -1].item(), "row_1": t[1].tolist()}
    for name, t in sorted(tensors.items())
}
(folder / "golden.json").write_text(json.dumps(golden, indent=1) + "\n")
print(f"wrote {len(golden)} tensors to {folder}")
