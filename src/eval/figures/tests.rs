use super::*;
use crate::types::{Invalid, Verdict};

const ASKED: FigureOptions =
    FigureOptions { critiques: 1, rounds: 1, in_both_orders: false, how: Resampling { resamples: 200, seed: 1 } };

fn text(score: f32) -> ScoredText {
    ScoredText { text: if score >= 1.0 { "12" } else { "13" }.into(), tokens: 2, score: Some(score) }
}

fn attempt(critique: &str, scores: &[f32], verdicts: &[Verdict]) -> CritiqueOutcome {
    CritiqueOutcome {
        round: 1,
        chain: 0,
        critique: critique.into(),
        tokens: critique.split(' ').count(),
        about: None,
        refinements: scores.iter().copied().map(text).collect(),
        verdicts: verdicts.to_vec(),
    }
}

fn record(task: &str, response: f32, critics: &[(&str, CritiqueOutcome)]) -> Record {
    let critic_record = |(critic, attempt): &(&str, CritiqueOutcome)| CriticRecord {
        critic: (*critic).into(),
        attempts: vec![attempt.clone()],
    };
    Record {
        id: task.into(),
        task: task.into(),
        response: text(response),
        critics: critics.iter().map(critic_record).collect(),
    }
}

fn value(estimate: Option<Estimate>) -> f64 {
    estimate.unwrap().value
}

/// A wrong response, which one of two refinements mends, and a right one, which one of two breaks.
fn records() -> Vec<Record> {
    use Verdict::{Loss, Tie, Win};
    let good = |critique: &str| ("good", attempt(critique, &[1.0, 1.0], &[Win, Win]));
    vec![
        record("a", 0.0, &[("first", attempt("It is wrong.", &[1.0, 0.0], &[Win, Tie])), good("Wrong")]),
        record("b", 1.0, &[("first", attempt("It is wrong.", &[1.0, 0.0], &[Tie, Loss])), good("It says 12.")]),
    ]
}

#[test]
fn shares_are_of_what_they_say() {
    let figures = Figures::of(&records(), ASKED);
    assert_eq!((figures.prompts, value(figures.response.accuracy), value(figures.response.score)), (2, 50.0, 50.0));
    let [first, good] = &figures.critics[..] else { panic!("{figures:?}") };
    assert_eq!((value(first.cu), value(good.cu), first.cu_over_first), (50.0, 100.0, None));
    assert_eq!((value(first.cu_by_task["a"]), value(first.cu_by_task["b"])), (75.0, 25.0));
    assert_eq!((value(good.cu_over_first), good.cu_over_first.unwrap().prompts), (50.0, 2));
    assert_eq!((value(first.accuracy), value(first.rqs)), (50.0, 50.0));
    assert_eq!((value(first.wrong_to_right), value(first.right_to_wrong)), (50.0, 50.0));
    assert_eq!((value(good.wrong_to_right), value(good.right_to_wrong)), (100.0, 0.0));
    let told = &first.discrimination;
    assert_eq!((value(told.sensitivity), value(told.specificity), value(told.balanced)), (100.0, 0.0, 50.0));
    assert_eq!((value(told.unread), value(good.discrimination.unread)), (0.0, 50.0));
    assert_eq!((good.discrimination.specificity, good.discrimination.balanced), (None, None));
    assert_eq!((value(first.critique_tokens), first.order_agreement, first.missing), (3.0, None, 0));
}

#[test]
fn what_is_invalid_or_missing_is_counted_and_left_out() {
    let bad = Verdict::Invalid(Invalid::Unreadable);
    let mut records = vec![
        record("a", 0.0, &[("base", attempt("Wrong.", &[0.0], &[Verdict::Win, bad]))]),
        record("a", 0.0, &[("base", attempt("Wrong.", &[0.0], &[bad, bad]))]),
        record("a", 0.0, &[("base", attempt("Wrong.", &[0.0], &[]))]),
    ];
    records[2].critics[0].attempts.clear();
    records.iter_mut().for_each(|record| record.response.score = None);
    let figures = Figures::of(&records, FigureOptions { in_both_orders: true, ..ASKED });
    let base = &figures.critics[0];
    assert_eq!((value(base.cu), base.cu.unwrap().prompts), (100.0, 1));
    assert_eq!((value(base.invalid), base.missing, base.order_agreement), (75.0, 1, None));
    assert_eq!(
        (figures.response.accuracy, base.wrong_to_right, base.discrimination.sensitivity.is_none()),
        (None, None, true)
    );
}

#[test]
fn orders_agree_where_both_prefer_the_same_text() {
    use Verdict::{Loss, Tie, Win};
    let verdicts = [Win, Win, Win, Loss, Tie, Tie, Tie, Win];
    let records = vec![record("a", 0.0, &[("base", attempt("Wrong.", &[0.0; 4], &verdicts))])];
    let figures = Figures::of(&records, FigureOptions { in_both_orders: true, ..ASKED });
    assert_eq!(value(figures.critics[0].order_agreement), 50.0);
}

#[test]
fn a_critic_beside_itself_differs_by_nothing_at_all() {
    let mut records = records();
    for record in &mut records {
        let twin = CriticRecord { critic: "twin".into(), ..record.critics[0].clone() };
        record.critics = vec![record.critics[0].clone(), twin];
    }
    let Estimate { value, low, high, .. } = Figures::of(&records, ASKED).critics[1].cu_over_first.unwrap();
    assert_eq!((value, low, high), (0.0, 0.0, 0.0));
}

#[test]
fn every_round_has_its_own_figures_and_the_rest_is_of_the_first() {
    let mut records = records();
    for record in &mut records {
        let later = CritiqueOutcome {
            round: 2,
            verdicts: vec![Verdict::Loss],
            refinements: vec![text(0.0)],
            ..record.critics[0].attempts[0].clone()
        };
        record.critics[0].attempts.push(later);
    }
    let figures = Figures::of(&records, FigureOptions { rounds: 2, ..ASKED });
    let first = &figures.critics[0];
    assert_eq!(value(first.cu), 50.0);
    let rounds: Vec<_> =
        first.rounds.iter().map(|round| (round.round, value(round.cu), value(round.accuracy))).collect();
    assert_eq!(rounds, [(1, 50.0, 50.0), (2, 0.0, 0.0)]);
    assert_eq!((first.missing, figures.critics[1].missing), (0, 2));
}
