//! A verifier that is the user's own program, kept alive: one line of JSON in, one out.
//!
//! In: `{"id", "task", "prompt", "answer", "text"}`. Out: `{"score": 0.0 to 1.0}`. A program that says something else, ends or
//! misses its deadline gives no score, and is started anew for the next text. It has no network and sees no other process; where
//! this machine cannot isolate it so, it runs only if that is allowed.

use super::sandbox;
use crossbeam_channel::{Receiver, RecvTimeoutError, unbounded};
use rustix::process::{Pid, Signal, kill_process_group};
use serde_json::Value;
use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Maximum length of a reply, in bytes.
const REPLY_BYTES_MAX: u64 = 1 << 16;
/// What isolates a program: namespaces of its own for users, network, processes, mounts and shared memory.
const ISOLATION: [&str; 10] = [
    "unshare",
    "--user",
    "--map-root-user",
    "--net",
    "--ipc",
    "--pid",
    "--mount",
    "--mount-proc",
    "--fork",
    "--kill-child",
];

/// The user's programs, each started when it is first needed.
#[derive(Debug)]
pub(super) struct Programs {
    isolates: bool,
    idle: Mutex<HashMap<Vec<String>, Vec<Worker>>>,
}

impl Programs {
    /// Programs that run isolated, or not where that is allowed and the machine cannot.
    ///
    /// # Errors
    /// If the machine cannot isolate them and that is not allowed.
    pub(super) fn open(allow_unsandboxed: bool) -> Result<Self, sandbox::Error> {
        let tried = Command::new(ISOLATION[0]).args(&ISOLATION[1..]).arg("true").stdin(Stdio::null()).output();
        let isolates = tried.as_ref().is_ok_and(|output| output.status.success());
        if !isolates && !allow_unsandboxed {
            let why = tried.map_or_else(
                |error| error.to_string(),
                |output| String::from_utf8_lossy(&output.stderr).trim().to_owned(),
            );
            return Err(sandbox::Error::NoIsolation(format!("a verifier's program cannot be isolated: {why}")));
        }
        if !isolates {
            tracing::warn!("verifiers' programs run without isolation, as judge.allow_unsandboxed allows");
        }
        Ok(Self { isolates, idle: Mutex::default() })
    }

    /// The reply of the program `argv` to `question`.
    pub(super) fn ask(&self, argv: &[String], question: &Value, deadline: Duration) -> Result<String, String> {
        let idle = self.lock().get_mut(argv).and_then(Vec::pop);
        let mut worker = match idle {
            Some(worker) => worker,
            None => Worker::start(argv, self.isolates)?,
        };
        // A worker that fails is dropped, which ends its process.
        let reply = worker.ask(question, deadline)?;
        self.lock().entry(argv.to_vec()).or_default().push(worker);
        Ok(reply)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Vec<String>, Vec<Worker>>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One running program.
#[derive(Debug)]
struct Worker {
    child: Child,
    lines: Receiver<String>,
}

impl Worker {
    fn start(argv: &[String], isolates: bool) -> Result<Self, String> {
        let prefix: &[&str] = if isolates { &ISOLATION } else { &[] };
        let mut words = prefix.iter().copied().chain(argv.iter().map(String::as_str));
        let program = words.next().ok_or("expected a program, got none")?;
        let mut command = Command::new(program);
        command.args(words).env_clear().env("LANG", "C.UTF-8").process_group(0);
        for name in ["PATH", "HOME", "VIRTUAL_ENV"] {
            command.envs(std::env::var_os(name).map(|value| (name, value)));
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().map_err(|error| format!("{}: {error}", argv.join(" ")))?;
        let output = child.stdout.take().ok_or("a program without output")?;
        let (sender, lines) = unbounded();
        std::thread::spawn(move || {
            let mut output = BufReader::new(output);
            let mut line = String::new();
            // The thread ends with the program, or with whoever listens.
            while output.by_ref().take(REPLY_BYTES_MAX).read_line(&mut line).is_ok_and(|length| length > 0) {
                if sender.send(std::mem::take(&mut line)).is_err() {
                    break;
                }
            }
        });
        Ok(Self { child, lines })
    }

    fn ask(&mut self, question: &Value, deadline: Duration) -> Result<String, String> {
        if !self.lines.is_empty() {
            return Err("the program said something that was not asked".to_owned());
        }
        // A pipe that is full must not hold up the judge: the program is ended at its deadline, which empties it.
        let line = format!("{question}\n");
        let mut input = self.child.stdin.take().ok_or("the program's input is closed")?;
        let writing =
            std::thread::spawn(move || input.write_all(line.as_bytes()).and_then(|()| input.flush()).map(|()| input));
        let reply = self.lines.recv_timeout(deadline).map_err(|error| match error {
            RecvTimeoutError::Timeout => format!("the program gave no reply within {} s", deadline.as_secs()),
            RecvTimeoutError::Disconnected => "the program ended without a reply".to_owned(),
        });
        if reply.is_err() {
            self.end();
        }
        match writing.join() {
            Ok(Ok(input)) => self.child.stdin = Some(input),
            Ok(Err(error)) if reply.is_ok() => return Err(error.to_string()),
            _ => {}
        }
        reply
    }

    fn end(&mut self) {
        if let Some(group) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
            let _ = kill_process_group(group, Signal::KILL);
        }
        let _ = self.child.wait();
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.end();
    }
}

/// The score in a verifier's reply: a number from 0 to 1.
pub(super) fn score(reply: &str) -> Result<f32, String> {
    let value: Value = serde_json::from_str(reply.trim()).map_err(|error| format!("its reply is no JSON: {error}"))?;
    let score = value.get("score").and_then(Value::as_f64);
    let bounded = score.filter(|score| (0.0..=1.0).contains(score)).map(|score| score as f32);
    bounded.ok_or_else(|| format!("expected {{\"score\": a number from 0 to 1}}, got {:.100}", value.to_string()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::time::Instant;

    fn python(body: &str) -> Vec<String> {
        let source = format!(
            "import sys, json, time\nn = 0\nfor line in sys.stdin:\n    n += 1\n    q = json.loads(line)\n    {body}\n"
        );
        ["python3", "-c", &source].map(str::to_owned).to_vec()
    }

    fn ask(programs: &Programs, argv: &[String], text: &str) -> Result<f32, String> {
        programs.ask(argv, &json!({"text": text}), Duration::from_secs(20)).and_then(|reply| score(&reply))
    }

    #[test]
    fn a_program_is_kept_alive_and_scores_each_text() {
        let programs = Programs::open(true).unwrap();
        let argv = python("print(json.dumps({'score': min(1, n / 4) if q['text'] == 'a' else 0}), flush=True)");
        let scores: Vec<_> = ["a", "a", "b", "a"].iter().map(|text| ask(&programs, &argv, text).unwrap()).collect();
        assert_eq!(scores, [0.25, 0.5, 0.0, 1.0]);
    }

    #[test]
    fn trouble_is_no_score_and_the_next_text_has_a_new_program() {
        let programs = Programs::open(true).unwrap();
        let argv = python("print(json.dumps({'score': 1}) if q['text'] == 'a' else sys.exit(1), flush=True)");
        assert_eq!(ask(&programs, &argv, "a"), Ok(1.0));
        assert_eq!(ask(&programs, &argv, "b"), Err("the program ended without a reply".to_owned()));
        assert_eq!(ask(&programs, &argv, "a"), Ok(1.0));
        for (body, why) in [
            ("print('yes', flush=True)", "no JSON"),
            ("print('{\"score\": 2}', flush=True)", "from 0 to 1"),
            ("print('{\"score\": NaN}', flush=True)", "no JSON"),
        ] {
            let error = ask(&programs, &python(body), "a").unwrap_err();
            assert!(error.contains(why), "{body}: {error}");
        }
        let error = ask(&programs, &["/no/such/program".to_owned()], "a").unwrap_err();
        assert!(error.contains("program"), "{error}");
    }

    #[test]
    fn a_program_that_hangs_is_ended_at_its_deadline() {
        let programs = Programs::open(true).unwrap();
        let began = Instant::now();
        let hangs = python("time.sleep(1000)");
        let error = programs.ask(&hangs, &json!({"text": "x".repeat(1 << 20)}), Duration::from_secs(1)).unwrap_err();
        assert!(error.contains("within 1 s") && began.elapsed() < Duration::from_secs(60), "{error}");
    }

    #[test]
    fn a_program_has_no_network() {
        let Ok(programs) = Programs::open(false) else { return };
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let argv = python(&format!(
            "import socket; s = socket.socket(); r = s.connect_ex(('127.0.0.1', {port})); print(json.dumps({{'score': 1 if r == 0 else 0}}), flush=True)"
        ));
        assert_eq!(ask(&programs, &argv, "a"), Ok(0.0));
    }
}
