"""What evalplus and lm-eval take for the program in 170 replies: what src/verify/code/extract.rs is held against.

    pip install --no-deps evalplus==0.3.1 tree-sitter==0.26.1 tree-sitter-python==0.25.0 tqdm termcolor
    python code_extraction.py OUT_DIR

Writes code_extraction.json: {"tasks": {name: {"entry_point", "preamble", "test"}}, "replies": [{"id", "task", "text", "right",
"evalplus", "lm_eval"}]}. "right": whether the reply answers with a right program, by construction; the others say whether the program
that each takes passes the test. evalplus: its `sanitize`, of the reply behind the prompt's imports, or, where it only has
the function's body, of prompt and reply.
lm-eval 0.4.13: `humaneval_instruct`, the prompt and the reply up to a fence; null for a reply that opens a fence, which it does not expect.
"""
import json
import subprocess
import sys
import textwrap
import types
from pathlib import Path

# It reads data sets that `sanitize` does not use.
data = types.ModuleType("evalplus.data")
for name in ("get_human_eval_plus", "get_mbpp_plus", "load_solutions", "write_directory", "write_jsonl"):
    setattr(data, name, None)
sys.modules["evalplus.data"] = data
from evalplus.sanitize import sanitize  # noqa: E402

SECONDS = 10


class Task:
    """A function to write: its head and docstring, a right body, a wrong one, and a right program with a helper."""

    def __init__(self, name, imports, head, says, body, wrong, helper, test):
        self.name, self.head, self.body, self.helper = name, head, body, helper
        self.imports = imports
        self.preamble = f'{imports}{head}\n    """{says}"""\n'
        self.code = f"{head}\n{body}"
        self.bad = f"{head}\n{wrong}"
        self.test = "def check(candidate):\n" + textwrap.indent(test, "    ")
        self.call = test.splitlines()[0].removeprefix("assert ").split(" == ")[0].replace("candidate", name)


TASKS = [
    Task(
        "square",
        "import math\n\n",
        "def square(x):",
        "The square of x.",
        "    return x * x",
        "    return x + x",
        ("def times(a, b):\n    return a * b", "def square(x):\n    return times(x, x)"),
        "assert candidate(3) == 9\nassert candidate(-4) == 16",
    ),
    Task(
        "close",
        "from typing import List\n\n\n",
        "def close(numbers: List[float], threshold: float) -> bool:",
        "Whether any two numbers are closer than the threshold.\n    >>> close([1.0, 2.0], 0.5)\n    False\n    ",
        "    for i, a in enumerate(numbers):\n        for b in numbers[i + 1:]:\n            if abs(a - b) < threshold:\n"
        "                return True\n    return False",
        "    return max(numbers) - min(numbers) < threshold",
        (
            "def gaps(numbers):\n    ordered = sorted(numbers)\n    return [b - a for a, b in zip(ordered, ordered[1:])]",
            "def close(numbers: List[float], threshold: float) -> bool:\n    return any(gap < threshold for gap in gaps(numbers))",
        ),
        "assert candidate([1.0, 5.0, 1.2], 0.3) == True\nassert candidate([1.0, 2.0], 0.5) == False",
    ),
    Task(
        "vowels",
        "",
        "def vowels(text):",
        "How many vowels the text has.",
        "    count = 0\n    for letter in text:\n        # Both cases.\n        if letter.lower() in 'aeiou':\n            count += 1\n\n    return count",
        "    return len([letter for letter in text if letter in 'aeiou'])",
        ("def is_vowel(letter):\n    return letter.lower() in 'aeiou'", "def vowels(text):\n    return sum(map(is_vowel, text))"),
        "assert candidate('Apple') == 2\nassert candidate('') == 0",
    ),
    Task(
        "fib",
        "",
        "def fib(n: int) -> int:",
        "The n-th Fibonacci number.",
        "    if n < 2:\n        return n\n    return fib(n - 1) + fib(n - 2)",
        "    if n < 2:\n        return 1\n    return fib(n - 1) + fib(n - 2)",
        ("def step(pair):\n    return pair[1], sum(pair)", "def fib(n: int) -> int:\n    pair = (0, 1)\n    for _ in range(n):\n        pair = step(pair)\n    return pair[0]"),
        "assert candidate(10) == 55\nassert candidate(1) == 1",
    ),
]


def fence(code, tag="python"):
    return f"```{tag}\n{code}\n```"


def dedent(task):
    return textwrap.dedent(task.body)


def under(class_line, task):
    return f"{class_line}\n" + textwrap.indent(task.code.replace("(", "(self, ", 1), "    ")


# Name, whether the answer is right, and the reply to a task.
REPLIES = [
    ("bare", True, lambda t: t.code),
    ("bare, prose before", True, lambda t: f"Here is the function:\n\n{t.code}"),
    ("bare, prose behind", True, lambda t: f"{t.code}\n\nThis works for every input."),
    ("bare, prose around", True, lambda t: f"Sure! Here you go.\n\n{t.code}\n\nLet me know if it helps."),
    ("bare, prose behind that calls", True, lambda t: f"{t.code}\n\nNote (important): it was not tested."),
    ("bare, prose behind that assigns", True, lambda t: f"{t.code}\n\nx = 2 gives the second value."),
    ("bare, prose behind with if", True, lambda t: f"{t.code}\n\nif the input is empty, the result is too."),
    ("bare, prose behind with return", True, lambda t: f"{t.code}\n\nreturn values are never None."),
    ("bare, prose before with import", True, lambda t: f"import of other modules is not needed here.\n\n{t.code}"),
    ("bare, prose before with class", True, lambda t: f"class methods are not needed here.\n\n{t.code}"),
    ("bare, list behind", True, lambda t: f"{t.code}\n\n- It loops.\n- It returns.\n\n1. Done."),
    ("bare, list behind without a gap", True, lambda t: f"{t.code}\n* It is short.\n* It is right."),
    ("bare, heading behind", True, lambda t: f"{t.code}\n\n### Explanation\n\nIt does what was asked."),
    ("bare, bold behind", True, lambda t: f"{t.code}\n\n**Explanation:** it does what was asked."),
    ("bare, quoted word behind", True, lambda t: f"{t.code}\n\n\"Done\" is what I call that."),
    ("bare, session behind", True, lambda t: f"{t.code}\n\n>>> {t.call}\n..."),
    ("bare, helper", True, lambda t: f"{t.helper[0]}\n\n\n{t.helper[1]}"),
    ("bare, helper behind", True, lambda t: f"{t.helper[1]}\n\n\n{t.helper[0]}"),
    ("bare, main", True, lambda t: f"{t.code}\n\n\nif __name__ == '__main__':\n    print({t.call})"),
    ("bare, asserts", True, lambda t: f"{t.code}\n\n\nassert {t.call} is not None\nprint({t.call})"),
    ("bare, comment before", True, lambda t: f"# The solution.\n{t.code}"),
    ("bare, docstring before", True, lambda t: f'"""A module."""\nimport sys\n\n{t.code}'),
    ("bare, indented", True, lambda t: textwrap.indent(t.code, "    ")),
    ("bare, tag of the fence", True, lambda t: f"python\n{t.code}"),
    ("bare, closing fence", True, lambda t: f"{t.code}\n```"),
    ("bare, closing fence and prose", True, lambda t: f"{t.code}\n```\n\nThat is all."),
    ("bare, end of turn", True, lambda t: f"{t.code}<|im_end|>"),
    ("bare, marks of CodeLlama", True, lambda t: f"[PYTHON]\n{t.code}\n[/PYTHON]"),
    ("bare, marks of HTML", True, lambda t: f"<code>\n{t.code}\n</code>"),
    ("bare, line ends of Windows", True, lambda t: t.code.replace("\n", "\r\n")),
    ("bare, tabs", True, lambda t: t.code.replace("    ", "\t")),
    ("bare, wrong", False, lambda t: t.bad),
    ("bare, cut in a second function", True, lambda t: f"{t.code}\n\n\ndef test_it():\n    assert {t.call[:-1]}"),
    ("body", True, lambda t: t.body),
    ("body, first line at the margin", True, lambda t: t.body[4:]),
    ("body, at the margin", True, dedent),
    ("body, prose behind", True, lambda t: f"{t.body}\n\nThis works for every input."),
    ("body, another function", True, lambda t: f"{t.body}\n\n\ndef other(x):\n    return x"),
    ("body, main", True, lambda t: f"{t.body}\n\n\nif __name__ == '__main__':\n    print({t.call})"),
    ("body, closing fence", True, lambda t: f"{t.body}\n```"),
    ("body, fence", True, lambda t: fence(t.body)),
    ("body, fence at the margin", True, lambda t: fence(dedent(t))),
    ("fence", True, lambda t: fence(t.code)),
    ("fence, no tag", True, lambda t: fence(t.code, "")),
    ("fence, tag py", True, lambda t: fence(t.code, "py")),
    ("fence, tag Python", True, lambda t: fence(t.code, "Python")),
    ("fence, tag python3", True, lambda t: fence(t.code, "python3")),
    ("fence, title", True, lambda t: fence(t.code, 'python title="a.py"')),
    ("fence, prose around", True, lambda t: f"Sure!\n\n{fence(t.code)}\n\nIt is right (I think)."),
    ("fence, never closed", True, lambda t: f"```python\n{t.code}"),
    ("fence, never closed, prose before", True, lambda t: f"Here it is:\n```python\n{t.code}"),
    ("fence, never closed, cut test", True, lambda t: f"```python\n{t.code}\n\n# Tests\nassert {t.call} is not None\nprint({t.call}, '"),
    ("fence, never closed, cut function", True, lambda t: f"```python\n{t.code}\n\n\ndef test_it():\n    assert {t.call[:-1]}"),
    ("fence, never closed, cut itself", False, lambda t: f"```python\n{t.code.rsplit('return', 1)[0]}return ("),
    ("fence, closed on the last line", True, lambda t: f"```python\n{t.code}```"),
    ("fence, opened on the first line", True, lambda t: f"```python {t.code}\n```"),
    ("fence, tildes", True, lambda t: f"~~~python\n{t.code}\n~~~"),
    ("fence, four backticks", True, lambda t: f"````python\n{t.code}\n````"),
    ("fence, in a list", True, lambda t: f"1. Write it:\n\n{textwrap.indent(fence(t.code), '   ')}\n\n2. Use it."),
    ("fence, quoted", True, lambda t: textwrap.indent(fence(t.code), "> ", lambda _: True)),
    ("fence, main", True, lambda t: fence(f"{t.code}\n\nif __name__ == '__main__':\n    print({t.call})")),
    ("fence, decorator", True, lambda t: fence(f"import functools\n\n\ndef same(f):\n    return f\n\n\n@same\n{t.code}")),
    ("fence, constant", True, lambda t: fence(f"LIMIT: int = 100\n\n\n{t.code}\n\nTESTS = [1, 2]")),
    ("fence, twice in one", True, lambda t: fence(f"{t.bad}\n\n\n# Better:\n{t.code}")),
    ("fence, twice in one, wrong last", False, lambda t: fence(f"{t.code}\n\n\n# Shorter:\n{t.bad}")),
    ("fence, broken use behind", False, lambda t: fence(f"{t.code}\n\nprint({t.call}")),
    ("fence, no return", False, lambda t: fence(t.code.replace("return", "print(").replace("print( x * x", "print(x * x)"))),
    ("fence, method", False, lambda t: fence(under("class Solution:", t))),
    ("fence, method and its function", True, lambda t: fence(f"{under('class Solution:', t).replace('fib(n -', 'self.fib(n -')}\n\n\n{t.name} = Solution().{t.name}")),
    ("fence, nested", True, lambda t: fence(f"def make():\n{textwrap.indent(t.code, '    ')}\n    return {t.name}\n\n\n{t.name} = make()")),
    ("fence, fence in docstring", True, lambda t: fence(f'{t.head}\n    """For example\n    ```\n    {t.call}\n    ```\n    """\n{t.body}')),
    ("fence, head over lines", True, lambda t: fence(t.code.replace("(", "(\n    ", 1).replace("):", ",\n):", 1).replace(") ->", ",\n) ->", 1))),
    ("fence, text before the tag", True, lambda t: f"Answer:```python\n{t.code}\n```"),
    ("two, corrected", True, lambda t: f"First try:\n{fence(t.bad)}\nThat is wrong. Corrected:\n{fence(t.code)}"),
    ("two, worse", False, lambda t: f"{fence(t.code)}\nShorter:\n{fence(t.bad)}"),
    ("two, alternative", True, lambda t: f"{fence(t.code)}\nOr with a helper:\n{fence(t.helper[0] + chr(10) * 2 + t.helper[1])}"),
    ("two, use", True, lambda t: f"{fence(t.code)}\nUse it so:\n{fence(f'print({t.call})')}"),
    ("two, use that fails", True, lambda t: f"{fence(t.code)}\nDo not use it so:\n{fence(f'{t.name}(None, None, None, 1)')}"),
    ("two, output", True, lambda t: f"{fence(t.code)}\nIt prints:\n{fence('1' + chr(10) + 'None', '')}"),
    ("two, tests", True, lambda t: f"{fence(t.code)}\nTests:\n{fence(f'def test_it():{chr(10)}    assert {t.call} is not None')}"),
    ("two, helper first", True, lambda t: f"A helper:\n{fence(t.helper[0])}\nThe function:\n{fence(t.helper[1])}"),
    ("two, helper last", True, lambda t: f"The function:\n{fence(t.helper[1])}\nIts helper:\n{fence(t.helper[0])}"),
    ("two, imports first", True, lambda t: f"{fence('import math')}\nthen\n{fence(t.code)}"),
    ("two, shell first", True, lambda t: f"{fence('pip install numpy', 'bash')}\nthen\n{fence(t.code)}"),
    ("two, other language last", True, lambda t: f"{fence(t.code)}\nIn C:\n{fence('int ' + t.name + '(int x) { return x; }', 'c')}"),
    ("two, head first", True, lambda t: f"The signature:\n{fence(t.head)}\nThe function:\n{fence(t.code)}"),
    ("two, head last", True, lambda t: f"{fence(t.code)}\nIts signature is\n{fence(t.head)}"),
    ("two, stub last", True, lambda t: f"{fence(t.code)}\nwhich fills in\n{fence(t.head + chr(10) + '    pass')}"),
    ("two, last never closed", True, lambda t: f"{fence(t.code)}\nTests:\n```python\nassert {t.call}"),
    ("two, correction never closed", True, lambda t: f"{fence(t.bad)}\nCorrected:\n```python\n{t.code}"),
    ("thoughts", True, lambda t: f"<think>Perhaps\n{fence(t.bad)}\nNo.</think>\n{fence(t.code)}"),
    ("thoughts, right then wrong", False, lambda t: f"<think>\n{fence(t.code)}\nGood.</think>\n{fence(t.bad)}"),
    ("thoughts without end", False, lambda t: f"<think>Perhaps\n{fence(t.code)}\nHm, no"),
    ("prose", False, lambda t: f"The function {t.name} takes its arguments and returns the result."),
    ("refusal", False, lambda t: "I cannot help with that."),
    ("nothing", False, lambda t: ""),
    ("syntax error", False, lambda t: fence(t.code.replace("return", "retrun", 1).replace(":", "", 1))),
]


def passes(task, program):
    whole = f"{program}\n\n{task.test}\n\ncheck({task.name})\nprint('passed')\n"
    try:
        ran = subprocess.run([sys.executable, "-c", whole], capture_output=True, text=True, timeout=SECONDS)
    except subprocess.TimeoutExpired:
        return False
    return ran.returncode == 0 and ran.stdout.endswith("passed\n")


def of_evalplus(task, text):
    whole = text if f"def {task.name}(" in text else f"{task.preamble}\n{text}"
    # The reply may count on the prompt's imports.
    return task.imports + sanitize(whole, task.name)


def of_lm_eval(task, text):
    return task.preamble + (text if "```" not in text else text[: text.find("```")])


def continues(name):
    """Whether a reply goes on with the prompt, as lm-eval asks for."""
    return name.startswith(("bare", "body")) and ", fence" not in name


def main(out):
    replies = []
    for place, (name, right, reply) in enumerate(REPLIES):
        # Each reply to two of the tasks, in turn.
        for task in (TASKS[place % len(TASKS)], TASKS[(place + 1 + place // len(TASKS)) % len(TASKS)]):
            if any(it["id"] == f"{name}: {task.name}" for it in replies):
                continue
            text = reply(task)
            replies.append({
                "id": f"{name}: {task.name}",
                "task": task.name,
                "text": text,
                "right": right,
                "evalplus": passes(task, of_evalplus(task, text)),
                "lm_eval": passes(task, of_lm_eval(task, text)) if continues(name) else None,
            })
    tasks = {task.name: {"entry_point": task.name, "preamble": task.preamble, "test": task.test} for task in TASKS}
    written = json.dumps({"tasks": tasks, "replies": replies}, indent=1, ensure_ascii=False)
    (Path(out) / "code_extraction.json").write_text(written + "\n")
    for other in ("evalplus", "lm_eval"):
        read = [it for it in replies if it[other] is not None]
        print(other, sum(it[other] == it["right"] for it in read), "of", len(read))


if __name__ == "__main__":
    main(sys.argv[1])
