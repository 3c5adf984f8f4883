//! The result of a bench: the same figures as a table or as a line of JSON.

use super::harness::{Bench, Run};
use super::machine::{Machine, peak_memory_bytes};
use crate::cli::output::print_line;
use crate::engine::StepCost;
use crate::node::memory_plan::MemoryPlan;
use serde::Serialize;
use std::time::Duration;

/// What the engine did in the median run.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Figures {
    #[serde(flatten)]
    machine: Machine,
    seconds: f64,
    steps: u64,
    generated_tokens: u64,
    /// Over the steps without prompt tokens; none if there was no such step.
    decoding_tokens_per_second: Option<f64>,
    computed_tokens: u64,
    distinct_tokens: u64,
    computed_per_distinct: f64,
    preemptions: u64,
    copied_blocks: u64,
    gflops_per_second: f64,
    peak_share: f64,
    gigabytes_per_second: f64,
    model_share: f64,
    sampling_share: f64,
    bookkeeping_share: f64,
    peak_memory_bytes: Option<u64>,
    planned_memory_bytes: u64,
}

impl Figures {
    /// The figures of `run`, whose engine worked for `writing` seconds.
    pub(super) fn new(bench: &Bench, run: &Run, writing: f64, cost: &StepCost, plan: &MemoryPlan) -> Self {
        let Run { seconds, counters, distinct } = run;
        let gflops_per_second = cost.flops(&counters.work) / writing / 1e9;
        let share = |time: Duration| time.as_secs_f64() / writing;
        Self {
            machine: bench.machine,
            seconds: *seconds,
            steps: counters.steps,
            generated_tokens: counters.sampled_tokens,
            decoding_tokens_per_second: (counters.decoded.0 > 0)
                .then(|| counters.decoded.0 as f64 / counters.decoded.1.as_secs_f64()),
            computed_tokens: counters.work.tokens,
            distinct_tokens: *distinct,
            computed_per_distinct: counters.work.tokens as f64 / *distinct as f64,
            preemptions: counters.preemptions,
            copied_blocks: counters.copied_blocks,
            gflops_per_second,
            peak_share: gflops_per_second / bench.machine.peak_gflops_per_second,
            gigabytes_per_second: cost.bytes(counters.steps, &counters.work) / writing / 1e9,
            model_share: share(counters.times.model),
            sampling_share: share(counters.times.sampling),
            bookkeeping_share: share(counters.times.bookkeeping),
            peak_memory_bytes: peak_memory_bytes(&bench.model.transformer.device()),
            planned_memory_bytes: plan.total() as u64,
        }
    }

    /// The rows of the table.
    fn rows(&self) -> Vec<(&'static str, String)> {
        let percent = |share: f64| format!("{:.1} %", 100.0 * share);
        let mib = |bytes: u64| format!("{:.0} MiB", bytes as f64 / f64::from(1 << 20));
        let measured = self.peak_memory_bytes.map_or_else(|| "unknown".to_owned(), mib);
        let decoding = self.decoding_tokens_per_second;
        let decoding =
            decoding.map_or_else(String::new, |rate| format!(", {rate:.1} a second once prompts are computed"));
        vec![
            ("time", format!("{:.2} s in {} steps", self.seconds, self.steps)),
            ("generated", format!("{} tokens{decoding}", self.generated_tokens)),
            (
                "computed / distinct",
                format!("{} / {} = {:.3}", self.computed_tokens, self.distinct_tokens, self.computed_per_distinct),
            ),
            ("preemptions", format!("{}, blocks copied {}", self.preemptions, self.copied_blocks)),
            (
                "arithmetic",
                format!(
                    "{:.1} GFLOP/s, {} of the f32 peak of {:.1} on {} threads",
                    self.gflops_per_second,
                    percent(self.peak_share),
                    self.machine.peak_gflops_per_second,
                    self.machine.threads
                ),
            ),
            ("weights and cache", format!("{:.1} GB/s", self.gigabytes_per_second)),
            (
                "shares of a step",
                format!(
                    "model {}, sampling {}, bookkeeping {:.3} %",
                    percent(self.model_share),
                    percent(self.sampling_share),
                    100.0 * self.bookkeeping_share
                ),
            ),
            ("peak memory", format!("{measured}, planned {}", mib(self.planned_memory_bytes))),
        ]
    }
}

/// The result of a bench: the workload, the main figures, the rate of every run, and the median run's other figures.
#[derive(Clone, Debug, Serialize)]
pub(super) struct BenchResult<W, S> {
    pub(super) bench: &'static str,
    pub(super) model: String,
    #[serde(flatten)]
    pub(super) workload: W,
    #[serde(flatten)]
    pub(super) summary: S,
    /// Tokens per second of every run, the cold one first.
    pub(super) runs: Vec<f64>,
    #[serde(flatten)]
    pub(super) figures: Figures,
}

impl<W: Serialize, S: Serialize> BenchResult<W, S> {
    /// Prints it as JSON, or as a table that begins with `head`.
    pub(super) fn print(&self, json: bool, head: Vec<(&'static str, String)>) {
        if json {
            return print_line(&serde_json::to_string(self).expect("strings and finite numbers serialize"));
        }
        let runs = self.runs.iter().map(|rate| format!("{rate:.1}")).collect::<Vec<_>>().join(", ");
        let rows = head.into_iter().chain([("every run", format!("{runs} tokens/s"))]).chain(self.figures.rows());
        rows.for_each(|(name, value)| print_line(&format!("{name:<20} {value}")));
    }
}

/// The index of the median of `rates`; for an even number, of the lower middle one.
pub(super) fn median(rates: &[f64]) -> usize {
    let mut order: Vec<usize> = (0..rates.len()).collect();
    order.sort_by(|&a, &b| rates[a].total_cmp(&rates[b]));
    order[(rates.len() - 1) / 2]
}

#[cfg(test)]
mod tests {
    use super::median;

    #[test]
    fn the_median_run_is_the_one_in_the_middle_and_the_lower_of_two() {
        assert_eq!(median(&[5.0]), 0);
        assert_eq!(median(&[7.0, 5.0]), 1);
        assert_eq!(median(&[1.0, 9.0, 4.0]), 2);
        assert_eq!(median(&[4.0, 1.0, 3.0, 2.0]), 3);
    }
}
