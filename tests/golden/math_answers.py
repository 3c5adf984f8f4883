"""math-verify's opinion of 600 (answer, text) pairs: what src/verify/math.rs is held against.

    pip install math-verify==0.9.0 latex2sympy2_extended==1.11.0 sympy==1.14.0
    python math_answers.py OUT_DIR

Writes math_answers.jsonl: {"answer", "text", "right"}. Values are whole numbers, decimals, fractions and percentages, written plainly,
with thousands separators, in LaTeX and as expressions; texts state the value asked for, one near it, or the negated one.
"""
import json
import random
import sys
from fractions import Fraction
from pathlib import Path

from math_verify import parse, verify


def decimal(value):
    """The value in decimals, where it has finitely many."""
    digits = value.denominator
    while digits % 2 == 0:
        digits //= 2
    while digits % 5 == 0:
        digits //= 5
    return None if digits > 1 else f"{float(value):.6f}".rstrip("0").rstrip(".")


def forms(rng, value):
    sign, size = ("-" if value < 0 else ""), abs(value)
    over, under = size.numerator, size.denominator
    found = [f"{sign}\\frac{{{over}}}{{{under}}}", f"{sign}\\dfrac{{{over}}}{{{under}}}"]
    if under == 1:
        part = rng.randint(1, 20)
        found += [f"{value}", f"{value}", f"{value}.0", f"{value - part} + {part}", f"{value * part} / {part}", f"{part} \\cdot {value} - {part - 1} \\cdot {value}"]
        if over >= 1000:
            found += [f"{sign}{over:,}", f"{sign}{over:,}".replace(",", "{,}")]
    else:
        found += [f"{sign}{over}/{under}"]
    if decimal(value) and under > 1:
        found += [decimal(value), decimal(value) + "0"]
    return found


def text(rng, written):
    latex = "\\" in written or "{" in written
    plain = [f"The answer is ${written}$.", f"${written}$"]
    if not latex and not any(sign in written for sign in "+/ "):
        plain += [written, f"So it is {written}.", f"First 12, then 7, so the answer is {written}."]
    return rng.choice(plain + [f"We get $\\boxed{{{written}}}$.", f"\\boxed{{{written}}}", f"It is $x = \\boxed{{{written}}}$, not 3."])


def main():
    rng = random.Random(7)
    lines = []
    while len(lines) < 600:
        kind = rng.random()
        value = Fraction(rng.randint(-99999, 99999)) if kind < 0.4 else Fraction(rng.randint(-60, 60), rng.choice([2, 3, 4, 5, 7, 8, 10, 12, 25]))
        if value == 0:
            continue
        near = rng.choice([value] * 4 + [-value, value + 1, value + Fraction(1, 2), value * 10, value / 3])
        answer = rng.choice([form for form in forms(rng, value) if not any(sign in form for sign in "+{")] or [f"{value}"])
        written = text(rng, rng.choice(forms(rng, near)))
        right = bool(verify(parse(f"${answer}$"), parse(written)))
        lines.append({"answer": answer, "text": written, "right": right})
    with open(Path(sys.argv[1]) / "math_answers.jsonl", "w", encoding="utf-8") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)


if __name__ == "__main__":
    main()
