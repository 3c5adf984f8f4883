//! The learner actor: lease, learn, settle; every so many steps publish.
//!
//! The course below is the whole of it, in order. It does not know how a loss is computed.
//!
//! Invariants: a batch is settled after the device applied it, and the device applies a batch once, so
//! a course that begins again goes on where the last one died; a critic is on disk before it is in
//! service, and in service before replay hears of it.

use super::ask::{Reply, Unanswered, ask};
use super::failure::{Failure, dependency_lost};
use super::replay::ReplayMsg;
use super::stop::Stop;
use super::task::{Ended, Task};
use crate::device::{self, Device};
use crate::episode::models::Models;
use crate::episode::online_eval::OnlineEval;
use crate::episode::sampling::SampleError;
use crate::learner::{self, LearnerConfig, Report};
use crate::replay::Lease;
use crate::run::checkpoints::CheckpointStore;
use crate::run::events::{Event, EventBus};
use crate::types::CriticVersion;
use ractor::{Actor, ActorProcessingErr, ActorRef};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What the learner actor can be told.
pub enum LearnerMsg {
    /// The course has ended.
    Ended(Ended),
    /// Answer when the course has ended, which it does once a stop is wished for.
    Drain {
        /// Where to.
        reply: Reply<()>,
    },
}

/// What a course needs.
#[derive(Clone)]
pub struct LearnerLoop {
    /// Where steps are taken.
    pub device: Device,
    /// Where batches come from.
    pub replay: ActorRef<ReplayMsg>,
    /// Where checkpoints go.
    pub checkpoints: Arc<CheckpointStore>,
    /// How steps are taken.
    pub config: LearnerConfig,
    /// After so many steps in all, the run stops.
    pub steps_max: Option<u64>,
    /// How long replay may take for an answer.
    pub deadline: Duration,
    /// The wish to stop.
    pub stop: Stop,
    /// The exam of the critic in service, and who is asked in it; none where there is none.
    pub served: Option<(Arc<OnlineEval>, Arc<Models>)>,
    /// Who is told.
    pub events: EventBus,
}

/// The shell.
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
        Ok(Task::start(myself, LearnerMsg::Ended, learner_loop.run()))
    }

    async fn handle(
        &self,
        _: ActorRef<LearnerMsg>,
        message: LearnerMsg,
        work: &mut Task,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            LearnerMsg::Ended(ended) => work.end(ended)?,
            LearnerMsg::Drain { reply } => work.tell_end(reply),
        }
        Ok(())
    }
}

/// So many failed steps in a row are no accident.
const STREAK_MAX: u32 = 3;

/// What became of a batch.
enum Step {
    Taken(Report),
    /// Loss or gradient was not finite.
    Refused(String),
    /// It took too long, and was given up.
    Late,
}

impl LearnerLoop {
    async fn run(self) -> Ended {
        let run_state = self.replay(|reply| ReplayMsg::Snapshot { reply }).await?;
        let (mut step, mut published, mut version) = (run_state.step, run_state.published_step, run_state.version);
        drop(run_state);
        let mut streak = 0;
        self.evaluate(None, step, version).await?;
        loop {
            if step >= published + self.config.publish_every_steps {
                version = CriticVersion(version.0 + 1);
                self.publish(version).await?;
                self.evaluate(Some(published), step, version).await?;
                published = step;
            }
            if self.steps_max.is_some_and(|max| step >= max) {
                self.stop.request();
            }
            let Some(lease) = self.lease().await? else { return Ok(()) };
            match self.step(&lease, version).await? {
                None => return Ok(()),
                Some(Step::Taken(report)) => {
                    (step, streak) = (report.step, 0);
                    self.settle(lease.batch, Some(step)).await?;
                }
                Some(Step::Refused(why)) => {
                    streak = self.lengthen(streak, &why)?;
                    self.settle(lease.batch, None).await?;
                    self.events.emit(Event::Discarded { batch: lease.batch, why });
                }
                Some(Step::Late) => streak = self.lengthen(streak, "deadline passed")?,
            }
        }
    }

    /// The next batch, whenever it comes; none once a stop is wished for.
    async fn lease(&self) -> Result<Option<Lease>, Failure> {
        let groups = self.config.groups_per_step;
        loop {
            let lease = tokio::select! {
                biased;
                () = self.stop.requested() => return Ok(None),
                lease = ask(&self.replay, self.deadline, |reply| ReplayMsg::Lease { groups, reply }) => lease,
            };
            match lease {
                Ok(lease) => return Ok(Some(lease)),
                Err(Unanswered::Deadline) => {}
                Err(Unanswered::Gone) => return Err(dependency_lost("replay", self.deadline).await),
            }
        }
    }

    /// One step on `lease`; none where it was given up for the sake of a stop.
    async fn step(&self, lease: &Lease, version: CriticVersion) -> Result<Option<Step>, Failure> {
        let begun = Instant::now();
        let learn = self.device.learn(lease.batch, lease.groups.clone());
        let patience = Duration::from_secs(self.config.step_deadline_seconds);
        let learned = match tokio::time::timeout(patience, learn).await {
            Ok(learned) => learned,
            Err(_) => {
                self.device.abandon().await?;
                return Ok(Some(Step::Late));
            }
        };
        match learned {
            Ok(report) => {
                let critiques = lease.groups.iter().flat_map(|group| &group.critiques);
                self.events.emit(Event::Learned {
                    batch: lease.batch,
                    episodes: lease.groups.iter().map(|group| group.episode).collect(),
                    ages_versions: critiques.map(|critique| critique.completion.version.age(version)).collect(),
                    report: report.clone(),
                    seconds: begun.elapsed().as_secs_f64(),
                });
                Ok(Some(Step::Taken(report)))
            }
            Err(device::Error::Learner(learner::Error::Abandoned)) if self.stop.is_requested() => Ok(None),
            Err(device::Error::Learner(learner::Error::Abandoned)) => Ok(Some(Step::Late)),
            Err(device::Error::Learner(error)) if error.is_refusal() => Ok(Some(Step::Refused(error.to_string()))),
            Err(device::Error::Gone) => Err(dependency_lost("the device", self.deadline).await),
            Err(error) => Err(error.into()),
        }
    }

    async fn settle(&self, batch: u64, step: Option<u64>) -> Result<(), Failure> {
        self.replay(|reply| ReplayMsg::Settle { batch, step, reply }).await
    }

    /// Puts the learner's weights on disk and then into service as `version`.
    async fn publish(&self, version: CriticVersion) -> Result<(), Failure> {
        let begun = Instant::now();
        let state = match self.device.snapshot().await {
            Err(device::Error::Gone) => return Err(dependency_lost("the device", self.deadline).await),
            state => state?,
        };
        let (step, critic) = (state.step, state.critic.clone());
        // As the shelf will be once the critic is in service.
        let mut run_state = self.replay(|reply| ReplayMsg::Snapshot { reply }).await?;
        run_state.published(version, critic.clone(), step);
        let checkpoints = self.checkpoints.clone();
        tokio::task::spawn_blocking(move || checkpoints.save(state, run_state))
            .await
            .map_err(|error| Failure::panicked(error))?
            .inspect_err(|_| self.events.emit(Event::NotSaved))?;
        self.events.emit(Event::Saved { step, seconds: begun.elapsed().as_secs_f64() });
        self.device.install(version, Some(critic.clone())).await?;
        self.replay(|reply| ReplayMsg::Publish { version, critic, step, reply }).await?;
        self.events.emit(Event::Published { version, step });
        Ok(())
    }

    /// Examines the critic in service, if that is due after `step`; the learner waits. What goes wrong in an exam ends
    /// that exam alone.
    async fn evaluate(&self, before: Option<u64>, step: u64, version: CriticVersion) -> Result<(), Failure> {
        let Some((served, models)) = &self.served else { return Ok(()) };
        if !served.is_due(before, step) {
            return Ok(());
        }
        let begun = Instant::now();
        let summary = tokio::select! {
            biased;
            () = self.stop.requested() => return Ok(()),
            summary = served.examine(models.clone(), self.device.clone()) => summary,
        };
        let summary = match summary {
            Ok(summary) => summary,
            Err(SampleError::Gone) => return Err(dependency_lost("the device", self.deadline).await),
            Err(trouble) => {
                self.events.emit(Event::NotEvaluated(trouble.to_string()));
                return Ok(());
            }
        };
        let (checkpoints, cu) = (self.checkpoints.clone(), summary.cu);
        let keep = move || cu.map_or(Ok(false), |cu| checkpoints.keep_if_best(step, cu.value));
        let best = tokio::task::spawn_blocking(keep).await.map_err(|error| Failure::panicked(error))??;
        self.events.emit(Event::Evaluated { version, step, summary, best, seconds: begun.elapsed().as_secs_f64() });
        Ok(())
    }

    fn lengthen(&self, streak: u32, why: &str) -> Result<u32, Failure> {
        let streak = streak + 1;
        if streak >= STREAK_MAX {
            return Err(Failure::LearnerStreak { streak, last: why.to_owned() });
        }
        Ok(streak)
    }

    /// Asks replay something that it answers at once.
    async fn replay<T>(&self, message: impl FnOnce(Reply<T>) -> ReplayMsg) -> Result<T, Failure> {
        match ask(&self.replay, self.deadline, message).await {
            Ok(answer) => Ok(answer),
            Err(_) => Err(dependency_lost("replay", self.deadline).await),
        }
    }
}
