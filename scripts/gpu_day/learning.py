"""Evidence that a critic learns on the device: the quickstart for some steps, then its utility on held-out prompts."""

import json

from . import parity

STEPS = 120


def part(day):
    run = day.out / "run"
    steps = 1 if day.rehearses else STEPS
    sets = ["--set", f"node.run_directory={run}", "--set", "telemetry.address=127.0.0.1:0"]
    if day.rehearses:
        sets += [word for one in rehearsal() for word in ("--set", one)]
    command = [day.program, "start", *parity.base(day), *sets, "--device", day.device, "--learner-steps", steps]
    if run.exists():
        command.append("--resume")
    if not day.run("run", command)["ok"]:
        return
    table = day.out / "eval"
    critics = ["--critic", "base", "--critic", f"trained={run}"]
    size = ["--n", 1, "--limit", 1] if day.rehearses else ["--n", 4]
    command = [day.program, "eval", *parity.base(day), *sets, "--device", day.device, *critics, *size, "--out", table, "--json"]
    day.run("eval", command, lambda printed: gain(day, printed))


def rehearsal():
    """Settings that make an episode of the tiny model short."""
    lengths = [f"{role}.sampling.max_tokens=4" for role in ("generator", "critic", "refiner")]
    # Utilities of the verifier are all 0 here, and would teach nothing: the model judges.
    judge = ["judge.kind=model", "judge.read=logprob"]
    return [*lengths, *judge, "rollout.critiques=4", "learner.groups_per_step=1", "rollout.rollouts_max=2", "engine.context_tokens_max=1024"]


def gain(day, printed):
    """What the trained critic's utility is over the base's, with its interval."""
    critics = json.loads(printed)["critics"]
    trained = next(figures for figures in critics if figures["critic"] == "trained")
    over = trained["cu_over_first"]
    text = f"critique utility {100 * trained['cu']['value']:.1f}, over base {100 * over['value']:+.1f}, at least {100 * over['low']:+.1f}"
    return day.rehearses or over["low"] > 0, {"text": text, "critics": critics}
