//! What `bench scale` found: series of points with their fits. Knows neither how points are measured nor how they are shown.

use super::power_law::PowerLaw;
use super::series::Series;
use serde::Serialize;

/// The limits of the machine with a number of threads, each measured by a loop that does nothing else.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Limits {
    pub(super) threads: usize,
    /// f32 multiply-adds on registers alone, in 10^9 operations per second.
    pub(super) peak_gflops_per_second: f64,
    /// Memory that no cache holds, read front to back, in 10^9 bytes per second.
    pub(super) memory_gigabytes_per_second: f64,
}

/// One measured point.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Point {
    /// What grows: sequences, tokens, threads, parameters.
    pub(super) size: f64,
    /// In the unit of the series.
    pub(super) value: f64,
    /// The value if all arithmetic ran at the f32 peak; 8-bit products can pass it. None on a GPU.
    pub(super) arithmetic_limit: Option<f64>,
    /// The value if weights and cache were read at the memory's bandwidth; what a cache holds can pass it. None on a GPU.
    pub(super) memory_limit: Option<f64>,
    pub(super) peak_memory_bytes: Option<u64>,
    pub(super) model: String,
    pub(super) threads: usize,
    /// What the engine reached in its own time.
    pub(super) gflops_per_second: f64,
    pub(super) gigabytes_per_second: f64,
    /// The engine's part of a value in seconds.
    pub(super) engine_seconds: Option<f64>,
}

impl Point {
    /// Computes the limits of the value from those of the machine.
    pub(super) fn limit_by(&mut self, limits: &[Limits]) {
        let Some(limits) = limits.iter().find(|limits| limits.threads == self.threads) else { return };
        let at = |rate: f64, most: f64| match self.engine_seconds {
            Some(seconds) => seconds * rate / most,
            None => self.value * most / rate,
        };
        self.arithmetic_limit = Some(at(self.gflops_per_second, limits.peak_gflops_per_second));
        self.memory_limit = Some(at(self.gigabytes_per_second, limits.memory_gigabytes_per_second));
    }
}

/// A point without a value, and why.
#[derive(Clone, Debug, Serialize)]
pub(super) struct MissingPoint {
    pub(super) size: f64,
    pub(super) reason: String,
}

/// One series of points.
#[derive(Clone, Debug, Serialize)]
pub(super) struct MeasuredSeries {
    pub(super) series: Series,
    /// What the sizes count.
    pub(super) size: &'static str,
    /// The unit of the values.
    pub(super) unit: &'static str,
    /// value ~ size^exponent; none with fewer than two sizes.
    pub(super) exponent: Option<f64>,
    /// By how much the point that is farthest from the fit differs from it, as a share.
    pub(super) deviation: Option<f64>,
    pub(super) points: Vec<Point>,
    /// Points that do not fit the memory.
    pub(super) skipped: Vec<MissingPoint>,
    pub(super) failed: Vec<MissingPoint>,
}

impl MeasuredSeries {
    pub(super) fn new(series: Series) -> Self {
        Self {
            series,
            size: series.size(),
            unit: series.unit(),
            exponent: None,
            deviation: None,
            points: Vec::new(),
            skipped: Vec::new(),
            failed: Vec::new(),
        }
    }

    /// The power law of the points.
    pub(super) fn law(&self) -> Option<PowerLaw> {
        PowerLaw::fit(&self.points.iter().map(|point| (point.size, point.value)).collect::<Vec<_>>())
    }

    /// The series with its fit, once all points are there.
    pub(super) fn fitted(mut self) -> Self {
        let law = self.law();
        self.exponent = law.map(|law| law.exponent);
        self.deviation = law.map(|law| law.deviation);
        self
    }
}

/// Everything that one run of the command found.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Scale {
    pub(super) bench: &'static str,
    pub(super) model: String,
    pub(super) kernels: &'static str,
    pub(super) weights: &'static str,
    /// By number of threads, the most last.
    pub(super) limits: Vec<Limits>,
    pub(super) series: Vec<MeasuredSeries>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_as_far_from_a_value_as_its_rates_from_the_machines() {
        let limits = [1, 2].map(|threads| Limits {
            threads,
            peak_gflops_per_second: 100.0 * threads as f64,
            memory_gigabytes_per_second: 30.0,
        });
        let mut point = Point {
            size: 1.0,
            value: 50.0,
            arithmetic_limit: None,
            memory_limit: None,
            peak_memory_bytes: None,
            model: String::new(),
            threads: 2,
            gflops_per_second: 20.0,
            gigabytes_per_second: 10.0,
            engine_seconds: None,
        };
        point.limit_by(&limits);
        assert_eq!((point.arithmetic_limit, point.memory_limit), (Some(500.0), Some(150.0)));
        // Of a time, the engine's part alone has limits.
        point.engine_seconds = Some(30.0);
        point.limit_by(&limits);
        assert_eq!((point.arithmetic_limit, point.memory_limit), (Some(3.0), Some(10.0)));
        point.threads = 3;
        (point.arithmetic_limit, point.memory_limit) = (None, None);
        point.limit_by(&limits);
        assert_eq!((point.arithmetic_limit, point.memory_limit), (None, None));
    }
}
