"""Log-probabilities of given ids: the GPU's two passes against the CPU's, in f32."""

import json
import random

from .setup import ROOT

# Between bf16 weights and the CPU's f32, in nats: the mean over tokens, and the largest of one token.
MEAN_MAX, LARGEST_MAX = 0.02, 0.3
# The same for tiny random models, whose distributions are almost flat.
TINY_MEAN_MAX, TINY_LARGEST_MAX = 0.05, 0.3
# The families that run on a GPU.
TINY = ("llama", "llama3", "qwen2", "qwen3", "gemma3", "mistral", "phi3")


def model_path(day):
    """The model of the bundle."""
    found = sorted((ROOT / "models").glob("*.gguf"))
    return found[0] if found else None


def base(day):
    """Arguments that name the model: the bundle's, the tiny one in a rehearsal, else the config's own."""
    if day.rehearses:
        sets = [f"model.source={ROOT / 'tests/golden/tiny_qwen2'}", "engine.kv_cache_mib=8", "engine.context_tokens_max=1024"]
    else:
        sets = [f"model.source={model_path(day)}"] if model_path(day) else []
    return [word for one in sets for word in ("--set", one)]


def requests(day, vocab, count, prompt, completion):
    """Random ids to score, the same each time."""
    draw = random.Random(7)
    row = lambda length: [draw.randrange(vocab) for _ in range(length)]  # noqa: E731
    lines = [json.dumps({"prompt_ids": row(prompt), "completion_ids": row(completion)}) for _ in range(count)]
    place = day.out / f"ids-{vocab}-{prompt}.jsonl"
    place.write_text("\n".join(lines) + "\n")
    return place


def compare(day, name, model, ids, adapter, limits):
    """Scores `ids` on the CPU, then by both passes on the device, and records how far they are."""
    def command(device, which):
        words = [day.program, "score", ids, "--pass", which, "--device", device, *model]
        return words + (["--adapter", adapter] if adapter else [])

    def numbers(printed):
        rows = [json.loads(line)["log_probs"] for line in printed.splitlines()]
        return True, {"rows": rows}

    on_cpu = day.run(f"{name}-cpu", command("cpu", "score"), numbers)
    if not on_cpu["ok"]:
        return

    def near(printed):
        own = [value for row in numbers(printed)[1]["rows"] for value in row]
        of_cpu = [value for row in on_cpu["rows"] for value in row]
        if len(own) != len(of_cpu):
            raise ValueError(f"{len(own)} log-probs, expected {len(of_cpu)}")
        off = [abs(a - b) for a, b in zip(own, of_cpu)]
        mean, largest = sum(off) / len(off), max(off)
        text = f"mean {mean:.2g}, largest {largest:.2g} nats over {len(off)} tokens"
        return mean <= limits[0] and largest <= limits[1], {"mean": mean, "largest": largest, "text": text}

    for which in ("score", "decode"):
        day.run(f"{name}-{which}", command(day.device, which), near)


def families(day):
    """Every family that runs on a GPU, on tiny random weights, with its adapter."""
    for family in TINY:
        model, adapter = ROOT / f"tests/golden/tiny_{family}", ROOT / f"tests/golden/tiny_{family}_lora"
        if family == "llama":
            adapter = ROOT / "tests/golden/tiny_lora"
        if not adapter.exists():
            continue
        sets = ["--set", f"model.source={model}", "--set", "engine.context_tokens_max=128", "--set", "engine.kv_cache_mib=8"]
        ids = requests(day, 250, 3, 23, 31)
        compare(day, f"tiny-{family}", sets, ids, adapter, (TINY_MEAN_MAX, TINY_LARGEST_MAX))


def real_model(day):
    """The model that the node trains."""
    if day.rehearses:
        return
    compare(day, "model", base(day), requests(day, 40_000, 4, 200, 100), None, (MEAN_MAX, LARGEST_MAX))
