//! PromQL, built from the metrics' handles: a metric that is renamed or removed does not compile.
//!
//! A [`Scope`] says which series count and over which window; an [`Expr`] is a query. Invariant: whatever is divided by is
//! filtered to be above 0, so that a quiet node yields no value instead of NaN.

use crate::telemetry::metrics::{AnyCounter, AnyGauge, AnyHistogram, Named};
use std::fmt;

/// The matcher of a dashboard's instances.
const INSTANCES: &str = "instance=~\"$instance\"";
/// The name of the nodes' scrape job.
pub(super) const JOB: &str = "rco-node";
/// The window that Grafana makes of the scrape interval and the resolution.
const RATE_INTERVAL: &str = "$__rate_interval";

/// Which series count, and the window of rates.
#[derive(Clone, Debug)]
pub(super) struct Scope {
    matchers: Vec<String>,
    window: String,
}

impl Scope {
    /// The series of a dashboard's instances, over the window that Grafana computes.
    pub(super) fn panel() -> Self {
        Self { matchers: vec![INSTANCES.to_owned()], window: RATE_INTERVAL.to_owned() }
    }

    /// The series of every instance, over `window`.
    pub(super) fn rule(window: impl Into<String>) -> Self {
        Self { matchers: Vec::new(), window: window.into() }
    }

    /// The same over another window.
    pub(super) fn over(&self, window: impl Into<String>) -> Self {
        Self { window: window.into(), ..self.clone() }
    }

    /// Those of the series that have `label="value"`.
    pub(super) fn only(&self, label: &str, value: &str) -> Self {
        self.with(format!("{label}=\"{value}\""))
    }

    /// Those of the series whose `label` matches the regular expression `pattern`.
    pub(super) fn like(&self, label: &str, pattern: &str) -> Self {
        self.with(format!("{label}=~\"{pattern}\""))
    }

    /// Those of the series whose `label` does not match the regular expression `pattern`.
    pub(super) fn unlike(&self, label: &str, pattern: &str) -> Self {
        self.with(format!("{label}!~\"{pattern}\""))
    }

    fn with(&self, matcher: String) -> Self {
        let mut scope = self.clone();
        scope.matchers.push(matcher);
        scope
    }

    fn select(&self, name: &str) -> String {
        match self.matchers.is_empty() {
            true => name.to_owned(),
            false => format!("{name}{{{}}}", self.matchers.join(",")),
        }
    }

    fn ranged(&self, name: &str) -> String {
        format!("{}[{}]", self.select(name), self.window)
    }

    /// Whether the last scrape succeeded, which Prometheus itself says of every node.
    pub(super) fn up(&self) -> Expr {
        Expr(self.only("job", JOB).select("up"))
    }

    /// A gauge's value.
    pub(super) fn gauge(&self, gauge: &impl AnyGauge) -> Expr {
        Expr(self.select(gauge.name()))
    }

    /// A gauge's mean over the window.
    pub(super) fn mean(&self, gauge: &impl AnyGauge) -> Expr {
        Expr(format!("avg_over_time({})", self.ranged(gauge.name())))
    }

    /// A gauge's mean over the window, as it was `before` now.
    pub(super) fn earlier_mean(&self, gauge: &impl AnyGauge, before: &str) -> Expr {
        Expr(format!("avg_over_time({} offset {before})", self.ranged(gauge.name())))
    }

    /// A counter's increase per second.
    pub(super) fn rate(&self, counter: &impl AnyCounter) -> Expr {
        Expr(format!("rate({})", self.ranged(counter.name())))
    }

    /// A counter's increase over the window.
    pub(super) fn increase(&self, counter: &impl AnyCounter) -> Expr {
        Expr(format!("increase({})", self.ranged(counter.name())))
    }

    /// The rate of a histogram's sum.
    pub(super) fn sum_rate(&self, histogram: &impl AnyHistogram) -> Expr {
        Expr(format!("rate({})", self.ranged(&format!("{}_sum", histogram.name()))))
    }

    /// The rate of a histogram's count.
    pub(super) fn count_rate(&self, histogram: &impl AnyHistogram) -> Expr {
        Expr(format!("rate({})", self.ranged(&format!("{}_count", histogram.name()))))
    }

    /// The increase of a histogram's count over the window.
    pub(super) fn count_increase(&self, histogram: &impl AnyHistogram) -> Expr {
        Expr(format!("increase({})", self.ranged(&format!("{}_count", histogram.name()))))
    }

    /// The increase of a histogram's buckets over the window, for a heat map.
    pub(super) fn buckets(&self, histogram: &impl AnyHistogram) -> Expr {
        Expr(format!("sum by (le) (increase({}))", self.ranged(&format!("{}_bucket", histogram.name()))))
    }

    /// A histogram's mean, by `labels`.
    pub(super) fn mean_of(&self, histogram: &impl AnyHistogram, labels: &[&str]) -> Expr {
        self.sum_rate(histogram).sum(labels).per(&self.count_rate(histogram).sum(labels))
    }

    /// A histogram's quantile, by `labels`; none where nothing was observed.
    pub(super) fn quantile(&self, quantile: f64, histogram: &impl AnyHistogram, labels: &[&str]) -> Expr {
        let by = [&["le"], labels].concat().join(", ");
        let buckets = self.ranged(&format!("{}_bucket", histogram.name()));
        Expr(format!("histogram_quantile({quantile}, sum by ({by}) (rate({buckets}))) >= 0"))
    }
}

/// The values of a dashboard variable, by the metric and label that it is taken from.
pub(super) fn label_values(metric: &impl Named, label: &str) -> String {
    format!("label_values({}, {label})", metric.name())
}

/// A query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Expr(String);

impl fmt::Display for Expr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Expr {
    /// The result of a recording rule.
    pub(super) fn recorded(name: &str) -> Self {
        Self(name.to_owned())
    }

    /// The time now, in seconds since 1970.
    pub(super) fn now() -> Self {
        Self("time()".to_owned())
    }

    /// The sum by `labels`.
    pub(super) fn sum(&self, labels: &[&str]) -> Self {
        self.aggregate("sum", labels)
    }

    /// The maximum by `labels`.
    pub(super) fn max(&self, labels: &[&str]) -> Self {
        self.aggregate("max", labels)
    }

    fn aggregate(&self, by: &str, labels: &[&str]) -> Self {
        match labels {
            [] => Self(format!("{by}({self})")),
            labels => Self(format!("{by} by ({}) ({self})", labels.join(", "))),
        }
    }

    /// This times a number.
    pub(super) fn times(&self, factor: f64) -> Self {
        Self(format!("{self} * {factor}"))
    }

    /// The ratio to `whole`, where that is above 0.
    pub(super) fn per(&self, whole: &Self) -> Self {
        Self(format!("{self} / ({whole} > 0)"))
    }

    /// The sum of two.
    pub(super) fn plus(&self, other: &Self) -> Self {
        Self(format!("({self} + {other})"))
    }

    /// The difference of two.
    pub(super) fn less(&self, other: &Self) -> Self {
        Self(format!("({self} - {other})"))
    }

    /// The absolute value.
    pub(super) fn abs(&self) -> Self {
        Self(format!("abs({self})"))
    }

    /// A comparison with a number, which keeps what holds.
    pub(super) fn is(&self, comparison: &str, value: f64) -> Self {
        Self(format!("{self} {comparison} {value}"))
    }

    /// A comparison with another query, which keeps what holds.
    pub(super) fn is_to(&self, comparison: &str, other: &Self) -> Self {
        Self(format!("{self} {comparison} {other}"))
    }

    /// This with the `label` that `other` has for the same instance, where `other` is always 1.
    pub(super) fn labelled(&self, label: &str, other: &Self) -> Self {
        Self(format!("{self} * on (instance) group_left ({label}) {other}"))
    }

    /// What holds of this where `other` holds for the same instance.
    pub(super) fn and(&self, other: &Self) -> Self {
        Self(format!("({self}) and on (instance) ({other})"))
    }

    /// This or `other`.
    pub(super) fn or(&self, other: &Self) -> Self {
        Self(format!("({self}) or ({other})"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::metrics;

    #[test]
    fn a_query_selects_its_scope_and_never_divides_by_nothing() {
        let panel = Scope::panel();
        assert_eq!(
            panel.only("role", "critic").rate(&metrics::ROLE_WRITTEN).sum(&["version"]).to_string(),
            "sum by (version) (rate(rco_roles_tokens_total{instance=~\"$instance\",role=\"critic\"}[$__rate_interval]))"
        );
        assert_eq!(
            Scope::rule("5m").mean_of(&metrics::STALENESS, &["instance"]).to_string(),
            "sum by (instance) (rate(rco_learner_staleness_versions_sum[5m])) / \
             (sum by (instance) (rate(rco_learner_staleness_versions_count[5m])) > 0)"
        );
        assert_eq!(
            panel.quantile(0.99, &metrics::FIRST_TOKEN_SECONDS, &["origin"]).to_string(),
            "histogram_quantile(0.99, sum by (le, origin) (rate(rco_engine_first_token_seconds_bucket\
             {instance=~\"$instance\"}[$__rate_interval]))) >= 0"
        );
    }
}
