"""RCO's loss with each of its options, DPO's loss and the value network, in PyTorch with autograd: objective.py OUT_DIR

Seeded numbers stand for utilities and log-ratios. All is computed in f64 from numbers that f32 holds exactly.

objective.json
    rco     per case the options, utilities (CU), log_ratios r = log pi/pi_ref, behaviour = log pi/mu, value V, kept; and
            what comes out: baseline b, loss, gradient d loss / d r, truncated
                residual = CU - b - beta r, b without gradient
                loss = sum over kept of w huber(residual) / (beta N); huber = torch's, delta = residual_clip (none: 1/2 residual^2)
                w = min(1, pi/mu) without gradient where truncation is topr and the residual is negative, else 1
                vargrad, mean: over the kept; partition: beta (logsumexp(CU / beta) - log N) over all; value: V
    dpo     beta, log_ratios, pairs (chosen, rejected): loss = mean of -logsigmoid(beta (r_c - r_r)), gradient, accuracy, margin
    value   V = w2 . silu(W1 h / sqrt(mean(h^2) + 1e-6) + b1) + b2; the start; groups of hidden, utilities, log_ratios; the
            gradient of mean over groups of 1/2 mean (V - CU + beta r)^2 and its value; after each of five steps of
            torch.optim.AdamW (no weight decay) the loss before it; predictions and weights at the end
"""
import itertools
import sys

import torch
import torch.nn.functional as F

from common import generator, save_json

torch.set_default_dtype(torch.float64)
RNG = generator(11)


def numbers(*shape, scale=1.0):
    """Normal numbers that are exact in f32."""
    return (torch.randn(*shape, generator=RNG) * scale).float().double()


def rco(case):
    beta, clip = case["beta"], case["residual_clip"]
    cu, behaviour = torch.tensor(case["utilities"]), torch.tensor(case["behaviour"])
    kept = torch.tensor(case["kept"])
    r = torch.tensor(case["log_ratios"], requires_grad=True)
    with torch.no_grad():
        b = {
            "vargrad": lambda: (cu - beta * r)[kept].mean(),
            "mean": lambda: cu[kept].mean(),
            "partition": lambda: beta * ((cu / beta).logsumexp(0) - torch.tensor(float(len(cu))).log()),
            "value": lambda: torch.tensor(case["value"]),
        }[case["baseline"]]()
        down = (cu - b - beta * r) < 0
        weight = torch.where(down & (case["truncation"] == "topr"), behaviour.exp().clamp(max=1.0), 1.0)
    residual = cu - b - beta * r
    each = F.huber_loss(residual, torch.zeros_like(residual), reduction="none", delta=clip) if clip else residual**2 / 2
    loss = (weight * each)[kept].sum() / (beta * len(cu))
    (gradient,) = torch.autograd.grad(loss, r)
    return {"b": b.item(), "loss": loss.item(), "gradient": gradient.tolist(),
            "truncated": int(((weight < 1) & kept).sum())}


def rco_cases():
    cases = []
    for baseline, clip, truncation, masked in itertools.product(
            ("vargrad", "partition", "mean", "value"), (None, 0.15), ("none", "topr"), (False, True)):
        n = 5
        kept = [True] * n if not masked else [True, False, True, True, False]
        case = {
            "baseline": baseline, "beta": 0.25, "residual_clip": clip, "truncation": truncation, "kept": kept,
            "utilities": torch.randint(0, 9, (n,), generator=RNG).div(8).tolist(),
            "log_ratios": numbers(n).tolist(), "behaviour": numbers(n).tolist(), "value": 0.375,
        }
        cases.append(case | rco(case))
    return cases


def dpo():
    beta, r = 0.3, numbers(4, scale=3.0).requires_grad_()
    pairs = [[2, 0], [2, 1], [3, 1], [0, 3]]
    margin = beta * torch.stack([r[c] - r[j] for c, j in pairs])
    loss = -F.logsigmoid(margin).mean()
    (gradient,) = torch.autograd.grad(loss, r)
    return {"beta": beta, "log_ratios": r.tolist(), "pairs": pairs, "loss": loss.item(), "gradient": gradient.tolist(),
            "accuracy": (margin > 0).double().mean().item(), "margin": margin.mean().item()}


def value():
    inputs, width, beta = 6, 5, 0.25
    names = ("hidden.weight", "hidden.bias", "out.weight", "out.bias")
    start = [numbers(width, inputs, scale=0.5), numbers(width, scale=0.1), numbers(1, width, scale=0.5), numbers(1, scale=0.1)]
    w1, b1, w2, b2 = weights = [w.clone().requires_grad_() for w in start]
    groups = [{"hidden": numbers(inputs, scale=s), "utilities": torch.randint(0, 5, (4,), generator=RNG).div(4),
               "log_ratios": numbers(4)} for s in (0.1, 1.0, 30.0)]

    def predict(h):
        return (w2 @ F.silu(w1 @ (h / (h.square().mean() + 1e-6).sqrt()) + b1) + b2)[0]

    def loss():
        return torch.stack([((predict(g["hidden"]) - g["utilities"] + beta * g["log_ratios"])**2).mean() / 2
                            for g in groups]).mean()

    gradient = torch.autograd.grad(loss(), weights)
    adam = dict(rate=0.02, beta1=0.9, beta2=0.99, epsilon=1e-8)
    optimizer = torch.optim.AdamW(weights, lr=adam["rate"], betas=(adam["beta1"], adam["beta2"]), eps=adam["epsilon"],
                                  weight_decay=0.0)
    losses = []
    for _ in range(5):
        optimizer.zero_grad()
        now = loss()
        now.backward()
        losses.append(now.item())
        optimizer.step()
    flat = lambda tensors: {name: t.flatten().tolist() for name, t in zip(names, tensors)}
    return {"inputs": inputs, "width": width, "beta": beta, "adam": adam, "start": flat(start), "gradient": flat(gradient),
            "groups": [{k: v.tolist() for k, v in g.items()} for g in groups], "losses": losses, "end": flat(weights),
            "predictions": [predict(g["hidden"]).item() for g in groups]}


if __name__ == "__main__":
    save_json(f"{sys.argv[1]}/objective.json", {"rco": rco_cases(), "dpo": dpo(), "value": value()})
