//! Groups as the rows of data sets that TRL's trainers read: preferences, labelled completions, completions.
//!
//! A row has the critic's prompt and what it wrote, as text or as a conversation. Columns beyond TRL's say where a row is from.

mod jsonl;
mod parquet;
mod row;

pub use row::{Cell, Row};

use super::error::{Error, Result};
use super::record::RecordedGroup;
use super::texts::PromptTexts;
use crate::disk;
use crate::types::{ChatRole, CritiqueGroup, ScoredCritique, Turn};
use std::path::Path;

/// Which rows are made of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TrlFormat {
    /// `prompt`, `chosen`, `rejected`: what DPO learns from.
    Preference(Pairs),
    /// `prompt`, `completion`, `label`: what KTO learns from. The label says whether the critique made responses better; one that
    /// did neither is left out.
    Unpaired,
    /// `prompt`, `completion`: what supervised fine-tuning learns from. The best critique of each group, if it made responses
    /// better.
    PromptCompletion,
}

/// Which critiques of a group are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pairs {
    /// The one of the highest utility with the one of the lowest.
    BestWorst,
    /// Each two of different utilities.
    All,
    /// Those that the judge compared directly.
    Judge,
}

/// Utility of a critique after which responses are as good as before.
const EVEN: f32 = 0.5;

/// The rows of `groups`, in their order; as conversations if `as_turns`.
///
/// # Errors
/// If the prompt of a group cannot be read, or is no conversation.
pub fn rows(groups: &[RecordedGroup], format: TrlFormat, texts: &PromptTexts<'_>, as_turns: bool) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for RecordedGroup { group, .. } in groups {
        let of_group = match format {
            TrlFormat::Preference(pairs) => preferences(group, pairs),
            TrlFormat::Unpaired => labelled(group),
            TrlFormat::PromptCompletion => completions(group),
        };
        if of_group.is_empty() {
            continue;
        }
        let prompt = prompt(group, texts, as_turns)?;
        rows.extend(of_group.into_iter().map(|cells| {
            let cells = cells.into_iter().map(|(name, cell)| (name, if as_turns { cell } else { cell.plain() }));
            Row(std::iter::once(("prompt", prompt.clone())).chain(cells).collect())
        }));
    }
    Ok(rows)
}

/// Checks that rows can be written as `path`: before groups are read and a model is fetched.
///
/// # Errors
/// If it exists, or has an extension of no format.
pub fn check_name(path: &Path) -> Result<()> {
    if path.symlink_metadata().is_ok() {
        return Err(Error::Taken(path.to_owned()));
    }
    match path.extension().and_then(|ending| ending.to_str()) {
        Some("jsonl" | "parquet") => Ok(()),
        _ => Err(Error::RowFormat(path.to_owned())),
    }
}

/// Writes `rows` as the new file `path`: JSON lines or Parquet, by its extension.
///
/// # Errors
/// If `path` exists or has another extension, there is no row, or the disk fails.
pub fn write_rows(path: &Path, rows: &[Row]) -> Result<()> {
    if rows.is_empty() {
        let why = "expected groups with critiques of different worth, got none".to_owned();
        return Err(Error::Malformed { path: path.to_owned(), why });
    }
    let bytes = match path.extension().and_then(|ending| ending.to_str()) {
        Some("jsonl") => jsonl::render(rows),
        Some("parquet") => {
            parquet::render(rows).map_err(|error| Error::Malformed { path: path.to_owned(), why: error.to_string() })?
        }
        _ => return Err(Error::RowFormat(path.to_owned())),
    };
    disk::create(path, &bytes).map_err(|error| match error.kind() {
        std::io::ErrorKind::AlreadyExists => Error::Taken(path.to_owned()),
        _ => Error::io(path)(error),
    })
}

/// The critic's prompt.
fn prompt(group: &CritiqueGroup, texts: &PromptTexts<'_>, as_turns: bool) -> Result<Cell> {
    let failed = |why: String| Error::Prompt { episode: group.episode, why };
    if !as_turns {
        return texts.rendered(&group.prefix_ids).map(Cell::Text).map_err(|error| failed(error.to_string()));
    }
    let turns = texts.conversation(&group.prefix_ids).map_err(|error| failed(error.to_string()))?;
    let none = "the chat template renders no user's turn, after critic.system or alone, to this prompt";
    turns.map(Cell::Turns).ok_or_else(|| failed(none.to_owned()))
}

/// A row without its prompt.
type Cells = Vec<(&'static str, Cell)>;

/// What a critique says, as the assistant's turn.
fn said(critique: &ScoredCritique) -> Cell {
    Cell::Turns(vec![Turn::new(ChatRole::Assistant, critique.completion.text.clone())])
}

/// Where a row is from.
fn origin(group: &CritiqueGroup) -> Cells {
    vec![
        ("episode", Cell::Integer(group.episode.0.cast_signed())),
        ("prompt_id", Cell::Text(group.prompt_id.clone())),
        ("task", Cell::Text(group.task.clone())),
    ]
}

fn preferences(group: &CritiqueGroup, pairs: Pairs) -> Vec<Cells> {
    let critiques = &group.critiques;
    let pairs: Vec<(usize, usize)> = match pairs {
        Pairs::Judge => group.preferences.iter().map(|pair| (pair.chosen, pair.rejected)).collect(),
        Pairs::All => {
            let all = (0..critiques.len()).flat_map(|one| (0..critiques.len()).map(move |other| (one, other)));
            all.filter(|(one, other)| critiques[*one].utility > critiques[*other].utility).collect()
        }
        Pairs::BestWorst => {
            let by_utility = |one: &usize, other: &usize| critiques[*one].utility.total_cmp(&critiques[*other].utility);
            // Of equal ones the first.
            let best = (0..critiques.len()).rev().max_by(by_utility);
            let worst = (0..critiques.len()).min_by(by_utility);
            let differ = |(best, worst): &(usize, usize)| critiques[*best].utility > critiques[*worst].utility;
            best.zip(worst).filter(differ).into_iter().collect()
        }
    };
    let differ = |(chosen, rejected): &(usize, usize)| {
        critiques[*chosen].completion.text != critiques[*rejected].completion.text
    };
    let row = |(chosen, rejected): (usize, usize)| {
        let [chosen, rejected] = [chosen, rejected].map(|place| &critiques[place]);
        let mut cells = vec![
            ("chosen", said(chosen)),
            ("rejected", said(rejected)),
            ("score_chosen", Cell::Float(chosen.utility.into())),
            ("score_rejected", Cell::Float(rejected.utility.into())),
        ];
        cells.extend(origin(group));
        cells
    };
    pairs.into_iter().filter(differ).map(row).collect()
}

fn labelled(group: &CritiqueGroup) -> Vec<Cells> {
    let row = |critique: &ScoredCritique| {
        let mut cells = vec![
            ("completion", said(critique)),
            ("label", Cell::Bool(critique.utility > EVEN)),
            ("score", Cell::Float(critique.utility.into())),
        ];
        cells.extend(origin(group));
        cells
    };
    group.critiques.iter().filter(|critique| critique.utility != EVEN).map(row).collect()
}

fn completions(group: &CritiqueGroup) -> Vec<Cells> {
    let best = group.critiques.iter().rev().max_by(|one, other| one.utility.total_cmp(&other.utility));
    let row = |critique: &ScoredCritique| {
        let mut cells = vec![("completion", said(critique)), ("score", Cell::Float(critique.utility.into()))];
        cells.extend(origin(group));
        cells
    };
    best.filter(|best| best.utility > EVEN).map(row).into_iter().collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
