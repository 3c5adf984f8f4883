//! How fast everything goes: the scrape interval, and the windows and waits of rules.

/// Seconds between two scrapes of a node in service.
const SCRAPE_SECONDS: f64 = 15.0;

/// The speed of scrapes, rules and alerts. Thresholds on ages follow it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pace {
    divisor: u32,
}

impl Pace {
    /// For a node in service.
    pub const NORMAL: Self = Self { divisor: 1 };

    /// Every time `divisor` times shorter, for tests.
    pub fn faster(divisor: u32) -> Self {
        Self { divisor: divisor.max(1) }
    }

    /// A threshold of `seconds`.
    pub(super) fn seconds(self, seconds: f64) -> f64 {
        seconds / f64::from(self.divisor)
    }

    /// A duration of `minutes`, as Prometheus writes it.
    pub(super) fn minutes(self, minutes: u32) -> String {
        written(60_000 * u64::from(minutes) / u64::from(self.divisor))
    }

    /// The scrape interval, as Prometheus writes it.
    pub fn scrape(self) -> String {
        written((self.seconds(SCRAPE_SECONDS) * 1000.0) as u64)
    }
}

/// A duration in the largest unit that divides it.
fn written(milliseconds: u64) -> String {
    let units = [("h", 3_600_000), ("m", 60_000), ("s", 1000)];
    let fits = |(_, size): &&(&str, u64)| milliseconds > 0 && milliseconds.is_multiple_of(*size);
    match units.iter().find(fits) {
        Some((unit, size)) => format!("{}{unit}", milliseconds / size),
        None => format!("{milliseconds}ms"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_shrink_together() {
        assert_eq!((Pace::NORMAL.scrape(), Pace::NORMAL.minutes(360)), ("15s".to_owned(), "6h".to_owned()));
        let fast = Pace::faster(40);
        assert_eq!(
            (fast.scrape(), fast.minutes(5), fast.minutes(0)),
            ("375ms".to_owned(), "7500ms".to_owned(), "0ms".to_owned())
        );
        assert_eq!(fast.seconds(900.0), 22.5);
    }
}
