//! The engines of the device thread, each with the callers that wait for its completions.
//!
//! Most nodes have one engine. A judge with a model of its own has a second, and the thread alternates
//! between them: two spinning thread pools would slow each other down, and a GPU needs a single owner.

use super::command::{EngineSlot, Reply};
use super::error::Error;
use super::stream::StreamSender;
use crate::engine::{self, Engine, EngineConfig, Policy, Request, RequestId, StepReport};
use crate::formats::tokenizer::Tokenizer;
use crate::transformer::Transformer;
use crate::transformer::decode::Decoder;
use crate::types::{Completion, EngineLoad};
use std::collections::HashMap;
use std::sync::Arc;

/// Who waits for a request.
enum Caller {
    Whole(Reply<Vec<Completion>>),
    Stream(StreamSender),
}

impl Caller {
    fn is_gone(&self) -> bool {
        match self {
            Self::Whole(reply) => reply.is_closed(),
            Self::Stream(updates) => updates.is_closed(),
        }
    }

    /// Tells the caller that its request failed.
    fn fail(self, error: Error) {
        // The caller may have gone.
        match self {
            Self::Whole(reply) => drop(reply.send(Err(error))),
            Self::Stream(updates) => drop(updates.send(Err(error))),
        }
    }

    /// Gives the caller its completions. A stream has had all of them, and ends here.
    fn finish(self, completions: Vec<Completion>) {
        match self {
            Self::Whole(reply) => drop(reply.send(Ok(completions))),
            Self::Stream(updates) => drop(updates),
        }
    }
}

/// An engine and its callers.
pub(super) struct EngineHost {
    pub(super) engine: Engine<Decoder>,
    callers: HashMap<RequestId, Caller>,
    /// Size of its KV cache, in bytes.
    kv_bytes: usize,
}

impl EngineHost {
    pub(super) fn new(model: Arc<Transformer>, tokenizer: Tokenizer, config: EngineConfig) -> Result<Self, Error> {
        let decoder = Decoder::sized(model, config.kv, config.kv_cache_mib)?;
        let kv_bytes = config.kv_cache_mib << 20;
        Ok(Self { engine: Engine::new(decoder, tokenizer, config), callers: HashMap::new(), kv_bytes })
    }

    /// Registers the caller of a request, or replies with the reason why the request was refused.
    pub(super) fn register(&mut self, submitted: Result<RequestId, engine::Error>, reply: Reply<Vec<Completion>>) {
        match submitted {
            Ok(id) => drop(self.callers.insert(id, Caller::Whole(reply))),
            // The caller may have gone.
            Err(error) => drop(reply.send(Err(error.into()))),
        }
        // A request for no token has ended already.
        self.deliver();
    }

    pub(super) fn write(&mut self, request: Request, reply: Reply<Vec<Completion>>) {
        let submitted = self.engine.submit(request);
        self.register(submitted, reply);
    }

    /// Streams what is written for `request`; `reply` says whether it was accepted.
    pub(super) fn stream(&mut self, request: Request, updates: StreamSender, reply: Reply<()>) {
        let submitted = self.engine.submit_streamed(request);
        let accepted = submitted.map(|id| drop(self.callers.insert(id, Caller::Stream(updates))));
        drop(reply.send(accepted.map_err(Error::from)));
        self.deliver();
    }

    pub(super) fn score_candidates(
        &mut self,
        policy: Policy,
        prompt: Vec<u32>,
        candidates: Vec<u32>,
        reply: Reply<Vec<Completion>>,
    ) {
        let submitted = self.engine.score_candidates(policy, prompt, candidates);
        self.register(submitted, reply);
    }

    pub(super) fn cancel_abandoned(&mut self) {
        let engine = &mut self.engine;
        self.callers.retain(|&id, caller| {
            let waits = !caller.is_gone();
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
        let stepped = self.engine.step();
        // What an undone step had finished before it failed stays finished.
        self.deliver();
        match stepped {
            Ok(report) => Some(report),
            // The step was undone. Only the request at fault fails: its logits are no distribution, or its ids no text.
            Err(error) => {
                let Some(id) = error.request().map(RequestId) else { panic!("engine step: {error}") };
                self.engine.cancel(id);
                if let Some(caller) = self.callers.remove(&id) {
                    caller.fail(error.into());
                }
                None
            }
        }
    }

    /// Gives the callers what was written for them.
    fn deliver(&mut self) {
        for (id, event) in self.engine.take_events() {
            if let Some(Caller::Stream(updates)) = self.callers.get(&id) {
                // The caller may have gone.
                drop(updates.send(Ok(event)));
            }
        }
        for (id, completions) in self.engine.take_finished() {
            if let Some(caller) = self.callers.remove(&id) {
                caller.finish(completions);
            }
        }
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

    pub(super) fn set_share(&mut self, http: f64) {
        self.hosts.iter_mut().for_each(|host| host.engine.set_share(http));
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

    /// What the engines hold.
    pub(super) fn load(&self) -> EngineLoad {
        self.hosts.iter().fold(EngineLoad::default(), |load, EngineHost { engine, kv_bytes, .. }| EngineLoad {
            running: load.running + engine.running(),
            waiting: load.waiting + engine.waiting(),
            kv_usage: load.kv_usage.max(engine.kv_usage()),
            kv_bytes: load.kv_bytes + (engine.kv_touched() * *kv_bytes as f64) as usize,
            versions_alive: load.versions_alive + engine.critics().alive(),
            versions_bytes: load.versions_bytes + engine.critics().bytes(),
        })
    }
}
