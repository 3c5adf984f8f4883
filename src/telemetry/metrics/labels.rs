//! Labels that only metrics have: enums that merge or summarise values of domain types.
//!
//! A domain enum that is itself a label implements [`Label`] in `types`. Invariant: the set of series is closed.

pub use crate::types::{Label, Origin, Role, SwapReason};

/// A label of a metric, for its description.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LabelSpec {
    /// Its name.
    pub key: &'static str,
    /// Its values; empty where they are not known before a node runs.
    pub values: Vec<&'static str>,
}

/// The labels of a metric: none, one or two.
pub trait Labels {
    /// Each label.
    fn specs() -> Vec<LabelSpec>;

    /// The labels of every series.
    fn series() -> Vec<Vec<(&'static str, &'static str)>> {
        Self::specs().into_iter().fold(vec![Vec::new()], |series, LabelSpec { key, values }| {
            let longer = |labels: &Vec<_>| {
                let with = |value| [labels.as_slice(), &[(key, value)]].concat();
                values.iter().copied().map(with).collect::<Vec<_>>()
            };
            series.iter().flat_map(longer).collect()
        })
    }
}

impl Labels for () {
    fn specs() -> Vec<LabelSpec> {
        Vec::new()
    }
}

impl<L: Label> Labels for L {
    fn specs() -> Vec<LabelSpec> {
        vec![LabelSpec { key: L::KEY, values: L::ALL.iter().map(|label| label.value()).collect() }]
    }
}

impl<A: Label, B: Label> Labels for (A, B) {
    fn specs() -> Vec<LabelSpec> {
        [A::specs(), B::specs()].concat()
    }
}

/// What a metric that is always 1 says in its labels.
pub trait Information {
    /// The labels' names.
    const KEYS: &'static [&'static str];
    /// Their values, in the same order.
    fn values(self) -> Vec<String>;
}

/// The program.
#[derive(Clone, Debug)]
pub struct Build {
    /// Its version.
    pub version: &'static str,
}

impl Information for Build {
    const KEYS: &'static [&'static str] = &["version"];
    fn values(self) -> Vec<String> {
        vec![self.version.to_owned()]
    }
}

/// What a run was configured to do.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where the model comes from.
    pub model: String,
    /// The kind of judge.
    pub judge: String,
    /// The training objective.
    pub objective: String,
    /// What is trained: an adapter or all weights.
    pub mode: String,
    /// N: critiques of a response.
    pub critiques: usize,
    /// M: refinements of a critique.
    pub refinements: usize,
    /// Groups of one learner step.
    pub groups_per_step: usize,
    /// Learner steps between two publications.
    pub publish_every_steps: u64,
    /// The greatest age of a group, in published versions.
    pub age_versions_max: u64,
}

impl Information for Settings {
    const KEYS: &'static [&'static str] = &[
        "model",
        "judge",
        "objective",
        "mode",
        "critiques",
        "refinements",
        "groups_per_step",
        "publish_every_steps",
        "age_versions_max",
    ];
    fn values(self) -> Vec<String> {
        vec![
            self.model,
            self.judge,
            self.objective,
            self.mode,
            self.critiques.to_string(),
            self.refinements.to_string(),
            self.groups_per_step.to_string(),
            self.publish_every_steps.to_string(),
            self.age_versions_max.to_string(),
        ]
    }
}

macro_rules! labels {
    ($(#[doc = $doc:literal] $name:ident $key:literal { $(#[doc = $variant_doc:literal] $variant:ident = $value:literal,)* })*) => {$(
        #[doc = $doc]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $name {
            $(#[doc = $variant_doc] $variant,)*
        }
        impl Label for $name {
            const KEY: &'static str = $key;
            const ALL: &'static [Self] = &[$(Self::$variant),*];
            fn value(self) -> &'static str {
                match self { $(Self::$variant => $value,)* }
            }
        }
    )*};
}

labels! {
    /// The outcome of an episode.
    EpisodeEnd "outcome" {
        /// Its group went to replay.
        Scored = "scored",
        /// All its critiques have the same utility: nothing to learn.
        ZeroVariance = "zero_variance",
        /// Fewer than two critiques had a utility.
        Unscored = "unscored",
        /// A role did not answer in time.
        Deadline = "deadline",
        /// Its text does not fit the context.
        TooLong = "too_long",
        /// The chat template or the tokenizer refused a text.
        Refused = "refused",
        /// A remote server gave no answer.
        Remote = "remote",
        /// Replay already had its group.
        Duplicate = "duplicate",
    }
    /// What became of a critic that was offered.
    SwapEnd "outcome" {
        /// The learner's publication is in service.
        Published = "published",
        /// An operator's critic is in service.
        Swapped = "swapped",
        /// The critic in service was taken back.
        RolledBack = "rolled_back",
        /// It did not pass its canary or its trial.
        Rejected = "rejected",
        /// Its files cannot be used: it was never registered.
        Refused = "refused",
    }
    /// Whose memory it is.
    MemoryOwner "owner" {
        /// The base model's weights, and those of the judge's own model.
        Weights = "weights",
        /// KV blocks that were used at least once.
        KvCache = "kv_cache",
        /// Critics in service, on trial, or writing the rest of a sequence.
        Critics = "critics",
        /// The critic that is trained, its gradient, and the optimizer's moments.
        Learner = "learner",
        /// Everything else: activations, texts, the program itself.
        Other = "other",
    }
    /// A group of the listener's addresses.
    HttpRoute "route" {
        /// `/metrics`.
        Metrics = "metrics",
        /// `/healthz`, `/health` and `/readyz`.
        Health = "health",
        /// `/v1/chat/completions`.
        Chat = "chat",
        /// `/v1/completions`.
        Completions = "completions",
        /// `/v1/critique`.
        Critique = "critique",
        /// `/v1/models`, `/tokenize` and `/detokenize`.
        Models = "models",
        /// `/events` and the annotations.
        Events = "events",
        /// `/episodes`.
        Episodes = "episodes",
        /// The node's page.
        Page = "page",
        /// `/admin/...`, and vLLM's routes of adapters.
        Admin = "admin",
        /// Anything else.
        Other = "other",
    }
    /// A group of HTTP status codes.
    HttpCode "code" {
        /// It was answered.
        Success = "2xx",
        /// The request is wrong or not allowed.
        ClientError = "4xx",
        /// Too many requests in flight.
        Busy = "429",
        /// The node failed or was not ready.
        ServerError = "5xx",
    }
    /// What became of an episode's record.
    RecordResult "result" {
        /// It was written.
        Written = "written",
        /// Too many records waited for the disk.
        LeftOut = "left_out",
        /// The disk failed.
        Failed = "failed",
    }
    /// Why a critique earned no utility.
    CritiqueDrop "reason" {
        /// No refinement of it got a valid verdict.
        NoVerdict = "no_verdict",
        /// Its refinements were not generated in time.
        Deadline = "deadline",
        /// Its refinements' prompt does not fit the context.
        TooLong = "too_long",
        /// The chat template or the tokenizer refused it.
        Refused = "refused",
        /// A remote server returned no refinement.
        Remote = "remote",
    }
    /// The outcome of one attempt to get an answer from a remote server.
    RemoteOutcome "outcome" {
        /// A readable answer.
        Answered = "answered",
        /// No answer in time.
        Timeout = "timeout",
        /// No connection, or it broke.
        Unreachable = "unreachable",
        /// The server is overloaded (429).
        Busy = "busy",
        /// The server failed (5xx).
        ServerError = "server_error",
        /// The server refused the request (another status).
        Refused = "refused",
        /// An unreadable answer.
        Unreadable = "unreadable",
    }
    /// Which tokens a remote server counted.
    RemoteTokens "kind" {
        /// Tokens of prompts.
        Prompt = "prompt",
        /// Tokens of answers.
        Completion = "completion",
    }
    /// A model judge's answer to one order of a pair.
    JudgeAnswer "answer" {
        /// The text shown first is better.
        First = "first",
        /// The text shown second is better.
        Second = "second",
        /// Neither is.
        Tie = "tie",
        /// No readable answer, or none in time.
        Invalid = "invalid",
    }
    /// How the two orders of a pair agree.
    OrderAgreement "orders" {
        /// Both prefer the same text, or both say tie.
        Same = "same",
        /// Each prefers a different text: the position decided.
        Opposite = "opposite",
        /// One says tie, the other does not.
        OneTie = "one_tie",
        /// One or both have no answer.
        Invalid = "invalid",
    }
    /// How the check of a program in the sandbox ended.
    ProgramEnd "end" {
        /// It passed its tests.
        Right = "right",
        /// A test failed, or the function is missing.
        Wrong = "wrong",
        /// It is not valid Python.
        Syntax = "syntax",
        /// It raised an exception.
        Exception = "exception",
        /// It ran out of time.
        Timeout = "timeout",
        /// It ran out of memory.
        Memory = "memory",
        /// It did what the sandbox forbids.
        Forbidden = "forbidden",
        /// Two runs differed, or it is too long: it has no score.
        Invalid = "invalid",
        /// The sandbox failed.
        Sandbox = "sandbox",
    }
    /// Why a group left replay.
    RetireReason "reason" {
        /// Older than the limit.
        Aged = "aged",
        /// Used as often as allowed.
        Used = "used",
        /// Pushed out by newer ones.
        Displaced = "displaced",
    }
    /// Which critic wrote a text, in its relation to the critic in service.
    VersionSlot "version" {
        /// The critic in service.
        Serving = "serving",
        /// The critic that was tried last on a share of the episodes.
        Candidate = "candidate",
        /// Another one: most often the critic that was in service when the text was begun.
        Other = "other",
        /// None: the role is not the critic.
        NoCritic = "none",
    }
    /// Where a piece of work is.
    Stage "stage" {
        /// An episode waits until its group can be used in time.
        Admission = "admission",
        /// The generator answers a prompt.
        Response = "response",
        /// The critic writes the critiques of a response.
        Critique = "critique",
        /// The generator refines its answer with one critique.
        Refinement = "refinement",
        /// The judge compares the refinements of one critique with the response.
        Verdict = "verdict",
        /// The judge compares the critiques of a response with each other.
        Preference = "preference",
        /// The end of an episode waits for the journal.
        Journal = "journal",
        /// The learner waits for groups.
        Lease = "lease",
        /// The learner takes a step.
        Learning = "learning",
        /// A checkpoint is written and its critic put into service.
        Publication = "publication",
        /// The critic in service is evaluated; the learner waits.
        Evaluation = "evaluation",
    }
}
