//! Structured logs on stderr, and the terminal that they share with the live status line.
//!
//! `RCO_LOG` filters them in tracing's syntax (`info` by default). The writer hides the status line, writes the log line,
//! and draws the status line again.

use super::{Error, LogFormat};
use indicatif::{MultiProgress, ProgressDrawTarget};
use std::io::{self, IsTerminal, Write};
use std::sync::OnceLock;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

/// The environment variable that filters logs.
pub const VARIABLE: &str = "RCO_LOG";

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
        let target = if terminal { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
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

    /// The live lines drawn on it.
    pub(super) fn lines(&self) -> &MultiProgress {
        &self.lines
    }
}

/// Writes whole log lines to `out` while the live lines are hidden.
struct SuspendingWriter<W> {
    live: LogTerminal,
    out: fn() -> W,
}

impl<W: Write> Write for SuspendingWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // The formatter passes a whole line at once, so all of it must be written. A log whose reader has gone is lost: the
        // run goes on without it.
        let _ = self.live.lines.suspend(|| (self.out)().write_all(bytes));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        let _ = (self.out)().flush();
        Ok(())
    }
}

/// Makes a [`SuspendingWriter`] for each event.
struct MakeSuspendingWriter<W> {
    live: LogTerminal,
    out: fn() -> W,
}

impl<W: Write> MakeWriter<'_> for MakeSuspendingWriter<W> {
    type Writer = SuspendingWriter<W>;

    fn make_writer(&self) -> Self::Writer {
        SuspendingWriter { live: self.live.clone(), out: self.out }
    }
}

/// Installs the process's logger on the first call; returns the terminal it writes to.
///
/// # Errors
/// If `RCO_LOG` is not a valid filter.
pub fn install(format: LogFormat) -> Result<LogTerminal, Error> {
    static LIVE: OnceLock<LogTerminal> = OnceLock::new();
    let filter = filter(std::env::var(VARIABLE).ok().as_deref())?;
    let mut first = false;
    let live = LIVE.get_or_init(|| {
        first = true;
        LogTerminal::stderr()
    });
    if first {
        // If the host process has already set a subscriber, that one stays.
        let _ = tracing::subscriber::set_global_default(subscriber(live, format, filter, io::stderr));
    }
    Ok(live.clone())
}

/// Parses the filter `given`.
fn filter(given: Option<&str>) -> Result<EnvFilter, Error> {
    let given = given.filter(|text| !text.trim().is_empty()).unwrap_or("info");
    EnvFilter::try_new(given).map_err(|error| Error::Filter {
        variable: VARIABLE,
        given: given.to_owned(),
        why: error.to_string(),
    })
}

/// Formats events and writes them to `out`, with the lines of `live` hidden meanwhile.
fn subscriber<W: Write + 'static>(
    live: &LogTerminal,
    format: LogFormat,
    filter: EnvFilter,
    out: fn() -> W,
) -> Box<dyn tracing::Subscriber + Send + Sync> {
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(MakeSuspendingWriter { live: live.clone(), out })
        .with_ansi(live.terminal && std::env::var_os("NO_COLOR").is_none());
    match format {
        LogFormat::Text => Box::new(builder.finish()),
        LogFormat::Json => Box::new(builder.json().flatten_event(true).finish()),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::cell::RefCell;

    thread_local! {
        static WRITTEN: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
    }

    /// Collects what the thread writes.
    struct CapturingWriter;

    impl Write for CapturingWriter {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            WRITTEN.with_borrow_mut(|written| written.extend_from_slice(bytes));
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(format: LogFormat, given: Option<&str>) -> String {
        let live = LogTerminal::on(ProgressDrawTarget::hidden(), false);
        WRITTEN.take();
        tracing::subscriber::with_default(
            subscriber(&live, format, filter(given).unwrap(), || CapturingWriter),
            || {
                tracing::info!(version = 3, "published adapter");
                tracing::debug!("a detail");
            },
        );
        String::from_utf8(WRITTEN.take()).unwrap()
    }

    #[test]
    fn text_logs_are_one_line_an_event_with_its_fields() {
        let text = logged(LogFormat::Text, None);
        assert_eq!(text.lines().count(), 1, "{text}");
        assert!(text.contains("INFO") && text.contains("published adapter") && text.contains("version=3"), "{text}");
        assert!(!text.contains('\u{1b}'), "no colours off a terminal: {text}");
    }

    #[test]
    fn json_logs_are_one_object_an_event() {
        let text = logged(LogFormat::Json, Some(""));
        let event: serde_json::Value = serde_json::from_str(text.trim()).unwrap();
        assert_eq!((&event["message"], &event["version"]), (&"published adapter".into(), &3.into()));
    }

    #[test]
    fn the_filter_is_traces_own_and_a_bad_one_is_named() {
        assert_eq!(logged(LogFormat::Text, Some("debug")).lines().count(), 2);
        assert_eq!(logged(LogFormat::Text, Some("warn")), "");
        let error = filter(Some("rco_node=loud")).unwrap_err().to_string();
        assert!(error.contains("RCO_LOG") && error.contains("rco_node=loud"), "{error}");
    }
}
