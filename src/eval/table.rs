//! The figures as a text table.
//!
//! A row is a critic, a column a figure; unknown figures are a dash.

use super::bootstrap::Estimate;
use super::figures::{CriticFigures, Figures};

/// The lines of the table: the responses, the critics, utilities by task, and rounds if there are any.
pub fn lines(figures: &Figures) -> Vec<String> {
    let before = &figures.response;
    let mut lines =
        vec![format!("responses: RQS {}, accuracy {}", with_interval(before.score), with_interval(before.accuracy))];
    lines.push(String::new());
    lines.extend(aligned(&critics(&figures.critics)));
    lines.push(String::new());
    lines.extend(aligned(&more(&figures.critics)));
    if figures.critics.iter().any(|critic| critic.cu_by_task.len() > 1) {
        lines.push(String::new());
        lines.extend(aligned(&by_task(&figures.critics)));
    }
    if figures.critics.iter().any(|critic| !critic.rounds.is_empty()) {
        lines.push(String::new());
        lines.extend(aligned(&by_round(&figures.critics)));
    }
    lines
}

/// Figures of the refinements.
fn critics(critics: &[CriticFigures]) -> Vec<Vec<String>> {
    let first = critics.first().map_or("the first", |critic| &critic.critic);
    let mut rows = vec![row(&[
        "critic",
        "CU",
        &format!("CU over {first}"),
        "RQS",
        "accuracy",
        "wrong to right",
        "right to wrong",
    ])];
    rows.extend(critics.iter().map(|critic| {
        vec![
            critic.critic.clone(),
            with_interval(critic.cu),
            signed(critic.cu_over_first),
            with_interval(critic.rqs),
            with_interval(critic.accuracy),
            with_interval(critic.wrong_to_right),
            with_interval(critic.right_to_wrong),
        ]
    }));
    rows
}

/// Figures of the critiques.
fn more(critics: &[CriticFigures]) -> Vec<Vec<String>> {
    let mut rows = vec![row(&[
        "critic",
        "discrimination",
        "sensitivity",
        "specificity",
        "unread",
        "tokens",
        "orders agree",
        "invalid",
        "missing",
    ])];
    rows.extend(critics.iter().map(|critic| {
        let told = &critic.discrimination;
        vec![
            critic.critic.clone(),
            with_interval(told.balanced),
            with_interval(told.sensitivity),
            with_interval(told.specificity),
            plain(told.unread),
            plain(critic.critique_tokens),
            plain(critic.order_agreement),
            plain(critic.invalid),
            critic.missing.to_string(),
        ]
    }));
    rows
}

fn by_task(critics: &[CriticFigures]) -> Vec<Vec<String>> {
    let tasks: Vec<&String> = critics.first().map(|critic| critic.cu_by_task.keys().collect()).unwrap_or_default();
    let mut rows = vec![row(&["CU by task"])];
    rows[0].extend(tasks.iter().map(|task| (*task).clone()));
    rows.extend(critics.iter().map(|critic| {
        let figures = tasks.iter().map(|task| plain(critic.cu_by_task.get(*task).copied().flatten()));
        std::iter::once(critic.critic.clone()).chain(figures).collect()
    }));
    rows
}

fn by_round(critics: &[CriticFigures]) -> Vec<Vec<String>> {
    let mut rows = vec![row(&["critic", "round", "CU", "accuracy"])];
    for critic in critics {
        rows.extend(critic.rounds.iter().map(|round| {
            let figures = [with_interval(round.cu), with_interval(round.accuracy)];
            [critic.critic.clone(), round.round.to_string()].into_iter().chain(figures).collect()
        }));
    }
    rows
}

fn row(cells: &[&str]) -> Vec<String> {
    cells.iter().map(|cell| (*cell).to_owned()).collect()
}

fn plain(estimate: Option<Estimate>) -> String {
    estimate.map_or("-".to_owned(), |estimate| format!("{:.1}", estimate.value))
}

fn with_interval(estimate: Option<Estimate>) -> String {
    estimate.map_or("-".to_owned(), |Estimate { value, low, high, .. }| format!("{value:.1} [{low:.1}, {high:.1}]"))
}

fn signed(estimate: Option<Estimate>) -> String {
    estimate.map_or("-".to_owned(), |Estimate { value, low, high, .. }| format!("{value:+.1} [{low:+.1}, {high:+.1}]"))
}

/// Rows as lines with aligned columns.
fn aligned(rows: &[Vec<String>]) -> Vec<String> {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let widest = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (0..columns).map(|column| widest(column).unwrap_or(0)).collect();
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect()
}
