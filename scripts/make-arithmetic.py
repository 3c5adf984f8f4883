#!/usr/bin/env python3
"""Writes data/arithmetic-train.jsonl and data/arithmetic-heldout.jsonl, which are bundled with the node.

Five kinds in equal parts, named by `task`: sum_difference, largest, product, word_problem, letter_count.
Every line is {"id", "task", "prompt", "answer"}; the answer is computed here. The same seed writes the same
bytes, and no prompt's text is in both files.

    scripts/make-arithmetic.py            write both files
    scripts/make-arithmetic.py --check    exit 1 unless the files are what this program writes
"""

import argparse
import json
import random
import sys
from pathlib import Path

SEED = 20250622
TRAIN_PER_KIND = 72
HELDOUT_PER_KIND = 20
DATA = Path(__file__).resolve().parent.parent / "data"
BRIEF = "Answer with just the number."

NAMES = ["Mia", "Tom", "Ana", "Ben", "Lena", "Sam", "Ivy", "Leo", "Nora", "Max", "Zoe", "Paul", "Ella", "Omar", "Ruth", "Kai"]

# One calculation each: the text, the operation, and the ranges of its two numbers.
# {n} is a name; {a} and {b} are the numbers.
STORIES = [
    ("{n} has {a} apples and buys {b} more. How many apples does {n} have now?", "+", (3, 40), (2, 30)),
    ("{n} had {a} stickers and gave away {b}. How many stickers are left?", "-", (20, 60), (3, 19)),
    ("A box holds {a} pencils. How many pencils are in {b} boxes?", "*", (4, 12), (3, 9)),
    ("{n} shares {p} cookies equally among {b} friends. How many cookies does each friend get?", "/", (2, 9), (2, 9)),
    ("A bus has {a} passengers. At the next stop {b} more get on. How many passengers are on the bus?", "+", (8, 40), (3, 20)),
    ("There were {a} birds in a tree and {b} flew away. How many birds stayed?", "-", (15, 50), (2, 14)),
    ("Each ticket costs {a} dollars. How many dollars do {b} tickets cost?", "*", (5, 15), (2, 8)),
    ("{p} children stand in {b} equal rows. How many children are in each row?", "/", (3, 9), (2, 8)),
    ("{n} read {a} pages on Monday and {b} pages on Tuesday. How many pages did {n} read in all?", "+", (10, 60), (10, 60)),
    ("A rope is {a} meters long. {n} cuts off {b} meters. How many meters are left?", "-", (20, 90), (4, 19)),
    ("{n} runs {a} kilometers every day. How many kilometers does {n} run in {b} days?", "*", (2, 12), (3, 10)),
    ("{p} eggs are packed into cartons of {b}. How many cartons are needed?", "/", (2, 9), (4, 12)),
    ("{n} is {a} years old. How old will {n} be in {b} years?", "+", (6, 45), (3, 25)),
    ("{n} has {a} coins and spends {b} of them. How many coins remain?", "-", (25, 80), (5, 24)),
    ("A spider has {a} legs. How many legs do {b} spiders have?", "*", (8, 8), (2, 12)),
    ("{n} plants {p} flowers in {b} equal beds. How many flowers are in each bed?", "/", (3, 11), (2, 7)),
    ("A shop sold {a} cakes in the morning and {b} in the afternoon. How many cakes did it sell that day?", "+", (6, 45), (6, 45)),
    ("A jar held {a} marbles. {n} took out {b}. How many marbles are in the jar now?", "-", (30, 90), (6, 29)),
    ("There are {a} chairs at each table. How many chairs are at {b} tables?", "*", (3, 10), (3, 12)),
    ("A {p} page book is read in {b} days, the same number of pages each day. How many pages a day?", "/", (6, 20), (3, 9)),
    ("The red bag weighs {a} kilograms and the blue bag weighs {b} kilograms. What do they weigh together?", "+", (4, 35), (4, 35)),
    ("{n} needs {a} points and has {b}. How many points are missing?", "-", (40, 99), (8, 39)),
    ("One bag holds {a} oranges. How many oranges do {b} bags hold?", "*", (6, 14), (2, 7)),
    ("{n} saves {b} dollars a week. After how many weeks does {n} have {p} dollars?", "/", (3, 12), (3, 9)),
    ("A train has {a} seats taken and {b} seats free. How many seats does it have?", "+", (20, 70), (5, 29)),
    ("It is {a} degrees at noon and {b} degrees colder at night. How many degrees is it at night?", "-", (18, 35), (3, 15)),
    ("A car uses {a} liters of fuel a day. How many liters does it use in {b} days?", "*", (3, 9), (3, 12)),
    ("{p} players form teams of {b}. How many teams are there?", "/", (2, 9), (3, 11)),
    ("{n} picked {a} roses and {b} tulips. How many flowers is that?", "+", (5, 40), (5, 40)),
    ("A farmer had {a} sheep and sold {b}. How many sheep does the farmer have now?", "-", (30, 90), (5, 29)),
]

WORDS = (
    "strawberry banana mississippi committee balloon giraffe elephant cinnamon tomato potato cucumber avocado "
    "pineapple butterfly crocodile dinosaur kangaroo mushroom broccoli cabbage lettuce pepper coconut chocolate "
    "vanilla caramel puzzle pillow blanket kitchen bedroom window mirror carpet ladder hammer bottle "
    "paddle rabbit squirrel hedgehog penguin seagull parrot turtle octopus dolphin lobster sheep goose "
    "summer winter autumn weather thunder rainbow meadow valley mountain river ocean desert island volcano "
    "letter paper pencil eraser ruler notebook teacher student lesson library address success "
    "happiness kindness freedom wisdom courage patience language sentence alphabet grammar vocabulary"
).split()


def sum_difference(rng):
    a, b = rng.randint(10, 99), rng.randint(10, 99)
    if rng.random() < 0.5:
        return rng.choice([f"What is {a} + {b}?", f"Add {a} and {b}.", f"Calculate {a} + {b}."]), a + b
    a, b = max(a, b), min(a, b)
    return rng.choice([f"What is {a} - {b}?", f"Subtract {b} from {a}.", f"Calculate {a} - {b}."]), a - b


def largest(rng):
    top = rng.choice([99, 999])
    a, b, c = rng.sample(range(top // 10 + 1, top + 1), 3)
    text = rng.choice([
        f"Which number is the largest: {a}, {b} or {c}?",
        f"What is the biggest of the numbers {a}, {b} and {c}?",
        f"Find the largest of {a}, {b} and {c}.",
    ])
    return text, max(a, b, c)


def product(rng):
    a, b = rng.randint(3, 12), rng.randint(3, 12)
    text = rng.choice([f"What is {a} times {b}?", f"What is {a} x {b}?", f"Multiply {a} by {b}.", f"Calculate {a} * {b}."])
    return text, a * b


def word_problem(rng):
    story, op, a_range, b_range = rng.choice(STORIES)
    a, b = rng.randint(*a_range), rng.randint(*b_range)
    text = story.format(n=rng.choice(NAMES), a=a, b=b, p=a * b)
    # A division is stated with its product: a * b things in b parts are a each.
    answer = {"+": a + b, "-": a - b, "*": a * b, "/": a}[op]
    return text, answer


def letter_count(rng):
    word = rng.choice(WORDS)
    # One time in eight, a letter that does not occur.
    absent = sorted(set("abcdefghijklmnopqrstuvwxyz") - set(word))
    letter = rng.choice(absent) if rng.random() < 0.125 else rng.choice(word)
    text = rng.choice([
        f'How many times does the letter "{letter}" appear in the word "{word}"?',
        f'How often is the letter "{letter}" in "{word}"?',
        f'Count the letter "{letter}" in the word "{word}".',
    ])
    return text, word.count(letter)


KINDS = [sum_difference, largest, product, word_problem, letter_count]


def make():
    """Both files' lines: {file name: [line, ...]}."""
    train, heldout = [], []
    for kind in KINDS:
        task = kind.__name__
        rng = random.Random(f"{SEED}/{task}")
        found = {}
        while len(found) < TRAIN_PER_KIND + HELDOUT_PER_KIND:
            text, answer = kind(rng)
            found.setdefault(f"{text} {BRIEF}", answer)
        lines = [
            {"id": f"{task}-{number:03}", "task": task, "prompt": text, "answer": str(answer)}
            for number, (text, answer) in enumerate(found.items(), 1)
        ]
        train.append(lines[:TRAIN_PER_KIND])
        heldout.append(lines[TRAIN_PER_KIND:])
    # The kinds alternate, so that any part of a file is balanced.
    return {
        "arithmetic-train.jsonl": [line for turn in zip(*train) for line in turn],
        "arithmetic-heldout.jsonl": [line for turn in zip(*heldout) for line in turn],
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="compare the files with what would be written")
    check = parser.parse_args().check
    files = make()
    train, heldout = ({line["prompt"] for line in lines} for lines in files.values())
    if train & heldout:
        sys.exit(f"expected disjoint files, got {len(train & heldout)} prompts in both")
    for name, lines in files.items():
        text = "".join(json.dumps(line) + "\n" for line in lines)
        path = DATA / name
        if not check:
            path.write_text(text)
        elif not path.is_file() or path.read_text() != text:
            sys.exit(f"{path}: expected what {Path(__file__).name} writes, got something else")
        print(f"{path.name}: {len(lines)} prompts{', as expected' if check else ''}")


if __name__ == "__main__":
    main()
