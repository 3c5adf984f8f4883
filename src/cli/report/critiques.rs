//! The best and the worst critiques of a run's recorded groups, at its beginning and at its end.

use crate::config::Config;
use crate::formats;
use crate::formats::OpenedModel;
use crate::formats::source::Source;
use crate::groups::{self, PromptTexts, RecordedGroup};
use crate::report::{Critique, CritiqueSet};
use crate::types::{ChatRole, CriticVersion, CritiqueGroup, FinishReason, ScoredCritique, Turn, Verdict};
use std::collections::BTreeSet;
use std::path::Path;

/// Critiques of each kind that are shown.
const SHOWN: usize = 3;
/// Fewer groups than this are one set.
const GROUPS_MIN: usize = 10;
/// Groups of a set, at most.
const GROUPS_MAX: usize = 200;
/// Characters of a prompt that are shown.
const PROMPT_CHARS_MAX: usize = 4000;

/// The critiques of the run in the directory `run`, whose resolved config is `config`; what is missing goes to `notes`.
pub(super) fn read(run: &Path, config: &str, notes: &mut Vec<String>) -> Vec<CritiqueSet> {
    let recorded = match groups::read(run) {
        Ok(recorded) => recorded.groups,
        Err(groups::Error::NoRun(_)) => {
            notes.push("The run keeps no groups of its own, so no critiques are shown.".to_owned());
            return Vec::new();
        }
        Err(error) => {
            notes.push(format!("No critiques are shown: {error}."));
            return Vec::new();
        }
    };
    if recorded.is_empty() {
        return Vec::new();
    }
    let reader = Reader::open(config, &recorded);
    if let Err(why) = &reader {
        notes.push(format!("Critiques are shown without what was asked: {why}."));
    }
    let of = |title: &str, part: &[RecordedGroup]| set(title, part, reader.as_ref().ok());
    if recorded.len() < GROUPS_MIN {
        return vec![of("All recorded groups", &recorded)];
    }
    let count = (recorded.len() / 5).min(GROUPS_MAX);
    vec![of("At the beginning", &recorded[..count]), of("At the end", &recorded[recorded.len() - count..])]
}

/// Reads prompts.
struct Reader {
    opened: OpenedModel,
    system: String,
}

impl Reader {
    /// With the model of `config`, which must be that of all groups. Says why it cannot be used.
    fn open(config: &str, recorded: &[RecordedGroup]) -> Result<Self, String> {
        let text = |error: formats::Error| error.to_string();
        let config = Config::resolve(Some((Path::new("config.toml"), config)), &[])
            .map_err(|_| "the run's config is not one of this version".to_owned())?;
        let source = Source::parse(&config.model.source).map_err(text)?;
        let path = source.fetch().map_err(text)?;
        let sha256 = source.digest(&path).map_err(text)?;
        if recorded.iter().any(|recorded| recorded.model.sha256 != sha256) {
            return Err(format!("some groups are not of the model {source}"));
        }
        Ok(Self { opened: formats::open(&path).map_err(text)?, system: config.critic.role.system })
    }

    /// What the critic was asked for `group`: the user's turn, or the whole text if there is no such turn.
    fn prompt(&self, group: &CritiqueGroup) -> Result<String, formats::Error> {
        let texts = PromptTexts::new(&self.opened.tokenizer, &self.opened.template, &self.system)?;
        let user = |turn: Turn| (turn.role == ChatRole::User).then_some(turn.content);
        match texts.conversation(&group.prefix_ids)?.and_then(|mut turns| turns.pop()).and_then(user) {
            Some(text) => Ok(text),
            None => texts.rendered(&group.prefix_ids),
        }
    }
}

fn set(title: &str, part: &[RecordedGroup], reader: Option<&Reader>) -> CritiqueSet {
    let versions =
        part.iter().flat_map(|recorded| &recorded.group.critiques).map(|critique| critique.completion.version);
    let (oldest, newest) = (versions.clone().min().unwrap_or_default(), versions.max().unwrap_or_default());
    let by = |oldest: CriticVersion| {
        if oldest == newest { format!("critic {newest}") } else { format!("critics {oldest} to {newest}") }
    };
    let mut all: Vec<(&CritiqueGroup, &ScoredCritique)> = part
        .iter()
        .flat_map(|recorded| recorded.group.critiques.iter().map(|critique| (&recorded.group, critique)))
        .collect();
    // Of equal utilities, those that stand out in their group.
    let worth = |(group, critique): &(&CritiqueGroup, &ScoredCritique)| {
        (critique.utility, critique.utility - group.mean_utility())
    };
    all.sort_by(|one, other| {
        let ((utility, over), (other_utility, other_over)) = (worth(one), worth(other));
        other_utility.total_cmp(&utility).then(other_over.total_cmp(&over))
    });
    let utility = part.iter().map(|recorded| f64::from(recorded.group.mean_utility())).sum::<f64>();
    CritiqueSet {
        title: format!("{title}: {}", by(oldest)),
        groups: part.len(),
        utility: utility / part.len().max(1) as f64,
        best: first(all.iter(), reader),
        worst: first(all.iter().rev(), reader),
    }
}

/// The first critiques, one of each prompt.
fn first<'a>(
    sorted: impl Iterator<Item = &'a (&'a CritiqueGroup, &'a ScoredCritique)>,
    reader: Option<&Reader>,
) -> Vec<Critique> {
    let mut prompts = BTreeSet::new();
    let once = sorted.filter(|(group, _)| prompts.insert(&group.prompt_id));
    once.take(SHOWN).map(|(group, critique)| shown(group, critique, reader)).collect()
}

fn shown(group: &CritiqueGroup, critique: &ScoredCritique, reader: Option<&Reader>) -> Critique {
    let mut verdicts = [0; 4];
    for verdict in &critique.verdicts {
        verdicts[match verdict {
            Verdict::Win => 0,
            Verdict::Tie => 1,
            Verdict::Loss => 2,
            Verdict::Invalid(_) => 3,
        }] += 1;
    }
    let prompt = reader.and_then(|reader| reader.prompt(group).ok());
    Critique {
        prompt: prompt.map_or(String::new(), |prompt| prompt.chars().take(PROMPT_CHARS_MAX).collect()),
        text: critique.completion.text.clone(),
        is_cut: critique.completion.finish == FinishReason::Length,
        utility: critique.utility.into(),
        group_utility: group.mean_utility().into(),
        verdicts,
        task: group.task.clone(),
        version: critique.completion.version.to_string(),
        episode: group.episode.0,
    }
}
