//! Structured logs on stderr.
//!
//! `RCO_LOG` filters them in tracing's syntax (`info` by default). A thread of its own hides the status line, writes the log
//! line, and draws the status line again.

use super::live_block::Row;
use super::terminal::LineQueue;
pub use super::terminal::LogTerminal;
use super::{Error, LogFormat};
use std::io::{self, Write};
use std::sync::OnceLock;
use std::time::Duration;
use tracing_subscriber::EnvFilter;

/// The environment variable that filters logs.
pub const VARIABLE: &str = "RCO_LOG";

/// The lines of the process's log, once it is installed.
static QUEUE: OnceLock<LineQueue> = OnceLock::new();
/// Changes the filter of the process's log, once it is installed.
static FILTER: OnceLock<SetFilter> = OnceLock::new();

type SetFilter = Box<dyn Fn(EnvFilter) -> Result<(), String> + Send + Sync>;

/// Writes whole log lines to the queue.
struct QueueWriter;

impl Write for QueueWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // The formatter passes a whole line at once.
        if let Some(queue) = QUEUE.get() {
            queue.add(bytes);
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Shows `rows` below the log, in place of those before.
pub(super) fn show(rows: Vec<Row>) {
    if let Some(queue) = QUEUE.get() {
        queue.show(rows);
    }
}

/// Waits until the log is written, at most for `patience`: the process is about to end, or to print something itself.
pub fn flush(patience: Duration) {
    let lost = QUEUE.get().map_or(0, |queue| queue.flush(patience));
    if lost > 0 {
        tracing::warn!(lines = lost, "log lines were lost: their reader was too slow");
        QUEUE.get().map(|queue| queue.flush(patience));
    }
}

/// Installs the process's logger on the first call; returns the terminal it writes to.
///
/// # Errors
/// If `RCO_LOG` is not a valid filter, or the log's thread cannot be started.
pub fn install(format: LogFormat) -> Result<LogTerminal, Error> {
    static LIVE: OnceLock<LogTerminal> = OnceLock::new();
    let filter = filter(std::env::var(VARIABLE).ok().as_deref())?;
    let mut first = false;
    let live = LIVE.get_or_init(|| {
        first = true;
        LogTerminal::stderr()
    });
    if first {
        let _ = QUEUE.set(LineQueue::start(live.clone(), io::stderr()).map_err(Error::Thread)?);
        // If the host process has already set a subscriber, that one stays.
        let (subscriber, set_filter) = subscriber(live, format, filter, || QueueWriter);
        if tracing::subscriber::set_global_default(subscriber).is_ok() {
            let _ = FILTER.set(set_filter);
        }
    }
    Ok(live.clone())
}

/// Changes the filter of the process's log.
///
/// # Errors
/// If `given` is not a valid filter, or the log is not this program's.
pub fn set_filter(given: &str) -> Result<(), Error> {
    let filter = filter(Some(given))?;
    let failed = |why: String| Error::Filter { variable: VARIABLE, given: given.to_owned(), why };
    let handle = FILTER.get().ok_or_else(|| failed("the log is not this program's".to_owned()))?;
    handle(filter).map_err(failed)
}

/// Checks the filter `given`.
///
/// # Errors
/// If it is none.
pub fn check_filter(given: &str) -> Result<(), Error> {
    filter(Some(given)).map(drop)
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

/// Formats events and writes them to `out`, in colour if `live` is a terminal; and what changes its filter.
fn subscriber<W: Write + 'static>(
    live: &LogTerminal,
    format: LogFormat,
    filter: EnvFilter,
    out: fn() -> W,
) -> (Box<dyn tracing::Subscriber + Send + Sync>, SetFilter) {
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(out)
        .with_ansi(live.is_terminal() && std::env::var_os("NO_COLOR").is_none());
    match format {
        LogFormat::Text => {
            let builder = builder.with_filter_reloading();
            let handle = builder.reload_handle();
            let set = move |filter| handle.reload(filter).map_err(|error| error.to_string());
            (Box::new(builder.finish()), Box::new(set))
        }
        LogFormat::Json => {
            let builder = builder.json().flatten_event(true).with_filter_reloading();
            let handle = builder.reload_handle();
            let set = move |filter| handle.reload(filter).map_err(|error| error.to_string());
            (Box::new(builder.finish()), Box::new(set))
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use indicatif::ProgressDrawTarget;
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
            subscriber(&live, format, filter(given).unwrap(), || CapturingWriter).0,
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
