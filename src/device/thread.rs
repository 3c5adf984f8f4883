//! The loop of the device thread: handle commands, then run one engine step or one learner micro-batch. Its heart beats
//! before each of them.

use super::command::{Command, EngineSlot, Envelope, MadeBy, PendingInstall, Reply};
use super::engine_slot::{EngineHost, EngineHosts};
use super::error::Error;
use super::heartbeat::Heartbeat;
use super::setup::{Event, JudgeSetup, LearnerSetup, Observer, Setup};
use super::share::TimeShare;
use crate::engine::Holder;
use crate::learner::{self, Learner, LearnerConfig};
use crate::transformer::Transformer;
use crate::transformer::decode::PackedAdapter;
use crate::transformer::full_weights::CriticWeights;
use crate::types::{CriticVersion, CritiqueGroup};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::oneshot;

/// What the thread owns.
pub(super) struct Thread {
    model: Arc<Transformer>,
    engines: EngineHosts,
    learner: Option<Learner>,
    learning: Option<Reply<learner::Report>>,
    share: TimeShare,
    /// Packed critics of [`Command::WriteAs`], by version. Calls may alternate between versions; each is packed once.
    packed_critics: BTreeMap<CriticVersion, Arc<PackedAdapter>>,
    observer: Observer,
    heartbeat: Arc<Heartbeat>,
}

impl Thread {
    pub(super) fn new(setup: Setup, heartbeat: Arc<Heartbeat>) -> Result<Self, Error> {
        let Setup { model, tokenizer, engine, judge, learner, version, served, observer } = setup;
        let mut own = EngineHost::new(model.clone(), tokenizer, engine)?;
        let packed = served.map(|critic| model.pack(&critic)).transpose()?.map(Arc::new);
        own.engine.install(version, packed);
        let judge = judge.map(|JudgeSetup { model, tokenizer, engine }| EngineHost::new(model, tokenizer, engine));
        let engines = EngineHosts::new(own, judge.transpose()?);
        let share = TimeShare::new(learner.as_ref().map_or(1.0, |learner| learner.config.device_share));
        let learner = learner.map(|LearnerSetup { config, temperature, seed, state }| match state {
            Some(state) => Learner::resume(model.clone(), config, temperature, state),
            None => Learner::new(model.clone(), config, temperature, seed),
        });
        let mut learner = learner.transpose()?;
        learner.iter_mut().for_each(|learner| learner.serves(version));
        let (learning, packed_critics) = (None, BTreeMap::new());
        Ok(Self { model, engines, learner, learning, share, packed_critics, observer, heartbeat })
    }

    /// Handles commands, generates and learns until stopped.
    pub(super) fn run(&mut self, inbox: &crossbeam_channel::Receiver<Envelope>) {
        loop {
            let idle = self.engines.is_idle() && !self.is_learning();
            if idle {
                self.heartbeat.rest();
            }
            let first = if idle { inbox.recv().ok() } else { inbox.try_recv().ok() };
            if idle && first.is_none() {
                return; // every handle is gone
            }
            for envelope in first.into_iter().chain(inbox.try_iter()) {
                self.heartbeat.beat();
                (self.observer)(Event::Command { waited: envelope.sent.elapsed() });
                if self.handle(envelope.command).is_break() {
                    return;
                }
            }
            self.heartbeat.beat();
            self.cancel_abandoned();
            if self.is_learning() && (self.engines.is_idle() || self.share.is_learner_due()) {
                self.learn();
            } else if !self.engines.is_idle() {
                self.write();
            }
        }
    }

    fn is_learning(&self) -> bool {
        self.learner.as_ref().is_some_and(Learner::is_busy)
    }

    fn handle(&mut self, command: Command) -> std::ops::ControlFlow<()> {
        // The caller may have gone.
        match command {
            Command::Write(slot, request, reply) => self.engines.host(slot).write(request, reply),
            Command::Stream(slot, request, updates, reply) => self.engines.host(slot).stream(request, updates, reply),
            Command::WriteAs(version, critic, request, reply) => match self.serve_as(version, &critic) {
                Ok(()) => self.engines.host(EngineSlot::Own).write(request, reply),
                Err(error) => drop(reply.send(Err(error))),
            },
            Command::ScoreCandidates(slot, policy, prompt, candidates, reply) => {
                self.engines.host(slot).score_candidates(policy, prompt, candidates, reply);
            }
            Command::Learn(batch, groups, reply) => self.begin(batch, groups, reply),
            Command::Snapshot(reply) => {
                let state = self.learner.as_ref().map(Learner::state).ok_or(Error::NoLearner);
                drop(reply.send(state));
            }
            Command::Load(version, pending, holder, reply) => drop(reply.send(self.load(version, pending, holder))),
            Command::Unload(version, reply) => {
                drop(reply.send(Ok(self.engines.host(EngineSlot::Own).engine.critics_mut().unload(version))));
            }
            Command::SetShare(http, reply) => {
                self.engines.set_share(http);
                drop(reply.send(Ok(())));
            }
            Command::Install(version, pending, made, reply) => {
                drop(reply.send(self.install(version, pending, made)));
            }
            Command::Configure(config, reply) => drop(reply.send(self.configure(&config))),
            Command::Adopt(critic, reply) => {
                self.answer_learner(Err(learner::Error::Abandoned));
                let adopted = match &mut self.learner {
                    Some(learner) => learner.adopt(critic).map_err(Error::from),
                    None => Err(Error::NoLearner),
                };
                drop(reply.send(adopted));
            }
            Command::Abandon(reply) => {
                self.learner.iter_mut().for_each(Learner::abandon);
                self.answer_learner(Err(learner::Error::Abandoned));
                drop(reply.send(Ok(())));
            }
            #[cfg(feature = "faults")]
            Command::Fault(text) => panic!("{text}"),
            #[cfg(feature = "faults")]
            Command::Stall(duration) => std::thread::sleep(duration),
            Command::Stop => return std::ops::ControlFlow::Break(()),
        }
        std::ops::ControlFlow::Continue(())
    }

    fn packed(&self, pending: Option<PendingInstall>) -> Result<Option<Arc<PackedAdapter>>, Error> {
        Ok(match pending {
            None => None,
            Some(PendingInstall::Packed(packed)) => Some(packed),
            Some(PendingInstall::Plain(critic)) => Some(Arc::new(self.model.pack(&critic)?)),
        })
    }

    fn load(&mut self, version: CriticVersion, pending: Option<PendingInstall>, holder: Holder) -> Result<(), Error> {
        let started = Instant::now();
        let packed = self.packed(pending)?;
        self.engines.host(EngineSlot::Own).engine.critics_mut().load(version, packed, holder)?;
        (self.observer)(Event::Installed { duration: started.elapsed() });
        Ok(())
    }

    fn install(&mut self, version: CriticVersion, pending: Option<PendingInstall>, made: MadeBy) -> Result<(), Error> {
        let started = Instant::now();
        let packed = self.packed(pending)?;
        self.engines.host(EngineSlot::Own).engine.install(version, packed);
        match (&mut self.learner, made) {
            (Some(learner), MadeBy::Learner) => learner.published(version),
            (Some(learner), MadeBy::Other) => learner.serves(version),
            (None, _) => {}
        }
        (self.observer)(Event::Installed { duration: started.elapsed() });
        Ok(())
    }

    fn configure(&mut self, config: &LearnerConfig) -> Result<(), Error> {
        let learner = self.learner.as_mut().ok_or(Error::NoLearner)?;
        learner.configure(config);
        self.share = TimeShare::new(config.device_share);
        Ok(())
    }

    /// Installs `critic` as `version`, unless that version is already in service.
    fn serve_as(&mut self, version: CriticVersion, critic: &CriticWeights) -> Result<(), Error> {
        let engine = &mut self.engines.host(EngineSlot::Own).engine;
        if engine.critic_version() == version {
            return Ok(());
        }
        let packed = match self.packed_critics.get(&version) {
            Some(packed) => packed.clone(),
            None => Arc::new(self.model.pack(critic)?),
        };
        engine.install(version, Some(packed.clone()));
        self.packed_critics.insert(version, packed);
        Ok(())
    }

    fn begin(&mut self, batch: u64, groups: Vec<Arc<CritiqueGroup>>, reply: Reply<learner::Report>) {
        self.answer_learner(Err(learner::Error::Abandoned));
        let Some(learner) = &mut self.learner else { return drop(reply.send(Err(Error::NoLearner))) };
        match learner.begin(batch, groups) {
            Some(report) => drop(reply.send(Ok(report))),
            None => self.learning = Some(reply),
        }
    }

    fn answer_learner(&mut self, answer: Result<learner::Report, learner::Error>) {
        if let Some(reply) = self.learning.take() {
            drop(reply.send(answer.map_err(Error::from)));
        }
    }

    fn cancel_abandoned(&mut self) {
        self.engines.cancel_abandoned();
        if self.learning.as_ref().is_some_and(oneshot::Sender::is_closed) {
            self.learning = None;
            self.learner.iter_mut().for_each(Learner::abandon);
        }
    }

    fn learn(&mut self) {
        let started = Instant::now();
        let advanced = self.learner.as_mut().map_or(Ok(None), Learner::advance);
        let duration = started.elapsed();
        self.share.learned(duration);
        let bytes = self.learner.as_ref().map_or(0, Learner::bytes);
        (self.observer)(Event::Learner { duration, bytes });
        match advanced {
            Ok(None) => {}
            Ok(Some(report)) => self.answer_learner(Ok(report)),
            Err(error) => self.answer_learner(Err(error)),
        }
    }

    fn write(&mut self) {
        let started = Instant::now();
        let Some(report) = self.engines.step().map(Box::new) else { return };
        let duration = started.elapsed();
        self.share.wrote(duration);
        (self.observer)(Event::Engine { report, duration, load: self.engines.load() });
    }
}
