//! Trains LLM critics on one device, in one process: RCO (arXiv 2506.22157) with asynchronous off-policy DRO
//! (arXiv 2405.19107). Rollout and learning overlap, and the served critic is replaced between two engine steps.
//!
//! # Data flow
//!
//! ```text
//! prompts -> rollout --ask--> generator -> Response
//!                    --ask--> critic    -> N critiques
//!                    --ask--> refiner   -> M refinements of each
//!                    --ask--> judge     -> verdicts -> critique utility (CU)
//!                    --ask--> replay    <- CritiqueGroup        (waits while the learner is too far behind)
//! learner --ask--> replay -> groups -> DRO step -> every K steps: weights + CriticVersion
//!         -> checkpoint on disk (manifest last) -> the engine installs it beside the old version
//!         -> new critiques use the new version; sequences in progress finish on the version they began with
//! ```
//!
//! # Rooms
//!
//! A top-level module is a room. Rooms import downwards only, and files never import each other in a circle; a test
//! checks both. "Knows no X" in a file's first lines means that it does not depend on X.
//!
//! - Domain types and pure functions: [`types`], [`prompts`], [`groups`], [`replay`], [`roles`], [`verify`], [`eval`];
//!   [`telemetry`] (metrics and logs), [`remote`] (other servers) and `disk` (durable files).
//! - Models: [`kernels`] (CPU kernels, without candle), [`formats`] (files that other programs wrote), [`transformer`]
//!   (one model, two passes over the same weights: `decode` generates, `score` is differentiable).
//! - Synchronous machines: [`engine`] (continuous batching), [`learner`] (the DRO step), [`device`] (the thread that owns
//!   both), [`checkpoint`], [`export`].
//! - A run: [`run`] (state that outlives actors, events), [`episode`] (one prompt's tree, judges, evaluation),
//!   [`actors`] (thin ractor shells and their supervisor).
//! - The program: [`http`] (the listener), [`config`], [`node`], [`cli`]; [`dashboards`] (what Grafana and Prometheus read).
//!
//! For the algorithm read [`episode`] and [`learner`]; for the runtime read [`actors::supervisor`].
//!
//! # Invariants
//!
//! - A completion carries the critic version that wrote it, and no sequence mixes two versions.
//! - A failed judgement is invalid. A utility over no valid verdict is absent, not 0.
//! - A checkpoint is whole on disk, with a manifest and matching digests, or it does not exist.
//! - The learner trains on the ids that were sampled. A trainable tensor without a gradient stops the start.
//! - A row's result does not depend on the rest of its batch, to the last bit: the same seed, config and synchronous
//!   order give the same run.
//! - Every exported metric is described.

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
pub mod records;
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

pub mod tracking;

pub mod dashboards;

pub mod report;

pub mod run;

pub mod episode;

pub mod actors;

pub mod http;

pub mod config;

pub mod node;

pub mod cli;
