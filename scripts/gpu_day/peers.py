"""The same work by another program on this card: peers.py transformers|vllm [MODEL.gguf]

Decoding 1, 32 and 256 sequences of 64 tokens behind prompts of 51, prefill of 512 tokens, and a LoRA step. Prints one JSON line;
{"skipped": why} where the peer is not installed, or has no model.
"""

import json
import sys
import time
from pathlib import Path

PROMPT, NEW, SEQUENCES = 51, 64, (1, 32, 256)


def main():
    peer, model = sys.argv[1], Path(sys.argv[2])
    try:
        found = {"transformers": of_transformers, "vllm": of_vllm}[peer](model)
    except ImportError as missing:
        found = {"skipped": f"{peer}: {missing}"}
    print(json.dumps({"peer": peer, **found}))


def timed(torch, work):
    """Seconds of the second of two runs."""
    for _ in range(2):
        torch.cuda.synchronize()
        start = time.perf_counter()
        work()
        torch.cuda.synchronize()
    return time.perf_counter() - start


def of_transformers(_):
    """transformers' generate, and peft's LoRA with AdamW, both in bf16, on random weights of the node's model: SmolLM2 135M."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"vocab_size": 49152, "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30}
    heads = {"num_attention_heads": 9, "num_key_value_heads": 3, "max_position_embeddings": 8192, "tie_word_embeddings": True}
    model = LlamaForCausalLM(LlamaConfig(**sizes, **heads)).to(torch.bfloat16).cuda().eval()
    ids = lambda rows, length: torch.randint(5, 1000, (rows, length), device="cuda")  # noqa: E731
    found = {}
    with torch.inference_mode():
        for rows in SEQUENCES:
            prompts = ids(rows, PROMPT)
            settings = {"max_new_tokens": NEW, "min_new_tokens": NEW, "do_sample": True, "temperature": 0.7, "pad_token_id": 0}
            found[f"decode_{rows}"] = rows * NEW / timed(torch, lambda: model.generate(prompts, **settings))
        prompt = ids(1, 512)
        found["prefill_512"] = 512 / timed(torch, lambda: model(input_ids=prompt))
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError:
        return found
    model = get_peft_model(model.train(), LoraConfig(r=16, target_modules="all-linear", task_type="CAUSAL_LM"))
    optimizer = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=1e-5)
    batch = ids(4, 256)

    def step():
        model(input_ids=batch, labels=batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    found["lora_4x256"] = 4 * 256 / timed(torch, step)
    return found


def of_vllm(path):
    """vLLM's offline engine."""
    from vllm import LLM, SamplingParams

    if not path.is_file():
        return {"skipped": "vllm: there is no model file"}
    model = LLM(model=str(path), dtype="bfloat16", gpu_memory_utilization=0.5, max_model_len=2048)
    sampling = SamplingParams(temperature=0.7, max_tokens=NEW, ignore_eos=True)
    found = {}
    for rows in SEQUENCES:
        prompts = [{"prompt_token_ids": [5 + (i * 37 + j * 11) % 900 for j in range(PROMPT)]} for i in range(rows)]
        for _ in range(2):
            start = time.perf_counter()
            model.generate(prompts, sampling, use_tqdm=False)
        found[f"decode_{rows}"] = rows * NEW / (time.perf_counter() - start)
    return found


if __name__ == "__main__":
    main()
