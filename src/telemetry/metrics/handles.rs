//! Handles of metrics: what updates one, and what the table asks of it. A handle knows its name; the table gives it one.
//!
//! Gauges of things in flight change by [`Guard`], so that an early return cannot leave them too high.

use super::labels::{Information, Label, LabelSpec, Labels};
use std::marker::PhantomData;

/// Prometheus' metric types.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetricKind {
    /// Only increases.
    Counter,
    /// Increases and decreases.
    Gauge,
    /// Counts values by size.
    Histogram,
}

/// A handle of the table.
pub trait Named {
    /// The exported name.
    fn name(&self) -> &'static str;
}

/// A handle of a counter.
pub trait AnyCounter: Named {}
/// A handle of a gauge.
pub trait AnyGauge: Named {}
/// A handle of a histogram.
pub trait AnyHistogram: Named {}

macro_rules! named {
    ($([$($parameter:ident)?] $handle:ty: $kind:ident;)*) => {$(
        impl$(<$parameter>)? Named for $handle {
            fn name(&self) -> &'static str {
                self.name
            }
        }
        impl$(<$parameter>)? $kind for $handle {}
    )*};
}

named! {
    [L] Counter<L>: AnyCounter;
    [L] Gauge<L>: AnyGauge;
    [I] Info<I>: AnyGauge;
    [L] Histogram<L>: AnyHistogram;
}

/// A counter, with a label `L`, two labels `(A, B)` or none.
pub struct Counter<L = ()> {
    pub(super) name: &'static str,
    pub(super) label: PhantomData<fn(L)>,
}

impl Counter {
    /// Counts `n` more.
    pub fn add(&self, n: u64) {
        metrics::counter!(self.name).increment(n);
    }
}

impl<L: Label> Counter<L> {
    /// Counts `n` more under `label`.
    pub fn add(&self, label: L, n: u64) {
        metrics::counter!(self.name, L::KEY => label.value()).increment(n);
    }
}

impl<A: Label, B: Label> Counter<(A, B)> {
    /// Counts `n` more under both labels.
    pub fn add(&self, (a, b): (A, B), n: u64) {
        metrics::counter!(self.name, A::KEY => a.value(), B::KEY => b.value()).increment(n);
    }
}

/// A gauge, with a label `L` or none.
pub struct Gauge<L = ()> {
    pub(super) name: &'static str,
    pub(super) label: PhantomData<fn(L)>,
}

impl Gauge {
    /// Sets its value.
    pub fn set(&self, value: f64) {
        metrics::gauge!(self.name).set(value);
    }

    /// Increments it until the guard is dropped.
    #[must_use = "dropping the guard decrements the gauge"]
    pub fn guard(&self) -> Guard {
        let gauge = metrics::gauge!(self.name);
        gauge.increment(1.0);
        Guard { gauge }
    }
}

impl<L: Label> Gauge<L> {
    /// Sets its value under `label`.
    pub fn set(&self, label: L, value: f64) {
        metrics::gauge!(self.name, L::KEY => label.value()).set(value);
    }
}

/// Keeps a gauge incremented by one; moves with the thing that it counts.
pub struct Guard {
    gauge: metrics::Gauge,
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.gauge.decrement(1.0);
    }
}

/// A gauge that is always 1 and carries the information `I` in its labels.
pub struct Info<I> {
    pub(super) name: &'static str,
    pub(super) label: PhantomData<fn(I)>,
}

impl<I: Information> Info<I> {
    /// Publishes `information`.
    pub fn publish(&self, information: I) {
        let labels: Vec<_> = I::KEYS.iter().copied().zip(information.values()).collect();
        metrics::gauge!(self.name, &labels).set(1.0);
    }
}

/// A histogram, with a label `L` or none.
pub struct Histogram<L = ()> {
    pub(super) name: &'static str,
    pub(super) label: PhantomData<fn(L)>,
}

impl Histogram {
    /// Counts `value`.
    pub fn record(&self, value: f64) {
        metrics::histogram!(self.name).record(value);
    }
}

impl<L: Label> Histogram<L> {
    /// Counts `value` under `label`.
    pub fn record(&self, label: L, value: f64) {
        metrics::histogram!(self.name, L::KEY => label.value()).record(value);
    }
}

/// What the table needs from a handle.
pub(super) trait Handle {
    /// Its type.
    const KIND: MetricKind;
    /// Registers its series at zero. Gauges are left out: one that was never set must not be shown as 0.
    fn register(_name: &'static str) {}
    /// Its labels.
    fn labels() -> Vec<LabelSpec>;
}

impl<L: Labels> Handle for Counter<L> {
    const KIND: MetricKind = MetricKind::Counter;
    fn register(name: &'static str) {
        L::series().iter().for_each(|labels| metrics::counter!(name, labels).increment(0));
    }
    fn labels() -> Vec<LabelSpec> {
        L::specs()
    }
}

impl<L: Labels> Handle for Gauge<L> {
    const KIND: MetricKind = MetricKind::Gauge;
    fn labels() -> Vec<LabelSpec> {
        L::specs()
    }
}

impl<I: Information> Handle for Info<I> {
    const KIND: MetricKind = MetricKind::Gauge;
    fn labels() -> Vec<LabelSpec> {
        I::KEYS.iter().map(|key| LabelSpec { key, values: Vec::new() }).collect()
    }
}

impl<L: Labels> Handle for Histogram<L> {
    const KIND: MetricKind = MetricKind::Histogram;
    fn register(name: &'static str) {
        for labels in L::series() {
            let _registered = metrics::histogram!(name, &labels);
        }
    }
    fn labels() -> Vec<LabelSpec> {
        L::specs()
    }
}
