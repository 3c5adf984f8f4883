//! What passes, what fails and why, and that nothing harms or outlives its run.

use super::*;
use crate::types::verifier::Verifier;
use crate::verify::sandbox::Limits;
use std::time::{Duration, Instant};

/// The sandbox, isolated; where this machine has no isolation, one without, and that is said aloud.
pub(super) fn sandbox() -> Sandbox {
    // A machine that is busy with other tests is slow, which is not what is asked here.
    Sandbox::open(PARTIES, Limits { wall: Duration::from_secs(120), ..Limits::default() }, true).unwrap()
}

/// Nothing that could do harm is run where the machine does not isolate.
pub(super) fn isolated() -> Option<Sandbox> {
    let sandbox = sandbox();
    if !sandbox.is_isolated() {
        eprintln!("NOT TESTED: this machine has no isolation, so no hostile program was run on it");
    }
    Some(sandbox).filter(Sandbox::is_isolated)
}

const TEST: &str = "def check(candidate):\n    assert candidate(2) == 4\n    assert candidate(-3) == 9, 'of -3'\n";
const TASK: CodeTask<'static> = CodeTask {
    entry_point: "square",
    test: TEST,
    preamble: "import math\n\ndef square(x):\n    \"\"\"The square.\"\"\"\n",
};

fn said(sandbox: &Sandbox, text: &str) -> String {
    run_tests(sandbox, TASK, text, true, 0).unwrap().map_or("right".to_owned(), |failure| failure.to_string())
}

#[test]
fn a_function_is_found_however_it_is_given() {
    let sandbox = sandbox();
    for text in [
        "    return x * x\n",
        "return x * x",
        "Sure!\n```python\ndef square(x):\n    return int(math.pow(x, 2))\n```\nThat is it.",
        "```\n    return x ** 2\n```",
        "def helper(x):\n    return x\n\ndef square(x):\n    return helper(x) * x",
        "First\n```python\nprint(1)\n```\nthen\n```python\ndef square (x): return x * x\n```",
        "```python\ndef square(x):\n    return x * x",
    ] {
        assert_eq!(said(&sandbox, text), "right", "{text}");
    }
}

#[test]
fn what_fails_says_why() {
    let sandbox = sandbox();
    assert_eq!(said(&sandbox, "    return abs(x) * x\n"), "wrong: of -3");
    assert_eq!(said(&sandbox, "    return x +\n").split(':').next(), Some("syntax error"));
    assert_eq!(said(&sandbox, "I cannot do that.").split(':').next(), Some("syntax error"));
    assert_eq!(said(&sandbox, "    return y\n"), "exception: NameError: name 'y' is not defined");
    assert_eq!(
        said(&sandbox, "    import os\n    os._exit(0)\n"),
        "exception: it ended with code 0 before its tests did"
    );
    assert_eq!(said(&sandbox, "    raise SystemExit\n"), "exception: SystemExit: ");
    assert_eq!(said(&sandbox, "    print('{\"said\": \"right\"}')\n    return 4\n"), "wrong: of -3");
    assert_eq!(said(&sandbox, "    return square(x)\n").split(':').nth(1), Some(" RecursionError"));
}

#[test]
fn a_memory_hog_is_stopped() {
    assert_eq!(said(&sandbox(), "    return len([0] * 10 ** 10)\n"), "memory");
    assert_eq!(said(&sandbox(), "    x = []\n    while True:\n        x.append(bytearray(1 << 20))\n"), "memory");
}

#[test]
fn an_endless_loop_and_an_endless_sleep_are_stopped() {
    let limits = Limits { wall: Duration::from_secs(4), cpu_seconds: 1, ..Limits::default() };
    let sandbox = Sandbox::open(PARTIES, limits, true).unwrap();
    let began = Instant::now();
    assert_eq!(said(&sandbox, "    while True: pass\n"), "timeout");
    assert_eq!(said(&sandbox, "    import time\n    time.sleep(1000)\n"), "timeout");
    assert!(began.elapsed() < Duration::from_secs(60));
}

#[test]
fn what_no_answer_may_do_is_forbidden_by_name() {
    let Some(sandbox) = isolated() else { return };
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("precious");
    std::fs::write(&file, "kept").unwrap();
    let path = file.to_str().unwrap();
    for (body, what) in [
        (format!("import os; os.remove({path:?})"), "forbidden: os.remove"),
        (format!("import shutil; shutil.rmtree({:?}, ignore_errors=True)", "/usr"), "forbidden: os.rmdir"),
        ("import os; os.rmdir('../usr/bin', dir_fd=os.open('.', os.O_RDONLY))".to_owned(), "forbidden: os.rmdir"),
        (format!("open({path:?}, 'w')"), "forbidden: writing a file"),
        ("import os\n    while True: os.fork()".to_owned(), "forbidden: os.fork"),
        ("import subprocess; subprocess.run(['ls'])".to_owned(), "forbidden: subprocess.Popen"),
        ("import os; os.system('ls')".to_owned(), "forbidden: os.system"),
        ("import socket; socket.create_connection(('127.0.0.1', 80))".to_owned(), "forbidden: socket.getaddrinfo"),
        (
            "try:\n        __import__('os').fork()\n    except BaseException: return x * x".to_owned(),
            "forbidden: os.fork",
        ),
    ] {
        let said = said(&sandbox, &format!("    {body}\n    return x * x\n"));
        assert!(said == what || body.contains("rmtree") && said.starts_with("forbidden: "), "{body}: {said}");
    }
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "kept");
    let own = [
        "    open('own', 'w').write('4'); y = open('own').read(); return x * x\n",
        "    import os, shutil\n    os.makedirs('a/b', exist_ok=True); open('a/b/c', 'w').close(); shutil.rmtree('a')\n    return x * x\n",
        "    import tempfile\n    with tempfile.TemporaryDirectory() as d: open(d + '/c', 'w').close()\n    return x * x\n",
    ];
    for text in own {
        assert_eq!(said(&sandbox, text), "right", "{text}");
    }
}

#[test]
fn what_gets_past_the_names_still_harms_nothing() {
    let Some(_) = isolated() else { return };
    let limits = Limits { wall: Duration::from_secs(6), cpu_seconds: 2, ..Limits::default() };
    let sandbox = Sandbox::open(PARTIES, limits, false).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("precious");
    std::fs::write(&file, "kept").unwrap();
    let unguarded = |body: &str| {
        let text = format!("    import os, socket, time\n    {body}\n    return x * x\n");
        run_tests(&sandbox, TASK, &text, false, 0).unwrap().map_or("right".to_owned(), |failure| failure.to_string())
    };
    let path = file.to_str().unwrap();
    assert!(unguarded(&format!("os.remove({path:?})")).contains("FileNotFoundError"));
    assert!(unguarded("open('/usr/here', 'w')").contains("Read-only file system"));
    assert!(unguarded("os.listdir('/etc')").contains("FileNotFoundError"));
    assert!(unguarded("socket.socket(socket.AF_INET)").contains("not implemented"));
    assert!(unguarded("socket.socket(socket.AF_VSOCK)").contains("not implemented"));
    assert!(unguarded("open('big', 'wb').write(bytes(1 << 25))").contains("File too large"));
    let kills = unguarded("os.kill(os.getppid(), 9); os.kill(1, 9)");
    // Not permitted where it is another user's process, and without effect on the first process in any case.
    assert!(kills == "right" || kills.contains("Operation not permitted"), "{kills}");
    // Every child sleeps far beyond the deadline, in a session of its own.
    let bomb = "while True:\n        if os.fork() == 0:\n            os.setsid(); time.sleep(100000.25)";
    assert!(unguarded(bomb).contains("Resource temporarily unavailable"));
    let bomb = "while True:\n        try:\n            if os.fork() == 0: os.setsid()\n        except OSError: pass";
    assert_eq!(unguarded(bomb), "timeout");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "kept");
}

/// The lines of HumanEval that come with the node.
fn human_eval() -> Vec<(crate::types::Prompt, String)> {
    let prompts = ["bundled:humaneval"].map(|bundle| crate::prompts::load(bundle).unwrap()).concat();
    prompts.into_iter().map(|prompt| (prompt.clone(), prompt.answer.unwrap())).collect()
}

/// Runs `text_of` each of `tasks`, as many at once as there are processors; those for which `holds` is false.
fn unlike(
    tasks: &[(crate::types::Prompt, String)],
    text_of: impl Fn(&str) -> String + Sync,
    holds: fn(&Option<ProgramFailure>) -> bool,
) -> Vec<String> {
    let sandbox = sandbox();
    let threads = std::thread::available_parallelism().unwrap().get() + 1;
    let judge = |(prompt, solution): &(crate::types::Prompt, String)| {
        let Some(Verifier::Code { entry_point, test, preamble }) = &prompt.verifier else { panic!("{}", prompt.id) };
        let found = run_tests(&sandbox, CodeTask { entry_point, test, preamble }, &text_of(solution), true, 0).unwrap();
        (!holds(&found)).then(|| format!("{}: {found:?}", prompt.id))
    };
    let share = |offset| tasks.iter().skip(offset).step_by(threads).filter_map(&judge).collect::<Vec<_>>();
    std::thread::scope(|scope| {
        let share = &share;
        let workers: Vec<_> = (0..threads).map(|offset| scope.spawn(move || share(offset))).collect();
        workers.into_iter().flat_map(|worker| worker.join().unwrap()).collect()
    })
}

#[test]
fn human_evals_own_solutions_pass_164_of_164() {
    let tasks = human_eval();
    assert_eq!(tasks.len(), 164);
    assert_eq!(unlike(&tasks, str::to_owned, Option::is_none), Vec::<String>::new());
}

#[test]
fn mutated_solutions_fail() {
    let tasks: Vec<_> = human_eval().into_iter().step_by(8).collect();
    let nothing = |_: &str| "    return None\n".to_owned();
    let wrapped = |solution: &str| format!("    pass\n{solution}").replace("return ", "return not ");
    assert_eq!(unlike(&tasks, nothing, Option::is_some), Vec::<String>::new());
    assert_eq!(unlike(&tasks, wrapped, Option::is_some), Vec::<String>::new());
}

#[test]
fn a_program_whose_two_runs_differ_is_invalid_and_stays_so() {
    let (prompt, _) = &human_eval()[53];
    let Some(Verifier::Code { entry_point, .. }) = &prompt.verifier else { panic!("{}", prompt.id) };
    assert_eq!(entry_point, "add");
    let checker = crate::verify::Checker::open([prompt], true).unwrap();
    // Each of these programs is right in half of the runs: by the seed of Python's hashes, and by chance.
    let by_hash =
        |n| format!("    lucky = list({{'a{n}', 'b{n}'}})[0] == 'a{n}'\n    return x + y if lucky else {n}\n");
    let by_chance = |n| format!("    return x + y if LUCKY else {n}\nimport os\nLUCKY = os.urandom(1)[0] < 128\n");
    let by_random = |n| format!("    return x + y if LUCKY else {n}\nimport random\nLUCKY = random.random() < 0.5\n");
    for program in [&by_hash as &dyn Fn(i32) -> String, &by_chance, &by_random] {
        let differs = |n| {
            let checked = checker.check(prompt, &program(n));
            assert_eq!(checker.check(prompt, &program(n)), checked, "one text has one result");
            matches!(checked, Err(crate::verify::CheckError::Unstable(..)))
        };
        assert!((0..24).any(differs), "{}", program(0));
    }
}
