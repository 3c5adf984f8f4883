//! Episodes as lines for a terminal. Whatever a model wrote is shown and never obeyed: control characters and marks that turn
//! the direction of writing become visible escapes.

use crate::cli::terminal_text::visible;
use crate::records::{CritiqueRecord, Ending, EpisodeRecord, EpisodeSummary};
use crate::types::{CriticVersion, DropReason, Label, Verdict};
use std::collections::BTreeSet;
use std::fmt::Write as _;
use time::OffsetDateTime;

/// Characters of a prompt in a list.
const PROMPT_CHARS_MAX: usize = 60;

/// The head of a list.
pub(super) const HEAD: &str =
    "episode  ended (UTC)          end            critics    CU                        task          prompt";

/// An episode as a line of a list.
pub(super) fn row(episode: &EpisodeSummary) -> String {
    let versions: BTreeSet<CriticVersion> = episode.critiques.iter().map(|critique| critique.version).collect();
    let versions: Vec<_> = versions.iter().map(ToString::to_string).collect();
    let invalid = if episode.invalid > 0 { format!(" ({} invalid)", episode.invalid) } else { String::new() };
    let prompt: String = visible(&episode.prompt.replace(['\n', '\t'], " ")).chars().take(PROMPT_CHARS_MAX).collect();
    format!(
        "{:>7}  {}  {:<13}  {:<9}  {:<24}  {:<12}  {prompt}",
        episode.id.0,
        moment(episode.time),
        ending(episode.end, episode.why),
        versions.join(" "),
        utilities(episode) + &invalid,
        visible(&episode.task),
    )
}

/// Mean, least and greatest CU of an episode's critiques.
fn utilities(episode: &EpisodeSummary) -> String {
    let valid = || episode.critiques.iter().filter_map(|critique| critique.cu);
    let (least, most) = (valid().reduce(f32::min), valid().reduce(f32::max));
    match (episode.cu_mean(), least, most) {
        (Some(mean), Some(least), Some(most)) => format!("{mean:.2} [{least:.2}, {most:.2}]"),
        _ => "-".to_owned(),
    }
}

/// An episode's tree.
pub(super) fn tree(record: &EpisodeRecord) -> Vec<String> {
    let mut lines = vec![format!(
        "episode {}: {}, ended {} UTC after {:.1} s",
        record.id,
        ending(record.end, record.why),
        moment(record.time),
        record.seconds
    )];
    let answer = record.prompt.answer.as_ref().map_or(String::new(), |answer| format!(", answer {}", visible(answer)));
    lines.push(format!("prompt {} ({}){answer}", visible(&record.prompt.id), visible(&record.prompt.task)));
    lines.extend(block(&record.prompt.text, "  "));
    match &record.response {
        Some(response) => {
            lines.push("response".to_owned());
            lines.extend(block(response, "  "));
        }
        None => lines.push("no response".to_owned()),
    }
    for (index, critique) in record.critiques.iter().enumerate() {
        lines.extend(of_critique(index + 1, critique));
    }
    lines
}

fn of_critique(number: usize, critique: &CritiqueRecord) -> Vec<String> {
    let mut head = format!("critique {number} by {}: CU {}", critique.version, utility(critique.utility));
    if let Some(reason) = critique.dropped {
        let _ = write!(head, ", dropped: {}", words(reason));
    }
    if !critique.log_probs.is_empty() {
        let mean = critique.log_probs.iter().sum::<f32>() / critique.log_probs.len() as f32;
        let tokens = critique.log_probs.len() + critique.tokens_left_out;
        let _ = write!(head, ", {tokens} tokens, mean log-prob {mean:.2}");
    }
    let mut lines = vec![head];
    lines.extend(block(&critique.text, "  "));
    for (index, refinement) in critique.refinements.iter().enumerate() {
        lines.push(format!("  refinement {}: {}", index + 1, verdicts(&refinement.verdicts)));
        lines.extend(block(&refinement.text, "    "));
    }
    lines
}

/// Both orders by name where a judge was asked in both.
fn verdicts(verdicts: &[Verdict]) -> String {
    match verdicts {
        [] => "not judged".to_owned(),
        [response_first, refinement_first] => format!(
            "{} with the response first, {} with the refinement first",
            response_first.value(),
            refinement_first.value()
        ),
        verdicts => verdicts.iter().map(|verdict| verdict.value()).collect::<Vec<_>>().join(", "),
    }
}

fn utility(utility: Option<f32>) -> String {
    utility.map_or("-".to_owned(), |utility| format!("{utility:.2}"))
}

fn ending(end: Ending, why: Option<DropReason>) -> String {
    match (end, why) {
        (Ending::Kept, _) => "kept".to_owned(),
        (Ending::ZeroVariance, _) => "zero variance".to_owned(),
        (Ending::Dropped, None) => "dropped".to_owned(),
        (Ending::Dropped, Some(reason)) => format!("dropped: {}", words(reason)),
    }
}

fn words(reason: DropReason) -> &'static str {
    match reason {
        DropReason::Deadline => "deadline",
        DropReason::TooLong => "too long",
        DropReason::Refused => "refused",
        DropReason::Remote => "remote server",
        DropReason::NoVerdict => "no verdict",
        DropReason::FewCritiques => "few critiques",
    }
}

/// A time in milliseconds since 1970, to the second, in UTC.
fn moment(time: u64) -> String {
    let seconds = i64::try_from(time / 1000).unwrap_or(i64::MAX);
    let at = OffsetDateTime::from_unix_timestamp(seconds).unwrap_or(OffsetDateTime::UNIX_EPOCH);
    let (date, month) = (at.date(), u8::from(at.month()));
    format!("{:04}-{month:02}-{:02} {:02}:{:02}:{:02}", date.year(), date.day(), at.hour(), at.minute(), at.second())
}

/// `text` line by line behind `margin` and a bar, so that no text passes for another part of the tree.
fn block(text: &str, margin: &str) -> Vec<String> {
    visible(text).split('\n').map(|line| format!("{margin}| {line}").trim_end().to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_told_apart_from_the_tree_by_its_bar() {
        assert_eq!(block("critique 2 by v9\n", "  "), ["  | critique 2 by v9", "  |"]);
    }

    #[test]
    fn both_orders_are_named_and_a_time_is_read_to_the_second() {
        assert_eq!(
            verdicts(&[Verdict::Win, Verdict::Tie]),
            "win with the response first, tie with the refinement first"
        );
        assert_eq!((verdicts(&[Verdict::Loss]), verdicts(&[])), ("loss".to_owned(), "not judged".to_owned()));
        assert_eq!(moment(1_795_999_999_999), "2026-11-30 00:53:19");
    }
}
