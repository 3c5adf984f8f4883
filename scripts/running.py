"""A node on the quickstart, for the scripts that make pictures of one."""

import contextlib
import subprocess
import sys
import time
from pathlib import Path

ADDRESS = "127.0.0.1:9468"


@contextlib.contextmanager
def process(command, **more):
    """A program that runs until the block ends."""
    running = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **more)
    try:
        yield running
    finally:
        running.terminate()
        running.wait()


@contextlib.contextmanager
def node(program, folder, sets=()):
    """A node that has begun to run in `folder`, with other settings: its process, its URL and its run directory."""
    run = Path(folder) / "run"
    sets = [*sets, f"node.run_directory={run}", f"telemetry.address={ADDRESS}"]
    with process([program, "start", *(word for one in sets for word in ("--set", one))]) as running:
        yield running, f"http://{ADDRESS}", run


def wait(minutes, processes):
    """Waits, and ends the program if one of the processes ends meanwhile."""
    deadline = time.monotonic() + 60 * minutes
    while time.monotonic() < deadline:
        for one in processes:
            if one.poll() is not None:
                sys.exit(f"{one.args[0]} ended with {one.returncode}")
        time.sleep(1)
