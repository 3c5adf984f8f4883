//! An axis: which part of the numbers it shows, and where its ticks are.

/// A range of values, linear or logarithmic, and its ticks.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Axis {
    low: f64,
    high: f64,
    is_log: bool,
    pub(super) ticks: Vec<f64>,
}

/// Values that span more than this factor are shown logarithmically, where that is allowed.
const LOG_FACTOR: f64 = 40.0;

impl Axis {
    /// An axis of round numbers that shows all of `values`, with about `ticks` ticks; logarithmic if it `may_be_log`, and they are
    /// positive and far apart.
    pub(super) fn of(values: impl Iterator<Item = f64>, ticks: usize, may_be_log: bool) -> Self {
        let (mut low, mut high) = (f64::INFINITY, f64::NEG_INFINITY);
        for value in values.filter(|value| value.is_finite()) {
            (low, high) = (low.min(value), high.max(value));
        }
        if low > high {
            (low, high) = (0.0, 1.0);
        }
        if may_be_log && low > 0.0 && high / low > LOG_FACTOR {
            return Self::logarithmic(low, high);
        }
        if high - low <= f64::EPSILON * high.abs() {
            let reach = if high == 0.0 { 1.0 } else { 0.1 * high.abs() };
            (low, high) = (low - reach, high + reach);
        }
        let step = nice((high - low) / ticks.max(1) as f64);
        Self::linear((low / step).floor() * step, (high / step).ceil() * step, step)
    }

    /// A linear axis from `low` to `high` with a tick at each multiple of `step`.
    pub(super) fn linear(low: f64, high: f64, step: f64) -> Self {
        let first = (low / step).ceil();
        let count = ((high / step).floor() - first) as usize + 1;
        let ticks = (0..count).map(|place| (first + place as f64) * step);
        // 0.1 times 3 is not 0.3: what is off by rounding is rounded.
        let ticks = ticks.map(|tick| (tick / step * 1e6).round() / 1e6 * step).collect();
        Self { low, high, is_log: false, ticks }
    }

    fn logarithmic(low: f64, high: f64) -> Self {
        let (first, last) = (low.log10().floor() as i32, high.log10().ceil() as i32);
        let ticks = (first..=last).map(|power| 10_f64.powi(power)).collect();
        Self { low: 10_f64.powi(first), high: 10_f64.powi(last), is_log: true, ticks }
    }

    /// Where `value` is, from 0 at the low end to 1 at the high end; beyond either, the end.
    pub(super) fn place(&self, value: f64) -> f64 {
        let place = match self.is_log {
            true => (value.max(self.low) / self.low).ln() / (self.high / self.low).ln(),
            false => (value - self.low) / (self.high - self.low),
        };
        place.clamp(0.0, 1.0)
    }

    /// Whether it is logarithmic.
    pub(super) fn is_log(&self) -> bool {
        self.is_log
    }
}

/// The round number at or above `step`.
fn nice(step: f64) -> f64 {
    let power = 10_f64.powf(step.log10().floor());
    let round = [1.0, 2.0, 2.5, 5.0, 10.0].into_iter().find(|round| round * power >= step * (1.0 - 1e-9));
    round.unwrap_or(10.0) * power
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_cover_the_values() {
        let axis = Axis::of([0.13, 0.61].into_iter(), 4, false);
        let expected = [0.0, 0.2, 0.4, 0.6, 0.8];
        assert!(axis.ticks.iter().zip(expected).all(|(tick, expected)| (tick - expected).abs() < 1e-9), "{axis:?}");
        assert_eq!(axis.ticks.len(), expected.len());
        assert_eq!((axis.place(0.0), axis.place(0.4), axis.place(9.0)), (0.0, 0.5, 1.0));
        let flat = Axis::of([5.0, 5.0].into_iter(), 4, false);
        assert!((flat.place(5.0) - 0.5).abs() < 0.26, "{flat:?}");
        assert_eq!(Axis::of([].into_iter(), 4, false).place(0.5), 0.5);
    }

    #[test]
    fn values_far_apart_have_a_logarithmic_axis() {
        let axis = Axis::of([0.02, 30.0].into_iter(), 4, true);
        assert!(axis.is_log());
        assert_eq!(axis.ticks, [0.01, 0.1, 1.0, 10.0, 100.0]);
        assert!((axis.place(1.0) - 0.5).abs() < 1e-9);
        assert!(!Axis::of([0.0, 30.0].into_iter(), 4, true).is_log());
    }
}
