"""What the golden programs share: seeded sequences, log-probs, files that hold no path and no date."""
import json
import os

os.environ["HF_HUB_OFFLINE"] = "1"
import numpy as np
import torch
from safetensors.numpy import save_file
from transformers import AutoModelForCausalLM

torch.set_num_threads(1)
VOCAB, BYTES = 300, 256
END_OF_TEXT, IM_START, IM_END = 256, 257, 258
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
# On both sides of the 32-token block: none full, one, two, and the tokens just before and after.
LENGTHS = (1, 6, 31, 32, 33, 40, 65, 90)
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def generator(seed):
    return torch.Generator().manual_seed(seed)


def sequences():
    """Eight random sequences of ids that the tokenizer knows."""
    rng = generator(20)
    return [torch.randint(0, IM_END + 1, (length,), generator=rng) for length in LENGTHS]


# The golden numbers are computed in f64 (`.double()`; the norms and softmaxes of transformers stay f32) and kept in f32,
# so that a test measures its own rounding and not that of torch as well.
def load(path, **kwargs):
    return AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, attn_implementation="eager", **kwargs).eval()


@torch.no_grad()
def logprobs(model, ids):
    """(tokens, vocab): row t is the distribution of token t + 1."""
    return model(input_ids=ids[None], use_cache=False).logits[0].log_softmax(-1)


@torch.no_grad()
def greedy(model, ids, steps):
    """The likeliest continuation, each step's log-prob, and how far the second-best was behind."""
    cache, out, chosen, gaps, step = None, [], [], [], ids
    for _ in range(steps):
        result = model(input_ids=step[None], past_key_values=cache, use_cache=True)
        cache = result.past_key_values
        best = result.logits[0, -1].log_softmax(-1).topk(2)
        step = best.indices[:1]
        out.append(step.item())
        chosen.append(best.values[0].item())
        gaps.append((best.values[0] - best.values[1]).item())
    return out, chosen, gaps


def save(path, **tensors):
    """u32 for ids, f32 for the rest; `a__0` becomes `a.0`."""
    arrays = {}
    for name, value in tensors.items():
        value = np.asarray(value.detach() if torch.is_tensor(value) else value)
        kind = np.uint32 if np.issubdtype(value.dtype, np.integer) else np.float32
        arrays[name.replace("__", ".")] = np.ascontiguousarray(value.astype(kind))
    save_file(arrays, path)


def save_json(path, value):
    """Lists of numbers on one line, the rest indented."""
    marks = {}

    def flat(node):
        if isinstance(node, list) and not any(isinstance(item, (list, dict)) for item in node):
            marks[f"@{len(marks)}@"] = json.dumps(node, ensure_ascii=False)
            return f"@{len(marks) - 1}@"
        if isinstance(node, list):
            return [flat(item) for item in node]
        return {key: flat(item) for key, item in node.items()} if isinstance(node, dict) else node

    text = json.dumps(flat(value), indent=1, ensure_ascii=False)
    for mark, line in marks.items():
        text = text.replace(f'"{mark}"', line)
    with open(path, "w", encoding="utf-8") as file:
        file.write(text + "\n")
