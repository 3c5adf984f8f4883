"""Holds what `rco-node export` writes against PEFT, transformers and llama.cpp.

    pip install torch transformers peft xllamacpp
    python tests/golden/export.py random HF_MODEL_FOLDER OUT_FOLDER [SCALE]       an adapter with an effect, seeded
    python tests/golden/export.py score FOLDER [ADAPTER_FOLDER] < prompts.jsonl    log-probs by transformers, with PEFT
    python tests/golden/export.py f32 QUANTISED.gguf OUT.gguf                      the same weights, no longer quantised
    python tests/golden/export.py llama BASE.gguf [LORA.gguf] < prompts.jsonl      greedy continuations by llama.cpp
    python tests/golden/export.py folders HERE OUT_FOLDER                          folders made from tests/golden/*.gguf
    python tests/golden/export.py compare OURS.jsonl THEIRS.jsonl                  what both say

`score` reads lines of {"prompt_ids", "completion_ids"}, as `rco-node score` does, and prints {"log_probs"}, in f32.
`llama` reads lines of {"prompt_ids", "completion_ids"} too, and continues each prompt by as many tokens as its completion has:
{"text"}. `compare` prints the largest difference of log-probs, and how many lines' greedy texts agree.
`folders` wants `OUT_FOLDER/tiny_NAME`, each from `rco-node export --to merged --model tests/golden/tiny_NAME.f32.gguf`, and holds
transformers on it against the numbers and tokenizers of `tiny_families.py` in HERE.

With `rco-node export --to peft|merged|gguf-lora`, `rco-node score [--adapter]` and `rco-node generate --json --temperature 0`
(whose lines have `prompt_ids` and `token_ids`; `jq -c '{prompt_ids, completion_ids: .token_ids}'` makes the input of the others).
"""

import json
import os
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


def f32(quantised, out):
    import gguf

    reader = gguf.GGUFReader(quantised)
    writer = gguf.GGUFWriter(out, str(reader.fields["general.architecture"].contents()))
    for field in reader.fields.values():
        if not field.name.startswith("GGUF.") and field.name not in ("general.architecture", "general.file_type"):
            inner = field.types[-1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
            writer.add_key_value(field.name, field.contents(), field.types[0], sub_type=inner)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype("float32"))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def llama(base, lora=None):
    import xllamacpp

    parameters = xllamacpp.CommonParams()
    parameters.model.path = base
    parameters.n_ctx, parameters.n_parallel, parameters.warmup, parameters.fit_params = 4096, 1, False, False
    parameters.cache_type_k = parameters.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    parameters.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = 1
    if lora:
        parameters.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(lora, 1.0)]
    server = xllamacpp.Server(parameters)
    for case in lines(sys.stdin):
        request = {
            "prompt": case["prompt_ids"],
            "max_tokens": len(case["completion_ids"]),
            "temperature": 0.0,
            "cache_prompt": False,
        }
        answer = server.handle_completions(request)
        print(json.dumps({"text": answer["choices"][0]["text"]}), flush=True)


def folders(here, made):
    import torch
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM, AutoTokenizer

    with open(f"{here}/tiny_tokenizers.json") as file:
        texts = json.load(file)
    for name in ["qwen2", "qwen3", "gemma3", "llama3"]:
        folder = f"{made}/tiny_{name}"
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        numbers = load_file(f"{here}/tiny_{name}_numbers.safetensors")
        worst = 0.0
        for i in range(2):
            ids = numbers[f"ids.{i}"].long()
            with torch.no_grad():
                scores = torch.log_softmax(model(ids[None]).logits[0, :-1].double(), -1)
            found = scores.gather(1, ids[1:, None])[:, 0]
            worst = max(worst, (found - numbers[f"next.{i}"].double()).abs().max().item())
        print(f"{name}: largest difference of a log-prob {worst:.2e}")
        tokenizer = AutoTokenizer.from_pretrained(folder)
        cases = texts.get(name, [])
        right = sum(
            tokenizer.encode(case["text"], add_special_tokens=False) == case["ids"]
            and tokenizer.encode(case["text"]) == case["document"]
            and tokenizer.decode(case["ids"], skip_special_tokens=True) == case["decoded"]
            for case in cases
        )
        if cases:
            print(f"{name}: {right} of {len(cases)} texts become the GGUF file's ids, alone and as a document, and come back")


def compare(ours, theirs):
    with open(ours) as one, open(theirs) as other:
        pairs = list(zip(lines(one), lines(other), strict=True))
    if "log_probs" in pairs[0][1]:
        tokens = [(a, b) for one, other in pairs for a, b in zip(one["log_probs"], other["log_probs"], strict=True)]
        print(f"{len(tokens)} log-probs, largest difference {max(abs(a - b) for a, b in tokens):.2e}")
    if "text" in pairs[0][1]:
        agree = sum(one["text"] == other["text"] for one, other in pairs)
        print(f"{agree} of {len(pairs)} greedy texts agree to the last letter")
        for index, (one, other) in enumerate(pairs):
            if one["text"] != other["text"]:
                same = len(os.path.commonprefix([one["text"], other["text"]]))
                print(f"  {index + 1}: they part after {same} of {len(one['text'])} letters")


{"random": random_adapter, "score": score, "f32": f32, "llama": llama, "folders": folders, "compare": compare}[sys.argv[1]](*sys.argv[2:])
