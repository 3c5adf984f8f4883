"""Where a day finds its programs and keeps its results, and how it runs a command."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


class Missing(Exception):
    """Something that every part needs is not there."""


class Day:
    """One machine, one folder of results. A result is a JSON file by part and name: {ok, seconds, ...}."""

    def __init__(self, options):
        self.options, self.out = options, options.out.resolve()
        self.device, self.rehearses = options.device, options.rehearse
        self.environment = dict(os.environ, RUST_BACKTRACE="0", RCO_TEST_PROGRAMS="optional")
        self.program, self.lib_tests, self.it_tests = (self.find(kind) for kind in ("rco-node", "lib-tests", "it-tests"))
        self.part, self.deadline = "", 0.0
        (self.out / "logs").mkdir(parents=True, exist_ok=True)
        if self.rehearses:
            self.emulate()
        self.place_sources()

    def find(self, kind):
        """A program of the bundle, or of scripts/cuda-build in a checkout."""
        built = ROOT / "target/cuda/gpu-day" if self.rehearses else ROOT / "target/cuda/bundle/bin"
        for folder in (ROOT / "bin", built):
            if (folder / kind).exists():
                return folder / kind
        how = "scripts/cuda-emulate --programs" if self.rehearses else "scripts/cuda-bundle"
        raise Missing(f"{built / kind}: expected a program, found none; {how} builds it")

    def emulate(self):
        """The emulator in the place of CUDA's libraries."""
        folder = ROOT / "target/cuda-emulator/lib"
        if not (folder / "libcuda.so.1").exists():
            raise Missing(f"{folder}: expected the emulator, found none; scripts/cuda-emulate --programs builds it")
        self.environment["LD_LIBRARY_PATH"] = str(folder)
        self.environment["PATH"] = f"{ROOT / 'tests/cuda/emulator'}:{self.environment['PATH']}"
        # The emulator writes how much memory is in use, and its nvidia-smi reads it.
        self.environment["EMULATED_CUDA_USED"] = str(self.out / "emulated-memory")

    def place_sources(self):
        """Tests read files at the path where they were built: a link stands there on another machine."""
        build = ROOT / "BUILD.json"
        if not build.exists():
            return
        source = Path(json.loads(build.read_text())["source"])
        if not source.exists():
            try:
                source.parent.mkdir(parents=True, exist_ok=True)
                source.symlink_to(ROOT)
            except OSError as error:
                raise Missing(f"{source}: expected to link it to {ROOT}, where the tests' files are: {error}") from error

    def begin(self, part):
        """Starts the clock of a part."""
        self.part, self.deadline = part, time.monotonic() + 60 * self.options.minutes
        print(f"== {part}", flush=True)

    def place(self, name):
        return self.out / "results" / self.part / f"{name}.json"

    def done(self, name):
        """The result of an earlier run that ended well, if it is to be kept."""
        place = self.place(name)
        if self.options.again or not place.exists():
            return None
        result = json.loads(place.read_text())
        return result if result["ok"] else None

    def record(self, name, ok, **more):
        """Keeps a result, and prints its line."""
        result = {"ok": ok, **more}
        place = self.place(name)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.with_suffix(".new").write_text(json.dumps(result, indent=1))
        place.with_suffix(".new").rename(place)
        mark = {True: "ok", False: "FAILED", None: "not run"}[ok]
        print(f"  {mark:8}{name}  {more.get('text', '')}".rstrip(), flush=True)
        return result

    def run(self, name, command, judge=lambda printed: (True, {}), expected=0, more=None):
        """Runs a command once, within the part's time. `judge` reads what it printed: whether it is good, and figures."""
        if kept := self.done(name):
            return kept
        left = self.deadline - time.monotonic()
        if left < 5:
            return self.record(name, None, text="the part's time is over; run it again")
        log = self.out / "logs" / f"{self.part}-{name}.log"
        code, seconds, printed = self.watched([str(word) for word in command], log, left, more or {})
        if code is None:
            return self.record(name, False, seconds=seconds, text=f"ran past the part's time; {log.name}")
        if code != expected:
            return self.record(name, False, seconds=seconds, code=code, text=f"ended with {code}; {log.name}", end=printed[-2000:])
        try:
            ok, figures = judge(printed)
        except (ValueError, KeyError, IndexError, TypeError, StopIteration) as error:
            ok, figures = False, {"text": f"{error!r} in what it printed; {log.name}"}
        return self.record(name, ok, seconds=seconds, **figures)

    def watched(self, command, log, limit, more):
        """Runs `command` in its own process group. Returns its code (None where it ran past `limit`), seconds, and standard output."""
        start = time.monotonic()
        with open(log, "wb") as errors, subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=errors, cwd=ROOT, env={**self.environment, **more}, start_new_session=True
        ) as process:
            try:
                printed, _ = process.communicate(timeout=limit)
                code = process.returncode
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                printed, code = process.communicate()[0], None
        printed = printed.decode(errors="replace")
        with open(log, "a") as file:
            file.write(f"\n# {' '.join(command)}\n{printed}")
        return code, round(time.monotonic() - start, 2), printed
