//! The launcher: a Python process with one thread that forks the processes of a run, started once for many runs.
//!
//! Everything sent to it goes through a thread, and everything that it says comes through another, so that no launcher can
//! hold up the node. When the node is gone its input ends, and it ends with all that it started.

use super::protection::{Error, Protection};
use crossbeam_channel::{Receiver, Sender, bounded, unbounded};
use rustix::process::{Pid, Signal, kill_process_group};
use serde::Deserialize;
use serde_json::Value;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

const SOURCE: &str = concat!(
    include_str!("isolate.py"),
    include_str!("groups.py"),
    include_str!("measure.py"),
    include_str!("launcher.py")
);

/// The search path for programs.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Maximum length of a line from a launcher, in bytes, and of lines of a run.
const LINE_BYTES_MAX: u64 = 1 << 16;
const LINES_MAX: usize = 16;

/// How long a launcher may take to begin, to end after the deadline of a run, and to end after its input.
const BEGINS: Duration = Duration::from_secs(60);
const ENDS: Duration = Duration::from_secs(20);
const LEAVES: Duration = Duration::from_secs(2);

/// The first line of a launcher.
#[derive(Deserialize)]
#[serde(untagged)]
enum Hello {
    Ready { mode: String, protections: Vec<Protection> },
    Failed { error: String },
}

/// The last line of a run.
#[derive(Deserialize)]
struct EndLine {
    end: End,
}

/// How the processes of a run ended; none where the launcher ended one.
#[derive(Debug, Deserialize)]
pub(super) struct End {
    pub judge: Option<i32>,
    pub candidate: Option<i32>,
    pub deadline: bool,
    pub trouble: String,
}

/// What came of a run.
pub(super) struct Outcome {
    /// The lines of the trusted process.
    pub lines: Vec<String>,
    pub end: End,
}

/// A launcher that is ready.
#[derive(Debug)]
pub(super) struct Launcher {
    child: Child,
    /// Dropped first of all: its end is the launcher's.
    input: Option<Sender<Vec<u8>>>,
    lines: Receiver<String>,
    /// How it isolates: "root", "user" or "bare".
    pub mode: String,
    /// What it measured.
    pub protections: Vec<Protection>,
}

impl Launcher {
    /// Starts a launcher and waits until it has measured what holds.
    ///
    /// # Errors
    /// If it does not start, or can isolate in no mode that is allowed.
    pub(super) fn start(python: &str, setup: &Value) -> Result<Self, Error> {
        let broken = |error: std::io::Error| Error::Broken(error.to_string());
        let folder = tempfile::tempdir().map_err(broken)?;
        let mut setup = setup.clone();
        setup["folder"] = folder.path().to_string_lossy().into();
        let mut command = Command::new(python);
        command.args(["-I", "-S", "-B", "-X", "utf8", "-c", SOURCE]);
        command.env_clear().env("PATH", PATH).current_dir("/").process_group(0);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().map_err(broken)?;
        let (input, lines) = (write_to(child.stdin.take()), read_from(child.stdout.take()));
        let mut launcher = Self { child, input: Some(input), lines, mode: String::new(), protections: vec![] };
        launcher.send(frame(setup.to_string().as_bytes()))?;
        let first = launcher.line(Instant::now() + BEGINS)?;
        match serde_json::from_str(&first).map_err(|_| Error::Broken(format!("a launcher said {first:?}")))? {
            Hello::Ready { mode, protections } => (launcher.mode, launcher.protections) = (mode, protections),
            Hello::Failed { error } => return Err(Error::Broken(error)),
        }
        Ok(launcher)
    }

    /// Runs the two parties on `task`.
    ///
    /// # Errors
    /// If the launcher ends or does not keep its deadline: it is of no use then.
    pub(super) fn run(&mut self, task: &[u8], wall: Duration) -> Result<Outcome, Error> {
        // Removed with its contents when it goes out of scope.
        let folder = tempfile::tempdir().map_err(|error| Error::Broken(error.to_string()))?;
        let place = serde_json::json!({ "folder": folder.path() });
        self.send([frame(place.to_string().as_bytes()), frame(task)].concat())?;
        let until = Instant::now() + wall + ENDS;
        let mut lines = vec![];
        loop {
            let line = self.line(until)?;
            if let Ok(EndLine { end }) = serde_json::from_str(&line) {
                return Ok(Outcome { lines, end });
            }
            if lines.len() == LINES_MAX {
                return Err(Error::Broken(format!("the trusted process wrote more than {LINES_MAX} lines")));
            }
            lines.push(line);
        }
    }

    /// Its process.
    #[cfg(test)]
    pub(super) fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    fn send(&self, data: Vec<u8>) -> Result<(), Error> {
        let sent = self.input.as_ref().is_some_and(|input| input.send(data).is_ok());
        sent.then_some(()).ok_or_else(|| Error::Broken("a launcher has ended".to_owned()))
    }

    fn line(&self, until: Instant) -> Result<String, Error> {
        self.lines.recv_deadline(until).map_err(|error| {
            Error::Broken(if error.is_timeout() { "a launcher hangs" } else { "a launcher has ended" }.to_owned())
        })
    }
}

impl Drop for Launcher {
    fn drop(&mut self) {
        self.input = None;
        let until = Instant::now() + LEAVES;
        while matches!(self.child.try_wait(), Ok(None)) {
            if Instant::now() > until {
                // It is not reaped yet, so its id cannot have been reused.
                let _ = kill_process_group(Pid::from_child(&self.child), Signal::KILL);
                let _ = self.child.wait();
                return;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

fn frame(data: &[u8]) -> Vec<u8> {
    // Texts and tests are bounded far below 4 GiB; longer ones would be cut, and refused as JSON.
    let length = u32::try_from(data.len()).unwrap_or(u32::MAX);
    [&length.to_le_bytes(), data].concat()
}

/// Writes what is sent, until the sender is dropped.
fn write_to(stdin: Option<ChildStdin>) -> Sender<Vec<u8>> {
    let (send, receive) = unbounded::<Vec<u8>>();
    std::thread::spawn(move || {
        let mut stdin = stdin?;
        // A launcher that has ended is noticed by whoever waits for its answer.
        receive.iter().try_for_each(|data| stdin.write_all(&data)).ok()
    });
    send
}

/// The lines that are read; ends at one that is too long.
fn read_from(stdout: Option<ChildStdout>) -> Receiver<String> {
    let (send, receive) = bounded(LINES_MAX);
    std::thread::spawn(move || {
        let mut stdout = BufReader::new(stdout?);
        loop {
            let mut line = vec![];
            let count = (&mut stdout).take(LINE_BYTES_MAX).read_until(b'\n', &mut line).ok()?;
            if count == 0 || line.last() != Some(&b'\n') {
                return None::<()>;
            }
            send.send(String::from_utf8_lossy(&line).trim_end().to_owned()).ok()?;
        }
    });
    receive
}
