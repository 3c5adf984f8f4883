//! A run ends, says how, and leaves nothing behind.

use super::*;

/// A trusted process that tells the untrusted one what to run and reports what that writes.
const ASKS: &str = r#"
import os
def read_exactly(fd, count):
    data = b""
    while len(data) < count:
        data += os.read(fd, count - len(data))
    return data
def main(ask, answer, task, report, life):
    program = read_exactly(task, int.from_bytes(read_exactly(task, 4), "little"))
    os.write(ask, program)
    os.close(ask)
    while part := os.read(answer, 1000):
        os.write(report, part)
    return 122
"#;

/// An untrusted process that runs what it is told, with a descriptor `out`.
const RUNS: &str = r#"
import os
def main(ask, out):
    program = b""
    while part := os.read(ask, 1000):
        program += part
    exec(compile(program, "program", "exec"), {"out": out, "os": os, "ask": ask})
"#;

const OPEN: Parties = Parties { judge: &[ASKS], candidate: &[RUNS] };

fn open(limits: Limits) -> Sandbox {
    let sandbox = Sandbox::open(OPEN, limits, true).unwrap();
    if !sandbox.is_isolated() {
        eprintln!("NOT TESTED: this machine has no isolation, so no hostile program was run on it");
    }
    sandbox
}

/// How many processes of this machine, in whatever namespace, have `mark` as their name.
fn running(mark: &str) -> usize {
    let is_named = |entry: &std::fs::DirEntry| {
        std::fs::read_to_string(entry.path().join("comm")).is_ok_and(|name| name.trim() == mark)
    };
    std::fs::read_dir("/proc").unwrap().flatten().filter(is_named).count()
}

#[test]
fn a_run_says_what_it_wrote_and_how_it_ended() {
    let sandbox = open(Limits::default());
    let ran = sandbox.run(b"os.write(out, b'abc\\n')", 0).unwrap();
    assert_eq!((ran.lines, ran.candidate, ran.deadline), (vec!["abc".to_owned()], ProcessEnd::Code(0), false));
    let ran = sandbox.run(b"os.write(out, b'1\\n'); os._exit(7)", 1).unwrap();
    assert_eq!(ran.candidate, ProcessEnd::Code(7));
    let ran = sandbox.run(b"os.write(out, b'1\\n'); os.kill(os.getpid(), 9)", 1).unwrap();
    assert_eq!(ran.candidate, ProcessEnd::Code(128 + 9));
    let flood = sandbox.run(b"while True: os.write(out, b'x\\n' * 500)", 0);
    assert!(flood.unwrap_err().to_string().contains("more than 16 lines"));
    assert_eq!(sandbox.run(b"os.write(out, b'2\\n')", 0).unwrap().lines, ["2"], "a launcher of no use is replaced");
}

#[test]
fn no_process_outlives_its_run() {
    let sandbox = open(Limits { wall: Duration::from_secs(3), ..Limits::default() });
    if !sandbox.is_isolated() {
        return;
    }
    // Children in sessions of their own, that ignore what they can and hold the pipe open.
    let flee = "import ctypes, signal, time\nctypes.CDLL(None).prctl(15, b'rco-fleeing', 0, 0, 0)\nos.write(out, b'1\\n')\n\
                for _ in range(5):\n    if os.fork() == 0:\n        os.setsid()\n        \
                signal.signal(signal.SIGTERM, signal.SIG_IGN)\n        time.sleep(1000)\n";
    let stays = sandbox.run(format!("{flee}time.sleep(1000)").as_bytes(), 0).unwrap();
    assert!(stays.deadline && stays.candidate == ProcessEnd::Killed);
    assert_eq!(running("rco-fleeing"), 0, "nothing is left when the run is over");
    let leaves = sandbox.run(flee.as_bytes(), 0).unwrap();
    assert_eq!(leaves.candidate, ProcessEnd::Code(0), "the first process goes, and with it the rest");
    assert_eq!(running("rco-fleeing"), 0);
}

#[test]
fn nothing_written_outlives_its_run() {
    let sandbox = open(Limits::default());
    let write = b"os.write(out, b'%d\\n' % os.path.exists('here')); open('here', 'w').write('1')";
    assert_eq!(sandbox.run(write, 0).unwrap().lines, ["0"]);
    assert_eq!(sandbox.run(write, 0).unwrap().lines, ["0"]);
}

#[test]
fn a_launcher_that_was_killed_is_replaced() {
    let sandbox = open(Limits::default());
    let pid = b"os.write(out, b'1\\n')";
    assert_eq!(sandbox.run(pid, 0).unwrap().lines, ["1"]);
    let mut slots: Vec<Slot> = sandbox.0.slots.1.try_iter().collect();
    for launcher in slots.iter_mut().flatten().flatten() {
        rustix::process::kill_process(launcher.pid(), rustix::process::Signal::KILL).unwrap();
    }
    slots.into_iter().for_each(|slot| sandbox.0.slots.0.send(slot).unwrap());
    assert_eq!(sandbox.run(pid, 0).unwrap().lines, ["1"]);
}

#[test]
fn the_untrusted_process_has_two_descriptors_and_no_memory_of_the_task() {
    let sandbox = open(Limits::default());
    let look = br"
import gc
found = []
for fd in range(64):
    try:
        os.fstat(fd)
        found.append(fd)
    except OSError:
        pass
os.write(out, repr((len(found), set(found) - {0, 1, 2, ask, out}, dict(os.environ).keys() - {'PATH', 'LC_CTYPE'})).encode() + b'\n')
";
    assert_eq!(sandbox.run(look, 0).unwrap().lines, ["(5, set(), set())"]);
}

#[test]
fn a_machine_without_isolation_is_refused_unless_that_is_allowed() {
    let refused = Sandbox::open_in(OPEN, Limits::default(), &[], false).unwrap_err().to_string();
    assert!(refused.contains("judge.allow_unsandboxed") && refused.contains("namespaces"), "{refused}");
    let refused = Sandbox::open_in(OPEN, Limits::default(), &["bare"], false).unwrap_err().to_string();
    assert!(refused.contains("no own file system"), "{refused}");
}

#[test]
fn without_namespaces_all_else_still_holds() {
    let sandbox = Sandbox::open_in(OPEN, Limits::default(), &["bare"], true).unwrap();
    assert!(!sandbox.is_isolated());
    let holds: Vec<&str> = sandbox.protections().iter().filter(|p| p.holds).map(|p| p.name.as_str()).collect();
    for name in ["no network", "system call filter", "no inherited descriptor"] {
        assert!(holds.contains(&name), "{name} in {holds:?}");
    }
    for (program, refused) in [
        ("os.fork()", "not implemented"),
        ("os.kill(os.getppid(), 0)", "not implemented"),
        ("import socket; socket.socket(socket.AF_INET)", "not implemented"),
        ("os.execv('/bin/true', ['true'])", "not implemented"),
        ("open('big', 'wb').write(bytes(1 << 25))", "too large"),
        ("bytes(2 << 30)", "MemoryError"),
    ] {
        let tried = format!(
            "try:\n    {program}\nexcept BaseException as error:\n    os.write(out, repr(error).encode() + b'\\n')"
        );
        let said = sandbox.run(tried.as_bytes(), 0).unwrap().lines.concat();
        assert!(said.contains(refused), "{program}: {said}");
    }
}

#[test]
fn a_user_without_root_is_isolated_too() {
    let Ok(sandbox) = Sandbox::open_in(OPEN, Limits::default(), &["user"], false) else {
        eprintln!("NOT TESTED: this machine gives no user namespaces");
        return;
    };
    let see = b"os.write(out, repr((sorted(os.listdir('/')), os.getuid(), os.getpid())).encode() + b'\\n')";
    let said = sandbox.run(see, 0).unwrap().lines.concat();
    assert!(said.contains("'work'") && !said.contains("'etc'") && said.contains("65534, 2)"), "{said}");
}
