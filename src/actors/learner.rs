//! The learner actor: lease a batch, learn it, settle it; publish every N steps.
//!
//! [`LearnerLoop`] is the whole loop, in order. It does not know how a loss is computed.
//!
//! Invariant: a batch is settled after the device applied it, and the device applies a batch once, so a restarted loop
//! continues where the last one stopped.

use super::ask::{Reply, ask_patiently};
use super::failure::{Failure, dependency_lost};
use super::gates::{Part, Pauses};
use super::on_disk::on_disk;
use super::publish::Publisher;
use super::replay::ReplayMsg;
use super::swap::SwapMsg;
use super::task::{Task, TaskResult};
use crate::device;
use crate::episode::models::Models;
use crate::episode::online_eval::OnlineEval;
use crate::episode::sampling::SampleError;
use crate::learner::{self, FailureStreak, LearnerConfig, Report};
use crate::replay::Lease;
use crate::run::events::Event;
use crate::run::jobs::Job;
use crate::run::state::Position;
use crate::telemetry::metrics::{self, Stage};
use crate::telemetry::stages;
use crate::types::{ActorKind, CriticVersion};
use ractor::{Actor, ActorProcessingErr, ActorRef};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio_util::sync::{CancellationToken, DropGuard};

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
    /// What operators have paused.
    pub pauses: Pauses,
    /// The evaluation of the critic in service and the models it asks; none if there is none.
    pub eval: Option<(Arc<OnlineEval>, Arc<Models>)>,
    /// Tells that the loop has ended, however it did.
    pub ended: DropGuard,
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
        let Position { mut step, mut published_step, version } =
            self.publisher.ask_replay(|reply| ReplayMsg::Position { reply }).await?;
        let mut streak = FailureStreak::default();
        self.evaluate(None, step, version).await?;
        // Weights that were trained elsewhere go into service before anything is learned.
        let mut starts = step == 0 && version == CriticVersion::BASE && self.config.start().is_some();
        loop {
            if std::mem::take(&mut starts) || self.config.is_publication_due(step, published_step) {
                let (job, publishing) =
                    (self.job("publishes", format!("step {step}")), stages::enter(Stage::Publication));
                let published = self.publisher.publish(&self.stop).await?;
                drop((job, publishing));
                if let Some(published) = published {
                    self.evaluate(Some(published_step), step, published).await?;
                }
                published_step = step;
            }
            let due = published_step + self.config.publish_every_steps;
            metrics::CHECKPOINT_DUE_STEP.set(self.steps_max.map_or(due, |max| max.min(due)) as f64);
            if self.steps_max.is_some_and(|max| step >= max) {
                self.stop.cancel();
            }
            let Some(lease) = self.lease().await? else { return Ok(()) };
            match self.learn(&lease).await? {
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

    fn job(&self, what: &'static str, subject: String) -> Job {
        self.publisher.events.jobs(ActorKind::Learner).begin(what, subject)
    }

    /// The next batch, as soon as there is one; none after a stop.
    async fn lease(&self) -> Result<Option<Lease>, Failure> {
        let (groups, Publisher { replay, deadline, .. }) = (self.config.groups_per_step, &self.publisher);
        tokio::select! {
            biased;
            () = self.stop.cancelled() => return Ok(None),
            () = self.pauses.go_on(Part::Learner) => {}
        }
        let (_job, _waiting) = (self.job("waits for scored groups", String::new()), stages::enter(Stage::Lease));
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
    async fn learn(&self, lease: &Lease) -> Result<Option<Step>, Failure> {
        let Publisher { device, deadline, events, .. } = &self.publisher;
        let (started, _learning) = (Instant::now(), stages::enter(Stage::Learning));
        let _job = self.job("learns", format!("batch {}", lease.batch));
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
                let ages = lease.groups.iter().zip(&lease.ages);
                let ages = ages.flat_map(|(group, age)| std::iter::repeat_n(*age, group.critiques.len()));
                events.emit(Event::Learned {
                    batch: lease.batch,
                    episodes: lease.groups.iter().map(|group| group.episode).collect(),
                    ages_versions: ages.collect(),
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
        let (started, _evaluating) = (Instant::now(), stages::enter(Stage::Evaluation));
        let _job = self.job("evaluates", format!("critic {version}"));
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
        if let Some(cu) = cu {
            // Figures are times 100. A swap actor that failed is restarted, and this actor with it.
            drop(self.publisher.swap.send_message(SwapMsg::Evaluated { version, cu: cu.value / 100.0 }));
        }
        let keep = move || cu.map_or(Ok(false), |cu| checkpoints.keep_if_best(step, cu.value));
        let best = on_disk("keeping the best checkpoint", keep).await??;
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
