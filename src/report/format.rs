//! Numbers, times and durations as people read them.

use std::time::{Duration, UNIX_EPOCH};

/// How the values of an axis are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unit {
    /// A number.
    Plain,
    /// A share from 0 to 1, as percent.
    Percent,
    /// A share or a utility from 0 to 1, times 100.
    Hundredths,
    /// Memory in MiB.
    Mebibytes,
}

impl Unit {
    /// `value` in three digits or so.
    pub(super) fn write(self, value: f64) -> String {
        match self {
            Self::Plain => plain(value),
            Self::Percent => format!("{} %", trimmed(format!("{:.1}", 100.0 * value))),
            Self::Hundredths => trimmed(format!("{:.1}", 100.0 * value)),
            Self::Mebibytes => format!("{value:.0} MiB"),
        }
    }
}

/// A number in three digits or so.
pub(super) fn plain(value: f64) -> String {
    let size = value.abs();
    match size {
        0.0 => "0".to_owned(),
        _ if size >= 1e6 => format!("{}M", trimmed(format!("{:.2}", value / 1e6))),
        _ if size >= 1e4 => format!("{}k", trimmed(format!("{:.1}", value / 1e3))),
        _ if size >= 100.0 => trimmed(format!("{value:.0}")),
        _ if size >= 1.0 => trimmed(format!("{value:.2}")),
        _ if size >= 1e-3 => trimmed(format!("{value:.4}")),
        _ => format!("{value:.1e}"),
    }
}

/// Without zeros at the end of the fraction.
fn trimmed(text: String) -> String {
    match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text,
    }
}

/// A share times 100, with one digit.
pub(super) fn share(value: f64) -> String {
    format!("{:.1}", 100.0 * value)
}

/// `3 h 05 min`, `4 min 10 s` or `12 s`.
pub(super) fn duration(seconds: f64) -> String {
    let seconds = seconds.max(0.0).round() as u64;
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, seconds) => format!("{seconds} s"),
        (0, minutes, seconds) => format!("{minutes} min {seconds:02} s"),
        (hours, minutes, _) => format!("{hours} h {minutes:02} min"),
    }
}

/// A time in seconds since 1970, in UTC.
pub(super) fn time(seconds: f64) -> String {
    let since = Duration::try_from_secs_f64(seconds).unwrap_or_default();
    httpdate::fmt_http_date(UNIX_EPOCH + since).replace(" GMT", " UTC")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_three_digits_or_so() {
        let numbers = [0.0, 0.000_012, 0.0125, 0.5, 1.25, 42.0, 812.4, 12_345.0, 3.2e6, -0.25];
        let written = numbers.map(plain);
        assert_eq!(written, ["0", "1.2e-5", "0.0125", "0.5", "1.25", "42", "812", "12.3k", "3.2M", "-0.25"]);
        assert_eq!(Unit::Hundredths.write(0.625), "62.5");
        assert_eq!(Unit::Percent.write(0.625), "62.5 %");
        assert_eq!(Unit::Mebibytes.write(1536.0), "1536 MiB");
        assert_eq!([3.0, 250.0, 11_100.0].map(duration), ["3 s", "4 min 10 s", "3 h 05 min"]);
        assert_eq!(time(0.0), "Thu, 01 Jan 1970 00:00:00 UTC");
    }
}
