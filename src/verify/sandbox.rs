//! Runs untrusted Python programs without access to this machine's files, network and processes, within limits.
//!
//! A run is two processes that share nothing but two pipes: a trusted one, which has the task and reports to the node, and
//! an untrusted one. A small launcher forks both, each in its own namespaces, file system and user, without capabilities,
//! descriptors and most system calls, and ends the run when nothing of it is left. Opening a sandbox measures what holds on
//! this machine ([`Protection`]); where something is missing there is no sandbox unless the user allows it, and then
//! whatever else holds stays. This file knows nothing about what the two processes say to each other.

use crossbeam_channel::{Receiver, Sender, bounded};
use filter::Strictness;
use launcher::{Launcher, Outcome};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

mod filter;
mod launcher;
mod protection;

pub use protection::{Error, Protection};

/// Launchers of one slot. They differ in the seed of Python's hashes and in their addresses.
const LAUNCHERS: usize = 2;

/// Modules that programs often import: loaded once by each launcher.
const PRELOAD: &[&str] = &[
    "bisect",
    "collections",
    "copy",
    "datetime",
    "decimal",
    "fractions",
    "functools",
    "hashlib",
    "heapq",
    "itertools",
    "json",
    "math",
    "operator",
    "random",
    "re",
    "statistics",
    "string",
    "typing",
];

/// Limits of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Wall-clock time in total.
    pub wall: Duration,
    /// Processor time per process.
    pub cpu_seconds: u64,
    /// Address space of a process, in bytes.
    pub memory_bytes: u64,
    /// Size of a file, and of all files together, in bytes.
    pub file_bytes: u64,
    /// Number of processes and threads at once.
    pub processes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            wall: Duration::from_secs(20),
            cpu_seconds: 5,
            memory_bytes: 1 << 30,
            file_bytes: 16 << 20,
            processes: 32,
        }
    }
}

/// The Python sources of the two processes. The last one of each defines `main`, which gets the descriptors of its pipes.
#[derive(Clone, Copy, Debug)]
pub struct Parties {
    /// The trusted one: `main(ask, answer, task, report, life)`.
    pub judge: &'static [&'static str],
    /// The untrusted one: `main(ask, answer)`.
    pub candidate: &'static [&'static str],
}

/// How a process of a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProcessEnd {
    /// By itself, with this code; 128 and more is a signal.
    Code(i32),
    /// With the run.
    Killed,
}

/// The result of a run.
#[derive(Clone, Debug)]
pub struct RunResult {
    /// The lines of the trusted process.
    pub lines: Vec<String>,
    /// How the trusted process ended.
    pub judge: ProcessEnd,
    /// How the untrusted process ended.
    pub candidate: ProcessEnd,
    /// Whether the deadline ended the run.
    pub deadline: bool,
    /// What went wrong before the processes began.
    pub trouble: String,
    /// Its duration.
    pub took: Duration,
}

/// Runs programs.
#[derive(Clone, Debug)]
pub struct Sandbox(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    python: String,
    setup: serde_json::Value,
    protections: Vec<Protection>,
    isolated: bool,
    limits: Limits,
    /// Slots for concurrent runs: as many as there are processors.
    slots: (Sender<Slot>, Receiver<Slot>),
}

type Slot = [Option<Launcher>; LAUNCHERS];

impl Sandbox {
    /// Opens a sandbox and measures what holds; without something that is needed only if that is allowed.
    ///
    /// # Errors
    /// If there is no Python, or something needed does not hold while `allow_unsandboxed` is false.
    pub fn open(parties: Parties, limits: Limits, allow_unsandboxed: bool) -> Result<Self, Error> {
        let modes: &[&str] = if allow_unsandboxed { &["root", "user", "bare"] } else { &["root", "user"] };
        Self::open_in(parties, limits, modes, allow_unsandboxed)
    }

    /// Like `open`, with the modes of the launcher that may be tried.
    fn open_in(parties: Parties, limits: Limits, modes: &[&str], allow_unsandboxed: bool) -> Result<Self, Error> {
        let (python, prefix) = find_python()?;
        let filter = |strictness| filter::bytes(strictness).map(const_hex::encode).unwrap_or_default();
        let setup = serde_json::json!({
            "wall_seconds": limits.wall.as_secs_f64(),
            "cpu_seconds": limits.cpu_seconds,
            "memory_bytes": limits.memory_bytes,
            "file_bytes": limits.file_bytes,
            "processes": limits.processes,
            "prefix": prefix,
            "modes": modes,
            "filters": { "isolated": filter(Strictness::Isolated), "bare": filter(Strictness::Bare) },
            "judge": parties.judge,
            "candidate": parties.candidate,
            "preload": PRELOAD,
        });
        let launcher = Launcher::start(&python, &setup).map_err(|error| match error {
            Error::Broken(why) => Error::NoIsolation(why),
            other => other,
        })?;
        let missing = |p: &&Protection| p.needed && !p.holds;
        let told: Vec<String> =
            launcher.protections.iter().filter(missing).map(|p| format!("no {} ({})", p.name, p.detail)).collect();
        if !told.is_empty() && !allow_unsandboxed {
            return Err(Error::NoIsolation(told.join("; ")));
        }
        let (isolated, protections) = (launcher.mode != "bare", launcher.protections.clone());
        let slots = bounded(std::thread::available_parallelism().map_or(1, Into::into));
        // There is room: the channel is new and holds at least one.
        let _ = slots.0.try_send([Some(launcher), None]);
        while slots.0.try_send([None, None]).is_ok() {}
        Ok(Self(Arc::new(Shared { python, setup, protections, isolated, limits, slots })))
    }

    /// Whether programs are isolated from the machine's files, network and processes.
    pub fn is_isolated(&self) -> bool {
        self.0.isolated
    }

    /// What protects a run on this machine, and what does not.
    pub fn protections(&self) -> &[Protection] {
        &self.0.protections
    }

    /// Limits of a run.
    pub fn limits(&self) -> &Limits {
        &self.0.limits
    }

    /// Runs the two parties on `task` until the trusted one ends or the deadline passes. Runs whose `turn` differs in
    /// parity have different seeds of Python's hashes.
    ///
    /// # Errors
    /// If no process could be started or watched. Nothing that the untrusted process does is an error.
    pub fn run(&self, task: &[u8], turn: usize) -> Result<RunResult, Error> {
        let shared = &*self.0;
        let mut permit =
            RunPermit::take(&shared.slots).ok_or_else(|| Error::Broken("its slots are gone".to_owned()))?;
        let place = &mut permit.slot[turn % LAUNCHERS];
        let began = Instant::now();
        let mut last = String::new();
        // A launcher that has died, for whatever reason, is replaced once.
        for _ in 0..2 {
            let mut launcher = match place.take() {
                Some(launcher) => launcher,
                None => Launcher::start(&shared.python, &shared.setup)?,
            };
            match launcher.run(task, shared.limits.wall) {
                Ok(Outcome { lines, end }) => {
                    // Without a line the task was perhaps not read to its end, and the next one would begin in it.
                    *place = Some(launcher).filter(|_| !lines.is_empty());
                    let ended = |code: Option<i32>| code.map_or(ProcessEnd::Killed, ProcessEnd::Code);
                    return Ok(RunResult {
                        lines,
                        judge: ended(end.judge),
                        candidate: ended(end.candidate),
                        deadline: end.deadline,
                        trouble: end.trouble,
                        took: began.elapsed(),
                    });
                }
                Err(error) => last = error.to_string(),
            }
        }
        Err(Error::Broken(last))
    }
}

/// How long Python may take to say where it is.
const PYTHON_ANSWERS: Duration = Duration::from_secs(60);

/// The Python interpreter and its folder, as it reports them: the `python3` on the path may be a wrapper script.
fn find_python() -> Result<(String, String), Error> {
    // The interpreter of a virtual environment is a link to the original one.
    let ask = "import ctypes, os, sys; print(os.path.realpath(sys.executable)); print(sys.base_prefix)";
    let mut command = Command::new("python3");
    command.args(["-I", "-S", "-c", ask]).stdin(Stdio::null());
    let (send, receive) = bounded(1);
    // One that hangs is left behind.
    std::thread::spawn(move || send.send(command.output()));
    let late = |_| Error::NoPython(format!("no answer within {} s", PYTHON_ANSWERS.as_secs()));
    let output = receive.recv_timeout(PYTHON_ANSWERS).map_err(late)?;
    let output = output.map_err(|error| Error::NoPython(error.to_string()))?;
    let said = String::from_utf8_lossy(&output.stdout);
    match said.lines().collect::<Vec<_>>()[..] {
        [python, prefix] if output.status.success() => Ok((python.to_owned(), prefix.to_owned())),
        _ => Err(Error::NoPython(String::from_utf8_lossy(&output.stderr).trim().to_owned())),
    }
}

/// A slot for a run, returned on drop.
struct RunPermit<'a> {
    slot: Slot,
    back: &'a Sender<Slot>,
}

impl<'a> RunPermit<'a> {
    fn take(slots: &'a (Sender<Slot>, Receiver<Slot>)) -> Option<Self> {
        slots.1.recv().ok().map(|slot| Self { slot, back: &slots.0 })
    }
}

impl Drop for RunPermit<'_> {
    fn drop(&mut self) {
        // There is room, because the slot came from this channel.
        let _ = self.back.send(std::mem::take(&mut self.slot));
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::print_stderr)]
mod tests;
