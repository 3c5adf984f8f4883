//! The rollout actor: runs episodes, several at once, by asking the role actors, the judge and replay.
//!
//! [`run_episode`] is the algorithm. This actor does not know how texts are written, judged or stored.
//!
//! Invariants: a worker ends every episode it begins; if the actor fails first, the same episode is run again; an error
//! of one critique or episode is counted and drops only that one.

use super::ask::ask_patiently;
use super::judge::JudgeMsg;
use super::refusals::Refusals;
use super::replay::ReplayMsg;
use super::role::RoleMsg;
use super::task::{Task, TaskResult, panic_text};
use super::{Failure, Reply, Unanswered, ask, dependency_lost};
use crate::episode::judge::{JudgeRequest, PreferenceRequest};
use crate::episode::role::{PromptBuilder, ResponseContext, RoleOutput};
use crate::episode::sampling::SampleError;
use crate::episode::tree::{EpisodeError, EpisodeSpec, Participants, RolloutConfig, run_episode};
use crate::prompts::PromptStream;
use crate::roles::{critic::Critic, generator::Generator, refiner::Refiner};
use crate::run::events::EventBus;
use crate::run::state::{DropReason, Outcome, Worker};
use crate::telemetry::metrics::{self, Label, Role};
use crate::types::{Completion, EpisodeId, Invalid, Preference, Prompt, Verdict};
use ractor::{Actor, ActorProcessingErr, ActorRef};
use std::sync::Arc;
use std::time::{Duration, Instant};
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
    /// N, M and limits.
    pub config: RolloutConfig,
    /// Whether the judge compares critiques with each other too.
    pub critique_preferences: bool,
    /// The node's seed.
    pub seed: u64,
    /// How often the rollout actor was started.
    pub generation: u64,
    /// Which of the last requests were refused.
    pub refusals: Refusals,
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
        let mut workers = JoinSet::new();
        for index in 0..self.config.rollouts_max {
            workers.spawn(self.clone().worker(Worker { generation: self.generation, index }));
        }
        while let Some(ended) = workers.join_next().await {
            ended.map_err(|error| Failure::Panicked(panic_text(error)))??;
        }
        Ok(())
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
            let outcome = match run_episode(self.clone(), self.spec(episode), self.events.clone()).await {
                Ok(group) => Outcome::Group(group),
                Err(EpisodeError::Dropped(reason)) => Outcome::Dropped(reason),
                Err(EpisodeError::Failed(failure)) => return Err(failure),
            };
            self.end(episode, outcome).await?;
            metrics::EPISODE_SECONDS.record(started.elapsed().as_secs_f64());
        }
        Ok(())
    }

    /// The worker's next episode, as soon as it may begin; none after a stop is requested.
    async fn begin(&self, worker: Worker) -> Result<Option<EpisodeId>, Failure> {
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

    /// Ends an episode; waits as long as the disk takes.
    async fn end(&self, episode: EpisodeId, outcome: Outcome) -> Result<(), Failure> {
        let message = |reply| ReplayMsg::End { episode, outcome: outcome.clone(), reply };
        match ask_patiently(&self.replay, self.deadline(), message).await {
            Some(_) => Ok(()),
            None => Err(dependency_lost("replay", self.deadline()).await),
        }
    }

    async fn write<P: PromptBuilder>(
        &self,
        role: &ActorRef<RoleMsg<P>>,
        input: P::Input,
        n: usize,
        seed: u64,
    ) -> Result<RoleOutput, EpisodeError<Failure>> {
        // The role enforces the deadline; this longer one catches a role that does not.
        let deadline = self.deadline() + GRACE;
        match ask(role, deadline, |reply| RoleMsg::Write { input, n, seed, reply }).await {
            Ok(Ok(output)) => {
                self.refusals.count(None)?;
                Ok(output)
            }
            Ok(Err(SampleError::Refused(why))) => {
                tracing::warn!(role = P::ROLE.value(), why, "a text was refused");
                self.refusals.count(Some(why))?;
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

/// How much longer than the role's own deadline the caller waits.
const GRACE: Duration = Duration::from_secs(5);

impl Participants for RolloutContext {
    type Failure = Failure;

    async fn respond(&self, prompt: Arc<Prompt>, seed: u64) -> Result<RoleOutput, EpisodeError<Failure>> {
        self.write(&self.generator, prompt, 1, seed).await
    }

    async fn criticise(
        &self,
        context: Arc<ResponseContext>,
        n: usize,
        seed: u64,
    ) -> Result<RoleOutput, EpisodeError<Failure>> {
        self.write(&self.critic, context, n, seed).await
    }

    async fn refine(
        &self,
        context: Arc<ResponseContext>,
        critique: Arc<Completion>,
        m: usize,
        seed: u64,
    ) -> Result<RoleOutput, EpisodeError<Failure>> {
        self.write(&self.refiner, (context, critique), m, seed).await
    }

    async fn judge(&self, request: JudgeRequest, seed: u64) -> Result<Vec<Verdict>, EpisodeError<Failure>> {
        let late = vec![Verdict::Invalid(Invalid::Deadline); request.refinements.len()];
        self.ask_judge(late, |reply| JudgeMsg::Compare { request, seed, reply }).await
    }

    /// No preferences where the judge does not answer in time.
    async fn prefer(&self, request: PreferenceRequest, seed: u64) -> Result<Vec<Preference>, EpisodeError<Failure>> {
        self.ask_judge(Vec::new(), |reply| JudgeMsg::Prefer { request, seed, reply }).await
    }

    fn no_response(&self) -> Failure {
        Failure::Role { role: Role::Generator.value(), why: "expected one text, got none".to_owned() }
    }

    fn panicked(&self, error: JoinError) -> Failure {
        Failure::Panicked(panic_text(error))
    }
}
