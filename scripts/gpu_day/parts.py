"""The parts of a day, in their order."""

import json
import shutil
import sys
from pathlib import Path

from . import learning, memory, parity
from .setup import ROOT


def machine(day):
    """What there is: the card, its driver, the build, and the plan of the quickstart."""
    query = "--query-gpu=name,driver_version,memory.total,compute_cap"
    day.run("card", ["nvidia-smi", query, "--format=csv,noheader"], lambda printed: (True, {"text": printed.strip()}))
    day.run("version", [day.program, "--version"], lambda printed: (True, {"text": printed.strip()}))
    day.run("plan", [day.program, "check", *parity.base(day), "--device", day.device])
    day.run("plan-of-cards", [day.program, "check", *parity.base(day), "--plan-gpu", "all", "--json"], cards)


def cards(printed):
    """The model of every card, to be held against what the other parts measure."""
    return True, {"plan": json.loads(printed)}


def loop(day):
    """The tests of the whole loop, on the device: `auto` is the GPU here."""
    # A test whose node cannot open the GPU runs on the CPU: so the GPU is opened by the program that the tests start, too.
    started = day.it_tests.parent / "rco-node" if day.rehearses else ROOT / "target/cuda/release/rco-node"
    if not day.run("opened", [started, "check", *parity.base(day), "--device", day.device])["ok"]:
        return
    rooms = ["operating::swaps", "operating::meetings"] if day.rehearses else ["operating::", "durability::", "learning::", "http::"]
    for room in rooms:
        name = room.strip(":").replace("::", "-")
        day.run(name, [day.it_tests, room, "--test-threads=2"], passed)


def sanitizer(day):
    """Memory errors and races of every kernel on the small models. One test asks for more memory than there is, which is no error here."""
    program = shutil.which("compute-sanitizer", path=day.environment["PATH"])
    if not program:
        day.record("installed", day.rehearses or None, text="compute-sanitizer is not installed")
        return
    for tool in ("memcheck", "initcheck", "racecheck"):
        tests = ["dense::cuda", "device_draws", "--skip", "more_memory", "--test-threads=1"]
        command = [program, "--tool", tool, "--error-exitcode", "77", day.lib_tests, *tests]
        day.run(tool, command, passed)


def bench(day):
    """Speed beside torch + transformers (and vLLM) on the same card and a model of the same sizes."""
    small = ["--max-tokens", "4"] if day.rehearses else []
    common = [*parity.base(day), "--device", day.device, "--json", "--runs", "1" if day.rehearses else "3"]
    works = {f"decode-{n}": ["decode", "--sequences", n, *small] for n in ((1, 4) if day.rehearses else (1, 32, 256))}
    works["decode-32-behind-512"] = ["decode", "--sequences", 32, "--context", 64 if day.rehearses else 512, "--warm", *small]
    works["decode-behind-4096"] = ["decode", "--sequences", 4, "--context", 64 if day.rehearses else 4096, *small]
    works["prefill-512"] = ["prefill", "--context", 64 if day.rehearses else 512]
    works["episode"] = ["episode", "--n", 4, "--m", 2, *small]
    works["learn"] = ["learn", "--steps", 1 if day.rehearses else 3, *small, *(["--prefix", "16"] if day.rehearses else [])]
    for name, work in works.items():
        day.run(name, [day.program, "bench", *work, *common], figures)
    if day.rehearses:
        return
    peers = Path(__file__).with_name("peers.py")
    for peer in ("transformers", "vllm"):
        day.run(f"peer-{peer}", [sys.executable, peers, peer, parity.model_path(day) or ""], figures)


def figures(printed):
    """The JSON line that a bench or a peer prints last."""
    found = json.loads(printed.strip().splitlines()[-1])
    wanted = ("tokens_per_second", "seconds_per_episode", "pairs_per_second", "decode_", "prefill_", "lora_")
    numbers = {key: value for key, value in found.items() if key.startswith(wanted)}
    return None if "skipped" in found else True, {"figures": found, "text": found.get("skipped") or ", ".join(f"{k} {v:.5g}" for k, v in numbers.items())}


def passed(printed):
    """The closing line of a test program: something ran, nothing failed."""
    line = next(line for line in reversed(printed.splitlines()) if line.startswith("test result:"))
    words = line.replace(";", "").split()
    count = {words[i + 1]: int(words[i]) for i in range(len(words) - 1) if words[i].isdigit()}
    return count["failed"] == 0 and count["passed"] > 0, {"text": line}


def parity_part(day):
    """Numbers against the CPU's: the tests of the passes, then every family that runs there and the real model from the command line."""
    day.run("tests", [day.lib_tests, "dense", "device_draws", "--test-threads=1"], passed)
    day.run("memory-of-passes", [day.lib_tests, "dense", "--ignored", "--test-threads=1"], passed)
    parity.families(day)
    parity.real_model(day)


PARTS = {
    "machine": machine,
    "parity": parity_part,
    "loop": loop,
    "sanitizer": sanitizer,
    "bench": bench,
    "learning": learning.part,
    "memory": memory.part,
}
