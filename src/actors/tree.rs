//! The tree of actors: raised bottom-up, so that each is handed living references, felled top-down.
//!
//! It does not decide when: that is the supervisor's.
//!
//! Invariant: if a station is up, so is every station before it.

use super::Failure;
use super::device::DeviceActor;
use super::judge::{JudgeActor, JudgeMsg};
use super::learner::{Course, LearnerActor, LearnerMsg};
use super::replay::{ReplayActor, ReplayMsg, ReplaySetup};
use super::role::{RoleActor, RoleMsg};
use super::rollout::{Cast, RolloutActor, RolloutMsg};
use super::run_context::Plan;
use super::supervisor::Station;
use super::task::panic_text;
use crate::device::Device;
use crate::episode::role::Part;
use crate::roles::{critic::Critic, generator::Generator, refiner::Refiner};
use crate::run::checkpoints::Recalled;
use crate::run::state::Shelf;
use crate::telemetry::metrics::Role;
use ractor::{Actor, ActorCell, ActorId, ActorRef};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::task::JoinHandle;

/// A killed actor ends at its next await point, and none blocks for long.
const FALL: Duration = Duration::from_secs(5);
/// The device thread ends after the piece of work under way.
const DEVICE_FALL: Duration = Duration::from_secs(30);

/// One life of every station.
pub(crate) struct Tree {
    pub(crate) plan: Arc<Plan>,
    pub(crate) shelf: Arc<Mutex<Shelf>>,
    supervisor: ActorCell,
    up: BTreeMap<Station, (ActorCell, JoinHandle<()>)>,
    generation: u64,
    device: Option<Device>,
    replay: Option<ActorRef<ReplayMsg>>,
    generator: Option<ActorRef<RoleMsg<Arc<Generator>>>>,
    critic: Option<ActorRef<RoleMsg<Arc<Critic>>>>,
    refiner: Option<ActorRef<RoleMsg<Arc<Refiner>>>>,
    judge: Option<ActorRef<JudgeMsg>>,
    learner: Option<ActorRef<LearnerMsg>>,
    rollout: Option<ActorRef<RolloutMsg>>,
}

impl Tree {
    /// Nothing is up yet.
    pub(crate) fn new(plan: Arc<Plan>, shelf: Arc<Mutex<Shelf>>, supervisor: ActorCell) -> Self {
        Self {
            plan,
            shelf,
            supervisor,
            up: BTreeMap::new(),
            generation: 0,
            device: None,
            replay: None,
            generator: None,
            critic: None,
            refiner: None,
            judge: None,
            learner: None,
            rollout: None,
        }
    }

    /// The station whose present life is `id`.
    pub(crate) fn station(&self, id: ActorId) -> Option<Station> {
        self.up.iter().find(|(_, (cell, _))| cell.get_id() == id).map(|(station, _)| *station)
    }

    /// The present life of `station`.
    pub(crate) fn cell(&self, station: Station) -> Option<&ActorCell> {
        self.up.get(&station).map(|(cell, _)| cell)
    }

    pub(crate) fn device(&self) -> Option<&Device> {
        self.device.as_ref()
    }

    pub(crate) fn learner(&self) -> Option<&ActorRef<LearnerMsg>> {
        self.learner.as_ref()
    }

    pub(crate) fn rollout(&self) -> Option<&ActorRef<RolloutMsg>> {
        self.rollout.as_ref()
    }

    /// Raises `from` and everything after it.
    pub(crate) async fn raise(&mut self, from: Station) -> Result<(), Failure> {
        for station in Station::ALL.into_iter().filter(|station| *station >= from) {
            self.raise_one(station).await?;
        }
        Ok(())
    }

    /// Fells everything from `from` on, the last first. What they had under way is dropped.
    ///
    /// # Errors
    /// Where the device thread does not end: nothing may be raised beside it.
    pub(crate) async fn fell(&mut self, from: Station) -> Result<(), Failure> {
        for station in Station::ALL.into_iter().rev().filter(|station| *station >= from) {
            if let Some((cell, life)) = self.up.remove(&station) {
                cell.kill();
                if tokio::time::timeout(FALL, life).await.is_err() {
                    tracing::warn!(station = station.name(), "a killed actor did not end in time");
                }
            }
        }
        if from > Station::Device {
            return Ok(());
        }
        let Some(device) = self.device.take() else { return Ok(()) };
        device.stop();
        let stuck = |_| Failure::DeviceStuck { seconds: DEVICE_FALL.as_secs() };
        tokio::time::timeout(DEVICE_FALL, device.ended()).await.map(drop).map_err(stuck)
    }

    /// The newest checkpoint; the shelf goes back to it, keeping what was scored since.
    pub(crate) async fn recall(&self) -> Result<Option<Recalled>, Failure> {
        let archive = self.plan.archive.clone();
        let recalled = tokio::task::spawn_blocking(move || archive.recall())
            .await
            .map_err(|error| Failure::Panicked(panic_text(error)))??;
        let saved = match &recalled {
            Some(recalled) => self.plan.resumed(recalled.shelf.clone()),
            None => self.plan.shelf(),
        };
        let torn = self.shelf.is_poisoned();
        let mut shelf = self.shelf.lock().unwrap_or_else(PoisonError::into_inner);
        if torn {
            // A panic left it half changed: only what is on disk can be trusted.
            *shelf = saved.clone();
            self.shelf.clear_poison();
        }
        shelf.rewind(&saved);
        drop(shelf);
        Ok(recalled)
    }

    async fn raise_one(&mut self, station: Station) -> Result<(), Failure> {
        match station {
            Station::Device => {
                let recalled = self.recall().await?;
                let shelf = super::replay::lock(&self.shelf)?.clone();
                let device = self.plan.device(recalled.map(|recalled| recalled.learner), &shelf).await?;
                self.device = Some(device.clone());
                self.spawn(station, DeviceActor, device).await?;
            }
            Station::Replay => {
                let setup = ReplaySetup {
                    shelf: self.shelf.clone(),
                    pacing: self.plan.pacing(),
                    stop: self.plan.stop.clone(),
                    news: self.plan.news.clone(),
                    recorder: self.plan.recorder.clone(),
                };
                self.replay = Some(self.spawn(station, ReplayActor, setup).await?);
            }
            Station::Generator => {
                self.generator = Some(self.spawn_role(station, self.plan.company.generator.role.clone()).await?);
            }
            Station::Critic => {
                self.critic = Some(self.spawn_role(station, self.plan.company.critic.role.clone()).await?)
            }
            Station::Refiner => {
                self.refiner = Some(self.spawn_role(station, self.plan.company.refiner.role.clone()).await?)
            }
            Station::Judge => {
                let arguments =
                    (self.plan.company.judges.clone(), self.plan.company.scribe(Role::Judge, present(&self.device)));
                self.judge = Some(self.spawn(station, JudgeActor, arguments).await?);
            }
            Station::Learner => self.learner = Some(self.spawn(station, LearnerActor, self.course()).await?),
            Station::Rollout => {
                self.generation += 1;
                self.rollout = Some(self.spawn(station, RolloutActor, Arc::new(self.cast())).await?);
            }
        }
        Ok(())
    }

    fn course(&self) -> Course {
        Course {
            device: present(&self.device).clone(),
            replay: present(&self.replay).clone(),
            archive: self.plan.archive.clone(),
            config: self.plan.learner.clone(),
            steps_max: self.plan.learner_steps_max,
            deadline: self.plan.deadline(),
            served: self.plan.served.clone().map(|served| (served, self.plan.company.clone())),
            stop: self.plan.stop.clone(),
            news: self.plan.news.clone(),
        }
    }

    fn cast(&self) -> Cast {
        Cast {
            prompts: self.plan.prompts.clone(),
            generator: present(&self.generator).clone(),
            critic: present(&self.critic).clone(),
            refiner: present(&self.refiner).clone(),
            judge: present(&self.judge).clone(),
            replay: present(&self.replay).clone(),
            config: self.plan.rollout.clone(),
            critique_preferences: self.plan.critique_preferences,
            seed: self.plan.seed,
            generation: self.generation,
            stop: self.plan.stop.clone(),
            news: self.plan.news.clone(),
        }
    }

    async fn spawn_role<P: Part>(&mut self, station: Station, part: P) -> Result<ActorRef<RoleMsg<P>>, Failure> {
        let scribe = self.plan.company.scribe(P::ROLE, present(&self.device));
        self.spawn(station, RoleActor::default(), (part, scribe)).await
    }

    async fn spawn<A: Actor>(
        &mut self,
        station: Station,
        actor: A,
        arguments: A::Arguments,
    ) -> Result<ActorRef<A::Msg>, Failure> {
        let (reference, life) = A::spawn_linked(None, actor, arguments, self.supervisor.clone())
            .await
            .map_err(|error| Failure::Spawn { station: station.name(), why: error.to_string() })?;
        self.up.insert(station, (reference.get_cell(), life));
        Ok(reference)
    }
}

/// A reference to a station before the one being raised.
fn present<T>(reference: &Option<T>) -> &T {
    reference.as_ref().expect("stations are raised in order, so every earlier one is up")
}
