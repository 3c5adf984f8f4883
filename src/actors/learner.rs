//! The learner actor: lease a batch, learn it, settle it; publish every N steps.
//!
//! [`LearnerLoop`] is the whole loop, in order. It does not know how a loss is computed.
//!
//! Invariant: a batch is settled after the device applied it, and the device applies a batch once, so a restarted loop
//! continues where the last one stopped.

use super::ask::{Reply, ask_patiently};
use super::failure::{Failure, dependency_lost};
use super::publish::Publisher;
use super::replay::ReplayMsg;
use super::task::{Task, TaskResult};
use crate::device;
use crate::episode::models::Models;
use crate::episode::online_eval::OnlineEval;
use crate::episode::sampling::SampleError;
use crate::learner::{self, FailureStreak, LearnerConfig, Report};
use crate::replay::Lease;
use crate::run::events::Event;
use crate::run::state::Position;
use crate::types::CriticVersion;
use ractor::{Actor, ActorProcessingErr, ActorRef};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

/// The learner actor's messages.
pub enum LearnerMsg {
    /// The loop has ended.
    Finish(TaskResult),
    /// Answer once the loop has ended, which it does after a stop.
    Drain {
        /// Receives the answer.
        reply: Reply<()>,
    },
}

/// What the loop needs.
pub struct LearnerLoop {
    /// The device, replay, and the publisher of critics.
    pub publisher: Publisher,
    /// How steps are taken.
    pub config: LearnerConfig,
    /// The run stops after this many steps in all.
    pub steps_max: Option<u64>,
    /// The request to stop.
    pub stop: CancellationToken,
    /// The evaluation of the critic in service and the models it asks; none if there is none.
    pub eval: Option<(Arc<OnlineEval>, Arc<Models>)>,
}

/// The actor.
pub struct LearnerActor;

impl Actor for LearnerActor {
    type Msg = LearnerMsg;
    type State = Task;
    type Arguments = LearnerLoop;

    async fn pre_start(
        &self,
        myself: ActorRef<LearnerMsg>,
        learner_loop: LearnerLoop,
    ) -> Result<Task, ActorProcessingErr> {
        Ok(Task::start(myself, LearnerMsg::Finish, learner_loop.run()))
    }

    async fn handle(
        &self,
        _: ActorRef<LearnerMsg>,
        message: LearnerMsg,
        task: &mut Task,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            LearnerMsg::Finish(result) => task.finish(result)?,
            LearnerMsg::Drain { reply } => task.notify(reply),
        }
        Ok(())
    }
}

/// The outcome of a batch.
enum Step {
    Taken(Report),
    /// Loss or gradient was not finite.
    Refused(String),
    /// It took too long and was abandoned.
    Late,
}

impl LearnerLoop {
    async fn run(self) -> TaskResult {
        let Position { mut step, mut published_step, mut version } =
            self.publisher.ask_replay(|reply| ReplayMsg::Position { reply }).await?;
        let mut streak = FailureStreak::default();
        self.evaluate(None, step, version).await?;
        loop {
            if self.config.is_publication_due(step, published_step) {
                version = CriticVersion(version.0 + 1);
                self.publisher.publish(version, &self.stop).await?;
                self.evaluate(Some(published_step), step, version).await?;
                published_step = step;
            }
            if self.steps_max.is_some_and(|max| step >= max) {
                self.stop.cancel();
            }
            let Some(lease) = self.lease().await? else { return Ok(()) };
            match self.learn(&lease, version).await? {
                None => return Ok(()),
                Some(Step::Taken(report)) => {
                    step = report.step;
                    streak.reset();
                    self.settle(lease.batch, Some(step)).await?;
                }
                Some(Step::Refused(why)) => {
                    count_failure(&mut streak, &why)?;
                    self.settle(lease.batch, None).await?;
                    self.publisher.events.emit(Event::BatchDiscarded { batch: lease.batch, why });
                }
                Some(Step::Late) => count_failure(&mut streak, "deadline passed")?,
            }
        }
    }

    /// The next batch, as soon as there is one; none after a stop.
    async fn lease(&self) -> Result<Option<Lease>, Failure> {
        let (groups, Publisher { replay, deadline, .. }) = (self.config.groups_per_step, &self.publisher);
        let lease = tokio::select! {
            biased;
            () = self.stop.cancelled() => return Ok(None),
            lease = ask_patiently(replay, *deadline, |reply| ReplayMsg::Lease { groups, reply }) => lease,
        };
        match lease {
            Some(lease) => Ok(Some(lease)),
            None => Err(dependency_lost("replay", *deadline).await),
        }
    }

    /// One step on `lease`; none if it was abandoned because of a stop.
    async fn learn(&self, lease: &Lease, version: CriticVersion) -> Result<Option<Step>, Failure> {
        let Publisher { device, deadline, events, .. } = &self.publisher;
        let started = Instant::now();
        let learn = device.learn(lease.batch, lease.groups.clone());
        let learned = match tokio::time::timeout(Duration::from_secs(self.config.step_deadline_seconds), learn).await {
            Ok(learned) => learned,
            Err(_) => {
                device.abandon().await?;
                return Ok(Some(Step::Late));
            }
        };
        match learned {
            Ok(report) => {
                let critiques = lease.groups.iter().flat_map(|group| &group.critiques);
                events.emit(Event::Learned {
                    batch: lease.batch,
                    episodes: lease.groups.iter().map(|group| group.episode).collect(),
                    ages_versions: critiques.map(|critique| critique.completion.version.age(version)).collect(),
                    report: report.clone(),
                    seconds: started.elapsed().as_secs_f64(),
                });
                Ok(Some(Step::Taken(report)))
            }
            Err(device::Error::Learner(learner::Error::Abandoned)) if self.stop.is_cancelled() => Ok(None),
            Err(device::Error::Learner(learner::Error::Abandoned)) => Ok(Some(Step::Late)),
            Err(device::Error::Learner(error)) if error.is_refusal() => Ok(Some(Step::Refused(error.to_string()))),
            Err(device::Error::Gone) => Err(dependency_lost("the device", *deadline).await),
            Err(error) => Err(error.into()),
        }
    }

    async fn settle(&self, batch: u64, step: Option<u64>) -> Result<(), Failure> {
        self.publisher.ask_replay(|reply| ReplayMsg::Settle { batch, step, reply }).await
    }

    /// Evaluates the critic in service if an evaluation is due after `step`; the learner waits. An error ends the
    /// evaluation and nothing else.
    async fn evaluate(&self, before: Option<u64>, step: u64, version: CriticVersion) -> Result<(), Failure> {
        let Some((eval, models)) = &self.eval else { return Ok(()) };
        if !eval.is_due(before, step) {
            return Ok(());
        }
        let Publisher { device, checkpoints, deadline, events, .. } = &self.publisher;
        let started = Instant::now();
        let summary = tokio::select! {
            biased;
            () = self.stop.cancelled() => return Ok(()),
            summary = eval.evaluate(models.clone(), device.clone()) => summary,
        };
        let summary = match summary {
            Ok(summary) => summary,
            Err(SampleError::Gone) => return Err(dependency_lost("the device", *deadline).await),
            Err(error) => {
                events.emit(Event::EvalFailed(error.to_string()));
                return Ok(());
            }
        };
        let (checkpoints, cu) = (checkpoints.clone(), summary.cu);
        let keep = move || cu.map_or(Ok(false), |cu| checkpoints.keep_if_best(step, cu.value));
        let best = tokio::task::spawn_blocking(keep).await.map_err(Failure::panicked)??;
        events.emit(Event::Evaluated { version, step, summary, best, seconds: started.elapsed().as_secs_f64() });
        Ok(())
    }
}

/// One failed step more in a row.
///
/// # Errors
/// If that makes too many.
fn count_failure(streak: &mut FailureStreak, why: &str) -> Result<(), Failure> {
    match streak.is_over_with_one_more() {
        true => Err(Failure::LearnerStreak { streak: FailureStreak::MAX, last: why.to_owned() }),
        false => Ok(()),
    }
}
