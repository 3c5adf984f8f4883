//! The participants of a benched episode: prompts are rendered as in the node, and one engine generates all texts.
//!
//! A request waits in a queue until the bench submits it to the engine between two steps. Knows no clock and no learner.

use super::harness::{Bench, Common};
use super::prompts;
use crate::engine::distinct::DistinctTokens;
use crate::engine::sampler::SamplingConfig;
use crate::engine::{Engine, Policy, Request, RequestId};
use crate::episode::judge::{JudgeRequest, PreferenceRequest};
use crate::episode::role::{ResponseContext, RoleOutput};
use crate::episode::sampling::RenderedPrompt;
use crate::episode::seed::mix;
use crate::episode::tree::{EpisodeError, Participants};
use crate::formats::template::ChatTemplate;
use crate::formats::tokenizer::Tokenizer;
use crate::roles::{critic::Critic, generator::Generator, judge::Judge, refiner::Refiner};
use crate::telemetry::metrics::Role;
use crate::transformer::decode::Decoder;
use crate::types::{Completion, Invalid, Preference, Prompt, Turn, Verdict, utility};
use anyhow::Context;
use clap::ValueEnum;
use serde::Serialize;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::oneshot;
use tokio::task::{JoinError, yield_now};

/// How refinements are compared with the response.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum JudgeChoice {
    /// The longer text wins.
    Rule,
    /// The model, in both orders.
    Model,
}

/// The error of a request without completions.
const ENDED: &str = "the run ended before a request";

/// A request and where its completions go.
type QueuedRequest = (Request, oneshot::Sender<Vec<Completion>>);

/// Roles whose requests go to one engine.
pub(super) struct EngineParticipants {
    template: ChatTemplate,
    tokenizer: Tokenizer,
    generator: Generator,
    critic: Critic,
    refiner: Refiner,
    judge: Option<Judge>,
    /// How generator, critic, refiner and judge sample.
    sampling: [SamplingConfig; 4],
    queue: Mutex<Vec<QueuedRequest>>,
}

/// Requests in flight in the engine, and the distinct tokens of all finished ones.
#[derive(Default)]
pub(super) struct InFlight {
    requests: HashMap<RequestId, (Vec<u32>, oneshot::Sender<Vec<Completion>>)>,
    distinct: DistinctTokens,
}

impl InFlight {
    /// Submits every queued request to the engine.
    pub(super) fn submit(
        &mut self,
        engine: &mut Engine<Decoder>,
        participants: &EngineParticipants,
    ) -> anyhow::Result<()> {
        for (request, reply) in participants.take_queue() {
            let prompt = request.prompt.clone();
            let id = engine.submit(request).with_context(|| format!("a prompt of {} tokens", prompt.len()))?;
            self.requests.insert(id, (prompt, reply));
        }
        Ok(())
    }

    /// Sends the completions of finished requests to their episodes.
    pub(super) fn deliver(&mut self, engine: &mut Engine<Decoder>) -> anyhow::Result<()> {
        for (id, completions) in engine.take_finished() {
            let (prompt, reply) = self.requests.remove(&id).context("the engine finished an unknown request")?;
            completions.iter().for_each(|text| self.distinct.add(text.version, &prompt, &text.ids));
            // An episode that failed no longer waits.
            let _ = reply.send(completions);
        }
        Ok(())
    }

    /// The least number of tokens that had to be computed.
    pub(super) fn distinct_tokens(&self) -> u64 {
        self.distinct.tokens()
    }
}

impl EngineParticipants {
    /// The roles of the config; the judge is a model or a rule.
    pub(super) fn new(bench: &Bench, common: &Common, judge: JudgeChoice) -> anyhow::Result<Self> {
        let config = &bench.config;
        let sampling =
            [&config.generator.sampling, &config.critic.sampling, &config.refiner.sampling, &config.judge.sampling];
        Ok(Self {
            template: prompts::template(&bench.model, common),
            tokenizer: bench.model.tokenizer.clone(),
            generator: Generator::new(&config.generator.role)?,
            critic: Critic::new(&config.critic.role)?,
            refiner: Refiner::new(&config.refiner.role)?,
            judge: (judge == JudgeChoice::Model).then(|| Judge::new(&config.judge.role)).transpose()?,
            sampling: sampling.map(Clone::clone),
            queue: Mutex::default(),
        })
    }

    /// Returns once the episodes have queued all their next requests.
    pub(super) async fn settle(&self) {
        /// Scheduler turns without a new request.
        const QUIET_TURNS: usize = 4;
        let (mut queued, mut quiet) = (0, 0);
        while quiet < QUIET_TURNS {
            yield_now().await;
            let now = self.queue.lock().unwrap_or_else(PoisonError::into_inner).len();
            quiet = if now == queued { quiet + 1 } else { 0 };
            queued = now;
        }
    }

    fn take_queue(&self) -> Vec<QueuedRequest> {
        std::mem::take(&mut self.queue.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn render(&self, turns: Vec<Turn>) -> anyhow::Result<RenderedPrompt> {
        Ok(RenderedPrompt::new(&self.template, &self.tokenizer, turns)?)
    }

    /// Queues a request for `n` completions of `ids`. Stop ids are ignored, so that all runs do the same work.
    fn enqueue(&self, role: Role, ids: Vec<u32>, n: usize, seed: u64) -> oneshot::Receiver<Vec<Completion>> {
        let sampling = self.sampling[role as usize].clone();
        let policy = if role == Role::Critic { Policy::Serving } else { Policy::Base };
        let request = Request::new(ids, n, sampling, vec![], seed).with_policy(policy);
        let (reply, completions) = oneshot::channel();
        self.queue.lock().unwrap_or_else(PoisonError::into_inner).push((request, reply));
        completions
    }

    async fn complete(&self, role: Role, rendered: RenderedPrompt, n: usize, seed: u64) -> anyhow::Result<RoleOutput> {
        let completions = self.enqueue(role, rendered.ids.clone(), n, seed).await.context(ENDED)?;
        Ok(RoleOutput { rendered, completions })
    }

    /// Verdicts of the model on both orders of each refinement, all of them queued at once.
    async fn compare(&self, judge: &Judge, request: &JudgeRequest, seed: u64) -> anyhow::Result<Vec<Verdict>> {
        let ResponseContext { prompt, response, .. } = &*request.context;
        let mut orders = Vec::with_capacity(2 * request.refinements.len());
        for refinement in &request.refinements {
            for [first, second] in [[response, refinement], [refinement, response]] {
                let ids = self.render(judge.conversation(prompt, &first.text, &second.text))?.ids;
                orders.push(self.enqueue(Role::Judge, ids, 1, mix(seed, orders.len() as u64)));
            }
        }
        let mut choices = Vec::with_capacity(orders.len());
        for order in orders {
            let completions = order.await.context(ENDED)?;
            choices.push(
                completions.first().and_then(|text| Judge::read(&text.text, text.finish)).ok_or(Invalid::Unreadable),
            );
        }
        Ok(choices.chunks_exact(2).flat_map(|orders| Judge::verdicts(orders[0], orders[1])).collect())
    }
}

impl Participants for EngineParticipants {
    type Failure = anyhow::Error;

    async fn respond(&self, prompt: Arc<Prompt>, seed: u64) -> Result<RoleOutput, EpisodeError<anyhow::Error>> {
        let rendered = self.render(self.generator.conversation(&prompt))?;
        Ok(self.complete(Role::Generator, rendered, 1, seed).await?)
    }

    async fn criticise(
        &self,
        context: Arc<ResponseContext>,
        n: usize,
        seed: u64,
    ) -> Result<RoleOutput, EpisodeError<anyhow::Error>> {
        let rendered = self.render(self.critic.conversation(&context.prompt, &context.response.text))?;
        Ok(self.complete(Role::Critic, rendered, n, seed).await?)
    }

    async fn refine(
        &self,
        context: Arc<ResponseContext>,
        critique: Arc<Completion>,
        m: usize,
        seed: u64,
    ) -> Result<RoleOutput, EpisodeError<anyhow::Error>> {
        let ResponseContext { rendered, response, .. } = &*context;
        let turns = self.refiner.conversation(&rendered.turns, &response.text, &critique.text);
        let rendered = RenderedPrompt::continue_after(&self.template, &self.tokenizer, rendered, response, turns)
            .map_err(anyhow::Error::from)?;
        Ok(self.complete(Role::Refiner, rendered, m, seed).await?)
    }

    /// If no verdict is valid, all become ties, so that the bench learns from every group.
    async fn judge(&self, request: JudgeRequest, seed: u64) -> Result<Vec<Verdict>, EpisodeError<anyhow::Error>> {
        let response = request.context.response.text.len();
        let by_length = |text: &Completion| if text.text.len() > response { Verdict::Win } else { Verdict::Loss };
        let mut verdicts: Vec<Verdict> = match &self.judge {
            None => request.refinements.iter().map(by_length).collect(),
            Some(judge) => self.compare(judge, &request, seed).await?,
        };
        if utility(&verdicts).is_none() {
            verdicts.fill(Verdict::Tie);
        }
        Ok(verdicts)
    }

    async fn prefer(&self, _: PreferenceRequest, _: u64) -> Result<Vec<Preference>, EpisodeError<anyhow::Error>> {
        Ok(Vec::new())
    }

    fn no_response(&self) -> anyhow::Error {
        anyhow::anyhow!("expected one response, got none")
    }

    fn panicked(&self, error: JoinError) -> anyhow::Error {
        error.into()
    }
}
