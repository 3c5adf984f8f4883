//! Runs untrusted Python programs without access to this machine's files, network and processes, within limits.
//!
//! A run is a child process in its own namespaces (util-linux's `unshare`, `mount`, `setpriv`, `prlimit`; with or without
//! root), without capabilities, with an empty writable folder that is removed afterwards. At the deadline the first process
//! of the namespaces is killed, and everything it started with it. Opening a sandbox tries it. A machine that cannot
//! isolate has no sandbox unless the user allows it; then only the limits and the deadline hold. This file knows nothing
//! about what it runs.

use crossbeam_channel::{Receiver, Sender, bounded};
use rustix::process::{Pid, Signal, geteuid, kill_process_group};
use std::io::{Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

const ISOLATE: &str = include_str!("sandbox/isolate.sh");

/// A user that owns nothing.
const NOBODY: &str = "--reuid=65534 --regid=65534 --clear-groups";

/// The search path for programs.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Maximum output read from a program, in bytes.
const OUTPUT_BYTES_MAX: u64 = 1 << 16;

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

/// Why a sandbox cannot be opened or a run failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Python is missing.
    #[error("expected a python3 on the path, got {0}")]
    NoPython(String),
    /// The machine cannot isolate.
    #[error(
        "code is checked only in isolation (unshare, mount, setpriv and prlimit with user namespaces or root), and a try \
         gave {0}; judge.allow_unsandboxed = true does without"
    )]
    NoIsolation(String),
    /// The sandbox itself failed, not the program.
    #[error("the sandbox failed: {0}")]
    Broken(String),
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunEnd {
    /// It ended with this code; 128 and more is a signal.
    Code(i32),
    /// It was killed at the deadline.
    Deadline,
}

/// The result of a run.
#[derive(Clone, Debug)]
pub struct RunResult {
    /// Its output, the first 64 KiB.
    pub output: Vec<u8>,
    /// How it ended.
    pub end: RunEnd,
    /// Its duration.
    pub took: Duration,
}

/// Runs programs.
#[derive(Clone, Debug)]
pub struct Sandbox {
    python: String,
    prefix: String,
    isolated: bool,
    limits: Limits,
    /// Permits for concurrent runs: as many as there are processors.
    permits: (Sender<()>, Receiver<()>),
}

impl Sandbox {
    /// Opens a sandbox and tries it; without isolation only if that is allowed.
    ///
    /// # Errors
    /// If there is no Python, or no isolation while `allow_unsandboxed` is false.
    pub fn open(limits: Limits, allow_unsandboxed: bool) -> Result<Self, Error> {
        let (python, prefix) = find_python()?;
        let permits = bounded(std::thread::available_parallelism().map_or(1, Into::into));
        while permits.0.try_send(()).is_ok() {}
        let sandbox = Self { python, prefix, isolated: true, limits, permits };
        match sandbox.check_isolation() {
            Ok(()) => Ok(sandbox),
            Err(why) if !allow_unsandboxed => Err(Error::NoIsolation(why)),
            Err(_) => Ok(Self { isolated: false, ..sandbox }),
        }
    }

    /// Whether programs are isolated from the machine's files, network and processes.
    pub fn is_isolated(&self) -> bool {
        self.isolated
    }

    /// Limits of a run.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Checks that a program sees only what it should.
    fn check_isolation(&self) -> Result<(), String> {
        let script = "import os; print(sorted(os.listdir('/')), os.getpid() < 100)";
        let ran = self.run(script, b"").map_err(|error| error.to_string())?;
        let said = String::from_utf8_lossy(&ran.output).trim().to_owned();
        let apart =
            said.contains("'work'") && said.ends_with("True") && !said.contains("'proc'") && !said.contains("'etc'");
        match ran.end {
            RunEnd::Code(0) if apart => Ok(()),
            RunEnd::Code(code) => Err(format!("exit code {code} and {said:?}")),
            RunEnd::Deadline => Err("no end".to_owned()),
        }
    }

    /// Runs the Python `script` on `input` until it ends or the deadline passes.
    ///
    /// # Errors
    /// If no process could be started or watched. Nothing that the script does is an error.
    pub fn run(&self, script: &str, input: &[u8]) -> Result<RunResult, Error> {
        let broken = |error: std::io::Error| Error::Broken(error.to_string());
        // Removed with its contents when it goes out of scope.
        let folder = tempfile::tempdir().map_err(broken)?;
        let _slot = RunPermit::take(&self.permits).ok_or_else(|| Error::Broken("its permits are gone".to_owned()))?;
        let began = Instant::now();
        let mut child = ProcessGroup(self.command(folder.path(), script).spawn().map_err(broken)?);
        let (output, end) = child.watch(input.to_vec(), self.limits.wall).map_err(broken)?;
        Ok(RunResult { output, end, took: began.elapsed() })
    }

    fn command(&self, folder: &std::path::Path, script: &str) -> Command {
        let Limits { cpu_seconds, memory_bytes, file_bytes, processes, .. } = &self.limits;
        let limited = [
            "prlimit".to_owned(),
            format!("--cpu={cpu_seconds}:{}", cpu_seconds + 1),
            format!("--as={memory_bytes}"),
            format!("--fsize={file_bytes}"),
            format!("--nproc={processes}"),
            "--nofile=64".to_owned(),
            "--core=0".to_owned(),
            "--".to_owned(),
        ];
        let mut command;
        if self.isolated {
            let root = geteuid().is_root();
            command = Command::new("unshare");
            command.args(if root { &[][..] } else { &["--user", "--map-root-user"] });
            command.args(["--mount", "--pid", "--net", "--ipc", "--uts", "--fork", "--kill-child"]);
            command.args(["sh", "-c", ISOLATE]);
            command.arg("isolate").arg(folder).arg(file_bytes.to_string());
            command.arg(if root { NOBODY } else { "" }).arg(&self.prefix).args(limited);
        } else {
            command = Command::new(&limited[0]);
            command.args(limited.iter().skip(1).filter(|limit| !limit.starts_with("--nproc")));
        }
        command.arg(&self.python).args(["-I", "-S", "-B", "-X", "utf8", "-c", script]);
        command.env_clear().env("PATH", PATH).current_dir(folder).process_group(0);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        command
    }
}

/// The Python interpreter and its folder, as it reports them: the `python3` on the path may be a wrapper script.
fn find_python() -> Result<(String, String), Error> {
    // The interpreter of a virtual environment is a link to the original one.
    let ask = "import os, sys; print(os.path.realpath(sys.executable)); print(sys.base_prefix)";
    let asked = Command::new("python3").args(["-I", "-S", "-c", ask]).stdin(Stdio::null()).output();
    let output = asked.map_err(|error| Error::NoPython(error.to_string()))?;
    let said = String::from_utf8_lossy(&output.stdout);
    match said.lines().collect::<Vec<_>>()[..] {
        [python, prefix] if output.status.success() => Ok((python.to_owned(), prefix.to_owned())),
        _ => Err(Error::NoPython(String::from_utf8_lossy(&output.stderr).trim().to_owned())),
    }
}

/// A permit for a run, returned on drop.
struct RunPermit<'a>(&'a Sender<()>);

impl<'a> RunPermit<'a> {
    fn take(permits: &'a (Sender<()>, Receiver<()>)) -> Option<Self> {
        permits.1.recv().ok().map(|()| Self(&permits.0))
    }
}

impl Drop for RunPermit<'_> {
    fn drop(&mut self) {
        // There is room, because the permit came from this channel.
        let _ = self.0.send(());
    }
}

/// A process group that is killed on drop.
struct ProcessGroup(Child);

impl ProcessGroup {
    /// Writes `input`, reads the output until all processes have ended, and kills them at the deadline.
    fn watch(&mut self, input: Vec<u8>, wall: Duration) -> std::io::Result<(Vec<u8>, RunEnd)> {
        let (stdin, stdout) = (self.0.stdin.take(), self.0.stdout.take());
        std::thread::spawn(move || {
            // A program that does not read its input is judged by its output.
            stdin.map(|mut stdin| stdin.write_all(&input))
        });
        let (done, finished) = mpsc::channel();
        std::thread::spawn(move || {
            let mut output = vec![];
            let read = stdout.map(|stdout| stdout.take(OUTPUT_BYTES_MAX).read_to_end(&mut output));
            let _ = done.send(read.transpose().map(|_| output));
        });
        let timely = finished.recv_timeout(wall);
        self.kill();
        let status = self.0.wait()?;
        match timely {
            Ok(output) => {
                let code = status.code().or(status.signal().map(|signal| 128 + signal)).unwrap_or(-1);
                Ok((output?, RunEnd::Code(code)))
            }
            // The output before the deadline. Without isolation, an escaped process may still hold the pipe open.
            Err(_) => Ok((finished.recv_timeout(Duration::from_secs(1)).unwrap_or(Ok(vec![]))?, RunEnd::Deadline)),
        }
    }

    fn kill(&self) {
        // An error means that the group has already ended. The leader is not reaped yet, so its id cannot have been reused.
        let _ = kill_process_group(Pid::from_child(&self.0), Signal::KILL);
    }
}

impl Drop for ProcessGroup {
    fn drop(&mut self) {
        if matches!(self.0.try_wait(), Ok(None)) {
            self.kill();
            let _ = self.0.wait();
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::print_stderr)]
mod tests;
