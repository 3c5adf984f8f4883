"""Where a day finds its programs and keeps its results, and how it runs a command."""

import importlib.util
import json
import os
import signal
import subprocess
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

# What a command that is ended has for its last words, in seconds.
GRACE = 20


class Missing(Exception):
    """Something that every part needs is not there."""


class Day:
    """One machine, one folder of results. A result is a JSON file by part and name: {ok, seconds, ...}."""

    def __init__(self, options):
        self.options, self.out = options, options.out.resolve()
        self.device, self.rehearses = options.device, options.rehearse
        # No package is to be had here, and asking for one takes minutes.
        pip = {"PIP_RETRIES": "0", "PIP_DEFAULT_TIMEOUT": "3"}
        self.environment = dict(os.environ, RUST_BACKTRACE="0", RCO_TEST_PROGRAMS="optional", **pip)
        self.program, self.lib_tests, self.it_tests = (self.find(kind) for kind in ("rco-node", "lib-tests", "it-tests"))
        self.part, self.deadline = "", 0.0
        (self.out / "logs").mkdir(parents=True, exist_ok=True)
        self.keep_apart()
        if self.rehearses:
            self.emulate()
        else:
            self.find_cuda()
        self.place_sources()

    def keep_apart(self):
        """Results of another program, another device or a rehearsal are not this day's."""
        program = self.program.stat()
        own = {"device": self.device, "rehearsal": self.rehearses, "program": [program.st_size, int(program.st_mtime)]}
        place = self.out / "day.json"
        if place.exists() and json.loads(place.read_text()) != own:
            raise Missing(f"{self.out}: expected results of this program, device and mode, found others'; name another --out")
        place.write_text(json.dumps(own))

    def find(self, kind):
        """A program of the bundle, or of scripts/cuda-build in a checkout."""
        built = ROOT / "target/cuda/gpu-day" if self.rehearses else ROOT / "target/cuda/bundle/bin"
        for folder in (ROOT / "bin", built):
            if (folder / kind).exists():
                return folder / kind
        how = "scripts/cuda-emulate --programs" if self.rehearses else "scripts/cuda-bundle"
        raise Missing(f"{built / kind}: expected a program, found none; {how} builds it")

    def find_cuda(self):
        """CUDA's libraries from the bundle, and those that torch brings; kernels compiled by the driver are kept beside the results."""
        wheels = importlib.util.find_spec("nvidia")
        brought = [str(Path(place) / "cu13/lib") for place in wheels.submodule_search_locations] if wheels else []
        folders = [str(ROOT / "bin/lib"), *brought, self.environment.get("LD_LIBRARY_PATH", "")]
        self.environment["LD_LIBRARY_PATH"] = ":".join(folder for folder in folders if folder)
        self.environment["PATH"] += ":/usr/local/cuda/bin"
        self.environment["CUDA_CACHE_PATH"] = str(self.out / "compiled")

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
        try:
            # Another bundle's, or one of nothing.
            if source.is_symlink() and (not source.exists() or (source / "BUILD.json").exists()):
                source.unlink()
            if not source.exists():
                source.parent.mkdir(parents=True, exist_ok=True)
                source.symlink_to(ROOT)
        except OSError as error:
            raise Missing(f"{source}: expected to link it to {ROOT}, where the tests' files are: {error}") from error
        if not source.samefile(ROOT):
            raise Missing(f"{source}: expected nothing or a link, as the tests read their files there, found a folder")

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

    def log(self, name):
        """What a command of this part wrote to its log."""
        return (self.out / "logs" / f"{self.part}-{name}.log").read_text(errors="replace")

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
            return self.record(name, None, seconds=seconds, text=f"ran past the part's time; {log.name}")
        if code != expected:
            # What it wrote to standard error comes first in the log.
            end = log.read_text(errors="replace").split("\n# ")[0][-2000:] or printed[-2000:]
            return self.record(name, False, seconds=seconds, code=code, text=f"ended with {code}; {log.name}", end=end)
        try:
            ok, figures = judge(printed)
        except (OSError, ArithmeticError, ValueError, KeyError, IndexError, TypeError, StopIteration) as error:
            ok, figures = False, {"text": f"{error!r} in what it printed; {log.name}"}
        return self.record(name, ok, seconds=seconds, **figures)

    def watched(self, command, log, limit, more):
        """Runs `command` in its own process group. Returns its code (None where it ran past `limit`), seconds, and standard output."""
        start = time.monotonic()
        environment = {**self.environment, **more}
        out = log.with_suffix(".out")
        with open(log, "wb") as errors, open(out, "wb") as printed:
            try:
                process = subprocess.Popen(
                    command, stdin=subprocess.DEVNULL, stdout=printed, stderr=errors, cwd=ROOT, env=environment, start_new_session=True
                )
            except OSError as error:
                errors.write(f"{command[0]}: {error}\n".encode())
                return 127, 0.0, ""
            try:
                code = process.wait(timeout=limit)
            except subprocess.TimeoutExpired:
                code = None
            finally:
                end(process)
        text = out.read_text(errors="replace")
        out.unlink()
        with open(log, "a") as file:
            file.write(f"\n# {' '.join(command)}\n{text}")
        return code, round(time.monotonic() - start, 2), text


def end(process):
    """Ends what is left of a command's process group: asks, then waits, then kills, whoever asks for more haste."""
    asked = {name: signal.signal(name, signal.SIG_IGN) for name in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    for name, patience in ((signal.SIGTERM, GRACE), (signal.SIGKILL, GRACE)):
        if process.poll() is not None:
            break
        try:
            os.killpg(process.pid, name)
            process.wait(timeout=patience)
        except (ProcessLookupError, subprocess.TimeoutExpired):
            continue
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        pass
    for name, handler in asked.items():
        signal.signal(name, handler)
