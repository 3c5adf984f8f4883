//! Rates by the roofline: each operation takes as long as its bytes or its multiplications, whichever is longer, and every
//! launch and what the host does come on top.

use super::card::Card;
use super::workload::Workload;
use crate::formats::spec::ModelSpec;
use crate::transformer::gpu_costs::memory::adapter_floats;
use crate::transformer::gpu_costs::operations::{Operations, Unit};
use crate::transformer::gpu_costs::passes::{ScoreShape, Step, decode, decode_layer, score, score_gradient};
use serde::Serialize;
use std::ops::{Add, Mul};

/// Share of the peak that matrix products reach: cuBLAS's share for large matrices, less than the clock's boost allows.
const PEAK_SHARE: f64 = 0.6;
/// Share of the bandwidth that kernels reach: what a copy of a large array reaches.
const BANDWIDTH_SHARE: f64 = 0.8;
/// Seconds of one launch: the host issues a kernel in 3 to 5 us, and the tensor library asks the driver for the memory of
/// its result and gives it back.
pub(crate) const LAUNCH_SECONDS: f64 = 6e-6;
/// Bytes a second between device and host: the tensor library copies into memory that is not pinned.
const HOST_BYTES_PER_SECOND: f64 = 10e9;
/// Seconds of AdamW on the host for each weight: its moments and its gradient are read and written once.
const ADAM_SECONDS: f64 = 1e-9;
/// Sequences that decoding is shown for.
pub(crate) const DECODED: [usize; 3] = [1, 32, 256];

/// What most of a time is spent on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Bound {
    /// The bandwidth of the card's memory.
    Memory,
    /// Multiplications.
    Compute,
    /// Launches of kernels.
    Launches,
    /// Copies to the host, AdamW.
    Host,
}

impl Bound {
    /// Its name in a report.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Compute => "compute",
            Self::Launches => "launches",
            Self::Host => "host",
        }
    }
}

/// A figure, and what most of its time is spent on.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Figure {
    /// The figure.
    pub(crate) value: f64,
    /// What binds it.
    pub(crate) bound: Bound,
}

/// Seconds by what they are spent on.
#[derive(Clone, Copy, Debug, Default)]
struct Seconds {
    memory: f64,
    compute: f64,
    launches: f64,
    host: f64,
}

impl Seconds {
    /// The time of `operations` on `card`.
    fn of(operations: &Operations, card: &Card) -> Self {
        let mut seconds = Self::default();
        for one in &operations.list {
            let moving = one.bytes / (BANDWIDTH_SHARE * card.bandwidth_gb_s * 1e9);
            let peak = match one.unit {
                Unit::Bf16 => card.bf16_tflops,
                Unit::F32 => card.f32_tflops,
            };
            let multiplying = one.flops / (PEAK_SHARE * peak * 1e12);
            if moving >= multiplying {
                seconds.memory += moving
            } else {
                seconds.compute += multiplying
            }
            seconds.launches += LAUNCH_SECONDS * one.launches;
        }
        seconds.host = size_of::<f32>() as f64 * operations.host_floats / HOST_BYTES_PER_SECOND;
        seconds
    }

    fn total(&self) -> f64 {
        self.memory + self.compute + self.launches + self.host
    }

    fn bound(&self) -> Bound {
        let all = [
            (self.memory, Bound::Memory),
            (self.compute, Bound::Compute),
            (self.launches, Bound::Launches),
            (self.host, Bound::Host),
        ];
        all.into_iter().max_by(|a, b| a.0.total_cmp(&b.0)).map_or(Bound::Memory, |(_, bound)| bound)
    }

    /// `count` things in this time, as things a second.
    fn rate(&self, count: usize) -> Figure {
        Figure { value: count as f64 / self.total(), bound: self.bound() }
    }

    fn figure(&self) -> Figure {
        Figure { value: self.total(), bound: self.bound() }
    }
}

impl Add for Seconds {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self {
            memory: self.memory + other.memory,
            compute: self.compute + other.compute,
            launches: self.launches + other.launches,
            host: self.host + other.host,
        }
    }
}

impl Mul<f64> for Seconds {
    type Output = Self;
    fn mul(self, times: f64) -> Self {
        Self {
            memory: times * self.memory,
            compute: times * self.compute,
            launches: times * self.launches,
            host: times * self.host,
        }
    }
}

/// Rates of the passes and times of an episode.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Speed {
    /// Kernels launched for one layer of a decode step without an adapter.
    pub(crate) launches_a_layer: f64,
    /// Kernels launched for such a step.
    pub(crate) launches_a_step: f64,
    /// Tokens a second of a prompt.
    pub(crate) prefill_tokens_per_second: Figure,
    /// Tokens a second of so many sequences, by the base model.
    pub(crate) decode_tokens_per_second: Vec<(usize, Figure)>,
    /// Prefix and critique tokens a second of learning a group, its reference included.
    pub(crate) learn_tokens_per_second: Figure,
    /// Seconds of the device for an episode's texts.
    pub(crate) writing_seconds: Figure,
    /// Seconds of the device for learning its group once.
    pub(crate) learning_seconds: Figure,
    /// Both.
    pub(crate) episode_seconds: Figure,
    /// Episodes an hour.
    pub(crate) episodes_per_hour: f64,
}

impl Speed {
    /// The speed of `spec` on `card` with the sizes of `workload`.
    pub(super) fn new(spec: &ModelSpec, card: &Card, workload: &Workload) -> Self {
        let model = Model { spec, card, workload };
        let one = model.step(1, 0);
        let writing = model.writing();
        let (learning, learned) = model.learning();
        let episode = writing + learning;
        let decoded = |&sequences: &usize| (sequences, model.decoding(sequences, 0).rate(sequences));
        Self {
            launches_a_layer: decode_layer(spec, &one).launches(),
            launches_a_step: decode(spec, &one).launches(),
            prefill_tokens_per_second: model.prefill(1, 0, workload.prompt_tokens).rate(workload.prompt_tokens),
            decode_tokens_per_second: DECODED.iter().map(decoded).collect(),
            learn_tokens_per_second: learning.rate(learned),
            writing_seconds: writing.figure(),
            learning_seconds: learning.figure(),
            episode_seconds: episode.figure(),
            episodes_per_hour: 3600.0 / episode.total(),
        }
    }
}

/// A model on a card at some work.
struct Model<'a> {
    spec: &'a ModelSpec,
    card: &'a Card,
    workload: &'a Workload,
}

impl Model<'_> {
    /// A step in which `sequences` decode, `adapted` of them with an adapter.
    fn step(&self, sequences: usize, adapted: usize) -> Step<'_> {
        Step {
            sequences,
            rows: 1,
            context: self.workload.mean_context(),
            logits: sequences,
            adapted: Some((&self.workload.lora, adapted)),
            attention: self.workload.attention,
        }
    }

    fn decoding(&self, sequences: usize, adapted: usize) -> Seconds {
        Seconds::of(&decode(self.spec, &self.step(sequences, adapted)), self.card)
    }

    /// `sequences` prompts of `rows` tokens behind `cached` ones: in chunks, or several in a step.
    fn prefill(&self, sequences: usize, cached: usize, rows: usize) -> Seconds {
        let most = self.workload.step_tokens;
        let step = |sequences, rows, context, logits| {
            let attention = self.workload.attention;
            let step = Step { sequences, rows, context, logits, adapted: None, attention };
            Seconds::of(&decode(self.spec, &step), self.card)
        };
        if rows == 0 || sequences == 0 {
            return Seconds::default();
        }
        if rows >= most {
            let chunk = |start: usize| {
                let end = (start + most).min(rows);
                step(1, end - start, cached + end, usize::from(end == rows))
            };
            return (0..rows).step_by(most).map(chunk).fold(Seconds::default(), Add::add) * sequences as f64;
        }
        let together = sequences.min(most / rows);
        step(together, rows, cached + rows, together) * (sequences as f64 / together as f64)
    }

    /// The device's time for the texts of an episode. Others in flight decode in the same steps.
    fn writing(&self) -> Seconds {
        let work = self.workload;
        let [_, critiques, refinements, judged] = work.texts();
        // The critic's conversation begins anew, once for all critiques; a refinement continues the generator's with its
        // critique, once for all M; a judge reads two answers.
        let prefills = self.prefill(1, 0, work.prompt_tokens)
            + self.prefill(1, 0, critiques.1)
            + self.prefill(work.critiques, work.prefix_tokens(), refinements.1 - work.prefix_tokens())
            + self.prefill(judged.0, 0, judged.1);
        let (decoding, written) = (work.decoding(), work.written_tokens());
        let of_critic = critiques.0 * critiques.2;
        let adapted = (decoding * of_critic).div_ceil(written.max(1));
        prefills + self.decoding(decoding, adapted) * (written as f64 / decoding as f64)
    }

    /// The device's time for learning a group once, and the tokens that it holds.
    fn learning(&self) -> (Seconds, usize) {
        let work = self.workload;
        let (prefix, text) = (work.prefix_tokens(), work.critique_tokens);
        let together = (work.micro_batch_tokens.saturating_sub(prefix) / text.max(1)).clamp(1, work.learned_critiques);
        let slices = work.learned_critiques.div_ceil(together);
        // All slices alike.
        let texts = work.learned_critiques as f64 / slices as f64;
        let targets = (texts * text as f64) as usize;
        let time = |lora| {
            let shape = ScoreShape { rows: prefix + targets, targets, lora };
            (Seconds::of(&score(self.spec, &shape), self.card), shape)
        };
        let (reference, _) = time(None);
        let (recorded, shape) = time(Some(&work.lora));
        let gradient = Seconds::of(&score_gradient(self.spec, &shape, work.policy()), self.card);
        // A group in slices is first scored whole, because the baseline needs all of its ratios.
        let ratios = if slices > 1 { recorded } else { Seconds::default() };
        let weights = adapter_floats(self.spec, &work.lora) as f64;
        // Once a step: AdamW, and the new weights to the device.
        let upload = size_of::<f32>() as f64 / HOST_BYTES_PER_SECOND;
        let update = Seconds { host: weights * (ADAM_SECONDS + upload), ..Seconds::default() };
        let of_slices = (reference + ratios + recorded + gradient) * slices as f64;
        (of_slices + update * (1.0 / work.groups_per_step as f64), prefix + work.learned_critiques * text)
    }
}
