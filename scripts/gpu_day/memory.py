"""The memory plan of `check` against what the card says while a node runs."""

import subprocess
import threading
import time

from . import learning, parity

# The plan may be this much too large, and never too small.
OVER_MAX = 1.05


def part(day):
    plan = day.run("plan", [day.program, "check", "--offline", *parity.base(day), "--device", day.device], planned)
    if not plan["ok"]:
        return
    sets = ["--set", f"node.run_directory={day.out / 'memory-run'}", "--set", "telemetry.address=127.0.0.1:0"]
    if day.rehearses:
        sets += [word for one in learning.rehearsal() for word in ("--set", one)]
    before, peak = used(day), [0]
    stop = threading.Event()

    def watch():
        while not stop.is_set():
            peak[0] = max(peak[0], used(day) - before)
            time.sleep(0.2)

    watcher = threading.Thread(target=watch)
    watcher.start()
    command = [day.program, "start", *parity.base(day), *sets, "--device", day.device, "--learner-steps", 1 if day.rehearses else 5]
    try:
        day.run("node", command)
    finally:
        stop.set()
        watcher.join()
    ratio = plan["mib"] / peak[0] if peak[0] else 0.0
    ok = day.rehearses or 1.0 <= ratio <= OVER_MAX
    day.record("plan-against-card", ok, plan_mib=plan["mib"], peak_mib=peak[0], text=f"planned {plan['mib']:.0f} MiB, used {peak[0]:.0f}")


def planned(printed):
    """The total of the plan that `check` prints."""
    line = next(line for line in printed.splitlines() if line.startswith("# total "))
    mib = float(line.split()[-1])
    return True, {"mib": mib, "text": f"{mib:.0f} MiB"}


def used(day):
    """Memory of the card in use, in MiB."""
    number = day.device.partition(":")[2] or "0"
    command = ["nvidia-smi", f"--id={number}", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
    try:
        return float(subprocess.run(command, env=day.environment, capture_output=True, text=True, timeout=20).stdout.split()[0])
    except (OSError, ValueError, IndexError, subprocess.TimeoutExpired):
        return 0.0
