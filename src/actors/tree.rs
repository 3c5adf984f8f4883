//! The tree of actors: started in the order of dependence, so that each gets live references, and stopped in reverse.
//!
//! It does not decide when: that is the supervisor's. Invariant: if an actor is up, so is every actor before it.

use super::device::{DeviceActor, DeviceSetup};
use super::failure::Failure;
use super::judge::{JudgeActor, JudgeMsg};
use super::learner::{LearnerActor, LearnerLoop, LearnerMsg};
use super::on_disk::on_disk;
use super::publish::Publisher;
use super::refusals::Refusals;
use super::replay::{ReplayActor, ReplayMsg, ReplaySetup};
use super::role::{RoleActor, RoleMsg};
use super::rollout::{RolloutActor, RolloutContext, RolloutMsg};
use super::run_context::RunContext;
use super::swap::{SwapActor, SwapContext, SwapMsg};
use crate::device::Device;
use crate::episode::role::PromptBuilder;
use crate::roles::{critic::Critic, generator::Generator, refiner::Refiner};
use crate::run::checkpoints::Restored;
use crate::run::state::RunState;
use crate::types::{ActorKind, Label, Role};
use ractor::{Actor, ActorCell, ActorId, ActorRef};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// A killed actor ends at its next await point, and none blocks for long.
const STOP_DEADLINE: Duration = Duration::from_secs(5);
/// The device thread ends after its current engine step or micro-batch.
const DEVICE_STOP_DEADLINE: Duration = Duration::from_secs(30);

/// The actors that are up.
pub(crate) struct Tree {
    pub(crate) context: Arc<RunContext>,
    pub(crate) run_state: Arc<Mutex<RunState>>,
    supervisor: ActorCell,
    up: BTreeMap<ActorKind, (ActorCell, JoinHandle<()>)>,
    generation: u64,
    device: Option<Device>,
    replay: Option<ActorRef<ReplayMsg>>,
    swap: Option<ActorRef<SwapMsg>>,
    generator: Option<ActorRef<RoleMsg<Arc<Generator>>>>,
    critic: Option<ActorRef<RoleMsg<Arc<Critic>>>>,
    refiner: Option<ActorRef<RoleMsg<Arc<Refiner>>>>,
    judge: Option<ActorRef<JudgeMsg>>,
    learner: Option<ActorRef<LearnerMsg>>,
    /// Cancelled once the loop of the newest learner actor has ended: later than the actor, if that is killed.
    learner_ended: CancellationToken,
    rollout: Option<ActorRef<RolloutMsg>>,
}

impl Tree {
    /// A tree without actors.
    pub(crate) fn new(context: Arc<RunContext>, run_state: Arc<Mutex<RunState>>, supervisor: ActorCell) -> Self {
        Self {
            context,
            run_state,
            supervisor,
            up: BTreeMap::new(),
            generation: 0,
            device: None,
            replay: None,
            swap: None,
            generator: None,
            critic: None,
            refiner: None,
            judge: None,
            learner: None,
            learner_ended: CancellationToken::new(),
            rollout: None,
        }
    }

    /// Which actor has this `id`.
    pub(crate) fn actor_kind(&self, id: ActorId) -> Option<ActorKind> {
        self.up.iter().find(|(_, (cell, _))| cell.get_id() == id).map(|(actor_kind, _)| *actor_kind)
    }

    /// The cell of `actor_kind`.
    #[cfg(feature = "faults")]
    pub(crate) fn cell(&self, actor_kind: ActorKind) -> Option<&ActorCell> {
        self.up.get(&actor_kind).map(|(cell, _)| cell)
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

    /// Starts `from` and every actor after it.
    pub(crate) async fn start(&mut self, from: ActorKind) -> Result<(), Failure> {
        for actor_kind in ActorKind::ALL.iter().copied().filter(|actor_kind| *actor_kind >= from) {
            self.start_one(actor_kind).await?;
        }
        Ok(())
    }

    /// Stops `from` and every actor after it, the last first. Their work under way is dropped. Once the learner is stopped, no
    /// further step is told or settled.
    ///
    /// # Errors
    /// If the device thread does not end: no other may be started beside it.
    pub(crate) async fn stop(&mut self, from: ActorKind) -> Result<(), Failure> {
        for actor_kind in ActorKind::ALL.iter().copied().rev().filter(|actor_kind| *actor_kind >= from) {
            if let Some((cell, handle)) = self.up.remove(&actor_kind) {
                cell.kill();
                if tokio::time::timeout(STOP_DEADLINE, handle).await.is_err() {
                    tracing::warn!(actor_kind = actor_kind.value(), "a killed actor did not end in time");
                }
                let ended = self.learner_ended.cancelled();
                if actor_kind == ActorKind::Learner && tokio::time::timeout(STOP_DEADLINE, ended).await.is_err() {
                    tracing::warn!("the loop of the learner did not end in time");
                }
            }
        }
        if from > ActorKind::Device {
            return Ok(());
        }
        let Some(device) = self.device.take() else { return Ok(()) };
        device.stop();
        let patience = DEVICE_STOP_DEADLINE.min(self.context.stall);
        let stuck = |_| Failure::DeviceStuck { seconds: patience.as_secs() };
        tokio::time::timeout(patience, device.ended()).await.map(drop).map_err(stuck)
    }

    /// Loads the newest checkpoint and rewinds the run state to it, keeping the groups scored since.
    pub(crate) async fn restore(&self) -> Result<Option<Restored>, Failure> {
        let checkpoints = self.context.checkpoints.clone();
        let restored = on_disk("reading the newest checkpoint", move || checkpoints.load_newest()).await??;
        let saved = match &restored {
            Some(restored) => self.context.resumed(restored.run_state.clone()),
            None => self.context.run_state(),
        };
        let is_torn = self.run_state.is_poisoned();
        let recovered = if is_torn { self.with_journal(saved.clone()).await? } else { None };
        let mut run_state = self.run_state.lock().unwrap_or_else(PoisonError::into_inner);
        if is_torn {
            // A panic left it half changed, so only what is on disk can be trusted.
            *run_state = recovered.unwrap_or_else(|| saved.clone());
            self.run_state.clear_poison();
        }
        run_state.rewind(&saved);
        self.context.serve_registered(&mut run_state)?;
        drop(run_state);
        Ok(restored)
    }

    /// `saved` with what the journal holds since; none if the journal cannot be read.
    async fn with_journal(&self, mut saved: RunState) -> Result<Option<RunState>, Failure> {
        let journal = self.context.journal.clone();
        let records = on_disk("reading the journal", move || journal.read()).await?;
        let Some(records) = records else { return Ok(None) };
        Ok(saved.replay_records(records).is_ok().then_some(saved))
    }

    async fn start_one(&mut self, actor_kind: ActorKind) -> Result<(), Failure> {
        match actor_kind {
            ActorKind::Device => {
                let restored = self.restore().await?;
                let learner = restored.map(|restored| restored.learner);
                let (version, served) = {
                    let run_state = super::replay::lock(&self.run_state)?;
                    (run_state.version, run_state.served.clone())
                };
                let device = self.context.device(learner, version, served).await?;
                self.device = Some(device.clone());
                self.context.handles.send_modify(|handles| handles.device = Some(device.clone()));
                let (stall, events) = (self.context.stall, self.context.events.clone());
                self.spawn(actor_kind, DeviceActor, DeviceSetup { device, stall, events }).await?;
            }
            ActorKind::Replay => {
                let setup = ReplaySetup {
                    run_state: self.run_state.clone(),
                    pacing: self.context.pacing(),
                    stop: self.context.stop.clone(),
                    events: self.context.events.clone(),
                    journal: Some(self.context.journal.clone()),
                    curriculum: self.context.curriculum(),
                    checkpoints_kept: self.context.checkpoints.config.keep,
                };
                self.replay = Some(self.spawn(actor_kind, ReplayActor, setup).await?);
            }
            ActorKind::Swap => {
                let swap = self.spawn(actor_kind, SwapActor, self.swap_context()).await?;
                self.context.handles.send_modify(|handles| handles.swap = Some(swap.clone()));
                self.swap = Some(swap);
            }
            ActorKind::Generator => {
                self.generator = Some(self.spawn_role(actor_kind, self.context.models.generator.role.clone()).await?);
            }
            ActorKind::Critic => {
                self.critic = Some(self.spawn_role(actor_kind, self.context.models.critic.role.clone()).await?)
            }
            ActorKind::Refiner => {
                self.refiner = Some(self.spawn_role(actor_kind, self.context.models.refiner.role.clone()).await?)
            }
            ActorKind::Judge => {
                let arguments = (
                    self.context.models.judges.clone(),
                    self.context.models.sampler(Role::Judge, present(&self.device)),
                );
                self.judge = Some(self.spawn(actor_kind, JudgeActor, arguments).await?);
            }
            ActorKind::Learner => {
                self.learner_ended = CancellationToken::new();
                self.learner = Some(self.spawn(actor_kind, LearnerActor, self.learner_loop()).await?);
            }
            ActorKind::Rollout => {
                self.generation += 1;
                self.rollout = Some(self.spawn(actor_kind, RolloutActor, Arc::new(self.rollout_context())).await?);
            }
        }
        Ok(())
    }

    fn swap_context(&self) -> SwapContext {
        let context = &self.context;
        SwapContext {
            device: present(&self.device).clone(),
            replay: present(&self.replay).clone(),
            registry: context.registry.clone(),
            critics: context.critics.clone(),
            canary: context.canary.clone(),
            eval: context.canary_eval.clone().map(|eval| (eval, context.models.clone())),
            config: context.swap.clone(),
            share: context.share.clone(),
            checkpoints: context.checkpoints.clone(),
            base: context.base.clone(),
            deadline: context.deadline(),
            stop: context.stop.clone(),
            events: context.events.clone(),
        }
    }

    fn learner_loop(&self) -> LearnerLoop {
        LearnerLoop {
            publisher: Publisher {
                device: present(&self.device).clone(),
                replay: present(&self.replay).clone(),
                swap: present(&self.swap).clone(),
                checkpoints: self.context.checkpoints.clone(),
                deadline: self.context.deadline(),
                events: self.context.events.clone(),
            },
            config: self.context.learner.clone(),
            steps_max: self.context.learner_steps_max,
            stop: self.context.stop.clone(),
            pauses: self.context.pauses.clone(),
            eval: self.context.eval.clone().map(|eval| (eval, self.context.models.clone())),
            ended: self.learner_ended.clone().drop_guard(),
        }
    }

    fn rollout_context(&self) -> RolloutContext {
        RolloutContext {
            prompts: self.context.prompts.clone(),
            generator: present(&self.generator).clone(),
            critic: present(&self.critic).clone(),
            refiner: present(&self.refiner).clone(),
            judge: present(&self.judge).clone(),
            replay: present(&self.replay).clone(),
            swap: present(&self.swap).clone(),
            share: self.context.share.subscribe(),
            config: self.context.rollout.clone(),
            rollouts_max: self.context.rollouts_max.subscribe(),
            critique_preferences: self.context.critique_preferences,
            seed: self.context.seed,
            generation: self.generation,
            records: self.context.records.clone(),
            refusals: Refusals::default(),
            useless_max: self.context.supervisor.useless_max(),
            pauses: self.context.pauses.clone(),
            stop: self.context.stop.clone(),
            events: self.context.events.clone(),
        }
    }

    async fn spawn_role<P: PromptBuilder>(
        &mut self,
        actor_kind: ActorKind,
        role: P,
    ) -> Result<ActorRef<RoleMsg<P>>, Failure> {
        let sampler = self.context.models.sampler(P::ROLE, present(&self.device));
        self.spawn(actor_kind, RoleActor::default(), (role, sampler)).await
    }

    async fn spawn<A: Actor>(
        &mut self,
        actor_kind: ActorKind,
        actor: A,
        arguments: A::Arguments,
    ) -> Result<ActorRef<A::Msg>, Failure> {
        let (reference, handle) = A::spawn_linked(None, actor, arguments, self.supervisor.clone())
            .await
            .map_err(|error| Failure::of_start(actor_kind.value(), error))?;
        self.up.insert(actor_kind, (reference.get_cell(), handle));
        Ok(reference)
    }
}

/// A reference to an actor before the one being started.
fn present<T>(reference: &Option<T>) -> &T {
    reference.as_ref().expect("actors are started in order, so every earlier one is up")
}
