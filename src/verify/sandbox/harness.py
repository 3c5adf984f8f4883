# Judges one program: reads {"nonce", "program", "test", "entry_point", "guard"} and writes lines of JSON, each with the nonce:
# {"ready"}, before anything of the program runs, then {"said", "detail"}. "guard" forbids by name what the sandbox prevents.
import json
import os
import sys

task = json.load(sys.stdin)
report = os.dup(1)
null = os.open("/dev/null", os.O_RDWR)
for fd in (0, 1, 2):
    os.dup2(null, fd)
scratch = os.getcwd()
forbidden = []


class Forbidden(BaseException):
    pass


def tell(**line):
    os.write(report, (json.dumps({"nonce": task["nonce"], **line}) + "\n").encode())


def outside(path):
    if isinstance(path, int) or path is None:
        return False
    path = os.path.normpath(os.path.join(scratch, os.fsdecode(path)))
    return path != "/dev/null" and os.path.commonpath([path, scratch]) != scratch


PATHS = {"os.remove": 1, "os.rmdir": 1, "os.mkdir": 1, "os.truncate": 1, "os.chmod": 1, "os.chown": 1, "os.utime": 1,
         "os.rename": 2, "os.link": 2, "os.symlink": 2}
NEVER = ("os.fork", "os.exec", "os.posix_spawn", "os.spawn", "os.system", "os.kill", "subprocess.", "pty.", "socket.", "ctypes.", "syslog.")
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


def guard(event, args):
    if event == "open":
        bad = bool(args[2] & WRITES) and outside(args[0])
    elif event in PATHS:
        bad = any(outside(path) for path in args[:PATHS[event]])
    else:
        bad = event.startswith(NEVER)
    if bad:
        forbidden.append("writing a file" if event == "open" else event)
        raise Forbidden(event)


def judge():
    try:
        program = compile(task["program"], "answer", "exec")
    except (SyntaxError, ValueError) as error:
        return "syntax", str(error)
    names = {"__name__": "answer"}
    exec(program, names)
    if task["entry_point"] not in names:
        return "wrong", f"there is no function {task['entry_point']}"
    function = names[task["entry_point"]]
    exec(compile(task["test"], "test", "exec"), names)
    names["check"](function)
    return "right", ""


tell(ready=True)
if task["guard"]:
    sys.addaudithook(guard)
try:
    said, detail = judge()
except MemoryError:
    said, detail = "memory", ""
except AssertionError as error:
    said, detail = "wrong", str(error)
except BaseException as error:
    said, detail = "exception", f"{type(error).__name__}: {error}"
if forbidden:
    said, detail = "forbidden", forbidden[0]
tell(said=said, detail=detail[:200])
os._exit(0)
