//! The result as tables, one a series.

use super::result::{MeasuredSeries, Scale};
use crate::cli::output::grouped;

/// The lines of all tables.
pub(super) fn lines(scale: &Scale) -> Vec<String> {
    let mut lines = vec![format!("model {}, weights {}, kernels {}", scale.model, scale.weights, scale.kernels)];
    for limits in &scale.limits {
        lines.push(format!(
            "{}: f32 peak {:.1} GFLOP/s, memory {:.1} GB/s",
            counted(limits.threads, "thread"),
            limits.peak_gflops_per_second,
            limits.memory_gigabytes_per_second
        ));
    }
    scale.series.iter().for_each(|series| table(series, &mut lines));
    lines
}

fn table(series: &MeasuredSeries, lines: &mut Vec<String>) {
    lines.push(String::new());
    lines.push(format!("{}: {}", series.series.title(), law(series)));
    let row = |cells: [String; 5]| {
        let [size, value, arithmetic, memory, peak] = cells;
        format!("{size:>16} {value:>12} {arithmetic:>14} {memory:>14} {peak:>12}")
    };
    let head = [series.size, series.unit, "at f32 peak", "at bandwidth", "peak MiB"];
    lines.push(row(head.map(str::to_owned)));
    for point in &series.points {
        let peak = point.peak_memory_bytes.map_or_else(|| "unknown".to_owned(), mib);
        let limit = |limit: Option<f64>| limit.map_or_else(|| "unknown".to_owned(), number);
        let (arithmetic, memory) = (limit(point.arithmetic_limit), limit(point.memory_limit));
        lines.push(row([grouped(point.size), number(point.value), arithmetic, memory, peak]));
    }
    for (kind, missing) in [("skipped", &series.skipped), ("failed", &series.failed)] {
        lines.extend(missing.iter().map(|point| format!("{:>16} {kind}: {}", grouped(point.size), point.reason)));
    }
}

/// The fit in words.
pub(super) fn law(series: &MeasuredSeries) -> String {
    match (series.exponent, series.deviation, series.points.len()) {
        (Some(exponent), _, 2) => format!("{} ~ {}^{exponent:.2}, two points", series.unit, series.size),
        (Some(exponent), Some(deviation), _) => {
            format!("{} ~ {}^{exponent:.2}, every point within {:.0} %", series.unit, series.size, 100.0 * deviation)
        }
        _ => "no exponent, for want of two sizes".to_owned(),
    }
}

fn mib(bytes: u64) -> String {
    grouped((bytes >> 20) as f64)
}

fn counted(count: usize, what: &str) -> String {
    if count == 1 { format!("1 {what}") } else { format!("{count} {what}s") }
}

/// Three or four digits.
pub(super) fn number(value: f64) -> String {
    match value {
        _ if value >= 100.0 => grouped(value.round()),
        _ if value >= 10.0 => format!("{value:.1}"),
        _ if value >= 0.1 => format!("{value:.2}"),
        _ => format!("{value:.2e}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::bench::scale::result::{MissingPoint, Point};
    use crate::cli::bench::scale::series::Series;

    fn series(points: &[(f64, f64)]) -> MeasuredSeries {
        let point = |&(size, value): &(f64, f64)| Point {
            size,
            value,
            arithmetic_limit: Some(10.0 * value),
            memory_limit: None,
            peak_memory_bytes: None,
            model: String::new(),
            threads: 2,
            gflops_per_second: 1.0,
            gigabytes_per_second: 1.0,
            engine_seconds: None,
        };
        let mut series = MeasuredSeries::new(Series::Sequences);
        series.points = points.iter().map(point).collect();
        series.fitted()
    }

    #[test]
    fn a_law_says_how_far_points_are_from_it_unless_two_points_make_it() {
        assert_eq!(
            law(&series(&[(1.0, 10.0), (2.0, 20.0), (4.0, 40.0)])),
            "tokens/s ~ sequences^1.00, every point within 0 %"
        );
        assert_eq!(law(&series(&[(1.0, 10.0), (4.0, 20.0)])), "tokens/s ~ sequences^0.50, two points");
        assert_eq!(law(&series(&[(1.0, 10.0)])), "no exponent, for want of two sizes");
    }

    #[test]
    fn a_table_has_its_points_and_names_those_that_are_missing() {
        let mut series = series(&[(1.0, 10.0), (4.0, 1234.4)]);
        series.skipped.push(MissingPoint { size: 8.0, reason: "memory".to_owned() });
        series.failed.push(MissingPoint { size: 2048.0, reason: "no room".to_owned() });
        let mut lines = Vec::new();
        table(&series, &mut lines);
        let text = lines.join("\n");
        for part in ["1,234", "12,344", "8 skipped: memory", "2,048 failed: no room", "unknown"] {
            assert!(text.contains(part), "{part}: {text}");
        }
    }

    #[test]
    fn numbers_keep_the_digits_that_matter() {
        assert_eq!(
            [1234567.0, 999.6, 45.67, 1.234, 0.0123].map(number),
            ["1,234,567", "1,000", "45.7", "1.23", "1.23e-2"]
        );
    }
}
