"""Gradients of every weight, and eight steps of AdamW on all of them, in PyTorch: whole.py OUT_DIR

Reads the folders of tiny_llama.py and tiny_families.py, the sequences in tiny_NAME_numbers.safetensors, and dro.json.

whole_NAME.safetensors      for each NAME of qwen2 (biases, a head of its own), qwen3 (norms of heads, tied), gemma3 (four norms
                            a layer, scaled embeddings, windows, tied) and llama3 (a head of its own): by Hugging Face names
                            the gradient of  sum next.0[23..] - 0.5 sum next.1[23..],  where next.i are the log-probs of
                            tiny_NAME_numbers.safetensors under softmax(logits / 0.8), with respect to every weight. A tied
                            head's is in the embedding's; gemma's norms are stored less 1, which no gradient sees
whole_adamw.json            loss, gradient norm before clipping and learning rate of each AdamW step on the groups of
                            dro.json, loss vargrad of dro.py; the critic starts as tiny_llama, which is the reference; the
                            tokens' log-probs after the last step
whole_adamw.safetensors     some of the weights after the last step

AdamW: lr 2e-4 * min(1, step / 3) with step = 1, 2, ...; betas 0.9, 0.99; eps 1e-8; weight decay 0.01 for matrices, none for
norms and biases; the gradient is scaled by min(1, 1 / (norm + 1e-6)) first (clip_grad_norm_).
"""
import json
import os
import sys

import torch
from safetensors.torch import load_file

from common import load, save, save_json
from dro import BETA, CLIP_NORM, TEMPERATURE, WARMUP_STEPS, baseline, token_logprobs

FAMILIES, PREFIX = ("qwen2", "qwen3", "gemma3", "llama3"), 24
STEPS, LEARNING_RATE = 8, 2e-4
KEPT = ("model.embed_tokens.weight", "model.layers.0.self_attn.k_proj.weight", "model.layers.1.mlp.down_proj.weight",
        "model.layers.1.post_attention_layernorm.weight", "model.norm.weight", "lm_head.weight")


def whole(out, name):
    """The model with the whole of its gradient: torch leaves the padding token's embedding without."""
    model = load(os.path.join(out, f"tiny_{name}")).double()
    model.get_input_embeddings().padding_idx = None
    return model


def gradients(out, name):
    model = whole(out, name)
    numbers = load_file(os.path.join(out, f"tiny_{name}_numbers.safetensors"))
    total = 0.0
    for i, weight in enumerate((1.0, -0.5)):
        ids = numbers[f"ids.{i}"].long()
        rows = (model(input_ids=ids[None], use_cache=False).logits[0] / TEMPERATURE).log_softmax(-1)
        total = total + weight * rows[PREFIX - 1:-1].gather(1, ids[PREFIX:, None]).sum()
    total.backward()
    found = {key: parameter.grad for key, parameter in model.named_parameters()}
    assert all(gradient.abs().max() > 0 for gradient in found.values())
    save(os.path.join(out, f"whole_{name}.safetensors"), **found)


def log_probs(model, group):
    return [token_logprobs(model, group["prefix"], critique) for critique in group["critiques"]]


def loss_of(model, groups):
    losses = []
    for group in groups:
        cus = torch.tensor(group["cus"], dtype=torch.float64)
        pairs = zip(log_probs(model, group), group["reference"])
        ratios = torch.stack([(ours - theirs).sum() for ours, theirs in pairs])
        losses.append(((cus - baseline("vargrad", cus, ratios) - BETA * ratios) ** 2 / (2 * BETA)).mean())
    return torch.stack(losses).mean()


def adamw(out):
    model = whole(out, "llama")
    with open(os.path.join(out, "dro.json"), encoding="utf-8") as file:
        groups = json.load(file)["groups"]
    with torch.no_grad():
        for group in groups:
            group["reference"] = log_probs(model, group)
    named = dict(model.named_parameters())
    decayed = [parameter for parameter in named.values() if parameter.dim() > 1]
    others = [parameter for parameter in named.values() if parameter.dim() == 1]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.01}, {"params": others, "weight_decay": 0.0}],
        lr=LEARNING_RATE, betas=(0.9, 0.99), eps=1e-8, foreach=False)
    steps = []
    for step in range(1, STEPS + 1):
        rate = LEARNING_RATE * min(1.0, step / WARMUP_STEPS)
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.zero_grad()
        loss = loss_of(model, groups)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(named.values(), CLIP_NORM)
        optimizer.step()
        steps.append({"loss": loss.item(), "gradient_norm": norm.item(), "learning_rate": rate})
    with torch.no_grad():
        trained = [[row.tolist() for row in log_probs(model, group)] for group in groups]
    save(os.path.join(out, "whole_adamw.safetensors"), **{name: named[name] for name in KEPT})
    save_json(os.path.join(out, "whole_adamw.json"), {"steps": steps, "trained_logprobs": trained})


def main(out):
    for name in FAMILIES:
        gradients(out, name)
    adamw(out)


if __name__ == "__main__":
    main(sys.argv[1])
