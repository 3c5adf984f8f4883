//! Percentile bootstrap intervals (Efron, 1979) of ratios of sums, resampled by prompt.
//!
//! A row is one prompt's contribution. Texts of one prompt are correlated, so prompts are resampled and never texts. A
//! difference between two critics is one row, which makes it paired.
//!
//! Invariants: the same rows and seed give the same interval; the value is computed from the original rows.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use serde::{Deserialize, Serialize};

/// How intervals are computed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Resampling {
    /// Number of resamples.
    pub resamples: usize,
    /// Seed of the resampling.
    pub seed: u64,
}

impl Default for Resampling {
    fn default() -> Self {
        Self { resamples: 10_000, seed: 0 }
    }
}

/// Share of the resamples inside the interval.
const LEVEL: f64 = 0.95;

/// A figure with its 95 % interval.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Estimate {
    /// The value over all rows.
    pub value: f64,
    /// The 2.5 % quantile of the resamples.
    pub low: f64,
    /// The 97.5 % quantile.
    pub high: f64,
    /// Number of prompts.
    pub prompts: usize,
}

impl Estimate {
    /// The estimate times `factor`.
    pub fn times(self, factor: f64) -> Self {
        let [value, low, high] = [self.value, self.low, self.high].map(|value| value * factor);
        Self { value, low, high, ..self }
    }
}

/// The mean of `values`; `None` if there are none.
pub fn mean(values: impl IntoIterator<Item = f64>, how: Resampling) -> Option<Estimate> {
    let rows: Vec<_> = values.into_iter().map(|value| [value, 1.0]).collect();
    statistic(&rows, |[sum, count]| sum / count, how)
}

/// The sum of the first column over the sum of the second. Rows with 0 in the second are left out; `None` if no row is
/// left.
pub fn ratio(rows: impl IntoIterator<Item = [f64; 2]>, how: Resampling) -> Option<Estimate> {
    let rows: Vec<_> = rows.into_iter().filter(|row| row[1] > 0.0).collect();
    statistic(&rows, |[part, whole]| part / whole, how)
}

/// A `figure` of the columns' sums. Resamples for which it is not finite are left out; `None` if it is not finite for the
/// rows themselves or for any resample.
pub fn statistic<const K: usize>(
    rows: &[[f64; K]],
    figure: impl Fn([f64; K]) -> f64,
    how: Resampling,
) -> Option<Estimate> {
    let sum = |sums: [f64; K], row: &[f64; K]| std::array::from_fn(|column| sums[column] + row[column]);
    let value = figure(rows.iter().fold([0.0; K], sum));
    if rows.is_empty() || !value.is_finite() {
        return None;
    }
    let mut rng = ChaCha8Rng::seed_from_u64(how.seed);
    // The high word of the product is uniform below the row count, up to a bias of rows / 2^64.
    let mut draw = || ((u128::from(rng.next_u64()) * rows.len() as u128) >> 64) as usize;
    let mut drawn: Vec<f64> = (0..how.resamples.max(1))
        .map(|_| figure((0..rows.len()).fold([0.0; K], |sums, _| sum(sums, &rows[draw()]))))
        .filter(|value| value.is_finite())
        .collect();
    if drawn.is_empty() {
        return None;
    }
    drawn.sort_unstable_by(f64::total_cmp);
    let tail = (1.0 - LEVEL) / 2.0;
    Some(Estimate { value, low: quantile(&drawn, tail), high: quantile(&drawn, 1.0 - tail), prompts: rows.len() })
}

/// The `q`-quantile of sorted values, linearly interpolated.
fn quantile(sorted: &[f64], q: f64) -> f64 {
    let place = q * (sorted.len() - 1) as f64;
    let (below, part) = (place.floor() as usize, place.fract());
    let above = (below + 1).min(sorted.len() - 1);
    sorted[below] + (sorted[above] - sorted[below]) * part
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Deserialize)]
    struct Case {
        kind: String,
        rows: Vec<Vec<f64>>,
        value: f64,
        low: f64,
        high: f64,
        deviation: f64,
    }

    #[test]
    fn intervals_are_scipys() {
        let cases: Vec<Case> = serde_json::from_str(include_str!("../../tests/golden/bootstrap.json")).unwrap();
        let how = Resampling { resamples: 40_000, seed: 5 };
        assert!(cases.len() >= 4);
        for case in cases {
            let pairs = || case.rows.iter().map(|row| [row[0], row[1]]);
            let got = match case.kind.as_str() {
                "mean" => mean(case.rows.iter().map(|row| row[0]), how),
                "ratio" => ratio(pairs(), how),
                "difference" => mean(pairs().map(|[one, other]| one - other), how),
                other => panic!("{other}"),
            };
            let got = got.unwrap();
            assert!((got.value - case.value).abs() < 1e-12, "{}: {got:?}", case.kind);
            // Two Monte Carlo quantiles, of 200,000 and 40,000 resamples: their own error is below 0.02 deviations.
            for (ours, theirs) in [(got.low, case.low), (got.high, case.high)] {
                let off = (ours - theirs).abs() / case.deviation;
                assert!(off < 0.06, "{}: {ours} beside {theirs}, {off} deviations", case.kind);
            }
        }
    }

    #[test]
    fn nothing_has_no_figure_and_one_prompt_no_width() {
        let how = Resampling { resamples: 50, seed: 0 };
        assert_eq!(mean([], how), None);
        assert_eq!(ratio([[1.0, 0.0]], how), None);
        assert_eq!(mean([0.25], how), Some(Estimate { value: 0.25, low: 0.25, high: 0.25, prompts: 1 }));
    }

    #[test]
    fn an_interval_follows_from_rows_and_seed() {
        let values = || (0..30).map(|n| f64::from(n % 7));
        let how = |seed| Resampling { resamples: 200, seed };
        assert_eq!(mean(values(), how(1)), mean(values(), how(1)));
        assert_ne!(mean(values(), how(1)), mean(values(), how(2)));
        let [one, two] = [1, 2].map(|factor| mean(values().map(|value| value * f64::from(factor)), how(1)).unwrap());
        assert_eq!(one.times(2.0), two);
    }
}
