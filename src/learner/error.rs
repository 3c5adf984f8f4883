//! Why the learner refuses a config, a saved state or a step.

use super::config::Mode;
use crate::formats::spec::Projection;

/// Why the learner refused.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The step was abandoned; nothing changed.
    #[error("the learner step was abandoned")]
    Abandoned,
    /// A trainable tensor got no gradient.
    #[error("trainable tensor {name} received no gradient")]
    NoGradient {
        /// Its name.
        name: String,
    },
    /// A saved state lacks one of the learner's tensors, or holds it in another size.
    #[error("tensor {name} is missing from the saved learner or has another size")]
    MissingTensor {
        /// Its name.
        name: String,
    },
    /// A saved adapter does not have the factors that the config asks for.
    #[error("saved adapter: expected rank {rank} on {} in every layer; change the config back or start anew", names(.targets))]
    OtherAdapter {
        /// The rank asked for.
        rank: usize,
        /// The targets asked for.
        targets: Vec<Projection>,
    },
    /// The adapter to start from does not have the factors that the config asks for.
    #[error(
        "learner.start_from: expected an adapter of rank {rank} on {}, as learner.lora says, got one of rank {got_rank} on {}; \
         set learner.lora.rank and learner.lora.targets to these",
        names(.targets),
        names(.got_targets)
    )]
    OtherStart {
        /// The rank asked for.
        rank: usize,
        /// The targets asked for.
        targets: Vec<Projection>,
        /// The adapter's rank.
        got_rank: usize,
        /// The adapter's targets.
        got_targets: Vec<Projection>,
    },
    /// The weights to start from are not of the mode.
    #[error("learner.start_from: expected weights for learner.mode {mode}, got {got}")]
    OtherStartMode {
        /// The mode asked for.
        mode: Mode,
        /// What they are.
        got: &'static str,
    },
    /// The weights to start from cannot be read, or are another model's.
    #[error("learner.start_from: {0}")]
    Start(Box<crate::transformer::Error>),
    /// A saved critic was trained in another mode.
    #[error("saved critic: expected one of learner.mode {mode}; change the config back or start anew")]
    OtherMode {
        /// The mode asked for.
        mode: Mode,
    },
    /// The critic has factors that the learner cannot train.
    #[error(
        "adapter: the learner trains no factors on embed_tokens or lm_head; merge the adapter into its base (export --to merged) \
         and use the result as model"
    )]
    Ends,
    /// Saved weights are those of another model.
    #[error("saved critic: expected weights of the base's names and shapes; name the model that it began as")]
    OtherModel,
    /// Loss or gradient is not finite; nothing changed.
    #[error("step {step}: {what} is {value}; the step was not taken")]
    NotFinite {
        /// The step that was not taken.
        step: u64,
        /// `loss` or `gradient norm`.
        what: &'static str,
        /// Its value.
        value: f32,
    },
    /// The gradient is larger than allowed; nothing changed.
    #[error(
        "step {step}: expected a gradient norm of at most {most} (learner.gradient_norm_max), got {norm}; the step was not taken"
    )]
    Exploded {
        /// The step that was not taken.
        step: u64,
        /// The gradient's norm.
        norm: f32,
        /// The largest allowed.
        most: f64,
    },
    /// The model failed.
    #[error(transparent)]
    Model(#[from] crate::transformer::Error),
}

/// Targets as the config names them.
fn names(targets: &[Projection]) -> String {
    format!("{:?}", targets.iter().map(|target| target.name()).collect::<Vec<_>>())
}

impl Error {
    /// Whether a batch was refused and the learner's state is unchanged.
    pub fn is_refusal(&self) -> bool {
        matches!(self, Self::NotFinite { .. } | Self::Exploded { .. })
    }
}
