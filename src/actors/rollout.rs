//! The rollout actor: episodes, some at once, each in the order of the paper.
//!
//! `RolloutContext::episode` is RCO's data collection (arXiv 2506.22157, section 3) on one screen. It knows
//! whom to ask; it does not know how texts are written, judged or kept.
//!
//! Invariants: every lane ends every episode it begins, or dies with it, and then the episode is run
//! again; all seeds come from (node seed, episode, role, index), so it is then the same one; trouble
//! with one critique or one episode is counted and ends no more than that.

use super::judge::JudgeMsg;
use super::replay::ReplayMsg;
use super::role::RoleMsg;
use super::task::{Task, TaskResult, panic_text};
use super::{Failure, Reply, Unanswered, ask, dependency_lost};
use crate::episode::judge::{JudgeRequest, PreferenceRequest};
use crate::episode::role::{Answer, PromptBuilder, ResponseContext};
use crate::episode::sampling::SampleError;
use crate::episode::seed::seed;
use crate::prompts::PromptStream;
use crate::roles::{critic::Critic, generator::Generator, refiner::Refiner};
use crate::run::events::{Event, EventBus};
use crate::run::state::{DropReason, Outcome, Worker};
use crate::telemetry::metrics::{self, Label, Role};
use crate::types::{
    Completion, CritiqueGroup, EpisodeId, Invalid, Preference, Prompt, ScoredCritique, Verdict, utility,
};
use ractor::{Actor, ActorProcessingErr, ActorRef};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// The size of an episode, and how many are under way.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RolloutConfig {
    /// N of RCO: critiques of a response.
    pub critiques: usize,
    /// M of RCO: refinements of a critique.
    pub refinements: usize,
    /// Episodes under way at once.
    pub rollouts_max: usize,
    /// How long one role may take for one answer.
    pub ask_deadline_seconds: u64,
}

impl RolloutConfig {
    /// What is wrong with it.
    pub fn complaints(&self) -> Vec<String> {
        let mut complaints = Vec::new();
        let mut at_least = |key: &str, least: u64, got: u64| {
            if got < least {
                complaints.push(format!("rollout.{key}: expected at least {least}, got {got}"));
            }
        };
        at_least("critiques", 2, self.critiques as u64);
        at_least("refinements", 1, self.refinements as u64);
        at_least("rollouts_max", 1, self.rollouts_max as u64);
        at_least("ask_deadline_seconds", 1, self.ask_deadline_seconds);
        complaints
    }
}

/// Everyone an episode needs.
pub struct RolloutContext {
    /// Prompts.
    pub prompts: Arc<PromptStream>,
    /// Answers.
    pub generator: ActorRef<RoleMsg<Arc<Generator>>>,
    /// Criticises.
    pub critic: ActorRef<RoleMsg<Arc<Critic>>>,
    /// Refines.
    pub refiner: ActorRef<RoleMsg<Arc<Refiner>>>,
    /// Compares.
    pub judge: ActorRef<JudgeMsg>,
    /// Takes groups.
    pub replay: ActorRef<ReplayMsg>,
    /// N, M and limits.
    pub config: RolloutConfig,
    /// Whether the judge compares critiques with each other too.
    pub critique_preferences: bool,
    /// The node's seed.
    pub seed: u64,
    /// How many lives the rollout actor has had.
    pub generation: u64,
    /// The wish to stop.
    pub stop: CancellationToken,
    /// Who is told.
    pub events: EventBus,
}

/// What the rollout actor can be told.
pub enum RolloutMsg {
    /// All lanes have ended.
    Finish(TaskResult),
    /// Answer when all lanes have ended, which they do once a stop is wished for.
    Drain {
        /// Where to.
        reply: Reply<()>,
    },
}

/// The shell.
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

/// What ends an episode early.
enum EpisodeError {
    /// It makes no group.
    Dropped(DropReason),
    /// It cannot go on, and is run again.
    Failed(Failure),
}

impl From<Failure> for EpisodeError {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
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

    /// Episode after episode, until a stop is wished for.
    async fn worker(self: Arc<Self>, worker: Worker) -> TaskResult {
        while let Some(episode) = self.begin(worker).await? {
            let (_in_flight, begun) = (metrics::EPISODES_IN_FLIGHT.guard(), Instant::now());
            let outcome = match self.clone().episode(episode).await {
                Ok(group) => Outcome::Group(group),
                Err(EpisodeError::Dropped(reason)) => Outcome::Dropped(reason),
                Err(EpisodeError::Failed(failure)) => return Err(failure),
            };
            self.end(episode, outcome).await?;
            metrics::EPISODE_SECONDS.record(begun.elapsed().as_secs_f64());
        }
        Ok(())
    }

    /// One prompt's whole tree.
    async fn episode(self: Arc<Self>, episode: EpisodeId) -> Result<CritiqueGroup, EpisodeError> {
        let prompt = Arc::new(self.prompts.prompt(episode).clone());
        let seed = |role, index| seed(self.seed, episode, role, index);

        // y0 ~ generator(. | x)
        let answer = self.write(&self.generator, prompt.clone(), 1, seed(Role::Generator, 0)).await?;
        let opening = Arc::new(opening(prompt.clone(), answer)?);

        // c_1 .. c_N ~ critic(. | x, y0)
        let critiques = self.write(&self.critic, opening.clone(), self.config.critiques, seed(Role::Critic, 0)).await?;

        let texts: Vec<_> = critiques.written.into_iter().map(Arc::new).collect();
        // DPCO, RCO's control: which critiques the judge prefers by themselves. Indices behind the critiques' own.
        let mut preferring = JoinSet::new();
        if self.critique_preferences {
            let contest = PreferenceRequest { opening: opening.clone(), critiques: texts.clone() };
            preferring.spawn(self.clone().prefer(contest, seed(Role::Judge, texts.len() as u64)));
        }

        // CU_i = mean over j of PS(y_ij, y0), y_i1 .. y_iM ~ generator(. | x, y0, c_i)
        let mut scoring = JoinSet::new();
        for (index, critique) in texts.into_iter().enumerate() {
            let seeds = [seed(Role::Refiner, index as u64), seed(Role::Judge, index as u64)];
            let scored = self.clone().score(opening.clone(), critique, seeds);
            scoring.spawn(async move { (index, scored.await) });
        }
        let mut scored = Vec::with_capacity(self.config.critiques);
        while let Some(one) = scoring.join_next().await {
            let (index, one) = one.map_err(|error| Failure::Panicked(panic_text(error)))?;
            match one {
                Ok(critique) => scored.push((index, critique)),
                Err(EpisodeError::Dropped(reason)) => self.events.emit(Event::CritiqueDropped(reason)),
                Err(failed) => return Err(failed),
            }
        }
        if scored.len() < 2 {
            return Err(EpisodeError::Dropped(DropReason::FewCritiques));
        }
        scored.sort_by_key(|(index, _)| *index);
        let kept: Vec<usize> = scored.iter().map(|(index, _)| *index).collect();
        let preferences = match preferring.join_next().await {
            Some(preferred) => preferred.map_err(|error| Failure::Panicked(panic_text(error)))??,
            None => Vec::new(),
        };
        Ok(CritiqueGroup {
            episode,
            prompt_id: prompt.id.clone(),
            task: prompt.task.clone(),
            prefix_ids: critiques.rendered.ids,
            critiques: scored.into_iter().map(|(_, critique)| critique).collect(),
            preferences: preferences.into_iter().filter_map(|preference| among(&kept, preference)).collect(),
        })
    }

    /// One critique's refinements and what they are worth.
    async fn score(
        self: Arc<Self>,
        opening: Arc<ResponseContext>,
        critique: Arc<Completion>,
        [refining, judging]: [u64; 2],
    ) -> Result<ScoredCritique, EpisodeError> {
        let input = (opening.clone(), critique.clone());
        let refinements = self.write(&self.refiner, input, self.config.refinements, refining).await?.written;
        let verdicts = self.judge(JudgeRequest { opening, critique: critique.clone(), refinements }, judging).await?;
        let utility = utility(&verdicts).ok_or(EpisodeError::Dropped(DropReason::NoVerdict))?;
        self.events.emit(Event::CritiqueScored(utility));
        Ok(ScoredCritique { completion: Arc::unwrap_or_clone(critique), utility, verdicts })
    }

    /// The lane's next episode, whenever it may begin; none once a stop is wished for.
    async fn begin(&self, worker: Worker) -> Result<Option<EpisodeId>, Failure> {
        loop {
            let begun = tokio::select! {
                biased;
                () = self.stop.cancelled() => return Ok(None),
                begun = ask(&self.replay, self.deadline(), |reply| ReplayMsg::Begin { worker, reply }) => begun,
            };
            match begun {
                Ok(episode) => return Ok(Some(episode)),
                Err(Unanswered::Deadline) => {}
                Err(Unanswered::Gone) => return Err(dependency_lost("replay", self.deadline()).await),
            }
        }
    }

    async fn end(&self, episode: EpisodeId, outcome: Outcome) -> Result<(), Failure> {
        match ask(&self.replay, self.deadline(), |reply| ReplayMsg::End { episode, outcome, reply }).await {
            Ok(_) => Ok(()),
            Err(_) => Err(dependency_lost("replay", self.deadline()).await),
        }
    }

    async fn write<P: PromptBuilder>(
        &self,
        role: &ActorRef<RoleMsg<P>>,
        input: P::Input,
        n: usize,
        seed: u64,
    ) -> Result<Answer, EpisodeError> {
        // The role itself keeps the deadline; this one is for a role that does not.
        let patience = self.deadline() + GRACE;
        match ask(role, patience, |reply| RoleMsg::Write { input, n, seed, reply }).await {
            Ok(Ok(answer)) => Ok(answer),
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

    async fn judge(&self, case: JudgeRequest, seed: u64) -> Result<Vec<Verdict>, EpisodeError> {
        let late = vec![Verdict::Invalid(Invalid::Deadline); case.refinements.len()];
        self.ask_judge(late, |reply| JudgeMsg::Compare { case, seed, reply }).await
    }

    /// What the judge prefers among critiques; nothing where it does not say so in time.
    async fn prefer(self: Arc<Self>, contest: PreferenceRequest, seed: u64) -> Result<Vec<Preference>, EpisodeError> {
        self.ask_judge(Vec::new(), |reply| JudgeMsg::Prefer { contest, seed, reply }).await
    }

    /// What the judge answers; `late` where it does not in time.
    async fn ask_judge<T>(
        &self,
        late: T,
        message: impl FnOnce(Reply<Result<T, SampleError>>) -> JudgeMsg,
    ) -> Result<T, EpisodeError> {
        match ask(&self.judge, self.deadline() + GRACE, message).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(SampleError::Deadline | SampleError::TooLong | SampleError::Remote(_)))
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

/// How much longer than the role's own deadline its asker waits.
const GRACE: Duration = Duration::from_secs(5);

fn opening(prompt: Arc<Prompt>, answer: Answer) -> Result<ResponseContext, Failure> {
    let Answer { rendered, mut written } = answer;
    let why = || Failure::Role { role: Role::Generator.value(), why: "expected one text, got none".to_owned() };
    Ok(ResponseContext { prompt, rendered, response: written.pop().ok_or_else(why)? })
}

/// The preference between critiques that were asked for, as one between those that were `kept`.
fn among(kept: &[usize], Preference { chosen, rejected }: Preference) -> Option<Preference> {
    let place = |asked: usize| kept.binary_search(&asked).ok();
    Some(Preference { chosen: place(chosen)?, rejected: place(rejected)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn preferences_follow_the_critiques_that_were_kept() {
        let preference = |chosen, rejected| Preference { chosen, rejected };
        assert_eq!(among(&[0, 2, 3], preference(3, 0)), Some(preference(2, 0)));
        assert_eq!(among(&[0, 2, 3], preference(2, 3)), Some(preference(1, 2)));
        assert_eq!(among(&[0, 2, 3], preference(1, 3)), None);
        assert_eq!(among(&[0, 2, 3], preference(3, 1)), None);
    }
}
