//! One engine of the thread and those who wait for what it writes.
//!
//! Most nodes have one; a judge with a model of its own has a second, and the thread steps them by turns: two pools
//! of threads that spin beside each other would ruin both, and a GPU wants one owner.

use super::{EngineSlot, Error, Reply};
use crate::engine::{self, Engine, EngineConfig, Request, RequestId, StepReport};
use crate::formats::tokenizer::Tokenizer;
use crate::transformer::Transformer;
use crate::transformer::decode::Decoder;
use crate::types::Completion;
use std::collections::HashMap;
use std::sync::Arc;

/// An engine and its callers.
pub(super) struct Writer {
    pub(super) engine: Engine<Decoder>,
    callers: HashMap<RequestId, Reply<Vec<Completion>>>,
}

impl Writer {
    pub(super) fn new(model: Arc<Transformer>, tokenizer: Tokenizer, config: EngineConfig) -> Result<Self, Error> {
        let decoder = Decoder::sized(model, config.kv_cache_mib)?;
        Ok(Self { engine: Engine::new(decoder, tokenizer, config), callers: HashMap::new() })
    }

    /// Takes a request, or tells its caller why not.
    pub(super) fn take(&mut self, submitted: Result<RequestId, engine::Error>, reply: Reply<Vec<Completion>>) {
        match submitted {
            Ok(id) => drop(self.callers.insert(id, reply)),
            // An answer that nobody waits for any more is dropped: the caller left.
            Err(error) => drop(reply.send(Err(error.into()))),
        }
    }

    pub(super) fn write(&mut self, request: Request, reply: Reply<Vec<Completion>>) {
        let submitted = self.engine.submit(request);
        self.take(submitted, reply);
    }

    pub(super) fn weigh(&mut self, prompt: Vec<u32>, candidates: Vec<u32>, reply: Reply<Vec<Completion>>) {
        let submitted = self.engine.score_candidates(prompt, candidates);
        self.take(submitted, reply);
    }

    pub(super) fn forget_callers_who_left(&mut self) {
        let engine = &mut self.engine;
        self.callers.retain(|&id, reply| {
            let waits = !reply.is_closed();
            if !waits {
                engine.cancel(id);
            }
            waits
        });
    }

    /// One engine step; none where it was undone because of one request, which is told.
    ///
    /// # Panics
    /// Where the model fails: the device is broken.
    pub(super) fn step(&mut self) -> Option<StepReport> {
        let report = match self.engine.step() {
            Ok(report) => report,
            // The step was undone; only the request whose logits are no distribution is at fault.
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

/// The engines of a thread, stepped by turns.
pub(super) struct Writers {
    /// The node's own first.
    writers: Vec<Writer>,
    /// Whose step comes next, if it has anything to do.
    next: usize,
}

impl Writers {
    pub(super) fn new(own: Writer, judge: Option<Writer>) -> Self {
        Self { writers: [own].into_iter().chain(judge).collect(), next: 0 }
    }

    /// The engine of `seat`; the node's own where the judge has none.
    pub(super) fn seat(&mut self, seat: EngineSlot) -> &mut Writer {
        let place = match seat {
            EngineSlot::Own => 0,
            EngineSlot::Judge => self.writers.len() - 1,
        };
        &mut self.writers[place]
    }

    pub(super) fn is_idle(&self) -> bool {
        self.writers.iter().all(|writer| writer.engine.is_idle())
    }

    pub(super) fn forget_callers_who_left(&mut self) {
        self.writers.iter_mut().for_each(Writer::forget_callers_who_left);
    }

    /// One step of the engine whose turn it is.
    pub(super) fn step(&mut self) -> Option<StepReport> {
        let places = (0..self.writers.len()).map(|n| (self.next + n) % self.writers.len());
        let place = places.into_iter().find(|&place| !self.writers[place].engine.is_idle())?;
        self.next = (place + 1) % self.writers.len();
        self.writers[place].step()
    }

    /// Sequences that run, sequences that wait, and the share of KV blocks in use where it is greatest.
    pub(super) fn load(&self) -> (usize, usize, f64) {
        self.writers.iter().fold((0, 0, 0.0), |(running, waiting, usage), Writer { engine, .. }| {
            (running + engine.running(), waiting + engine.waiting(), engine.kv_usage().max(usage))
        })
    }
}
