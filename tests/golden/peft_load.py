"""Loads an adapter that rco-node wrote with PEFT and prints per-token log-probs.

    pip install torch transformers peft
    python tests/golden/peft_load.py ADAPTER_FOLDER HF_MODEL_FOLDER < prompts.jsonl > scores.jsonl

Each line of the input is {"prompt_ids": [...], "completion_ids": [...]}; each line of the output is
{"log_probs": [...], "base_log_probs": [...]}, with the adapter on and off, in f32. It is the other side of
`rco-node score --adapter ADAPTER_FOLDER`, which reads the same lines.
"""

import json
import sys

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

adapter, base = sys.argv[1:3]
model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
model = PeftModel.from_pretrained(model, adapter).eval()


@torch.no_grad()
def log_probs(prompt, completion):
    ids = torch.tensor([prompt + completion])
    logits = model(ids).logits[0, len(prompt) - 1 : -1].double()
    return torch.log_softmax(logits, -1).gather(1, torch.tensor(completion)[:, None])[:, 0].tolist()


for line in sys.stdin:
    if line.strip():
        case = json.loads(line)
        pair = case["prompt_ids"], case["completion_ids"]
        scores = {"log_probs": log_probs(*pair)}
        with model.disable_adapter():
            scores["base_log_probs"] = log_probs(*pair)
        print(json.dumps(scores))
