//! A writer that refuses to grow beyond a limit, and the price of bytes in a template's fuel.

use minijinja::State;
use minijinja::value::{Value, ValueKind};
use std::fmt;
use std::io::{self, Write};

/// The longest text that is rendered. A context of a million tokens has some four million bytes.
pub(super) const RENDERED_BYTES_MAX: usize = 16 << 20;
/// Bytes that cost one unit of fuel, as in the template engine itself.
const BYTES_PER_FUEL: usize = 64;

/// Charges `state` for `bytes` that were or will be worked on.
///
/// # Errors
/// If the fuel is used up.
pub(super) fn charge(state: &State<'_, '_>, bytes: usize) -> Result<(), minijinja::Error> {
    state.consume_fuel(bytes.div_ceil(BYTES_PER_FUEL) as u64)
}

/// Charges `state` for every item of the lists and maps in `value`, at all levels. A list that was repeated or doubled takes no
/// memory until it is written, and then any amount of time.
///
/// # Errors
/// If the fuel is used up.
pub(super) fn charge_items(state: &State<'_, '_>, value: &Value) -> Result<(), minijinja::Error> {
    if !matches!(value.kind(), ValueKind::Seq | ValueKind::Map | ValueKind::Iterable) {
        return Ok(());
    }
    // An object that is not iterable, such as a namespace, is written by its name.
    let Ok(items) = value.try_iter() else { return Ok(()) };
    for item in items {
        state.consume_fuel(1)?;
        charge_items(state, &item)?;
        if value.kind() == ValueKind::Map {
            charge_items(state, &value.get_item(&item)?)?;
        }
    }
    Ok(())
}

/// A text of at most so many bytes. What would not fit is an error, and then nothing fits any more.
pub(super) struct Bounded {
    bytes: Vec<u8>,
    bytes_max: usize,
    is_full: bool,
}

impl Bounded {
    pub(super) fn new(bytes_max: usize) -> Self {
        Self { bytes: Vec::new(), bytes_max, is_full: false }
    }

    /// Whether something did not fit.
    pub(super) fn is_full(&self) -> bool {
        self.is_full
    }

    pub(super) fn into_text(self) -> Result<String, std::string::FromUtf8Error> {
        String::from_utf8(self.bytes)
    }
}

impl Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.is_full |= bytes.len() > self.bytes_max - self.bytes.len();
        if self.is_full {
            return Err(io::Error::other(format!("expected a text of at most {} bytes, got more", self.bytes_max)));
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl fmt::Write for Bounded {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.write_all(text.as_bytes()).map_err(|_| fmt::Error)
    }
}
