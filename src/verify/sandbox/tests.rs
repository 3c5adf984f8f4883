//! A run ends, says how, and leaves nothing behind.

use super::*;

/// How many processes of this machine, in whatever namespace, have `mark` on their command line.
fn running(mark: &str) -> usize {
    let has_mark = |entry: &std::fs::DirEntry| {
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&line).contains(mark)
    };
    std::fs::read_dir("/proc").unwrap().flatten().filter(has_mark).count()
}

#[test]
fn a_run_says_what_it_wrote_and_how_it_ended() {
    let sandbox = Sandbox::open(Limits::default(), true).unwrap();
    let ran = sandbox.run("import sys; print(sys.stdin.read()[::-1], end='')", b"abc").unwrap();
    assert_eq!((ran.output.as_slice(), ran.end), (&b"cba"[..], RunEnd::Code(0)));
    assert_eq!(sandbox.run("raise SystemExit(7)", b"").unwrap().end, RunEnd::Code(7));
    let flood = sandbox.run("import sys\nwhile True: sys.stdout.write('x' * 65536)", b"").unwrap();
    assert_eq!(flood.output.len() as u64, OUTPUT_BYTES_MAX);
}

#[test]
fn no_process_outlives_its_run() {
    let limits = Limits { wall: Duration::from_secs(3), ..Limits::default() };
    let sandbox = Sandbox::open(limits, true).unwrap();
    if !sandbox.is_isolated() {
        eprintln!("NOT TESTED: this machine has no isolation, so no hostile program was run on it");
        return;
    }
    let mark = "# a mark of test process groups";
    // Children in sessions of their own, that ignore what they can and hold the pipe open.
    let flee = "import os, signal, time\nfor _ in range(5):\n    if os.fork() == 0:\n        os.setsid()\n        signal.signal(signal.SIGTERM, signal.SIG_IGN)\n        time.sleep(1000)\n";
    let stays = sandbox.run(&format!("{flee}time.sleep(1000) {mark}"), b"").unwrap();
    assert_eq!(stays.end, RunEnd::Deadline);
    let leaves = sandbox.run(&format!("{flee} {mark}"), b"").unwrap();
    assert_eq!(leaves.end, RunEnd::Code(0), "the first process goes, and with it the rest");
    let dies = Instant::now();
    while running(mark) > 0 && dies.elapsed() < Duration::from_secs(5) {
        std::thread::yield_now();
    }
    assert_eq!(running(mark), 0);
}

#[test]
fn nothing_written_outlives_its_run() {
    let sandbox = Sandbox::open(Limits::default(), true).unwrap();
    let write = "import os; print(os.path.exists('here')); open('here', 'w').write('1')";
    assert_eq!(sandbox.run(write, b"").unwrap().output, b"False\n");
    assert_eq!(sandbox.run(write, b"").unwrap().output, b"False\n");
}

#[test]
fn a_machine_without_isolation_is_refused_unless_that_is_allowed() {
    let open = Sandbox::open(Limits::default(), true).unwrap();
    // An interpreter that is not where it is said to be makes every try fail, as a missing `unshare` does.
    let apart = Sandbox { python: "/nowhere/python3".to_owned(), ..open };
    let why = apart.check_isolation().unwrap_err();
    let said = Error::NoIsolation(why).to_string();
    assert!(said.contains("judge.allow_unsandboxed") && said.contains("unshare"), "{said}");
}
