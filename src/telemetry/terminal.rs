//! The terminal that log lines and the status line share, and the queue of lines before it.
//!
//! Invariants: no caller waits for the reader of the log, and a log that cannot be written costs lines and nothing else.

use super::live_block::{LiveBlock, Row, Size, reflows};
use crossbeam_channel::{Receiver, Sender, TrySendError};
use indicatif::{MultiProgress, ProgressDrawTarget, TermLike};
use std::io::{self, IsTerminal, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// The terminal that log lines and the status line share; clones share it.
#[derive(Clone, Debug)]
pub struct LogTerminal {
    lines: MultiProgress,
    terminal: bool,
}

impl LogTerminal {
    /// The process's stderr.
    pub fn stderr() -> Self {
        let terminal = io::stderr().is_terminal();
        let target = match terminal {
            true => ProgressDrawTarget::term_like(Box::new(Lossy(console::Term::buffered_stderr()))),
            false => ProgressDrawTarget::hidden(),
        };
        Self { lines: MultiProgress::with_draw_target(target), terminal }
    }

    /// A terminal for tests.
    #[cfg(test)]
    pub(super) fn on(target: ProgressDrawTarget, terminal: bool) -> Self {
        Self { lines: MultiProgress::with_draw_target(target), terminal }
    }

    /// Whether stderr is a terminal.
    pub fn is_terminal(&self) -> bool {
        self.terminal
    }

    /// Its size now; a common one where that is not known.
    fn size(&self) -> Size {
        let (rows, columns) = console::Term::stderr().size_checked().unwrap_or((24, 80));
        Size { rows: rows.into(), columns: columns.into() }
    }

    /// The live lines drawn on it.
    pub(super) fn lines(&self) -> &MultiProgress {
        &self.lines
    }
}

/// A terminal whose failures are ignored: what it cannot show is lost. A terminal that closed fails every call, and the
/// progress library would panic.
#[derive(Debug)]
struct Lossy<T>(T);

impl<T: TermLike> Lossy<T> {
    fn lose(result: io::Result<()>) -> io::Result<()> {
        drop(result);
        Ok(())
    }
}

impl<T: TermLike> TermLike for Lossy<T> {
    fn width(&self) -> u16 {
        self.0.width()
    }
    fn height(&self) -> u16 {
        self.0.height()
    }
    fn move_cursor_up(&self, n: usize) -> io::Result<()> {
        Self::lose(self.0.move_cursor_up(n))
    }
    fn move_cursor_down(&self, n: usize) -> io::Result<()> {
        Self::lose(self.0.move_cursor_down(n))
    }
    fn move_cursor_right(&self, n: usize) -> io::Result<()> {
        Self::lose(self.0.move_cursor_right(n))
    }
    fn move_cursor_left(&self, n: usize) -> io::Result<()> {
        Self::lose(self.0.move_cursor_left(n))
    }
    fn write_line(&self, text: &str) -> io::Result<()> {
        Self::lose(self.0.write_line(text))
    }
    fn write_str(&self, text: &str) -> io::Result<()> {
        Self::lose(self.0.write_str(text))
    }
    fn clear_line(&self) -> io::Result<()> {
        Self::lose(self.0.clear_line())
    }
    fn flush(&self) -> io::Result<()> {
        Self::lose(self.0.flush())
    }
}

/// Lines that wait for the log's reader; more are lost.
const LINES_MAX: usize = 4096;

enum Entry {
    Line(Vec<u8>),
    /// What the live block shows from now on.
    Block(Vec<Row>),
    /// Answered once everything before it is written.
    Flush(Sender<()>),
}

/// The lines that wait to be written.
pub(super) struct LineQueue {
    entries: Sender<Entry>,
    lost: AtomicU64,
}

impl LineQueue {
    /// A queue and what its thread takes from.
    fn new() -> (Self, Receiver<Entry>) {
        let (entries, taken) = crossbeam_channel::bounded(LINES_MAX);
        (Self { entries, lost: AtomicU64::new(0) }, taken)
    }

    /// A queue whose thread writes to `out`, with the lines of `live` hidden meanwhile.
    ///
    /// # Errors
    /// If the thread cannot be started.
    pub(super) fn start(live: LogTerminal, mut out: impl Write + Send + 'static) -> io::Result<Self> {
        let (queue, taken) = Self::new();
        std::thread::Builder::new().name("rco-log".into()).spawn(move || {
            let mut block = LiveBlock::new(reflows(|name| std::env::var(name).ok()));
            for entry in taken {
                // A log whose reader has gone is lost: the run goes on without it.
                match entry {
                    Entry::Line(line) if live.terminal => {
                        let text = block.write_above(&String::from_utf8_lossy(&line), live.size());
                        drop(live.lines.suspend(|| out.write_all(text.as_bytes())));
                    }
                    Entry::Line(line) => drop(out.write_all(&line)),
                    Entry::Block(rows) => drop(out.write_all(block.replace(rows, live.size()).as_bytes())),
                    Entry::Flush(done) => drop(done.send(())),
                }
            }
        })?;
        Ok(queue)
    }

    /// Adds a whole line; without room it is lost.
    pub(super) fn add(&self, line: &[u8]) {
        match self.entries.try_send(Entry::Line(line.to_vec())) {
            Ok(()) => {}
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {
                self.lost.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// Shows `rows` in the live block, instead of those before. Without room in the queue they are left out.
    pub(super) fn show(&self, rows: Vec<Row>) {
        // The next look shows the next rows.
        let _ = self.entries.try_send(Entry::Block(rows));
    }

    /// Waits until every line is written, at most for `patience`. Returns how many were lost since the last time.
    pub(super) fn flush(&self, patience: Duration) -> u64 {
        let (done, is_done) = crossbeam_channel::bounded(1);
        if self.entries.send_timeout(Entry::Flush(done), patience).is_ok() {
            // Whether it was in time or not: nobody waits longer.
            let _ = is_done.recv_timeout(patience);
        }
        self.lost.swap(0, Ordering::Relaxed)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::telemetry::work_progress::WorkProgress;
    use std::sync::mpsc;
    use std::time::Instant;

    /// A terminal that has closed.
    #[derive(Debug)]
    struct Closed;

    impl TermLike for Closed {
        fn width(&self) -> u16 {
            80
        }
        fn move_cursor_up(&self, _: usize) -> io::Result<()> {
            Err(io::ErrorKind::BrokenPipe.into())
        }
        fn move_cursor_down(&self, _: usize) -> io::Result<()> {
            Err(io::ErrorKind::BrokenPipe.into())
        }
        fn move_cursor_right(&self, _: usize) -> io::Result<()> {
            Err(io::ErrorKind::BrokenPipe.into())
        }
        fn move_cursor_left(&self, _: usize) -> io::Result<()> {
            Err(io::ErrorKind::BrokenPipe.into())
        }
        fn write_line(&self, _: &str) -> io::Result<()> {
            Err(io::ErrorKind::BrokenPipe.into())
        }
        fn write_str(&self, _: &str) -> io::Result<()> {
            Err(io::ErrorKind::BrokenPipe.into())
        }
        fn clear_line(&self) -> io::Result<()> {
            Err(io::ErrorKind::BrokenPipe.into())
        }
        fn flush(&self) -> io::Result<()> {
            Err(io::ErrorKind::BrokenPipe.into())
        }
    }

    #[test]
    fn a_terminal_that_closed_costs_lines_and_nothing_else() {
        let target = ProgressDrawTarget::term_like_with_hz(Box::new(Lossy(Closed)), 255);
        let live = LogTerminal::on(target, true);
        let mut progress = WorkProgress::new(&live, Duration::from_secs(1), 3, "prompts");
        progress.advance(Instant::now());
        assert_eq!(live.lines().suspend(|| 7), 7);
        progress.advance(Instant::now());
    }

    /// A reader that reads nothing until it is told to, then passes everything on.
    struct Stopped(mpsc::Receiver<()>, mpsc::Sender<Vec<u8>>);

    impl Write for Stopped {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let _ = self.0.recv();
            let _ = self.1.send(bytes.to_vec());
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn nobody_waits_for_a_reader_that_does_not_read() {
        let (go, stopped) = mpsc::channel();
        let (written, read) = mpsc::channel();
        let live = LogTerminal::on(ProgressDrawTarget::hidden(), false);
        let queue = LineQueue::start(live, Stopped(stopped, written)).unwrap();
        let lines = LINES_MAX + 100;
        (0..lines).for_each(|line| queue.add(format!("{line}\n").as_bytes()));
        let lost = queue.flush(Duration::from_millis(20));
        assert!((99..=100).contains(&lost), "one line may be under way: {lost}");
        // It reads on: what waited is written in order.
        drop(go);
        assert_eq!(queue.flush(Duration::from_secs(20)), 0);
        let kept: Vec<Vec<u8>> = read.try_iter().collect();
        assert_eq!(kept.len() as u64, lines as u64 - lost);
        assert_eq!((kept[0].as_slice(), kept[1].as_slice()), (&b"0\n"[..], &b"1\n"[..]));
    }
}
