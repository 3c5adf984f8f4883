//! An runner: a held-out prompt through several critics, side by side on the same response.
//!
//! `EvalRunner::run` is one prompt in the order of the paper (arXiv 2506.22157, section 3), with as many critics as there are
//! candidates. Who keeps the records and makes figures of them is no business of this file.
//!
//! Invariants: every candidate criticises the same response; all seeds come from (seed, place of the prompt, role,
//! index) and not from the candidate, so that two candidates of the same weights fare the same; trouble with one
//! critique loses that one.

use super::judge::{JudgeRequest, JudgeSource, verdicts};
use super::models::Models;
use super::role::{self, ResponseContext};
use super::sampling::{PolicyRef, SampleError, SamplingClient};
use crate::device::Device;
use crate::episode::seed::seed;
use crate::eval::{CriticRecord, CritiqueOutcome, EvalConfig, Record, ScoredText};
use crate::run::events::EventBus;
use crate::telemetry::metrics::Role;
use crate::types::{ChatRole, Completion, CriticVersion, EpisodeId, FinishReason, Prompt, Turn, Verdict};
use crate::verify::{self, CheckError, Checker};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// How long an answer may take at least. A rollout's deadline would lose the longest texts first where a machine is slow,
/// and flatter whoever writes them: in an runner only what hangs is given up.
const PATIENCE: Duration = Duration::from_secs(3600);

/// A critic under examination.
#[derive(Clone)]
pub struct Candidate {
    /// What it is called.
    pub name: String,
    /// How it comes by its critiques.
    pub kind: CritiqueSource,
}

/// How a critic comes by its critiques.
#[derive(Clone)]
pub enum CritiqueSource {
    /// It is asked in the critic's words, by these weights.
    Critic(PolicyRef),
    /// It says the same of every response.
    Empty,
    /// The base goes on with the generator's own conversation, sampled as the generator is.
    Itself,
    /// It states the prompt's known answer.
    Oracle,
}

/// What an runner is made of.
pub struct EvalRunner {
    /// Everyone who is asked.
    pub models: Arc<Models>,
    /// Where they write.
    pub device: Device,
    /// Scores texts where a prompt can be checked.
    pub checker: Arc<Checker>,
    /// Who is examined.
    pub candidates: Vec<Candidate>,
    /// N, M and what those say that are no model of their own.
    pub config: EvalConfig,
    /// Rounds of refinement, at least 1.
    pub rounds: usize,
    /// All that is drawn follows from it.
    pub seed: u64,
    /// Who is told what is written and judged.
    pub events: EventBus,
}

/// A chain of refinements: one critique of the response, and in later rounds one of what came of the one before.
struct Chain {
    candidate: CritiqueSource,
    context: Arc<ResponseContext>,
    before: ScoredText,
    place: EpisodeId,
    index: usize,
}

/// How one prompt ended, by its place.
pub type PromptOutcome = (u64, Result<Record, SampleError>);

impl EvalRunner {
    /// Every prompt through every candidate, some at a time; in whatever order they end.
    pub fn run_all(self: &Arc<Self>, prompts: impl Iterator<Item = (u64, Arc<Prompt>)>) -> JoinSet<PromptOutcome> {
        let turns = Arc::new(Semaphore::new(self.at_once()));
        let mut running = JoinSet::new();
        for (place, prompt) in prompts {
            let (runner, turns) = (self.clone(), turns.clone());
            running.spawn(async move {
                // The semaphore is never closed.
                let _turn = turns.acquire_owned().await;
                (place, runner.run(place, prompt).await)
            });
        }
        running
    }

    /// Prompts under way at once: enough that the engine's rows are full while some of them still wait for a response
    /// or a critique, and few enough that nothing waits long.
    fn at_once(&self) -> usize {
        let critiques = self.candidates.len() * self.config.critiques;
        self.models.engine.sequences_max.div_ceil(critiques.max(1)).max(2)
    }

    /// What `role` writes with.
    fn sampler(&self, role: Role) -> SamplingClient {
        let sampler = self.models.sampler(role, &self.device);
        SamplingClient { events: self.events.clone(), deadline: sampler.deadline.max(PATIENCE), ..sampler }
    }

    /// The prompt at `place` of its file through every candidate.
    ///
    /// # Errors
    /// Where there is no response, or something is broken.
    pub async fn run(self: Arc<Self>, place: u64, prompt: Arc<Prompt>) -> Result<Record, SampleError> {
        let place = EpisodeId(place);
        let generator = self.sampler(Role::Generator);
        let asked = seed(self.seed, place, Role::Generator, 0);
        let answer = role::answer(&self.models.generator.role, &generator, &prompt, 1, asked).await?;
        let one = answer.written.into_iter().next();
        let response = one.ok_or_else(|| SampleError::Broken("expected one text, got none".to_owned()))?;
        let context = Arc::new(ResponseContext { prompt: prompt.clone(), rendered: answer.rendered, response });
        let before = self.texts(&prompt, std::slice::from_ref(&context.response)).await?.remove(0);

        let mut running = JoinSet::new();
        for (index, candidate) in self.candidates.iter().enumerate() {
            let (runner, candidate) = (self.clone(), candidate.clone());
            let (context, before) = (context.clone(), before.clone());
            running.spawn(async move { (index, runner.run_critic(candidate, context, before, place).await) });
        }
        let mut critics = Vec::with_capacity(self.candidates.len());
        while let Some(critic_record) = running.join_next().await {
            let (index, critic_record) = critic_record.map_err(|error| SampleError::Broken(error.to_string()))?;
            critics.push((index, critic_record?));
        }
        critics.sort_by_key(|(index, _)| *index);
        let critics = critics.into_iter().map(|(_, critic_record)| critic_record).collect();
        Ok(Record { id: prompt.id.clone(), task: prompt.task.clone(), response: before, critics })
    }

    /// All chains of one candidate.
    async fn run_critic(
        self: Arc<Self>,
        candidate: Candidate,
        context: Arc<ResponseContext>,
        before: ScoredText,
        place: EpisodeId,
    ) -> Result<CriticRecord, SampleError> {
        let Candidate { name, kind } = candidate;
        let asked = seed(self.seed, place, Role::Critic, 0);
        let critiques = recoverable(self.critiques(&kind, &context, self.config.critiques, asked).await)?;
        let mut going = JoinSet::new();
        for (index, critique) in critiques.unwrap_or_default().into_iter().enumerate() {
            let chain =
                Chain { candidate: kind.clone(), context: context.clone(), before: before.clone(), place, index };
            going.spawn(self.clone().run_chain(chain, critique));
        }
        let mut attempts = Vec::new();
        while let Some(chain) = going.join_next().await {
            attempts.extend(chain.map_err(|error| SampleError::Broken(error.to_string()))??);
        }
        attempts.sort_by_key(|attempt: &CritiqueOutcome| (attempt.round, attempt.chain));
        Ok(CriticRecord { critic: name, attempts })
    }

    /// Round after round of one chain: refine, and criticise the first of what came of it.
    async fn run_chain(
        self: Arc<Self>,
        chain: Chain,
        critique: Completion,
    ) -> Result<Vec<CritiqueOutcome>, SampleError> {
        let (mut attempts, mut critique) = (Vec::new(), Arc::new(critique));
        let mut context = chain.context.clone();
        // What the round criticises, where that is not the response.
        let mut criticised = None;
        for round in 1..=self.rounds {
            // Indices of a round behind those of the rounds before it.
            let index = ((round - 1) * self.config.critiques + chain.index) as u64;
            let Some((written, texts, verdicts)) =
                recoverable(self.refine(&chain, &context, critique.clone(), index).await)?
            else {
                break;
            };
            let (text, tokens) = (critique.text.clone(), critique.ids.len());
            let about = std::mem::replace(&mut criticised, texts.first().cloned());
            attempts.push(CritiqueOutcome {
                round,
                chain: chain.index,
                critique: text,
                tokens,
                about,
                refinements: texts,
                verdicts,
            });
            let (Some(response), true) = (written.into_iter().next(), round < self.rounds) else { break };
            let (prompt, rendered) = (context.prompt.clone(), context.rendered.clone());
            context = Arc::new(ResponseContext { prompt, rendered, response });
            let asked = seed(self.seed, chain.place, Role::Critic, 1 + index);
            let Some(next) = recoverable(self.critiques(&chain.candidate, &context, 1, asked).await)? else { break };
            let Some(next) = next.into_iter().next() else { break };
            critique = Arc::new(next);
        }
        Ok(attempts)
    }

    /// What a candidate says of a response, `n` times; nothing where it has nothing to say.
    async fn critiques(
        &self,
        candidate: &CritiqueSource,
        context: &Arc<ResponseContext>,
        n: usize,
        seed: u64,
    ) -> Result<Vec<Completion>, SampleError> {
        let sampler = self.sampler(Role::Critic);
        match candidate {
            CritiqueSource::Critic(policy) => {
                let sampler = SamplingClient { policy: policy.clone(), ..sampler };
                Ok(role::answer(&self.models.critic.role, &sampler, context, n, seed).await?.written)
            }
            CritiqueSource::Empty => fixed_text(&sampler, &self.config.empty_critique, n),
            CritiqueSource::Oracle => match context.prompt.answer.as_deref() {
                Some(answer) => fixed_text(&sampler, &self.config.oracle(answer), n),
                None => Ok(Vec::new()),
            },
            CritiqueSource::Itself => self.itself(context, n, seed).await,
        }
    }

    /// The generator's own conversation goes on: what it says of its own response, as long as a critique may be.
    async fn itself(&self, context: &ResponseContext, n: usize, seed: u64) -> Result<Vec<Completion>, SampleError> {
        let mut sampler = self.sampler(Role::Generator);
        sampler.sampling.max_tokens = self.models.critic.sampling.max_tokens;
        let mut turns = context.rendered.turns.clone();
        turns.push(Turn::new(ChatRole::Assistant, context.response.text.clone()));
        turns.push(Turn::new(ChatRole::User, self.config.self_prompt.clone()));
        let rendered = sampler.continue_after(&context.rendered, &context.response, turns)?;
        sampler.write(&rendered, n, seed).await
    }

    /// M refinements by `critique`, with their scores and verdicts beside the chain's first response.
    async fn refine(
        &self,
        chain: &Chain,
        context: &Arc<ResponseContext>,
        critique: Arc<Completion>,
        index: u64,
    ) -> Result<(Vec<Completion>, Vec<ScoredText>, Vec<Verdict>), SampleError> {
        let refiner = self.sampler(Role::Refiner);
        let input = (context.clone(), critique.clone());
        let asked = seed(self.seed, chain.place, Role::Refiner, index);
        let m = self.config.refinements;
        let written = role::answer(&self.models.refiner.role, &refiner, &input, m, asked).await?.written;
        let texts = self.texts(&context.prompt, &written).await?;
        let verdicts = match &self.models.judges.verdicts {
            // The verifier's preference is that of the scores, and code is run once.
            JudgeSource::Verifier(_) => texts.iter().map(|text| prefer(chain.before.score, text.score)).collect(),
            source => {
                let judge = self.sampler(Role::Judge);
                let case = JudgeRequest { context: chain.context.clone(), critique, refinements: written.clone() };
                verdicts(source, &judge, case, seed(self.seed, chain.place, Role::Judge, index)).await?
            }
        };
        Ok((written, texts, verdicts))
    }

    /// `written` with their scores, where the prompt can be checked.
    async fn texts(&self, prompt: &Arc<Prompt>, written: &[Completion]) -> Result<Vec<ScoredText>, SampleError> {
        let (checker, prompt) = (self.checker.clone(), prompt.clone());
        let unscored: Vec<ScoredText> = written
            .iter()
            .map(|written| ScoredText { text: written.text.clone(), tokens: written.ids.len(), score: None })
            .collect();
        if !verify::can_check(&prompt) {
            return Ok(unscored);
        }
        let check = move || {
            let score = |text: &ScoredText| checker.check(&prompt, &text.text).ok().map(|checked| checked.score);
            unscored.into_iter().map(|text| ScoredText { score: score(&text), ..text }).collect()
        };
        // Code takes seconds, and others wait on this thread.
        tokio::task::spawn_blocking(check).await.map_err(|error| SampleError::Broken(error.to_string()))
    }
}

/// The base, as a critic.
pub fn base(name: &str) -> Candidate {
    Candidate { name: name.to_owned(), kind: CritiqueSource::Critic(PolicyRef::Base) }
}

/// `n` times `text`, as if it had been written.
fn fixed_text(sampler: &SamplingClient, text: &str, n: usize) -> Result<Vec<Completion>, SampleError> {
    let ids = sampler.tokenizer.encode(text)?;
    let version = CriticVersion::BASE;
    let written = Completion { text: text.to_owned(), ids, log_probs: Vec::new(), version, finish: FinishReason::Stop };
    Ok(vec![written; n])
}

fn prefer(before: Option<f32>, after: Option<f32>) -> Verdict {
    let score = |score: Option<f32>| score.ok_or_else(|| CheckError::Prompt(String::new()));
    verify::prefer(score(before), score(after))
}

/// Trouble that loses one critique is none at all here.
fn recoverable<T>(result: Result<T, SampleError>) -> Result<Option<T>, SampleError> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(SampleError::Deadline | SampleError::TooLong | SampleError::Remote(_)) => Ok(None),
        Err(error @ (SampleError::Gone | SampleError::Broken(_))) => Err(error),
    }
}
