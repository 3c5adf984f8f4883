# The trusted process: holds the tests and the verdict, and calls the program in the other process. Reads one frame of JSON
# {"nonce", "program", "test", "preamble", "entry_point", "guard"} and writes lines of JSON, each with the nonce: {"ready"}
# before anything of the program runs, then {"said", "detail"}. Whatever comes from the other process is claimed by the
# program: it can make this process say "wrong", and that is all.
import builtins
import json

PEER_ENDED = 122


class CandidateError(Exception):
    """An exception of the program that is none of Python's own."""


class CandidateExit(BaseException):
    """The program wants to end the process."""


class Over(BaseException):
    """The verdict is known, whatever the tests make of this exception."""


class Candidate:
    """The program in the other process."""

    def __init__(self, ask, answer):
        self.ask = ask
        self.answer = answer
        self.calls = 0
        self.verdict = None
        self.raised = None
        self.raised_name = ""
        self.memory = False

    def over(self, said, detail):
        # The first one stays: nothing that comes later makes up for it.
        if self.verdict is None:
            self.verdict = (said, detail)
        raise Over

    def talk(self, message):
        """Sends `message` and returns the reader of the answer, which names the message that it answers."""
        if self.verdict is not None:
            raise Over
        token = os.urandom(8)
        try:
            write_frame(self.ask, token + message)
            data = read_frame(self.answer)
        except (EOFError, BrokenPipeError):
            self.over("ended", "")
        except Unfit as error:
            self.over("wrong" if self.calls > 1 else "unfit", f"the tests hand over what cannot be: {error}")
        except Malformed as error:
            self.over("wrong", f"its answer is malformed: {error}")
        if data[:8] != token:
            self.over("wrong", "its answer is malformed: it answers something else")
        return Reader(data[8:], [], False)

    def load(self, task):
        parts = [task["program"], task["entry_point"], "1" if task["guard"] else ""]
        writer = Writer([], False)
        for part in parts:
            writer.value(part)
        self.result(self.talk(b"P" + writer.out))

    def call(self, *args, **kwargs):
        known = []
        writer = Writer(known, True)
        try:
            writer.value(args)
            writer.value(kwargs)
        except Unfit as error:
            # No verdict on the program, but where its own results may have grown too large.
            said = "wrong" if self.calls and isinstance(error, TooMuch) else "unfit"
            self.over(said, f"the tests hand over what cannot be: {error}")
        self.calls += 1
        reader = self.talk(b"C" + writer.out)
        reader.known = known
        return self.result(reader)

    def result(self, reader):
        try:
            value, raised = self.read_result(reader)
        except Malformed as error:
            self.over("wrong", f"its answer is malformed: {error}")
        if raised is not None:
            raise raised
        return value

    def read_result(self, reader):
        kind = reader.take(1)
        if kind == b"V":
            changes = [(reader.number(), reader.value()) for _ in range(min(reader.number(), len(reader.known) + 1))]
            value = reader.value()
            reader.end()
            for number, new in changes:
                if number >= len(reader.known):
                    raise Malformed(f"there is no argument {number}")
                refill(reader.known[number], new)
            return value, None
        texts = [reader.text()[:200] for _ in range({b"E": 3}.get(kind, 1))]
        reader.end()
        if kind == b"E":
            return None, self.exception(*texts)
        said = {b"S": "syntax", b"W": "wrong", b"F": "forbidden"}.get(kind)
        if said is None:
            raise Malformed(f"there is no answer {kind!r}")
        self.over(said, texts[0])

    def exception(self, name, base, message):
        """An exception of Python's own of that name, or that its class derives from; made here, from names alone."""
        kind = getattr(builtins, base, None)
        self.raised = CandidateError(message)
        self.raised_name = f"{name}: {message}"
        self.memory = base == "MemoryError"
        if isinstance(kind, type) and issubclass(kind, BaseException):
            if not issubclass(kind, Exception):
                self.raised = CandidateExit(message)
            else:
                try:
                    self.raised = kind(message)
                except TypeError:
                    pass
        return self.raised


def helpers(task):
    """The names that the code before the function defines for the tests; the function itself is the program's."""
    names = {"__name__": "test"}
    before = task["preamble"].partition(f"def {task['entry_point']}")[0]
    for code in (before, task["preamble"] + "    pass\n"):
        try:
            exec(compile(code, "preamble", "exec"), names)
            break
        except SyntaxError:
            continue
    return names


def judge(task, candidate):
    candidate.load(task)
    names = helpers(task)
    function = names[task["entry_point"]] = candidate.call
    exec(compile(task["test"], "test", "exec"), names)
    names["check"](function)


def verdict(task, candidate):
    try:
        judge(task, candidate)
        said = ("right", "")
    except BaseException as error:
        said = blame(error, candidate)
    return candidate.verdict or said


def blame(error, candidate):
    if candidate.raised is error and candidate.memory:
        return "memory", ""
    if isinstance(error, AssertionError):
        return "wrong", str(error)
    if candidate.raised is error:
        return "exception", candidate.raised_name
    detail = f"{type(error).__name__}: {error}"
    if candidate.calls == 0:
        return "unfit", f"the tests failed before they called the function: {detail}"
    return "wrong", f"its result makes the tests fail: {detail}"


def main(ask, answer, task_fd, report, life):
    task = json.loads(read_long(task_fd))
    os.close(task_fd)

    def tell(**line):
        os.write(report, (json.dumps({"nonce": task["nonce"], **line}) + "\n").encode())

    try:
        read_frame(answer)
    except (EOFError, Malformed):
        return PEER_ENDED
    tell(ready=True)
    candidate = Candidate(ask, answer)
    said, detail = verdict(task, candidate)
    tell(said=said, detail=detail[:200])
    return PEER_ENDED if said == "ended" else 0


def read_long(fd):
    """A frame of the node, which has no limit."""
    return read_exactly(fd, int.from_bytes(read_exactly(fd, 4), "little"))
