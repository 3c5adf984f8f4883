//! The rollout actor: runs episodes, several at once, by asking the role actors, the judge and replay.
//!
//! [`run_episode`] is the algorithm. This actor does not know how texts are written, judged or stored.
//!
//! Invariants: a worker ends every episode it begins; if the actor fails first, the same episode is run again; an error
//! of one critique or episode is counted and drops only that one.

use super::ask::ask_patiently;
use super::gates::{Part, Pauses};
use super::judge::JudgeMsg;
use super::refusals::Refusals;
use super::replay::ReplayMsg;
use super::role::RoleMsg;
use super::swap::{Share, SwapMsg};
use super::task::{Task, TaskResult, panic_text};
use super::tuning::ROLLOUTS_MAX;
use super::{Failure, Reply, Unanswered, ask, dependency_lost};
use crate::episode::judge::{JudgeRequest, PreferenceRequest};
use crate::episode::role::{PromptBuilder, ResponseContext, RoleOutput};
use crate::episode::sampling::SampleError;
use crate::episode::trace::EpisodeTrace;
use crate::episode::tree::{EpisodeError, EpisodeSpec, Participants, RolloutConfig, run_episode};
use crate::prompts::PromptStream;
use crate::records::{Ending, EpisodeRecorder};
use crate::roles::{critic::Critic, generator::Generator, refiner::Refiner};
use crate::run::events::EventBus;
use crate::run::state::{DropReason, Outcome, Worker};
use crate::telemetry::metrics::{self, Label, Role, Stage};
use crate::telemetry::stages;
use crate::types::{ActorKind, Completion, CriticVersion, EpisodeId, Invalid, Preference, Prompt, Pushed, Verdict};
use ractor::{Actor, ActorProcessingErr, ActorRef};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tokio::task::{JoinError, JoinSet};
use tokio_util::sync::CancellationToken;

/// What the rollout actor runs episodes with.
pub struct RolloutContext {
    /// Prompts.
    pub prompts: Arc<PromptStream>,
    /// The generator.
    pub generator: ActorRef<RoleMsg<Arc<Generator>>>,
    /// The critic.
    pub critic: ActorRef<RoleMsg<Arc<Critic>>>,
    /// The refiner.
    pub refiner: ActorRef<RoleMsg<Arc<Refiner>>>,
    /// The judge.
    pub judge: ActorRef<JudgeMsg>,
    /// Receives groups.
    pub replay: ActorRef<ReplayMsg>,
    /// Told of what they earned.
    pub swap: ActorRef<SwapMsg>,
    /// The share of the episodes that a candidate is tried on, if there is one.
    pub share: watch::Receiver<Option<Share>>,
    /// Episodes that run at once.
    pub rollouts_max: watch::Receiver<usize>,
    /// N, M and limits.
    pub config: RolloutConfig,
    /// Whether the judge compares critiques with each other too.
    pub critique_preferences: bool,
    /// The node's seed.
    pub seed: u64,
    /// How often the rollout actor was started.
    pub generation: u64,
    /// The records of episodes; none if none are kept.
    pub records: Option<Arc<EpisodeRecorder>>,
    /// Which of the last requests were refused.
    pub refusals: Refusals,
    /// How long episodes may end without a group before the run gives up; none for ever.
    pub useless_max: Option<Duration>,
    /// What operators have paused.
    pub pauses: Pauses,
    /// Cancelled when the node is asked to stop.
    pub stop: CancellationToken,
    /// Where events go.
    pub events: EventBus,
}

/// Messages of the rollout actor.
pub enum RolloutMsg {
    /// All workers have ended.
    Finish(TaskResult),
    /// Reply when all workers have ended, which happens after a stop is requested.
    Drain {
        /// Receives the answer.
        reply: Reply<()>,
    },
}

/// The actor.
pub struct RolloutActor;

impl Actor for RolloutActor {
    type Msg = RolloutMsg;
    type State = Task;
    type Arguments = Arc<RolloutContext>;

    async fn pre_start(
        &self,
        myself: ActorRef<RolloutMsg>,
        context: Arc<RolloutContext>,
    ) -> Result<Task, ActorProcessingErr> {
        Ok(Task::start(myself, RolloutMsg::Finish, context.run()))
    }

    async fn handle(
        &self,
        _: ActorRef<RolloutMsg>,
        message: RolloutMsg,
        work: &mut Task,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            RolloutMsg::Finish(result) => work.finish(result)?,
            RolloutMsg::Drain { reply } => work.notify(reply),
        }
        Ok(())
    }
}

impl RolloutContext {
    async fn run(self: Arc<Self>) -> TaskResult {
        metrics::EPISODES_LIMIT.set(*self.rollouts_max.borrow() as f64);
        let mut workers = JoinSet::new();
        // The limit may be raised while the node runs: the workers beyond it wait.
        for index in 0..ROLLOUTS_MAX.max(self.config.rollouts_max) {
            workers.spawn(self.clone().worker(Worker { generation: self.generation, index }));
        }
        let ended = async {
            while let Some(ended) = workers.join_next().await {
                ended.map_err(|error| Failure::Panicked(panic_text(error)))??;
            }
            Ok(())
        };
        tokio::select! {
            ended = ended => ended,
            failure = self.is_useless() => Err(failure),
        }
    }

    /// Resolves when every episode has been dropped for as long as the run allows.
    async fn is_useless(&self) -> Failure {
        let Some(useless_max) = self.useless_max else { return std::future::pending().await };
        let mut looks = tokio::time::interval(LOOK);
        loop {
            looks.tick().await;
            let rollout = self.events.progress().rollout;
            if let Some(useless) = rollout.useless(Instant::now()).filter(|useless| *useless >= useless_max) {
                let seconds = useless.as_secs();
                return Failure::Useless { seconds, dropped: rollout.dropped_in_all(), why: rollout.why() };
            }
        }
    }

    fn spec(&self, episode: EpisodeId) -> EpisodeSpec {
        EpisodeSpec {
            episode,
            prompt: Arc::new(self.prompts.prompt(episode).clone()),
            critiques: self.config.critiques,
            refinements: self.config.refinements,
            critique_preferences: self.critique_preferences,
            seed: self.seed,
        }
    }

    /// Runs episode after episode until a stop is requested.
    async fn worker(self: Arc<Self>, worker: Worker) -> TaskResult {
        while let Some(episode) = self.begin(worker).await? {
            let (_in_flight, started) = (metrics::EPISODES_IN_FLIGHT.guard(), Instant::now());
            let jobs = self.events.jobs(ActorKind::Rollout);
            let _job = jobs.begin("runs an episode", format!("episode {}", episode.0));
            let spec = self.spec(episode);
            let trace = match &self.records {
                Some(_) => EpisodeTrace::new(spec.prompt.clone()),
                None => EpisodeTrace::none(),
            };
            let outcome = match run_episode(self.clone(), spec, self.events.clone(), trace.clone()).await {
                Ok(group) => Outcome::Group(group),
                Err(EpisodeError::Dropped(reason)) => Outcome::Dropped(reason),
                Err(EpisodeError::Failed(failure)) => return Err(failure),
            };
            let scored = match &outcome {
                Outcome::Group(group) => Some(SwapMsg::of(group)),
                Outcome::Dropped(_) => None,
            };
            let dropped = match &outcome {
                Outcome::Group(_) => None,
                Outcome::Dropped(reason) => Some(*reason),
            };
            let pushed = self.end(episode, outcome).await?;
            if let (Some(records), Some(tree), Some(end)) = (&self.records, trace.tree(), ending(pushed)) {
                records.record(episode, (end, dropped), started.elapsed(), tree);
            }
            // A swap actor that failed is restarted, and this actor with it.
            drop(scored.map(|scored| self.swap.send_message(scored)));
            self.refusals.ended(dropped == Some(DropReason::Refused))?;
            metrics::EPISODE_SECONDS.record(started.elapsed().as_secs_f64());
        }
        Ok(())
    }

    /// The worker's next episode, as soon as it may begin; none after a stop is requested.
    async fn begin(&self, worker: Worker) -> Result<Option<EpisodeId>, Failure> {
        tokio::select! {
            biased;
            () = self.stop.cancelled() => return Ok(None),
            () = self.has_turn(worker) => {}
        }
        let _waiting = stages::enter(Stage::Admission);
        let _job = self.events.jobs(ActorKind::Rollout).begin("waits for the learner to catch up", "");
        let episode = tokio::select! {
            biased;
            () = self.stop.cancelled() => return Ok(None),
            answer = ask_patiently(&self.replay, self.deadline(), |reply| ReplayMsg::Begin { worker, reply }) => answer,
        };
        match episode {
            Some(episode) => Ok(Some(episode)),
            None => Err(dependency_lost("replay", self.deadline()).await),
        }
    }

    /// Resolves when rollout is not paused and the worker is within the limit.
    async fn has_turn(&self, worker: Worker) {
        let mut limit = self.rollouts_max.clone();
        // The sender outlives every actor.
        let _ = limit.wait_for(|limit| worker.index < *limit).await;
        self.pauses.go_on(Part::Rollout).await;
    }

    /// Ends an episode; waits as long as the disk takes. Returns what became of its group.
    async fn end(&self, episode: EpisodeId, outcome: Outcome) -> Result<Option<Pushed>, Failure> {
        let _ending = stages::enter(Stage::Journal);
        let message = |reply| ReplayMsg::End { episode, outcome: outcome.clone(), reply };
        match ask_patiently(&self.replay, self.deadline(), message).await {
            Some(pushed) => Ok(pushed),
            None => Err(dependency_lost("replay", self.deadline()).await),
        }
    }

    async fn write<P: PromptBuilder>(
        &self,
        role: &ActorRef<RoleMsg<P>>,
        input: P::Input,
        n: usize,
        seed: u64,
        version: Option<CriticVersion>,
    ) -> Result<RoleOutput, EpisodeError<Failure>> {
        // The role enforces the deadline; this longer one catches a role that does not.
        let deadline = self.deadline() + GRACE;
        match ask(role, deadline, |reply| RoleMsg::Write { input, n, seed, version, reply }).await {
            Ok(Ok(output)) => Ok(output),
            Ok(Err(SampleError::Refused(why))) => {
                self.refusals.refused(P::ROLE.value(), &why);
                Err(EpisodeError::Dropped(DropReason::Refused))
            }
            Ok(Err(SampleError::Deadline)) | Err(Unanswered::Deadline) => {
                Err(EpisodeError::Dropped(DropReason::Deadline))
            }
            Ok(Err(SampleError::TooLong)) => Err(EpisodeError::Dropped(DropReason::TooLong)),
            Ok(Err(SampleError::Remote(_))) => Err(EpisodeError::Dropped(DropReason::Remote)),
            Ok(Err(SampleError::Broken(why))) => Err(Failure::Role { role: P::ROLE.value(), why }.into()),
            Ok(Err(SampleError::Gone)) | Err(Unanswered::Gone) => {
                Err(dependency_lost(P::ROLE.value(), self.deadline()).await.into())
            }
        }
    }

    /// The judge's answer; `late` if it misses the deadline, the prompt is too long or the server fails.
    async fn ask_judge<T>(
        &self,
        late: T,
        message: impl FnOnce(Reply<Result<T, SampleError>>) -> JudgeMsg,
    ) -> Result<T, EpisodeError<Failure>> {
        match ask(&self.judge, self.deadline() + GRACE, message).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(
                SampleError::Deadline | SampleError::TooLong | SampleError::Refused(_) | SampleError::Remote(_),
            ))
            | Err(Unanswered::Deadline) => Ok(late),
            Ok(Err(SampleError::Broken(why))) => Err(Failure::Role { role: Role::Judge.value(), why }.into()),
            Ok(Err(SampleError::Gone)) | Err(Unanswered::Gone) => {
                Err(dependency_lost(Role::Judge.value(), self.deadline()).await.into())
            }
        }
    }

    fn deadline(&self) -> Duration {
        Duration::from_secs(self.config.ask_deadline_seconds)
    }
}

/// How an episode's record says that it ended; none if it ended before, with a record of its own.
fn ending(pushed: Option<Pushed>) -> Option<Ending> {
    match pushed {
        Some(Pushed::Duplicate) => None,
        Some(Pushed::Kept) => Some(Ending::Kept),
        Some(Pushed::ZeroVariance) => Some(Ending::ZeroVariance),
        None => Some(Ending::Dropped),
    }
}

/// The time between two looks at what rollout yields.
const LOOK: Duration = Duration::from_secs(1);
/// How much longer than the role's own deadline the caller waits.
const GRACE: Duration = Duration::from_secs(5);

impl Participants for RolloutContext {
    type Failure = Failure;

    async fn respond(&self, prompt: Arc<Prompt>, seed: u64) -> Result<RoleOutput, EpisodeError<Failure>> {
        let _stage = stages::enter(Stage::Response);
        self.write(&self.generator, prompt, 1, seed, None).await
    }

    async fn criticise(
        &self,
        context: Arc<ResponseContext>,
        n: usize,
        seed: u64,
    ) -> Result<RoleOutput, EpisodeError<Failure>> {
        let candidate = *self.share.borrow();
        let candidate = candidate.filter(|share| share.takes(seed)).map(|share| share.version);
        let _stage = stages::enter(Stage::Critique);
        self.write(&self.critic, context, n, seed, candidate).await
    }

    async fn refine(
        &self,
        context: Arc<ResponseContext>,
        critique: Arc<Completion>,
        m: usize,
        seed: u64,
    ) -> Result<RoleOutput, EpisodeError<Failure>> {
        let _stage = stages::enter(Stage::Refinement);
        self.write(&self.refiner, (context, critique), m, seed, None).await
    }

    async fn judge(&self, request: JudgeRequest, seed: u64) -> Result<Vec<Verdict>, EpisodeError<Failure>> {
        let _stage = stages::enter(Stage::Verdict);
        let late = vec![Verdict::Invalid(Invalid::Deadline); request.refinements.len()];
        let verdicts = self.ask_judge(late, |reply| JudgeMsg::Compare { request, seed, reply }).await?;
        if verdicts.contains(&Verdict::Invalid(Invalid::Refused)) {
            self.refusals.refused(Role::Judge.value(), "one of its prompts");
        }
        Ok(verdicts)
    }

    /// No preferences where the judge does not answer in time.
    async fn prefer(&self, request: PreferenceRequest, seed: u64) -> Result<Vec<Preference>, EpisodeError<Failure>> {
        let _stage = stages::enter(Stage::Preference);
        self.ask_judge(Vec::new(), |reply| JudgeMsg::Prefer { request, seed, reply }).await
    }

    fn no_response(&self) -> Failure {
        Failure::Role { role: Role::Generator.value(), why: "expected one text, got none".to_owned() }
    }

    fn panicked(&self, error: JoinError) -> Failure {
        Failure::Panicked(panic_text(error))
    }
}
