"""Evidence that a critic learns on the device: the quickstart for some steps, then its utility on held-out prompts."""

import json
import shutil

from . import parity

STEPS = 120


def part(day):
    run = day.out / "run"
    steps = 1 if day.rehearses else STEPS
    sets = ["--set", f"node.run_directory={run}", "--set", "telemetry.address=127.0.0.1:0"]
    if day.rehearses:
        sets += [word for one in rehearsal() for word in ("--set", one)]
    command = [day.program, "start", *parity.base(day), *sets, "--device", day.device, "--learner-steps", steps]
    # A run that the part's time cut goes on in the next one.
    command += ["--set", "checkpoint.every_seconds=60"]
    table = day.out / "eval"
    if day.options.again or not any(run.glob("checkpoints/*")):
        shutil.rmtree(run, ignore_errors=True)
        shutil.rmtree(table, ignore_errors=True)
    if run.exists():
        command.append("--resume")
    if not day.run("run", command, lambda _: (f" step={steps} " in day.log("run"), {}))["ok"]:
        return
    critics = ["--critic", "base", "--critic", f"trained={run}"]
    size = ["--n", 1, "--limit", 1] if day.rehearses else ["--n", 4]
    command = [day.program, "eval", *parity.base(day), *sets, "--device", day.device, *critics, *size, "--out", table, "--json"]
    day.run("eval", command, lambda printed: gain(day, printed))


def rehearsal():
    """Settings that make an episode of the tiny model short."""
    lengths = [f"{role}.sampling.max_tokens=4" for role in ("generator", "critic", "refiner")]
    # Utilities of the verifier are all 0 here, and would teach nothing: the model judges.
    judge = ["judge.kind=model", "judge.read=logprob"]
    return [*lengths, *judge, "rollout.critiques=4", "learner.groups_per_step=1", "rollout.rollouts_max=2"]


def gain(day, printed):
    """What the trained critic's utility is over the base's, with its interval."""
    critics = json.loads(printed)["critics"]
    trained = next(figures for figures in critics if figures["critic"] == "trained")
    over = trained["cu_over_first"]
    if over is None:
        return day.rehearses or None, {"text": "no prompt is judged for both critics", "critics": critics}
    text = f"critique utility {trained['cu']['value']:.1f}, over base {over['value']:+.1f}, at least {over['low']:+.1f}"
    return day.rehearses or over["low"] > 0, {"text": text, "critics": critics}
