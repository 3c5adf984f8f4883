//! The thread's own loop: take commands, then one engine step or one piece of learning.

use super::engine_slot::{Writer, Writers};
use super::share::Share;
use super::{
    Command, EngineSlot, Envelope, Error, Event, JudgeSetup, LearnerSetup, Observer, PendingInstall, Reply, Setup,
};
use crate::learner::{self, Learner};
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
    writers: Writers,
    learner: Option<Learner>,
    learning: Option<Reply<learner::Report>>,
    share: Share,
    /// Critics that somebody wrote as, by their versions: several take turns, and each is packed once.
    worn: BTreeMap<CriticVersion, Arc<PackedAdapter>>,
    observer: Observer,
}

impl Thread {
    pub(super) fn new(setup: Setup) -> Result<Self, Error> {
        let Setup { model, tokenizer, engine, judge, learner, version, served, observer } = setup;
        let mut own = Writer::new(model.clone(), tokenizer, engine)?;
        let packed = served.map(|critic| model.pack(&critic)).transpose()?.map(Arc::new);
        own.engine.install(version, packed);
        let judge = judge.map(|JudgeSetup { model, tokenizer, engine }| Writer::new(model, tokenizer, engine));
        let writers = Writers::new(own, judge.transpose()?);
        let share = Share::new(learner.as_ref().map_or(1.0, |learner| learner.config.device_share));
        let learner = learner.map(|LearnerSetup { config, temperature, seed, state }| match state {
            Some(state) => Learner::resume(model.clone(), config, temperature, state),
            None => Learner::new(model.clone(), config, temperature, seed),
        });
        let mut learner = learner.transpose()?;
        learner.iter_mut().for_each(|learner| learner.serves(version));
        Ok(Self { model, writers, learner, learning: None, share, worn: BTreeMap::new(), observer })
    }

    /// Takes commands, writes, learns; until told to stop.
    pub(super) fn run(&mut self, inbox: &crossbeam_channel::Receiver<Envelope>) {
        loop {
            let idle = self.writers.is_idle() && !self.is_learning();
            let first = if idle { inbox.recv().ok() } else { inbox.try_recv().ok() };
            if idle && first.is_none() {
                return; // every handle is gone
            }
            for envelope in first.into_iter().chain(inbox.try_iter()) {
                (self.observer)(Event::Command { waited: envelope.sent.elapsed() });
                if self.obey(envelope.command).is_break() {
                    return;
                }
            }
            self.forget_callers_who_left();
            if self.is_learning() && (self.writers.is_idle() || self.share.learner_is_owed()) {
                self.learn();
            } else if !self.writers.is_idle() {
                self.write();
            }
        }
    }

    fn is_learning(&self) -> bool {
        self.learner.as_ref().is_some_and(Learner::is_busy)
    }

    fn obey(&mut self, command: Command) -> std::ops::ControlFlow<()> {
        // An answer that nobody waits for any more is dropped: the caller left.
        match command {
            Command::Write(seat, request, reply) => self.writers.seat(seat).write(request, reply),
            Command::WriteAs(version, critic, request, reply) => match self.wear(version, &critic) {
                Ok(()) => self.writers.seat(EngineSlot::Own).write(request, reply),
                Err(error) => drop(reply.send(Err(error))),
            },
            Command::Weigh(seat, prompt, candidates, reply) => {
                self.writers.seat(seat).weigh(prompt, candidates, reply);
            }
            Command::Learn(batch, groups, reply) => self.begin(batch, groups, reply),
            Command::Snapshot(reply) => {
                let state = self.learner.as_ref().map(Learner::state).ok_or(Error::NoLearner);
                drop(reply.send(state));
            }
            Command::Install(version, coming, reply) => drop(reply.send(self.install(version, coming))),
            Command::Abandon(reply) => {
                self.learner.iter_mut().for_each(Learner::abandon);
                self.answer_learner(Err(learner::Error::Abandoned));
                drop(reply.send(Ok(())));
            }
            Command::Fault(text) => panic!("{text}"),
            Command::Stop => return std::ops::ControlFlow::Break(()),
        }
        std::ops::ControlFlow::Continue(())
    }

    fn install(&mut self, version: CriticVersion, coming: Option<PendingInstall>) -> Result<(), Error> {
        let packed = match coming {
            None => None,
            Some(PendingInstall::Packed(packed)) => Some(packed),
            Some(PendingInstall::Plain(critic)) => Some(Arc::new(self.model.pack(&critic)?)),
        };
        self.writers.seat(EngineSlot::Own).engine.install(version, packed);
        if let Some(learner) = &mut self.learner {
            learner.published(version);
        }
        Ok(())
    }

    /// Puts `critic` into service as `version`, unless that is in service already.
    fn wear(&mut self, version: CriticVersion, critic: &CriticWeights) -> Result<(), Error> {
        let engine = &mut self.writers.seat(EngineSlot::Own).engine;
        if engine.critic_version() == version {
            return Ok(());
        }
        let packed = match self.worn.get(&version) {
            Some(packed) => packed.clone(),
            None => Arc::new(self.model.pack(critic)?),
        };
        engine.install(version, Some(packed.clone()));
        self.worn.insert(version, packed);
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

    fn forget_callers_who_left(&mut self) {
        self.writers.forget_callers_who_left();
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
        (self.observer)(Event::Learner { duration });
        match advanced {
            Ok(None) => {}
            Ok(Some(report)) => self.answer_learner(Ok(report)),
            Err(error) => self.answer_learner(Err(error)),
        }
    }

    fn write(&mut self) {
        let started = Instant::now();
        let Some(report) = self.writers.step() else { return };
        let duration = started.elapsed();
        self.share.wrote(duration);
        let (running, waiting, kv_usage) = self.writers.load();
        (self.observer)(Event::Engine { report, duration, running, waiting, kv_usage });
    }
}
