"""The memory plan of `check` against what the card says while a node runs."""

import shutil
import subprocess
import threading
import time

from . import learning, parity
from .setup import ROOT

# The plan may be this much too large, and a little too small: the card counts pages, and is asked five times a second.
RATIOS = (0.95, 1.25)


def part(day):
    if day.done("plan-against-card"):
        return
    plan = day.run("plan", [day.program, "check", *parity.base(day), "--device", day.device], planned)
    # What the driver takes for a process, whatever it allocates: a model of a megabyte is all that this one holds.
    tiny = ["--set", f"model.source={ROOT / 'tests/golden/tiny_llama'}", "--set", "engine.context_tokens_max=128"]
    ids = parity.requests(day, 250, 64, 23, 31)
    score = [day.program, "score", ids, *tiny, "--set", "engine.kv_cache_mib=8", "--device", day.device]
    context = watched(day, "context", score)
    run = day.out / "memory-run"
    shutil.rmtree(run, ignore_errors=True)
    sets = ["--set", f"node.run_directory={run}", "--set", "telemetry.address=127.0.0.1:0"]
    if day.rehearses:
        sets += [word for one in learning.rehearsal() for word in ("--set", one)]
    steps = 1 if day.rehearses else 5
    node = watched(day, "node", [day.program, "start", *parity.base(day), *sets, "--device", day.device, "--learner-steps", steps])
    if not (plan["ok"] and context["ok"] and node["ok"]):
        return
    used = node["peak_mib"] - context["peak_mib"]
    ratio = plan["mib"] / used if used > 0 else 0.0
    text = f"planned {plan['mib']:.0f} MiB, used {used:.0f} beside {context['peak_mib']:.0f} of the driver's"
    ok = used > 0 if day.rehearses else RATIOS[0] <= ratio <= RATIOS[1]
    day.record("plan-against-card", ok, plan_mib=plan["mib"], used_mib=used, text=text)


def watched(day, name, command):
    """Runs a command, and keeps the most memory that the card had in use meanwhile beyond what it had before."""
    before, peak, stop = used_of(day), [0.0], threading.Event()

    def watch():
        while not stop.wait(0.2):
            used = used_of(day)
            peak[0] = None if None in (before, peak[0], used) else max(peak[0], used - before)

    watcher = threading.Thread(target=watch)
    watcher.start()

    def judged(_):
        if peak[0] is None:
            return None, {"text": "nvidia-smi does not say how much memory is in use"}
        return True, {"peak_mib": peak[0], "text": f"{peak[0]:.0f} MiB of the card at the most"}

    try:
        return day.run(name, command, judged)
    finally:
        stop.set()
        watcher.join()


def planned(printed):
    """The total of the plan that `check` prints."""
    line = next(line for line in printed.splitlines() if line.startswith("# total "))
    mib = float(line.split()[-1])
    return True, {"mib": mib, "text": f"{mib:.0f} MiB"}


def used_of(day):
    """Memory of the card in use, in MiB; None where the card does not say."""
    number = day.device.partition(":")[2] or "0"
    command = ["nvidia-smi", f"--id={number}", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
    try:
        return float(subprocess.run(command, env=day.environment, capture_output=True, text=True, timeout=20).stdout.split()[0])
    except (OSError, ValueError, IndexError, subprocess.TimeoutExpired):
        return None
