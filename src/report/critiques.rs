//! The best and the worst critiques at several times of the run.

use super::contents::{Contents, Critique, CritiqueSet};
use super::format::share;
use crate::eval::plot::escaped;
use std::cmp::Ordering;

/// Utility of a critique after which responses are as good as before.
const EVEN: f64 = 0.5;

/// The part of the page; empty if there are no critiques.
pub(super) fn html(contents: &Contents) -> String {
    if contents.critiques.is_empty() {
        return String::new();
    }
    let sets: String = contents.critiques.iter().map(set).collect();
    format!(
        "<section>\n<h2>Critiques</h2>\n<p class=\"lead\">Those that earned most and least in the recorded groups, one of each prompt. \
         Utility times 100: 50 is as good as the response.</p>\n<div class=\"grid\">\n{sets}</div>\n</section>\n"
    )
}

fn set(set: &CritiqueSet) -> String {
    let list = |critiques: &[Critique]| critiques.iter().map(critique).collect::<String>();
    format!(
        "<div class=\"card\">\n<h3>{}</h3>\n<p class=\"note\">{} groups, mean utility {}.</p>\n\
         <h4>Helped most</h4>\n{}<h4>Helped least</h4>\n{}</div>\n",
        escaped(&set.title),
        set.groups,
        share(set.utility),
        list(&set.best),
        list(&set.worst)
    )
}

fn critique(critique: &Critique) -> String {
    let kind = match critique.utility.total_cmp(&EVEN) {
        Ordering::Greater => "good",
        Ordering::Less => "bad",
        Ordering::Equal => "even",
    };
    let names = [("win", "wins"), ("tie", "ties"), ("loss", "losses"), ("invalid", "invalid")];
    let verdicts = critique.verdicts.iter().zip(names).filter(|(count, _)| **count > 0);
    let verdicts = verdicts.map(|(count, (one, many))| format!("{count} {}", if *count == 1 { one } else { many }));
    let cut = if critique.is_cut { " <span class=\"cut\">cut off at the limit of tokens</span>" } else { "" };
    let asked = match critique.prompt.trim() {
        "" => String::new(),
        prompt => format!(
            "<details><summary>what the critic was asked</summary><p class=\"text\">{}</p></details>\n",
            escaped(prompt)
        ),
    };
    format!(
        "<article class=\"{kind}\">\n<p class=\"facts\"><b>{}</b> <span>group mean {}</span> <span>{}</span> \
         <span>{}, episode {}, {}</span></p>\n<p class=\"text\">{}{cut}</p>\n\
         {asked}</article>\n",
        share(critique.utility),
        share(critique.group_utility),
        escaped(&verdicts.collect::<Vec<_>>().join(", ")),
        escaped(&critique.task),
        critique.episode,
        escaped(&critique.version),
        escaped(critique.text.trim())
    )
}
