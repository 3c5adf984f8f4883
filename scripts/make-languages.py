#!/usr/bin/env python3
"""Writes data/languages.txt, the n-gram frequencies that identify a text's language.

    pip install langdetect==1.0.9
    scripts/make-languages.py [--check]

From the profiles of langdetect (Nakatani Shuyo's language-detection, Apache-2.0; see data/NOTICE): each line is
`LANGUAGE N LEVEL GRAMS`, where GRAMS is a sequence of n-grams of N characters, each with a frequency of about
2^(-LEVEL/2) among that language's n-grams of this length. N-grams rarer than 2e-4 are left out. All Chinese characters
count as one, and both scripts of Chinese are one language, zh.
"""

import argparse
import json
import math
import sys
from collections import defaultdict
from pathlib import Path

import langdetect

RAREST = 2e-4
PROFILES = Path(langdetect.__file__).parent / "profiles"
OUT = Path(__file__).resolve().parent.parent / "data" / "languages.txt"


def frequencies(language, files):
    """{n-gram: its frequency among those of its length}."""
    counts, totals = defaultdict(int), [0, 0, 0]
    for file in files:
        profile = json.loads(file.read_text(encoding="utf-8"))
        totals = [a + b for a, b in zip(totals, profile["n_words"])]
        for gram, count in profile["freq"].items():
            if 1 <= len(gram) <= 3:
                counts["".join("\u4e00" if "\u4e00" <= c <= "\u9fff" else c for c in gram)] += count
    return {gram: count / totals[len(gram) - 1] for gram, count in counts.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="compare the file with what would be written")
    check = parser.parse_args().check
    files = defaultdict(list)
    for file in sorted(PROFILES.iterdir()):
        files[file.name.split("-")[0]].append(file)
    lines = []
    for language in sorted(files):
        levels = defaultdict(list)
        for gram, share in frequencies(language, files[language]).items():
            if share >= RAREST:
                levels[len(gram), max(0, round(-2 * math.log2(share)))].append(gram)
        lines += [f"{language} {n} {level} {''.join(sorted(grams))}\n" for (n, level), grams in sorted(levels.items())]
    text = "".join(lines)
    if not check:
        OUT.write_text(text, encoding="utf-8")
    elif OUT.read_text(encoding="utf-8") != text:
        sys.exit(f"{OUT}: expected what {Path(__file__).name} writes, got something else")
    print(f"{OUT.name}: {len(files)} languages, {len(text.encode())} bytes")


if __name__ == "__main__":
    main()
