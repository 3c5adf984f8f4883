"""Holds what `rco-node export` writes against PEFT, transformers and llama.cpp.

    pip install torch transformers peft xllamacpp
    python tests/golden/export.py random HF_MODEL_FOLDER OUT_FOLDER [SCALE]       an adapter with an effect, seeded
    python tests/golden/export.py score FOLDER [ADAPTER_FOLDER] < prompts.jsonl    log-probs by transformers, with PEFT
    python tests/golden/export.py llama BASE.gguf [LORA.gguf] < prompts.jsonl      greedy continuations by llama.cpp
    python tests/golden/export.py compare OURS.jsonl THEIRS.jsonl                  what both say

`score` reads lines of {"prompt_ids", "completion_ids"}, as `rco-node score` does, and prints {"log_probs"}, in f32.
`llama` reads lines of {"prompt_ids", "completion_ids"} too, and continues each prompt by as many tokens as its completion has:
{"token_ids"}. `compare` prints the largest difference of log-probs and how many lines' greedy tokens agree.

With `rco-node export --to peft|merged|gguf-lora`, `rco-node score [--adapter]` and `rco-node generate --json --temperature 0`
(whose lines have `prompt_ids` and `token_ids`; `jq -c '{prompt_ids, completion_ids: .token_ids}'` makes the input of the others).
"""

import json
import sys


def lines(file):
    return [json.loads(line) for line in file if line.strip()]


def random_adapter(model, out, scale="0.02"):
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(11)
    sites = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    config = LoraConfig(r=8, lora_alpha=16, target_modules=sites, task_type="CAUSAL_LM")
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32), config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:  # PEFT starts it at zero
                parameter.copy_(float(scale) * torch.randn(parameter.shape))
    model.save_pretrained(out)


def score(folder, adapter=None):
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    if adapter:
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, adapter)
    model.eval()
    for case in lines(sys.stdin):
        prompt, completion = case["prompt_ids"], case["completion_ids"]
        with torch.no_grad():
            logits = model(torch.tensor([prompt + completion])).logits[0, len(prompt) - 1 : -1].double()
        picked = torch.log_softmax(logits, -1).gather(1, torch.tensor(completion)[:, None])[:, 0]
        print(json.dumps({"log_probs": picked.tolist()}))


def llama(base, lora=None):
    import xllamacpp

    parameters = xllamacpp.CommonParams()
    parameters.model.path = base
    parameters.n_ctx, parameters.n_parallel, parameters.warmup, parameters.fit_params = 4096, 1, False, False
    parameters.cpuparams.n_threads = 2
    if lora:
        parameters.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(lora, 1.0)]
    server = xllamacpp.Server(parameters)
    for case in lines(sys.stdin):
        request = {
            "prompt": case["prompt_ids"],
            "n_predict": len(case["completion_ids"]),
            "temperature": 0.0,
            "return_tokens": True,
            "cache_prompt": False,
        }
        answer = server.handle_completions(json.dumps(request))
        answer = json.loads(answer) if isinstance(answer, (str, bytes)) else answer
        print(json.dumps({"text": answer.get("content"), "token_ids": answer.get("tokens")}), flush=True)


def compare(ours, theirs):
    with open(ours) as one, open(theirs) as other:
        pairs = list(zip(lines(one), lines(other), strict=True))
    if "log_probs" in pairs[0][1]:
        tokens = [(a, b) for one, other in pairs for a, b in zip(one["log_probs"], other["log_probs"], strict=True)]
        print(f"{len(tokens)} log-probs, largest difference {max(abs(a - b) for a, b in tokens):.2e}")
    if "token_ids" in pairs[0][1]:
        agree = sum(one["token_ids"] == other["token_ids"] for one, other in pairs)
        print(f"{agree} of {len(pairs)} greedy texts agree to the last token")
        for index, (one, other) in enumerate(pairs):
            same = [a == b for a, b in zip(one["token_ids"], other["token_ids"])]
            if one["token_ids"] != other["token_ids"]:
                print(f"  {index + 1}: they part after {(same + [False]).index(False)} of {len(one['token_ids'])} tokens")


{"random": random_adapter, "score": score, "llama": llama, "compare": compare}[sys.argv[1]](*sys.argv[2:])
