"""math-verify's opinion of 1,200 (answer, text) pairs: what src/verify/math.rs is held against.

    pip install math-verify==0.9.0 latex2sympy2_extended==1.11.0 sympy==1.14.0
    python math_answers.py OUT_DIR

Writes math_answers.jsonl: {"answer", "text", "right"}. Half of the values are whole numbers, decimals, fractions and percentages, written
plainly, with thousands separators, in LaTeX and as expressions; the others are mixed numbers, powers, roots, multiples of pi,
polynomials, pairs, sets, intervals and inequalities. Texts state the value asked for, one near it, or the negated one.
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


def number(rng):
    """An answer that is a number, and a text."""
    value = Fraction(0)
    while value == 0:
        value = Fraction(rng.randint(-99999, 99999)) if rng.random() < 0.4 else Fraction(rng.randint(-60, 60), rng.choice([2, 3, 4, 5, 7, 8, 10, 12, 25]))
    near = rng.choice([value] * 4 + [-value, value + 1, value + Fraction(1, 2), value * 10, value / 3])
    answer = rng.choice([form for form in forms(rng, value) if not any(sign in form for sign in "+{")] or [f"{value}"])
    return answer, text(rng, rng.choice(forms(rng, near)))


def root(value):
    outside, inside = 1, value
    for factor in range(2, 40):
        while inside % (factor * factor) == 0:
            outside, inside = outside * factor, inside // (factor * factor)
    return (f"{outside}" if outside > 1 else "") + (f"\\sqrt{{{inside}}}" if inside > 1 else "") or "1"


def terms(rng, factors):
    written = [(f"{abs(factor)}" if abs(factor) > 1 or power == 0 else "") + ["", "x", "x^2"][power] for power, factor in enumerate(factors)]
    order = list(range(len(factors)))
    rng.shuffle(order)
    order = [at for at in order if factors[at]]
    whole = "".join(("-" if factors[at] < 0 else "+") + written[at] for at in order)
    return whole.removeprefix("+")


def shapes(rng):
    """An answer of another kind, its value, and how a value of that kind is written."""
    a, b, c = rng.randint(2, 30), rng.randint(2, 30), rng.randint(2, 12)
    kind = rng.randrange(9)
    if kind == 0:
        over, under = rng.randint(1, b), b + 1
        return (a, over), lambda value: rng.choice([f"{value[0]}\\frac{{{value[1]}}}{{{under}}}", f"\\frac{{{value[0] * under + value[1]}}}{{{under}}}"])
    if kind == 1:
        return (c, rng.randint(2, 9)), lambda value: rng.choice([f"{value[0]}^{{{value[1]}}}", f"{abs(value[0]) ** value[1]}"] if value[0] > 0 else [f"-{-value[0]}^{{{value[1]}}}"])
    if kind == 2:
        return (a * b * b, 1), lambda value: rng.choice([f"\\sqrt{{{abs(value[0])}}}", root(abs(value[0]))])
    if kind == 3:
        return (a, b), lambda value: rng.choice([f"{value[0]}\\pi", f"\\pi \\cdot {value[0]}", f"\\frac{{{value[0] * 2}\\pi}}{{2}}"])
    if kind == 4:
        return (rng.randint(-9, 9), rng.randint(-9, 9), rng.randint(1, 9)), lambda value: terms(rng, value)
    if kind == 5:
        return (a, -b), lambda value: f"({value[0]}, {value[1]})"
    if kind == 6:
        return (a, a + b, a + b + c), lambda value: "\\{" + ", ".join(f"{one}" for one in rng.sample(value, len(value))) + "\\}"
    if kind == 7:
        return (a, a + b), lambda value: f"({value[0]}, {value[1]}]"
    return (a, 1), lambda value: rng.choice([f"x > {value[0]}", f"{value[0]} < x"])


def shaped(rng):
    value, written = shapes(rng)
    near = value if rng.random() < 0.6 else (value[0] + 1, *value[1:])
    stated = written(near)
    return written(value), rng.choice([f"The answer is ${stated}$.", f"We get $\\boxed{{{stated}}}$.", f"\\boxed{{{stated}}}"])


def main():
    rng = random.Random(7)
    lines = []
    for place in range(1200):
        answer, stated = (number if place % 2 else shaped)(rng)
        right = bool(verify(parse(f"${answer}$"), parse(stated)))
        lines.append({"answer": answer, "text": stated, "right": right})
    with open(Path(sys.argv[1]) / "math_answers.jsonl", "w", encoding="utf-8") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)


if __name__ == "__main__":
    main()
