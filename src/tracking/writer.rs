//! The thread that writes a run's figures.
//!
//! Whoever has figures hands them over and goes on. What cannot be written, or comes faster than it can be, is lost and said in
//! the log; the run goes on.

use super::config::TrackingConfig;
use super::line::{Error, FILE, Line};
use super::stream::Stream;
use super::tensorboard::EventFile;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::Builder;
use std::time::Duration;

/// Lines that may wait for the disk.
const WAITING_MAX: usize = 1024;

enum Message {
    Append(Line),
    /// What came after this step no longer counts.
    Cut(u64),
    /// Answer once everything before is written.
    Flush(SyncSender<()>),
}

/// Hands figures to the thread that writes them. The thread ends when this is dropped.
#[derive(Debug)]
pub struct FigureWriter {
    sender: SyncSender<Message>,
    lost: AtomicU64,
}

impl FigureWriter {
    /// Opens the files that `config` names for the run in the directory `run`, and cuts off what came after the step `keep`;
    /// everything if that is none. No writer if `config` names no file.
    ///
    /// # Errors
    /// If a file cannot be opened or read, or the thread cannot be started.
    pub fn open(run: &Path, config: &TrackingConfig, keep: Option<u64>) -> Result<Option<Self>, Error> {
        if config.figures_mib == 0 {
            return Ok(None);
        }
        let io = |path: PathBuf| |source| Error::Io { path, source };
        let path = run.join(FILE);
        let stream = Stream::open(run, keep, config.figures_mib << 20).map_err(io(path.clone()))?;
        let mut events = None;
        if !config.tensorboard.is_empty() {
            let folder = PathBuf::from(&config.tensorboard);
            let lines = stream.lines().map_err(io(path.clone()))?;
            events = Some(EventFile::create(&folder, run, lines.into_iter()).map_err(io(folder))?);
        }
        let (sender, receiver) = sync_channel(WAITING_MAX);
        let files = Files { stream, events, is_failing: false };
        Builder::new().name("rco-figures".into()).spawn(move || files.write_all(&receiver)).map_err(io(path))?;
        Ok(Some(Self { sender, lost: AtomicU64::new(0) }))
    }

    /// Appends `line`, soon.
    pub fn append(&self, line: Line) {
        self.send(Message::Append(line));
    }

    /// Takes back what was appended of steps after `step`.
    pub fn cut(&self, step: u64) {
        self.send(Message::Cut(step));
    }

    fn send(&self, message: Message) {
        if let Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) = self.sender.try_send(message)
            && self.lost.fetch_add(1, Ordering::Relaxed) == 0
        {
            tracing::warn!("figures of the run are lost: the disk does not keep up");
        }
    }

    /// Waits until everything is written, for `patience` at most. Returns whether it is.
    pub fn flush(&self, patience: Duration) -> bool {
        let (done, written) = sync_channel(1);
        let sent = self.sender.try_send(Message::Flush(done)).is_ok();
        sent && written.recv_timeout(patience).is_ok() && self.lost.load(Ordering::Relaxed) == 0
    }
}

/// The files, on their thread.
struct Files {
    stream: Stream,
    events: Option<EventFile>,
    is_failing: bool,
}

impl Files {
    fn write_all(mut self, messages: &Receiver<Message>) {
        for message in messages {
            let written = match message {
                Message::Append(line) => self.append(line),
                Message::Cut(step) => self.cut(step),
                Message::Flush(done) => {
                    // Whoever asked may have left.
                    let _ = done.send(());
                    continue;
                }
            };
            match written {
                Ok(()) => self.is_failing = false,
                Err(error) if !self.is_failing => {
                    tracing::warn!(%error, "figures of the run were not written");
                    self.is_failing = true;
                }
                Err(_) => {}
            }
        }
    }

    fn append(&mut self, line: Line) -> io::Result<()> {
        let Some(line) = self.stream.append(line)? else { return Ok(()) };
        self.events.as_mut().map_or(Ok(()), |events| events.append(&line))
    }

    fn cut(&mut self, step: u64) -> io::Result<()> {
        self.stream.cut(step)?;
        self.events.as_mut().map_or(Ok(()), |events| events.cut(step))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::tracking::read;

    fn line(step: u64) -> Line {
        let mut line = Line::now(step);
        line.add("learner/loss", step as f64);
        line
    }

    #[test]
    fn what_was_handed_over_is_on_disk_after_a_flush() {
        let folder = tempfile::tempdir().unwrap();
        let config = TrackingConfig { figures_mib: 1, tensorboard: String::new() };
        let writer = FigureWriter::open(folder.path(), &config, None).unwrap().unwrap();
        (1..=20).for_each(|step| writer.append(line(step)));
        writer.cut(12);
        writer.append(line(13));
        assert!(writer.flush(Duration::from_secs(20)));
        let steps: Vec<u64> = read(folder.path()).unwrap().lines.iter().map(|line| line.step).collect();
        assert_eq!(steps, (1..=13).collect::<Vec<_>>());
        let none = TrackingConfig { figures_mib: 0, tensorboard: String::new() };
        assert!(FigureWriter::open(folder.path(), &none, None).unwrap().is_none());
    }

    #[test]
    fn a_disk_that_fails_costs_figures_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let config = TrackingConfig { figures_mib: 1, tensorboard: String::new() };
        let writer = FigureWriter::open(folder.path(), &config, None).unwrap().unwrap();
        writer.append(line(1));
        assert!(writer.flush(Duration::from_secs(20)));
        // The name is a folder now, so that no cut can replace it.
        std::fs::remove_file(folder.path().join("metrics.jsonl")).unwrap();
        std::fs::create_dir(folder.path().join("metrics.jsonl")).unwrap();
        writer.cut(0);
        (2..=5).for_each(|step| writer.append(line(step)));
        assert!(writer.flush(Duration::from_secs(20)), "the thread lives");
    }
}
