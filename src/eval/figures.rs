//! The figures of an evaluation: for each critic, with 95 % intervals by prompt, paired with the first critic.
//!
//! All shares and scores are times 100. `docs/evaluation.md` explains each figure.

use super::bootstrap::{self, Estimate, Resampling};
use super::stance::{Stance, stance};
use super::{CriticRecord, CritiqueOutcome, Record, ScoredText};
use crate::types::Verdict;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Figures of the responses, before any critique.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ResponseFigures {
    /// Mean score.
    pub score: Option<Estimate>,
    /// Share that is fully correct.
    pub accuracy: Option<Estimate>,
}

/// Whether a critic calls wrong responses wrong and right ones right, by the rule of [`stance`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Discrimination {
    /// Among readable critiques of wrong responses, the share that says wrong.
    pub sensitivity: Option<Estimate>,
    /// Among readable critiques of right responses, the share that says right.
    pub specificity: Option<Estimate>,
    /// The mean of both: 50 for a critic that always says the same.
    pub balanced: Option<Estimate>,
    /// Share of critiques without a stance by that rule.
    pub unread: Option<Estimate>,
}

/// One round of iterative refinement.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Round {
    /// From 1.
    pub round: usize,
    /// Critique utility of this round's refinements against the response.
    pub cu: Option<Estimate>,
    /// Share of this round's refinements that is correct.
    pub accuracy: Option<Estimate>,
}

/// Figures of one critic. Except for `rounds`, all are of the first round.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CriticFigures {
    /// Its name.
    pub critic: String,
    /// Mean critique utility.
    pub cu: Option<Estimate>,
    /// The same by task.
    pub cu_by_task: BTreeMap<String, Option<Estimate>>,
    /// CU minus the first critic's on the same prompts; `None` for the first itself.
    pub cu_over_first: Option<Estimate>,
    /// Refinement quality score: mean score of the refinements.
    pub rqs: Option<Estimate>,
    /// Share of the refinements that is fully correct.
    pub accuracy: Option<Estimate>,
    /// Among refinements of wrong responses, the share that is correct.
    pub wrong_to_right: Option<Estimate>,
    /// Among refinements of correct responses, the share that is wrong.
    pub right_to_wrong: Option<Estimate>,
    /// Whether it tells right from wrong.
    pub discrimination: Discrimination,
    /// Mean length of a critique.
    pub critique_tokens: Option<Estimate>,
    /// Among pairs judged in both orders, the share in which both agree.
    pub order_agreement: Option<Estimate>,
    /// Share of invalid verdicts, which no other figure counts.
    pub invalid: Option<Estimate>,
    /// Failed critiques.
    pub missing: usize,
    /// By round, if there is more than one.
    pub rounds: Vec<Round>,
}

/// All figures of an evaluation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Figures {
    /// Number of prompts.
    pub prompts: usize,
    /// The responses.
    pub response: ResponseFigures,
    /// The critics, in the requested order.
    pub critics: Vec<CriticFigures>,
}

/// Parameters of the evaluation that the records do not contain.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FigureOptions {
    /// N.
    pub critiques: usize,
    /// Rounds of refinement.
    pub rounds: usize,
    /// Whether the judge was asked in both orders.
    pub in_both_orders: bool,
    /// How intervals are computed.
    pub how: Resampling,
}

impl Figures {
    /// The figures of `records`, which all have the same critics.
    pub fn of(records: &[Record], options: FigureOptions) -> Self {
        let critics = records.first().map_or(0, |record| record.critics.len());
        Self {
            prompts: records.len(),
            response: ResponseFigures {
                score: percent(bootstrap::mean(
                    records.iter().filter_map(|record| score(&record.response)),
                    options.how,
                )),
                accuracy: share(records, options, |record| of_texts([&record.response], |text| text.is_right())),
            },
            critics: (0..critics).map(|place| CriticFigures::of(records, place, options)).collect(),
        }
    }
}

fn score(text: &ScoredText) -> Option<f64> {
    text.score.map(f64::from)
}

fn percent(estimate: Option<Estimate>) -> Option<Estimate> {
    estimate.map(|estimate| estimate.times(100.0))
}

/// A ratio of sums over `records`, times 100.
fn share(records: &[Record], options: FigureOptions, row: impl Fn(&Record) -> [f64; 2]) -> Option<Estimate> {
    percent(bootstrap::ratio(records.iter().map(row), options.how))
}

/// For how many of `texts` the predicate holds, and for how many it is known.
fn of_texts<'a>(
    texts: impl IntoIterator<Item = &'a ScoredText>,
    such: impl Fn(&ScoredText) -> Option<bool>,
) -> [f64; 2] {
    count(texts.into_iter().map(such))
}

fn count(facts: impl IntoIterator<Item = Option<bool>>) -> [f64; 2] {
    facts.into_iter().flatten().fold([0.0, 0.0], |[yes, all], fact| [yes + f64::from(u8::from(fact)), all + 1.0])
}

/// Mean utility of `attempts`, ignoring those without a valid verdict.
fn utility<'a>(attempts: impl Iterator<Item = &'a CritiqueOutcome>) -> Option<f64> {
    let utilities: Vec<f64> = attempts.filter_map(CritiqueOutcome::utility).map(f64::from).collect();
    (!utilities.is_empty()).then(|| utilities.iter().sum::<f64>() / utilities.len() as f64)
}

fn of_round(critic_record: &CriticRecord, round: usize) -> impl Iterator<Item = &CritiqueOutcome> {
    critic_record.attempts.iter().filter(move |attempt| attempt.round == round)
}

fn refinements(critic_record: &CriticRecord, round: usize) -> impl Iterator<Item = &ScoredText> {
    of_round(critic_record, round).flat_map(|attempt| &attempt.refinements)
}

impl CriticFigures {
    fn of(records: &[Record], place: usize, options: FigureOptions) -> Self {
        let all: Vec<(&Record, &CriticRecord)> =
            records.iter().map(|record| (record, &record.critics[place])).collect();
        let cu = |(_, critic_record): &(&Record, &CriticRecord)| utility(of_round(critic_record, 1));
        let over = |record: &Record| {
            let of = |place: usize| utility(of_round(&record.critics[place], 1));
            Some(of(place)? - of(0)?)
        };
        let tasks: BTreeMap<&str, ()> = records.iter().map(|record| (record.task.as_str(), ())).collect();
        let by_task = |task: &str| {
            let of_task = all.iter().filter(|(record, _)| record.task == task).filter_map(cu);
            percent(bootstrap::mean(of_task, options.how))
        };
        let share =
            |row: &dyn Fn(&Record, &CriticRecord) -> [f64; 2]| share(records, options, |r| row(r, &r.critics[place]));
        let changed = |from: bool, record: &Record, critic_record: &CriticRecord| match record.response.is_right() {
            Some(right) if right == from => {
                of_texts(refinements(critic_record, 1), |text| Some(text.is_right()? != from))
            }
            _ => [0.0, 0.0],
        };
        let tokens = |critic_record: &CriticRecord| count_tokens(of_round(critic_record, 1));
        let expected = options.critiques * options.rounds;
        Self {
            critic: all.first().map(|(_, critic_record)| critic_record.critic.clone()).unwrap_or_default(),
            cu: percent(bootstrap::mean(all.iter().filter_map(cu), options.how)),
            cu_by_task: tasks.into_keys().map(|task| (task.to_owned(), by_task(task))).collect(),
            cu_over_first: (place > 0)
                .then(|| percent(bootstrap::mean(records.iter().filter_map(over), options.how)))
                .flatten(),
            rqs: share(&|_, critic_record| sum(refinements(critic_record, 1).filter_map(score))),
            accuracy: share(&|_, critic_record| of_texts(refinements(critic_record, 1), ScoredText::is_right)),
            wrong_to_right: share(&|record, critic_record| changed(false, record, critic_record)),
            right_to_wrong: share(&|record, critic_record| changed(true, record, critic_record)),
            discrimination: Discrimination::of(records, place, options),
            critique_tokens: bootstrap::ratio(all.iter().map(|(_, critic_record)| tokens(critic_record)), options.how),
            order_agreement: options
                .in_both_orders
                .then(|| share(&|_, critic_record| count(of_round(critic_record, 1).flat_map(orders))))
                .flatten(),
            invalid: share(&|_, critic_record| {
                count(of_round(critic_record, 1).flat_map(|a| &a.verdicts).map(|v| Some(v.preference().is_none())))
            }),
            missing: all.iter().map(|(_, critic_record)| expected.saturating_sub(critic_record.attempts.len())).sum(),
            rounds: rounds(records, place, options),
        }
    }
}

fn sum(values: impl Iterator<Item = f64>) -> [f64; 2] {
    values.fold([0.0, 0.0], |[sum, count], value| [sum + value, count + 1.0])
}

fn count_tokens<'a>(attempts: impl Iterator<Item = &'a CritiqueOutcome>) -> [f64; 2] {
    sum(attempts.map(|attempt| attempt.tokens as f64))
}

/// Whether both orders of each pair agree, if both are valid.
fn orders(attempt: &CritiqueOutcome) -> Vec<Option<bool>> {
    let same = |pair: &[Verdict]| match pair {
        [forward, backward] => Some(forward.preference()? == backward.preference()?),
        _ => None,
    };
    attempt.verdicts.chunks(2).map(same).collect()
}

fn rounds(records: &[Record], place: usize, options: FigureOptions) -> Vec<Round> {
    let of = |round: usize| Round {
        round,
        cu: percent(bootstrap::mean(
            records.iter().filter_map(|record| utility(of_round(&record.critics[place], round))),
            options.how,
        )),
        accuracy: share(records, options, |record| {
            of_texts(refinements(&record.critics[place], round), ScoredText::is_right)
        }),
    };
    if options.rounds > 1 { (1..=options.rounds).map(of).collect() } else { Vec::new() }
}

impl Discrimination {
    fn of(records: &[Record], place: usize, options: FigureOptions) -> Self {
        let read = |record: &Record| -> Vec<Option<Stance>> {
            let attempts = of_round(&record.critics[place], 1);
            attempts.map(|attempt| stance(&attempt.critique, &record.response.text)).collect()
        };
        // [says wrong, readable] for a wrong response, then [says right, readable] for a right one.
        let row = |record: &Record| {
            let said = |what: Stance| count(read(record).into_iter().map(|s| s.map(|stance| stance == what)));
            match record.response.is_right() {
                Some(false) => {
                    let [wrong, all] = said(Stance::Wrong);
                    [wrong, all, 0.0, 0.0]
                }
                Some(true) => {
                    let [right, all] = said(Stance::Right);
                    [0.0, 0.0, right, all]
                }
                None => [0.0; 4],
            }
        };
        let rows: Vec<[f64; 4]> = records.iter().map(row).filter(|row| row[1] + row[3] > 0.0).collect();
        Self {
            sensitivity: percent(bootstrap::ratio(rows.iter().map(|row| [row[0], row[1]]), options.how)),
            specificity: percent(bootstrap::ratio(rows.iter().map(|row| [row[2], row[3]]), options.how)),
            balanced: percent(bootstrap::statistic(
                &rows,
                |[wrong, of_wrong, right, of_right]| (wrong / of_wrong + right / of_right) / 2.0,
                options.how,
            )),
            unread: share(records, options, |record| {
                count(read(record).into_iter().map(|stance| Some(stance.is_none())))
            }),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
