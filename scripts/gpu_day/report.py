"""The report of a day: every result that its folder holds, failures first in each part."""

import json


def results(day):
    """Every result by part and name."""
    found = {}
    for path in sorted((day.out / "results").glob("*/*.json"), key=lambda path: path.stat().st_mtime):
        found.setdefault(path.parent.name, {})[path.stem] = json.loads(path.read_text())
    return found


def write(day):
    """Writes report.json and report.txt."""
    found = results(day)
    lines = ["REHEARSAL without a GPU: no figure below means anything.", ""] if day.rehearses else []
    for part, named in found.items():
        good = sum(1 for result in named.values() if result["ok"])
        lines.append(f"{part}: {good} of {len(named)}")
        for name, result in sorted(named.items(), key=lambda pair: pair[1]["ok"] is True):
            mark = {True: "ok", False: "FAILED", None: "not run"}[result["ok"]]
            lines.append(f"  {mark:8}{name:32}{result.get('seconds', 0):8.1f} s  {result.get('text', '')}".rstrip())
            if result["ok"] is False and result.get("end"):
                lines += ["          | " + line for line in result["end"].splitlines()[-12:]]
        lines.append("")
    text = "\n".join(lines)
    (day.out / "report.txt").write_text(text)
    (day.out / "report.json").write_text(json.dumps({"rehearsal": day.rehearses, "device": day.device, "parts": found}, indent=1))


def exit_code(day):
    """1 where something failed, 3 where something was not run, else 0."""
    states = [result["ok"] for named in results(day).values() for result in named.values()]
    print(f"report: {day.out / 'report.txt'}")
    return 1 if False in states else 3 if None in states else 0
