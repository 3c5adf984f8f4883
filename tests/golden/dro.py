"""The DRO loss, its gradients and twenty steps of AdamW, in PyTorch: dro.py OUT_DIR

Reads tiny_llama/ (the reference: adapter off) and tiny_lora/ (the critic that is trained).

    loss = mean over groups, mean over a group's critiques of (CU - b - beta * logratio)^2 / (2 beta), b without gradient
    logratio = sum over a critique's tokens of log pi - log pi_ref, both log_softmax(logits / temperature)
    vargrad    b = mean(CU - beta * logratio) of the group
    partition  b = beta * logmeanexp(CU / beta) of the group
    mean       b = mean(CU) of the group

    dpco: loss = mean over groups, mean over a group's pairs of -logsigmoid(beta * (logratio_chosen - logratio_rejected))

dro.json                     the groups' ids and CUs; per critique the tokens' log-probs under both and the log-ratio; per
                             baseline b of each group, the loss of each group and of all; loss, gradient norm before
                             clipping and learning rate of each AdamW step
dro_<baseline>.safetensors   d loss / d (each lora_A, lora_B), by peft's names
dro_dpco.safetensors          the same for dpco; pairs, loss, accuracy and margin are in dro.json
dro_adamw.safetensors        the factors after twenty steps with vargrad, whose log-probs are in dro.json

AdamW: lr 1e-3 * min(1, step / 3) with step = 1, 2, ...; betas 0.9, 0.99; eps 1e-8; weight decay 0.01; the gradient is
scaled by min(1, 1 / (norm + 1e-6)) first (clip_grad_norm_).
"""
import math
import os
import sys
from contextlib import nullcontext

import torch
import torch.nn.functional as F
from peft import PeftModel

from common import IM_END, generator, load, save, save_json

BETA, TEMPERATURE = 0.2, 0.8
STEPS, LEARNING_RATE, WARMUP_STEPS, CLIP_NORM = 20, 1e-3, 3, 1.0
CUS = ([0.0, 0.25, 0.5, 1.0], [0.75, 0.5, 0.5, 0.0])
BASELINES = ("vargrad", "partition", "mean")
PAIRS = ([[3, 0], [3, 1], [2, 0]], [[0, 3]])


def make_groups(model):
    """Critiques drawn at the temperature, by the critic and by the reference in turn; some end their turn."""
    rng, groups = generator(4), []
    for prefix_tokens, lengths, cus in zip((23, 45), ((5, 9, 14, 11), (12, 7, 5, 13)), CUS):
        prefix = torch.randint(0, IM_END + 1, (prefix_tokens,), generator=rng)
        critiques = []
        for i, length in enumerate(lengths):
            ids = prefix
            with torch.no_grad(), nullcontext() if i % 2 == 0 else model.disable_adapter():
                for _ in range(length):
                    probs = (model(input_ids=ids[None], use_cache=False).logits[0, -1] / TEMPERATURE).softmax(-1)
                    ids = torch.cat([ids, torch.multinomial(probs, 1, generator=rng)])
            if length % 3 == 0:
                ids[-1] = IM_END
            critiques.append(ids[prefix_tokens:].tolist())
        groups.append({"prefix": prefix.tolist(), "critiques": critiques, "cus": cus})
    return groups


def token_logprobs(model, prefix, critique):
    """(critique tokens): each token's log-prob at the sampling temperature."""
    ids = torch.tensor(prefix + critique)
    logits = model(input_ids=ids[None], use_cache=False).logits[0, len(prefix) - 1:-1]
    return (logits / TEMPERATURE).log_softmax(-1).gather(-1, ids[len(prefix):, None])[:, 0]


def log_ratios(model, group):
    """(critiques), and the tokens' log-probs under the critic and under the reference."""
    critic = [token_logprobs(model, group["prefix"], critique) for critique in group["critiques"]]
    with torch.no_grad(), model.disable_adapter():
        reference = [token_logprobs(model, group["prefix"], critique) for critique in group["critiques"]]
    return torch.stack([(ours - theirs).sum() for ours, theirs in zip(critic, reference)]), critic, reference


def baseline(name, cus, ratios):
    if name == "vargrad":
        return (cus - BETA * ratios).mean().detach()
    if name == "partition":
        return BETA * ((cus / BETA).logsumexp(0) - math.log(len(cus)))
    return cus.mean()


def loss_of(model, groups, name):
    losses, baselines = [], []
    for group in groups:
        cus, (ratios, _, _) = torch.tensor(group["cus"], dtype=torch.float64), log_ratios(model, group)
        b = baseline(name, cus, ratios)
        losses.append(((cus - b - BETA * ratios) ** 2 / (2 * BETA)).mean())
        baselines.append(b.item())
    return torch.stack(losses).mean(), [loss.item() for loss in losses], baselines


def dpco(model, groups):
    losses, accuracies, margins = [], [], []
    for group, pairs in zip(groups, PAIRS):
        ratios = log_ratios(model, group)[0]
        margin = BETA * torch.stack([ratios[chosen] - ratios[rejected] for chosen, rejected in pairs])
        losses.append(-F.logsigmoid(margin).mean())
        accuracies.append((margin > 0).double().mean())
        margins.append(margin.mean())
    return [torch.stack(values).mean() for values in (losses, accuracies, margins)]


def factors(model):
    """The trained tensors, by the names in peft's file."""
    return {name.replace(".default", ""): p for name, p in model.named_parameters() if p.requires_grad}


def adamw(model, groups):
    trained = factors(model)
    optimizer = torch.optim.AdamW(trained.values(), lr=LEARNING_RATE, betas=(0.9, 0.99), eps=1e-8, weight_decay=0.01, foreach=False)
    steps = []
    for step in range(1, STEPS + 1):
        rate = LEARNING_RATE * min(1.0, step / WARMUP_STEPS)
        optimizer.param_groups[0]["lr"] = rate
        optimizer.zero_grad()
        loss, _, _ = loss_of(model, groups, "vargrad")
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(trained.values(), CLIP_NORM)
        optimizer.step()
        steps.append({"loss": loss.item(), "gradient_norm": norm.item(), "learning_rate": rate})
    return trained, steps


def main(out):
    model = PeftModel.from_pretrained(load(os.path.join(out, "tiny_llama")), os.path.join(out, "tiny_lora"), is_trainable=True)
    model = model.double().eval()
    groups = make_groups(model)
    golden = {"beta": BETA, "temperature": TEMPERATURE, "groups": groups, "baselines": {}}
    for group in groups:
        ratios, critic, reference = log_ratios(model, group)
        group |= {"logprobs": [row.tolist() for row in critic], "reference_logprobs": [row.tolist() for row in reference],
                  "log_ratios": ratios.tolist()}
    for name in BASELINES:
        model.zero_grad()
        loss, losses, baselines = loss_of(model, groups, name)
        loss.backward()
        gradients = {key: p.grad for key, p in factors(model).items()}
        assert all(gradient.abs().max() > 0 for gradient in gradients.values())
        save(os.path.join(out, f"dro_{name}.safetensors"), **gradients)
        golden["baselines"][name] = {"loss": loss.item(), "group_losses": losses, "group_baselines": baselines}
    model.zero_grad()
    loss, accuracy, margin = dpco(model, groups)
    loss.backward()
    save(os.path.join(out, "dro_dpco.safetensors"), **{key: p.grad for key, p in factors(model).items()})
    golden["dpco"] = {"pairs": PAIRS, "loss": loss.item(), "accuracy": accuracy.item(), "margin": margin.item()}
    trained, golden["adamw"] = adamw(model, groups)
    for group in groups:
        group["trained_logprobs"] = [row.tolist() for row in log_ratios(model, group)[1]]
    save(os.path.join(out, "dro_adamw.safetensors"), **trained)
    save_json(os.path.join(out, "dro.json"), golden)


if __name__ == "__main__":
    main(sys.argv[1])
