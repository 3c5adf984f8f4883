"""A run's figures as its trackers read them: metrics.jsonl and resolved-config.toml of a run directory. Standard library alone.

Lines come in the order of their steps, each figure of a step once, also when the run goes back to a checkpoint and takes steps
again: what was handed out already stays as it was.
"""

import argparse
import fcntl
import json
import os
import sys
import time
import tomllib


def arguments(what):
    """The arguments that every tracker has; `add_argument` adds its own."""
    parser = argparse.ArgumentParser(description=what)
    parser.add_argument("run", help="a run directory, of `rco-node start` or `learn`")
    parser.add_argument("--follow", action="store_true", help="goes on while a process works on the run")
    parser.add_argument("--poll-seconds", type=float, default=2.0, help="between two looks at a run that is followed (default: 2)")
    parser.add_argument("--name", help="the name there (default: the folder's)")
    return parser


def name(options):
    """The name of the run there."""
    return options.name or os.path.basename(os.path.realpath(options.run))


def settings(run):
    """The resolved config, as `section.key` and values; empty if the run has none."""
    try:
        with open(os.path.join(run, "resolved-config.toml"), "rb") as file:
            table = tomllib.load(file)
    except FileNotFoundError:
        return {}
    flat = {}

    def flatten(prefix, table):
        for key, value in table.items():
            if isinstance(value, dict):
                flatten(f"{prefix}{key}.", value)
            else:
                flat[prefix + key] = value

    flatten("", table)
    return flat


def is_running(run):
    """Whether a process holds the run's lock."""
    try:
        with open(os.path.join(run, "lock"), "rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except FileNotFoundError:
        pass
    return False


def whole_lines(path, place, offset):
    """The whole lines of `path` from `offset` if it is still the file at `place`, else all; its place and the offset after them."""
    with open(path, "rb") as file:
        stat = os.fstat(file.fileno())
        if (stat.st_dev, stat.st_ino) != place or stat.st_size < offset:
            # The file was replaced: cut back to a checkpoint, or thinned.
            place, offset = (stat.st_dev, stat.st_ino), 0
        file.seek(offset)
        data = file.read()
    end = data.rfind(b"\n") + 1
    return data[:end].splitlines(), place, offset + end


def figures(run, follow=False, poll_seconds=2.0):
    """Yields (step, seconds since 1970, {name: value}). With `follow`, ends once no process works on the run any more."""
    path = os.path.join(run, "metrics.jsonl")
    if not follow and not os.path.exists(path):
        sys.exit(f"{path}: expected the figures of a run, found none")
    while follow and not os.path.exists(os.path.join(run, "lock")):
        # The run has not begun.
        time.sleep(poll_seconds)
    place, offset, newest, told = None, 0, -1, set()
    while True:
        # Asked before the file is read: what a process wrote before it ended is then read too.
        goes_on = follow and is_running(run)
        if os.path.exists(path):
            lines, place, offset = whole_lines(path, place, offset)
            for line in map(json.loads, filter(None, lines)):
                step, seconds = line.pop("step"), line.pop("time")
                if step < newest:
                    continue
                if step > newest:
                    newest, told = step, set()
                new = {key: value for key, value in line.items() if key not in told}
                told.update(new)
                if new:
                    yield step, seconds, new
        if not goes_on:
            return
        time.sleep(poll_seconds)
