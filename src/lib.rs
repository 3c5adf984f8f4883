//! An embedded actor runtime that trains LLM critics on one device: RCO (arXiv 2506.22157) with asynchronous
//! off-policy DRO (arXiv 2405.19107).
//!
//! # The line of goods
//!
//! ```text
//! prompts -> rollout --ask--> generator -> Response
//!                    --ask--> critic    -> N critiques
//!                    --ask--> refiner   -> M refinements of each
//!                    --ask--> judge     -> verdicts -> utility (CU)
//!                    --ask--> replay    <- CritiqueGroup        (waits while the learner is too far behind)
//! learner --ask--> replay -> groups -> DRO step -> every K steps: weights + CriticVersion
//!         -> checkpoint on disk (manifest last) -> the engine installs it beside the old one
//!         -> new critiques use the new version; sequences under way finish on the one they began with
//! ```
//!
//! # The floors
//!
//! *Ground floor*, nouns and pure functions: [`episode`] (the goods), [`groups`] (the goods on disk), [`prompts`],
//! [`roles`], [`verify`], [`eval`], [`replay`], [`checkpoint`]; and [`remote`], a client of other people's servers. *Middle*,
//! machines that compute on one thread and know no actor: [`model`] (one transformer, two passes over the same
//! weights: `decode` writes, `score` learns), [`engine`] (continuous batching), [`learner`] (the DRO step),
//! [`export`] (what other programs read), [`device`] (the thread that owns them both and shares its time). *Top*,
//! thin shells: [`actors`] (an episode, an exam, the learner's course, supervision), [`telemetry`], [`config`], [`node`],
//! [`cli`].
//!
//! Whoever wants the algorithm reads [`actors::rollout`] and [`learner`]; whoever wants the runtime reads
//! [`actors::supervisor`]; nobody must read both.
//!
//! # What never changes
//!
//! - A completion carries the critic version that wrote it, and no sequence mixes two.
//! - A failed judgement is invalid. A utility over no valid verdict is absent, not 0.
//! - What is on disk is whole: the manifest is there and every digest matches, or the checkpoint does not exist.
//! - The learner trains on the ids that were sampled, and a trainable tensor without a gradient stops the start.
//! - A row's result does not depend on who shares its batch, to the last bit: the same seed, config and
//!   synchronous order give the same run.
//! - No metric is exported that is not described.

#![deny(unsafe_code)]

mod disk;
pub mod types;

#[allow(unsafe_code, reason = "tiles of intrinsics, and threads that share out a slice")]
pub mod kernels;

pub mod formats;

pub mod transformer;

pub mod eval;
pub mod groups;
pub mod prompts;
pub mod replay;
pub mod roles;
pub mod verify;

pub mod remote;

pub mod engine;
pub mod learner;

pub mod device;

pub mod checkpoint;

pub mod export;

pub mod telemetry;

pub mod run;

pub mod episode;

pub mod actors;

pub mod http;

pub mod config;

pub mod node;

pub mod cli;
