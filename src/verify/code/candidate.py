# The untrusted process: holds the program and answers calls. It has no test and no verdict; from the moment that the
# program runs, everything here is the program's. "guard" forbids by name what the sandbox prevents.
import builtins
import sys

# Which arguments of an event are paths, each with the argument that is the folder's descriptor it is relative to, if any.
PATHS = {"os.remove": ((0, 1),), "os.rmdir": ((0, 1),), "os.mkdir": ((0, 2),), "os.truncate": ((0, None),),
         "os.chmod": ((0, 2),), "os.chown": ((0, 3),), "os.utime": ((0, 3),), "os.rename": ((0, 2), (1, 3)),
         "os.link": ((0, 2), (1, 3)), "os.symlink": ((0, None), (1, 2))}
NEVER = ("os.fork", "os.exec", "os.posix_spawn", "os.spawn", "os.system", "os.kill", "subprocess.", "pty.", "socket.",
         "ctypes.", "syslog.")
LOCAL = 1
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


class Forbidden(BaseException):
    pass


def guard_of(forbidden, scratch):
    device = os.stat(scratch).st_dev

    def outside(path, folder=-1):
        if isinstance(path, int) or path is None:
            return False
        if folder != -1 and not os.path.isabs(path):
            # What a descriptor is the folder of cannot be asked here; the scratch folder is a file system of its own.
            return os.fstat(folder).st_dev != device or os.path.normpath(os.fsdecode(path)).startswith("..")
        path = os.path.normpath(os.path.join(scratch, os.fsdecode(path)))
        return path != "/dev/null" and os.path.commonpath([path, scratch]) != scratch

    def guard(event, args):
        if event == "open":
            bad = bool(args[2] & WRITES) and outside(args[0])
        elif event == "socket.__new__":
            # A pair of local ones, as asyncio makes for itself, reaches nobody.
            bad = args[1] != LOCAL
        elif event in PATHS:
            bad = any(outside(args[path], -1 if folder is None else args[folder]) for path, folder in PATHS[event])
        else:
            bad = event.startswith(NEVER)
        if bad:
            forbidden.append("writing a file" if event == "open" else event)
            raise Forbidden(event)

    return guard


def text(value):
    data = value.encode("utf-8", "surrogatepass")
    return len(data).to_bytes(4, "little") + data


def failure(error):
    names = [kind.__name__ for kind in type(error).__mro__ if getattr(builtins, kind.__name__, None) is kind]
    try:
        message = str(error)[:200]
    except BaseException:
        message = ""
    return b"E" + text(type(error).__name__) + text(names[0]) + text(message)


def called(function, reader):
    args, kwargs = reader.value(), reader.value()
    before = contents(reader.known)
    result = function(*args, **kwargs)
    after = contents(reader.known)
    changes = [number.to_bytes(4, "little") + part for number, part in enumerate(after) if part != before[number]]
    writer = Writer(reader.known, False)
    writer.value(result)
    return b"V" + len(changes).to_bytes(4, "little") + b"".join(changes) + bytes(writer.out)


def loaded(reader, names, forbidden):
    program, entry_point, guarded = reader.value(), reader.value(), reader.value()
    if guarded:
        sys.addaudithook(guard_of(forbidden, os.getcwd()))
    if "tempfile" in program:
        import tempfile
        tempfile.tempdir = os.getcwd()
    try:
        code = compile(program, "answer", "exec")
    except (SyntaxError, ValueError) as error:
        return None, b"S" + text(str(error)[:200])
    exec(code, names)
    if entry_point not in names:
        return None, b"W" + text(f"there is no function {entry_point}")
    return names[entry_point], b"V" + bytes(4) + b"N"


def answer_to(message, function, names, forbidden):
    reader = Reader(message[1:], [], True)
    try:
        if message[:1] == b"P":
            function, answer = loaded(reader, names, forbidden)
        else:
            answer = called(function, reader)
    except Unfit as error:
        answer = b"W" + text(f"its result cannot be handed over: {error}")
    except BaseException as error:
        answer = failure(error)
    if forbidden:
        answer = b"F" + text(forbidden[0])
    return function, answer


def main(ask, answer):
    function, names, forbidden = None, {"__name__": "answer"}, []
    write_frame(answer, b"ready")
    while True:
        try:
            data = read_frame(ask)
        except EOFError:
            return 0
        function, said = answer_to(data[8:], function, names, forbidden)
        try:
            write_frame(answer, data[:8] + said)
        except Unfit as error:
            write_frame(answer, data[:8] + b"W" + text(f"its result cannot be handed over: {error}"))
