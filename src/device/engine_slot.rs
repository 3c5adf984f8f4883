//! The engines of the device thread, each with the callers that wait for its completions.
//!
//! Most nodes have one engine. A judge with a model of its own has a second, and the thread alternates
//! between them: two spinning thread pools would slow each other down, and a GPU needs a single owner.

use super::command::{EngineSlot, Reply};
use super::error::Error;
use crate::engine::{self, Engine, EngineConfig, Request, RequestId, StepReport};
use crate::formats::tokenizer::Tokenizer;
use crate::transformer::Transformer;
use crate::transformer::decode::Decoder;
use crate::types::Completion;
use std::collections::HashMap;
use std::sync::Arc;

/// An engine and its callers.
pub(super) struct EngineHost {
    pub(super) engine: Engine<Decoder>,
    callers: HashMap<RequestId, Reply<Vec<Completion>>>,
}

impl EngineHost {
    pub(super) fn new(model: Arc<Transformer>, tokenizer: Tokenizer, config: EngineConfig) -> Result<Self, Error> {
        let decoder = Decoder::sized(model, config.kv_cache_mib)?;
        Ok(Self { engine: Engine::new(decoder, tokenizer, config), callers: HashMap::new() })
    }

    /// Registers the caller of a request, or replies with the reason why the request was refused.
    pub(super) fn register(&mut self, submitted: Result<RequestId, engine::Error>, reply: Reply<Vec<Completion>>) {
        match submitted {
            Ok(id) => drop(self.callers.insert(id, reply)),
            // The caller may have gone.
            Err(error) => drop(reply.send(Err(error.into()))),
        }
    }

    pub(super) fn write(&mut self, request: Request, reply: Reply<Vec<Completion>>) {
        let submitted = self.engine.submit(request);
        self.register(submitted, reply);
    }

    pub(super) fn score_candidates(&mut self, prompt: Vec<u32>, candidates: Vec<u32>, reply: Reply<Vec<Completion>>) {
        let submitted = self.engine.score_candidates(prompt, candidates);
        self.register(submitted, reply);
    }

    pub(super) fn cancel_abandoned(&mut self) {
        let engine = &mut self.engine;
        self.callers.retain(|&id, reply| {
            let waits = !reply.is_closed();
            if !waits {
                engine.cancel(id);
            }
            waits
        });
    }

    /// Runs one engine step. `None` if it was undone because of a faulty request, whose caller gets the error.
    ///
    /// # Panics
    /// If the model fails.
    pub(super) fn step(&mut self) -> Option<StepReport> {
        let report = match self.engine.step() {
            Ok(report) => report,
            // The step was undone. Only the request whose logits are not a distribution fails.
            Err(error @ engine::Error::Logits { request, .. }) => {
                let id = RequestId(request);
                self.engine.cancel(id);
                if let Some(reply) = self.callers.remove(&id) {
                    drop(reply.send(Err(error.into())));
                }
                return None;
            }
            Err(error) => panic!("engine step: {error}"),
        };
        for (id, completions) in self.engine.take_finished() {
            if let Some(reply) = self.callers.remove(&id) {
                drop(reply.send(Ok(completions)));
            }
        }
        Some(report)
    }
}

/// The engines of the thread, stepped in turn.
pub(super) struct EngineHosts {
    /// The node's own first.
    hosts: Vec<EngineHost>,
    /// The engine to step next, if it has work.
    next: usize,
}

impl EngineHosts {
    pub(super) fn new(own: EngineHost, judge: Option<EngineHost>) -> Self {
        Self { hosts: [own].into_iter().chain(judge).collect(), next: 0 }
    }

    /// The engine of `slot`; the node's own if the judge has none.
    pub(super) fn host(&mut self, slot: EngineSlot) -> &mut EngineHost {
        let place = match slot {
            EngineSlot::Own => 0,
            EngineSlot::Judge => self.hosts.len() - 1,
        };
        &mut self.hosts[place]
    }

    pub(super) fn is_idle(&self) -> bool {
        self.hosts.iter().all(|host| host.engine.is_idle())
    }

    pub(super) fn cancel_abandoned(&mut self) {
        self.hosts.iter_mut().for_each(EngineHost::cancel_abandoned);
    }

    /// One step of the engine whose turn it is.
    pub(super) fn step(&mut self) -> Option<StepReport> {
        let places = (0..self.hosts.len()).map(|n| (self.next + n) % self.hosts.len());
        let place = places.into_iter().find(|&place| !self.hosts[place].engine.is_idle())?;
        self.next = (place + 1) % self.hosts.len();
        self.hosts[place].step()
    }

    /// Running sequences, waiting sequences, and the largest share of KV blocks in use of any engine.
    pub(super) fn load(&self) -> (usize, usize, f64) {
        self.hosts.iter().fold((0, 0, 0.0), |(running, waiting, usage), EngineHost { engine, .. }| {
            (running + engine.running(), waiting + engine.waiting(), engine.kv_usage().max(usage))
        })
    }
}
