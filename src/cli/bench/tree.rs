//! Episodes without actors: who is asked next, once somebody has answered.
//!
//! The order of `actors::rollout` on one thread, with the same conversations, ids and requests. Knows no clock
//! and no learner.

use super::{Bench, Common, prompts};
use crate::engine::distinct::Distinct;
use crate::engine::sampler::SamplingConfig;
use crate::engine::{Engine, Request, RequestId};
use crate::episode::sampling::RenderedPrompt;
use crate::formats::template::ChatTemplate;
use crate::roles::{critic::Critic, generator::Generator, judge::Judge, refiner::Refiner};
use crate::transformer::decode::Decoder;
use crate::types::{Choice, Completion, CritiqueGroup, EpisodeId, Invalid, Prompt, ScoredCritique, Verdict, utility};
use anyhow::Context;
use clap::ValueEnum;
use serde::Serialize;
use std::collections::BTreeMap;

/// Who compares a refinement with its response.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Judging {
    /// The longer text wins.
    Rule,
    /// The model, in both orders.
    Model,
}

/// Whose answer a request is.
#[derive(Clone, Copy, Debug)]
enum Part {
    Response,
    Critiques,
    /// Refinements of the critique of this index.
    Refinements(usize),
    /// What a judge says of a refinement: of which critique, which of its verdicts.
    Verdict(usize, usize),
}

/// One prompt's tree, as far as it has grown.
struct Tree {
    episode: EpisodeId,
    prompt: Prompt,
    asked: RenderedPrompt,
    response: Option<Completion>,
    prefix_ids: Vec<u32>,
    critiques: Vec<Completion>,
    /// Verdicts on each critique's refinements, in the order asked; none where one is still out.
    verdicts: Vec<Vec<Option<Verdict>>>,
}

/// What all episodes came to.
pub(super) struct Grown {
    /// Tokens that had to be computed at least.
    pub(super) distinct: u64,
}

/// Episodes under way on one engine.
pub(super) struct Trees<'a> {
    bed: &'a Bench,
    seed: u64,
    template: ChatTemplate,
    generator: Generator,
    critic: Critic,
    refiner: Refiner,
    judge: Option<Judge>,
    trees: Vec<Tree>,
    open: BTreeMap<RequestId, (usize, Part, Vec<u32>)>,
    requests: u64,
    distinct: Distinct,
}

impl<'a> Trees<'a> {
    /// No episode yet.
    pub(super) fn new(bed: &'a Bench, common: &Common, judging: Judging) -> anyhow::Result<Self> {
        let config = &bed.config;
        Ok(Self {
            bed,
            seed: common.seed,
            template: prompts::template(&bed.model, common),
            generator: Generator::new(&config.generator.role)?,
            critic: Critic::new(&config.critic.role)?,
            refiner: Refiner::new(&config.refiner.role)?,
            judge: (judging == Judging::Model).then(|| Judge::new(&config.judge.role)).transpose()?,
            trees: Vec::new(),
            open: BTreeMap::new(),
            requests: 0,
            distinct: Distinct::default(),
        })
    }

    /// Begins an episode for each of `prompts`: y0 ~ generator(. | x).
    pub(super) fn begin(&mut self, engine: &mut Engine<Decoder>, prompts: Vec<Prompt>) -> anyhow::Result<()> {
        for prompt in prompts {
            let place = self.trees.len();
            let turns = self.generator.conversation(&prompt);
            let asked = RenderedPrompt::begin(&self.template, &self.bed.model.tokenizer, turns)?;
            let ids = asked.ids.clone();
            let (response, prefix_ids, critiques, verdicts) = (None, Vec::new(), Vec::new(), Vec::new());
            let episode = EpisodeId(place as u64);
            self.trees.push(Tree { episode, prompt, asked, response, prefix_ids, critiques, verdicts });
            self.ask(engine, place, Part::Response, ids, 1)?;
        }
        Ok(())
    }

    /// Takes up what the engine has finished and asks what follows from it; the groups that are whole now.
    pub(super) fn grow(&mut self, engine: &mut Engine<Decoder>) -> anyhow::Result<Vec<CritiqueGroup>> {
        let mut groups = Vec::new();
        for (id, texts) in engine.take_finished() {
            let (place, part, prompt) = self.open.remove(&id).context("the engine finished what nobody asked")?;
            texts.iter().for_each(|text| self.distinct.add(text.version, &prompt, &text.ids));
            let texts = texts;
            match part {
                Part::Response => self.respond(engine, place, texts)?,
                Part::Critiques => self.criticise(engine, place, texts)?,
                Part::Refinements(critique) => self.refine(engine, place, critique, &texts)?,
                Part::Verdict(critique, index) => self.compare(place, critique, index, &texts),
            }
            groups.extend(self.trees[place].group());
        }
        Ok(groups)
    }

    /// What it came to, at the end.
    pub(super) fn end(self) -> Grown {
        Grown { distinct: self.distinct.tokens() }
    }

    /// c_1 .. c_N ~ critic(. | x, y0)
    fn respond(&mut self, engine: &mut Engine<Decoder>, place: usize, texts: Vec<Completion>) -> anyhow::Result<()> {
        let response = texts.into_iter().next().context("a response was asked for")?;
        let turns = self.critic.conversation(&self.trees[place].prompt, &response.text);
        let ids = RenderedPrompt::begin(&self.template, &self.bed.model.tokenizer, turns)?.ids;
        let tree = &mut self.trees[place];
        (tree.response, tree.prefix_ids) = (Some(response), ids.clone());
        self.ask(engine, place, Part::Critiques, ids, self.bed.config.rollout.critiques)
    }

    /// y_i1 .. y_iM ~ generator(. | x, y0, c_i)
    fn criticise(&mut self, engine: &mut Engine<Decoder>, place: usize, texts: Vec<Completion>) -> anyhow::Result<()> {
        let (m, tokenizer) = (self.bed.config.rollout.refinements, &self.bed.model.tokenizer);
        let tree = &mut self.trees[place];
        tree.verdicts = vec![vec![None; m * if self.judge.is_some() { 2 } else { 1 }]; texts.len()];
        tree.critiques = texts;
        let response = tree.response.as_ref().context("a critique follows a response")?;
        let mut requests = Vec::with_capacity(tree.critiques.len());
        for critique in &tree.critiques {
            let turns = self.refiner.conversation(&tree.asked.turns, &response.text, &critique.text);
            requests.push(RenderedPrompt::continue_after(&self.template, tokenizer, &tree.asked, response, turns)?.ids);
        }
        for (critique, ids) in requests.into_iter().enumerate() {
            self.ask(engine, place, Part::Refinements(critique), ids, m)?;
        }
        Ok(())
    }

    /// PS(y_ij, y0): by the rule at once, or asked of the model in both orders.
    fn refine(
        &mut self,
        engine: &mut Engine<Decoder>,
        place: usize,
        critique: usize,
        texts: &[Completion],
    ) -> anyhow::Result<()> {
        let tree = &mut self.trees[place];
        let response = &tree.response.as_ref().context("a refinement follows a response")?.text;
        let Some(judge) = &self.judge else {
            let longer = |text: &Completion| text.text.len() > response.len();
            let verdict = |text| if longer(text) { Verdict::Win } else { Verdict::Loss };
            tree.verdicts[critique] = texts.iter().map(|text| Some(verdict(text))).collect();
            return Ok(());
        };
        let mut questions = Vec::with_capacity(2 * texts.len());
        for text in texts {
            for (first, second) in [(response, &text.text), (&text.text, response)] {
                let turns = judge.conversation(&tree.prompt, first, second);
                questions.push(RenderedPrompt::begin(&self.template, &self.bed.model.tokenizer, turns)?.ids);
            }
        }
        for (index, ids) in questions.into_iter().enumerate() {
            self.ask(engine, place, Part::Verdict(critique, index), ids, 1)?;
        }
        Ok(())
    }

    fn compare(&mut self, place: usize, critique: usize, index: usize, texts: &[Completion]) {
        let read = texts.first().and_then(|text| Judge::read(&text.text)).ok_or(Invalid::Unreadable);
        // The even ones show the response first. What the other order says is not in yet: each is taken for itself.
        let mirrored = read.map(Choice::swapped);
        let [forward, backward] =
            if index.is_multiple_of(2) { Judge::verdicts(read, mirrored) } else { Judge::verdicts(mirrored, read) };
        let verdict = if index.is_multiple_of(2) { forward } else { backward };
        self.trees[place].verdicts[critique][index] = Some(verdict);
    }

    fn ask(
        &mut self,
        engine: &mut Engine<Decoder>,
        place: usize,
        part: Part,
        prompt: Vec<u32>,
        n: usize,
    ) -> anyhow::Result<()> {
        let config = &self.bed.config;
        let sampling: &SamplingConfig = match part {
            Part::Response => &config.generator.sampling,
            Part::Critiques => &config.critic.sampling,
            Part::Refinements(_) => &config.refiner.sampling,
            Part::Verdict(..) => &config.judge.sampling,
        };
        let request = Request {
            prompt: prompt.clone(),
            n,
            sampling: sampling.clone(),
            stop_ids: vec![],
            seed: self.seed.wrapping_add(self.requests),
            critic: matches!(part, Part::Critiques),
        };
        self.requests += 1;
        let id = engine.submit(request).with_context(|| format!("episode {place}, {part:?}"))?;
        self.open.insert(id, (place, part, prompt));
        Ok(())
    }
}

impl Tree {
    /// Its group, once every verdict is in; only once.
    fn group(&mut self) -> Option<CritiqueGroup> {
        let whole = !self.verdicts.is_empty() && self.verdicts.iter().flatten().all(Option::is_some);
        let verdicts = std::mem::take(if whole { &mut self.verdicts } else { return None });
        let scored = |(written, verdicts): (Completion, Vec<Option<Verdict>>)| {
            let verdicts: Vec<Verdict> = verdicts.into_iter().flatten().collect();
            // A judge that never said anything readable leaves a critique in the middle.
            ScoredCritique { completion: written, utility: utility(&verdicts).unwrap_or(0.5), verdicts }
        };
        Some(CritiqueGroup {
            episode: self.episode,
            prompt_id: self.prompt.id.clone(),
            task: self.prompt.task.clone(),
            prefix_ids: std::mem::take(&mut self.prefix_ids),
            critiques: std::mem::take(&mut self.critiques).into_iter().zip(verdicts).map(scored).collect(),
            preferences: vec![],
        })
    }
}
