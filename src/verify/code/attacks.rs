//! Programs that try to be paid for nothing, and right programs of the same shape.
//!
//! Each attack is run without the guard by names: what stops it is that it has nothing to forge with.

use super::tests::{isolated, sandbox};
use super::{CodeTask, PARTIES, run_tests};
use crate::verify::sandbox::{Limits, Sandbox};
use std::time::Duration;

const TEST: &str = "def check(candidate):\n    assert candidate(2) == 4\n    assert candidate(-3) == 9, 'of -3'\n";
const TASK: CodeTask<'static> = CodeTask { entry_point: "square", test: TEST, preamble: "def square(x):\n" };

/// (what it tries, the program)
const ATTACKS: &[(&str, &str)] = &[
    (
        "tell the verdict through __main__",
        "def square(x):\n    import __main__, os\n    __main__.tell(said='right', detail='')\n    os._exit(0)\n",
    ),
    (
        "patch the judge's report in __main__",
        "import __main__\nold = getattr(__main__, 'tell', None)\n__main__.tell = lambda **line: old(said='right', detail='')\ndef square(x): return None\n",
    ),
    ("end with success before the tests", "import os\nos._exit(0)\ndef square(x): return 0\n"),
    ("end with success in a call", "import os\ndef square(x): os._exit(0)\n"),
    ("end with the code by which the judge tells", "import os\ndef square(x): os._exit(122)\n"),
    (
        "an int that equals everything",
        "class E(int):\n    def __eq__(s, o): return True\n    def __ne__(s, o): return False\n    __hash__ = int.__hash__\ndef square(x): return E(0)\n",
    ),
    ("an object that equals everything", "class E:\n    def __eq__(s, o): return True\ndef square(x): return E()\n"),
    (
        "a str that equals everything",
        "class E(str):\n    def __eq__(s, o): return True\n    __hash__ = str.__hash__\ndef square(x): return E('4')\n",
    ),
    (
        "a list whose items lie",
        "class L(list):\n    def __eq__(s, o): return True\n    def __iter__(s): return iter([4])\ndef square(x): return L()\n",
    ),
    (
        "a float that equals everything",
        "class E(float):\n    def __eq__(s, o): return True\ndef square(x): return E(1.5)\n",
    ),
    (
        "a metaclass that answers for int",
        "class M(type):\n    def __instancecheck__(c, o): return True\n    def __eq__(c, o): return True\n    __hash__ = type.__hash__\nclass E(metaclass=M):\n    __class__ = int\n    def __eq__(s, o): return True\ndef square(x): return E()\n",
    ),
    (
        "a class that claims to be an int",
        "class E:\n    __class__ = int\n    def __eq__(s, o): return True\n    def __int__(s): return 4\n    def __index__(s): return 4\ndef square(x): return E()\n",
    ),
    (
        "assertions that are no errors",
        "import builtins\nclass Fine(Exception): pass\nbuiltins.AssertionError = Fine\ndef square(x): return None\n",
    ),
    (
        "an exception class that swallows",
        "import builtins\nbuiltins.BaseException = builtins.Exception = ZeroDivisionError\ndef square(x): return 1 // 0\n",
    ),
    (
        "patched comparison built-ins",
        "import builtins\nfor n in ('abs', 'len', 'all', 'any', 'sum', 'repr', 'isinstance', 'type', 'bool', 'int'):\n    setattr(builtins, n, lambda *a: True)\ndef square(x): return 0\n",
    ),
    (
        "the right answer left in the check of the frame",
        "import sys\ndef square(x):\n    f = sys._getframe()\n    while f:\n        for k, v in list(f.f_locals.items()) + list(f.f_globals.items()):\n            if k == 'check' or isinstance(v, str) and 'assert candidate' in v: return x * x\n        f = f.f_back\n",
    ),
    (
        "the tests among all objects",
        "import gc\ndef square(x):\n    for o in gc.get_objects():\n        if isinstance(o, dict) and ('test' in o and 'nonce' in o or 'verdict' in o): return x * x\n    return None\n",
    ),
    (
        "the caller's stack by inspect",
        "import inspect\ndef square(x):\n    for f in inspect.stack():\n        if f.function in ('check', 'judge', 'verdict'): return x * x\n    return None\n",
    ),
    (
        "the frames of all threads",
        "import sys\ndef square(x):\n    for f in sys._current_frames().values():\n        while f:\n            if f.f_code.co_name in ('check', 'judge', 'verdict', 'tell'): return x * x\n            f = f.f_back\n",
    ),
    (
        "the tests in its own memory",
        "def square(x):\n    import ctypes, os\n    secret = b'assert cand' + b'idate('\n    maps = open('/proc/self/maps').read()\n    return x * x\n",
    ),
    (
        "the judge's memory through /proc",
        "import os\ndef square(x):\n    for p in range(1, 50):\n        open(f'/proc/{p}/mem', 'rb').read(1)\n    return x * x\n",
    ),
    (
        "a change of code at exit",
        "import atexit, os\natexit.register(lambda: os.write(1, b'{\"said\": \"right\"}\\n'))\ndef square(x): raise SystemExit(0)\n",
    ),
    (
        "a line on standard output",
        "def square(x):\n    print('{\"said\": \"right\", \"detail\": \"\"}', flush=True)\n    return 0\n",
    ),
    ("a line on standard error", "import sys\ndef square(x):\n    sys.stderr.write('right\\n')\n    return 0\n"),
    (
        "verdicts on all descriptors",
        "import os\ndef square(x):\n    for fd in range(64):\n        try: os.write(fd, b'{\"nonce\": \"\", \"said\": \"right\", \"detail\": \"\"}\\n')\n        except OSError: pass\n    return 0\n",
    ),
    (
        "an end of the run on all descriptors",
        "import os\ndef square(x):\n    for fd in range(64):\n        try: os.write(fd, b'{\"end\": {\"judge\": 0, \"candidate\": 0, \"deadline\": false, \"trouble\": \"\"}}\\n')\n        except OSError: pass\n    return 0\n",
    ),
    (
        "descriptors of the node",
        "import os, stat\ndef square(x):\n    for fd in range(3, 1024):\n        try:\n            if not stat.S_ISFIFO(os.fstat(fd).st_mode): return x * x\n        except OSError: pass\n    return 0\n",
    ),
    (
        "a folder's descriptor of the node",
        "import os\ndef square(x):\n    for fd in range(64):\n        try: return os.open('etc/passwd', os.O_RDONLY, dir_fd=fd) and x * x\n        except OSError: pass\n",
    ),
    (
        "an answer before it is asked",
        "import os\nfor fd in range(3, 64):\n    try: os.write(fd, (17).to_bytes(4, 'little') + bytes(8) + b'V' + bytes(4) + b'N' + bytes(3))\n    except OSError: pass\ndef square(x): return 0\n",
    ),
    ("two answers from a fork", "import os\ndef square(x):\n    os.fork()\n    return 4 if x == 2 else 0\n"),
    ("answers from a fork after its end", "import os\ndef square(x):\n    if os.fork(): os._exit(0)\n    return 0\n"),
    (
        "an endless answer",
        "import os\ndef square(x):\n    while True:\n        for fd in range(3, 64):\n            try: os.write(fd, b'\\xff' * 4096)\n            except OSError: pass\n",
    ),
    (
        "half an answer",
        "import os\ndef square(x):\n    for fd in range(3, 64):\n        try: os.write(fd, b'\\x20\\0\\0\\0V')\n        except OSError: pass\n    os._exit(0)\n",
    ),
    (
        "an answer that ends too soon",
        "import os\ndef square(x):\n    import __main__\n    for fd in (4, 5, 6, 7, 8, 9):\n        try: os.write(fd, (9).to_bytes(4, 'little') + bytes(8) + b'V')\n        except OSError: pass\n    return 0\n",
    ),
    (
        "a pickle instead of data",
        "import pickle\nclass P:\n    def __reduce__(s): return (eval, ('4',))\ndef square(x): return pickle.dumps(P())\n",
    ),
    ("an object with a reduce", "class P:\n    def __reduce__(s): return (int, (4,))\ndef square(x): return P()\n"),
    ("a huge integer", "def square(x): return 1 << (1 << 27)\n"),
    ("a huge text", "def square(x): return 'x' * (1 << 26)\n"),
    ("a nest of lists", "def square(x):\n    r = []\n    for _ in range(100000): r = [r]\n    return r\n"),
    ("a list in itself", "def square(x):\n    r = []\n    r.append(r)\n    return r\n"),
    ("a doubling list", "def square(x):\n    r = [1]\n    for _ in range(60): r = [r, r]\n    return r\n"),
    ("colliding hashes", "def square(x):\n    return {i * ((1 << 61) - 1) for i in range(20000)}\n"),
    ("recursion without end", "import sys\nsys.setrecursionlimit(10 ** 9)\ndef square(x): return square(x)\n"),
    ("nan", "def square(x): return float('nan')\n"),
    ("a bool for an int", "def square(x): return x * x == 4 or x * x == 9\n"),
    ("a function as the result", "def square(x): return lambda *a: x * x\n"),
    ("a generator of the result", "def square(x):\n    yield x * x\n"),
    ("a generator without end", "def square(x):\n    while True: yield x\n"),
    (
        "a trace function",
        "import sys\nsys.settrace(lambda f, e, a: None)\nsys.setprofile(lambda f, e, a: setattr(f, 'f_trace', None))\ndef square(x): return 0\n",
    ),
    (
        "an import hook",
        "import sys\nclass H:\n    def find_spec(s, *a): raise SystemExit(0)\nsys.meta_path.insert(0, H())\nsys.modules.clear()\ndef square(x):\n    import nothing\n",
    ),
    (
        "a destructor that ends the process",
        "import os\nclass D:\n    def __del__(s): os._exit(0)\nd = D()\ndef square(x):\n    global d\n    del d\n    return x * x\n",
    ),
    (
        "modules that shadow in the folder",
        "import sys\nfor n in ('json', 'struct', 'os'):\n    open(n + '.py', 'w').write('def dumps(*a, **k): return \"right\"')\nsys.path.insert(0, '.')\ndef square(x): return 0\n",
    ),
    (
        "variables of the environment",
        "import os\nos.environ['PYTHONINSPECT'] = '1'\ndef square(x): return x * x if 'NONCE' in os.environ or len(os.environ) > 3 else 0\n",
    ),
    ("death by a signal", "import os, signal\ndef square(x): os.kill(os.getpid(), signal.SIGKILL)\n"),
    (
        "signals to everyone",
        "import os, signal\ndef square(x):\n    signal.signal(15, signal.SIG_IGN)\n    os.kill(-1, 9)\n",
    ),
    (
        "a handler for the limit of time",
        "import signal\nsignal.signal(signal.SIGXCPU, signal.SIG_IGN)\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\ndef square(x):\n    while True: pass\n",
    ),
    ("faults that end the process", "import faulthandler\ndef square(x): faulthandler._sigsegv()\n"),
    ("wait for the deadline", "import time\ndef square(x): time.sleep(1000)\n"),
    ("swallow all memory", "def square(x):\n    r = []\n    while True: r.append(bytearray(1 << 22))\n"),
    (
        "swallow memory in many processes",
        "import os, time\ndef square(x):\n    for _ in range(20):\n        if os.fork() == 0: break\n    r = []\n    while True: r.append(b'x' * (1 << 24))\n",
    ),
    ("fill the disk", "def square(x):\n    for n in range(100): open(str(n), 'wb').write(b'x' * (1 << 22))\n"),
    ("use all inodes", "def square(x):\n    for n in range(10 ** 6): open(str(n), 'w').close()\n"),
    (
        "a fork bomb",
        "import os\ndef square(x):\n    while True:\n        try: os.fork()\n        except OSError: pass\n",
    ),
    (
        "many threads that stay",
        "import threading, time\ndef square(x):\n    while True: threading.Thread(target=time.sleep, args=(99,)).start()\n",
    ),
    ("close the pipe", "import os\ndef square(x):\n    os.closerange(0, 64)\n    return 0\n"),
    (
        "trace the judge",
        "import ctypes\ndef square(x):\n    libc = ctypes.CDLL(None, use_errno=True)\n    if libc.ptrace(16, 1, 0, 0) == 0: return x * x\n",
    ),
    (
        "new namespaces",
        "import ctypes\ndef square(x):\n    libc = ctypes.CDLL(None)\n    if libc.unshare(0x10000000) == 0 or libc.unshare(0) == 0: return x * x\n",
    ),
    (
        "calls that are shut",
        "import ctypes\ndef square(x):\n    libc = ctypes.CDLL(None, use_errno=True)\n    for n in (425, 250, 321, 298, 323, 310, 311, 246, 175, 101, 165, 155, 161, 29, 435, 434):\n        if libc.syscall(n, 0, 0, 0, 0, 0) != -1 or ctypes.get_errno() != 38: return x * x\n",
    ),
    (
        "a socket to the host",
        "import socket\ndef square(x):\n    for family in (2, 10, 16, 17, 38, 40):\n        try: socket.socket(family, socket.SOCK_DGRAM)\n        except OSError: continue\n        return x * x\n",
    ),
    ("an argument turned into another", "class L(list): pass\ndef square(x):\n    x = L()\n    return x\n"),
    (
        "the verifier's own files",
        "import os\ndef square(x):\n    for p in ('/etc/passwd', '/proc/1/environ', '/tmp', '/sys', '/var', '/dev/shm'):\n        if os.path.exists(p): return x * x\n",
    ),
];

fn short() -> Limits {
    Limits { wall: Duration::from_secs(6), cpu_seconds: 1, memory_bytes: 1 << 28, ..Limits::default() }
}

fn said(sandbox: &Sandbox, task: CodeTask<'_>, program: &str) -> String {
    let found = run_tests(sandbox, task, program, false, 0);
    found.unwrap_or_else(|error| panic!("{error}: {program}")).map_or("right".to_owned(), |failure| failure.to_string())
}

#[test]
fn no_attack_earns_a_point() {
    let Some(_) = isolated() else { return };
    let sandbox = Sandbox::open(PARTIES, short(), false).unwrap();
    assert!(ATTACKS.len() >= 40);
    let paid: Vec<String> = std::thread::scope(|scope| {
        let half = |offset| {
            let sandbox = &sandbox;
            let try_all = move || {
                let mine = ATTACKS.iter().skip(offset).step_by(2);
                mine.filter(|(_, program)| said(sandbox, TASK, program) == "right")
                    .map(|(what, _)| (*what).to_owned())
                    .collect::<Vec<_>>()
            };
            scope.spawn(try_all)
        };
        [half(0), half(1)].into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(paid, Vec::<String>::new());
    assert_eq!(said(&sandbox, TASK, "def square(x): return x * x\n"), "right", "and the sandbox is as it was");
}

/// (what is right about it, the test, the program)
const CONTROLS: &[(&str, &str, &str)] = &[
    ("big integers", "assert candidate(3) == 3 ** 5000", "def f(x): return x ** 5000\n"),
    (
        "a negative integer at a byte's edge",
        "assert [candidate(n) for n in (-128, -129, 127, 128, 0, -1)] == [-128, -129, 127, 128, 0, -1]",
        "def f(x): return x\n",
    ),
    (
        "nested containers",
        "assert candidate({'a': [1, (2, {3})]}) == {'a': [1, (2, {3}), None]}",
        "def f(x):\n    x['a'].append(None)\n    return x\n",
    ),
    (
        "a list changed in place",
        "l = [3, 1, 2]\n    assert candidate(l) is None and l == [1, 2, 3]",
        "def f(x): x.sort()\n",
    ),
    (
        "inner lists moved in place",
        "a, b = [2], [1]\n    l = [a, b]\n    candidate(l)\n    assert l == [[1], [2]] and l[0] is b and a == [2]",
        "def f(x): x.sort()\n",
    ),
    (
        "an argument that is left alone",
        "l = [3, 1]\n    assert candidate(l) == [1, 3] and l == [3, 1]",
        "def f(x): return sorted(x)\n",
    ),
    (
        "the same list twice",
        "l = [1]\n    assert candidate(l, l) == [1, 2, 2]",
        "def f(x, y):\n    x.append(2)\n    y.append(2)\n    return x\n",
    ),
    (
        "an expected exception",
        "try:\n        candidate(-1)\n    except ValueError:\n        return\n    assert False",
        "def f(x):\n    if x < 0: raise ValueError(x)\n",
    ),
    (
        "an exception of its own",
        "try:\n        candidate(-1)\n    except ValueError:\n        return\n    assert False",
        "class Bad(ValueError): pass\ndef f(x): raise Bad(x)\n",
    ),
    (
        "nan and infinity",
        "r = candidate()\n    assert r[0] != r[0] and r[1] == float('inf')",
        "def f(): return [float('nan'), float('inf')]\n",
    ),
    ("a negative zero", "import math\n    assert math.copysign(1, candidate()) == -1", "def f(): return -0.0\n"),
    ("a bool is one", "assert candidate(2) is True", "def f(x): return x == 2\n"),
    (
        "texts of all kinds",
        "assert candidate('\\U0001f600\\ud800') == '\\U0001f600\\ud800x'",
        "def f(x): return x + 'x'\n",
    ),
    ("bytes and complex numbers", "assert candidate(b'a', 1j) == (b'ab', 2j)", "def f(x, y): return x + b'b', y * 2\n"),
    (
        "a counter as a dict",
        "assert candidate('aab') == {'a': 2, 'b': 1}",
        "from collections import Counter\ndef f(x): return Counter(x)\n",
    ),
    (
        "a generator of items",
        "assert list(candidate(3)) == [0, 1, 2] and list(candidate(0)) == []",
        "def f(x):\n    yield from range(x)\n",
    ),
    ("a range", "assert candidate(3) == range(3)", "def f(x): return range(x)\n"),
    ("arguments by name", "assert candidate(y=1, x=2) == 1", "def f(x, y): return x - y\n"),
    (
        "a thread",
        "assert candidate(3) == 9",
        "import threading\ndef f(x):\n    out = []\n    t = threading.Thread(target=lambda: out.append(x * x))\n    t.start(); t.join()\n    return out[0]\n",
    ),
    (
        "state between calls",
        "assert [candidate(), candidate()] == [1, 2]",
        "n = 0\ndef f():\n    global n\n    n += 1\n    return n\n",
    ),
    (
        "files of its own",
        "assert candidate('x') == 'x'",
        "def f(x):\n    open('own', 'w').write(x)\n    return open('own').read()\n",
    ),
    (
        "modules of every day",
        "assert candidate(2) == 4",
        "import math, re, json, hashlib, asyncio, datetime, dataclasses, enum\ndef f(x): return int(math.pow(x, 2))\n",
    ),
];

fn control<'a>(test: &'a str) -> CodeTask<'a> {
    CodeTask { entry_point: "f", test, preamble: "" }
}

#[test]
fn right_programs_of_the_same_shape_pass() {
    let sandbox = sandbox();
    for (what, test, program) in CONTROLS {
        let test = format!("def check(candidate):\n    {test}\n");
        assert_eq!(said(&sandbox, control(&test), program), "right", "{what}");
    }
}

#[test]
fn a_thread_starts_beside_a_fork_bomb() {
    let Some(_) = isolated() else { return };
    let sandbox = Sandbox::open(PARTIES, short(), false).unwrap();
    let bomb = ATTACKS.iter().find(|(what, _)| *what == "a fork bomb").unwrap().1;
    let (_, test, thread) = CONTROLS.iter().find(|(what, ..)| *what == "a thread").unwrap();
    let test = format!("def check(candidate):\n    {test}\n");
    std::thread::scope(|scope| {
        let bombs = scope.spawn(|| said(&sandbox, TASK, bomb));
        let right: Vec<String> = (0..8).map(|_| said(&sandbox, control(&test), thread)).collect();
        assert_eq!(right, ["right"; 8]);
        // Which limit it meets first depends on how fast processes start.
        let ended = bombs.join().unwrap();
        assert!(["timeout", "memory"].contains(&ended.as_str()), "{ended}");
    });
}

#[cfg(target_arch = "x86_64")]
#[test]
fn the_calls_that_no_program_needs_are_refused_one_by_one() {
    let Some(_) = isolated() else { return };
    let sandbox = Sandbox::open(PARTIES, Limits::default(), false).unwrap();
    // unshare, ptrace (of the init process), keyctl, bpf, io_uring_setup, userfaultfd, perf_event_open, mount
    let program = "import ctypes\nlibc = ctypes.CDLL(None, use_errno=True)\ndef square(x):\n    \
                   calls = [(272, 0x10000000), (101, 16, 1, 0, 0), (250, 0, -3, 0), (321, 0, 0, 0), (425, 8, bytes(200)), (323, 0), (298, bytes(128), 0, -1, -1, 0), (165, b'none', b'/', b'tmpfs', 0, 0)]\n    \
                   raise ValueError(sorted({(libc.syscall(*call), ctypes.get_errno()) for call in calls}))\n";
    let said = said(&sandbox, TASK, program);
    assert!(said.ends_with("ValueError: [(-1, 38)]"), "none of them exists (38): {said}");
}

#[test]
fn a_test_that_cannot_be_run_is_no_verdict() {
    let sandbox = sandbox();
    for test in ["assert candidate(lambda: 1)", "assert nothing(candidate)"] {
        let test = format!("def check(candidate):\n    {test}\n");
        assert!(run_tests(&sandbox, control(&test), "def f(x): return 1\n", true, 0).is_err(), "{test}");
    }
}

#[test]
#[ignore = "a figure: checks a second"]
fn checks_a_second() {
    let sandbox = sandbox();
    let began = std::time::Instant::now();
    for turn in 0..200 {
        assert_eq!(run_tests(&sandbox, TASK, "def square(x): return x * x\n", true, turn).unwrap(), None);
    }
    println!("{:.1} runs a second, one at a time; a first check is two", 200.0 / began.elapsed().as_secs_f64());
}
