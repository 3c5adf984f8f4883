use super::*;
use crate::report::contents::{Critique, CritiqueSet};
use crate::tracking::Line;

const HOSTILE: &str = "<script>alert(1)</script>\"'&";

fn contents() -> Contents {
    let line = |step: u64| {
        let mut line = Line { step, time: step as f64, ..Line::default() };
        line.add("learner/loss", 1.0 / step as f64);
        line.add(format!("cu/mean/{HOSTILE}"), 0.4 + 0.01 * step as f64);
        line.add("cu/overall/mean", 0.4 + 0.01 * step as f64);
        if step.is_multiple_of(10) {
            line.add("eval/cu", 0.5);
            line.add("eval/cu_low", 0.4);
            line.add("eval/cu_high", 0.6);
            line.add("eval/seconds", 1.0);
        }
        line
    };
    let critique = Critique {
        prompt: HOSTILE.to_owned(),
        text: HOSTILE.to_owned(),
        task: HOSTILE.to_owned(),
        utility: 1.0,
        verdicts: [2, 0, 1, 0],
        ..Critique::default()
    };
    let set = CritiqueSet { title: HOSTILE.to_owned(), groups: 3, best: vec![critique], ..CritiqueSet::default() };
    Contents {
        name: HOSTILE.to_owned(),
        lines: (1..=30).map(line).collect(),
        best_step: Some(20),
        critiques: vec![set],
        critics: vec![CriticRow { version: "v1".into(), why: HOSTILE.to_owned(), ..CriticRow::default() }],
        settings: vec![Setting { key: "a.b".into(), value: HOSTILE.to_owned(), quickstart: "1".into() }],
        config: HOSTILE.to_owned(),
        processes: vec![Environment { model: HOSTILE.to_owned(), ..Environment::default() }],
        notes: vec![HOSTILE.to_owned()],
        ..Contents::default()
    }
}

#[test]
fn what_others_wrote_is_text_and_the_page_asks_for_nothing() {
    let page = html(&contents());
    assert!(!page.contains("<script") && page.matches("&lt;script&gt;").count() > 9, "{page}");
    for outside in ["http://", "https://", "src=", "url(", "@import", "<link"] {
        assert!(!page.contains(outside), "{outside}");
    }
    // Nothing of what is handed in may end an attribute early.
    assert!(!page.contains("alert(1)&lt;/script&gt;\""), "{page}");
}

#[test]
fn the_page_shows_curves_evaluations_critiques_and_settings() {
    let page = html(&contents());
    for shown in [
        "<h2>Learning</h2>",
        "<h3>Critique utility by task</h3>",
        "<h3>Loss</h3>",
        "<h2>Held-out evaluation</h2>",
        "50.0 [40.0, 60.0]",
        "20 (best)",
        "2 wins, 1 loss",
        "<h2>Critics</h2>",
        "<code>a.b</code>",
        "<h2>Environment</h2>",
    ] {
        assert!(page.contains(shown), "{shown}");
    }
    assert!(!page.contains("<h2>Rollout</h2>"), "a part with nothing to show");
    // Elements are closed in order.
    let mut open = Vec::new();
    for tag in page.split('<').skip(1).filter(|tag| !tag.starts_with('!')) {
        let name: &str = tag.trim_start_matches('/').split([' ', '>', '/']).next().unwrap();
        let is_void = ["meta", "path", "circle"].contains(&name) && (tag.contains("/>") || name == "meta");
        match tag.starts_with('/') {
            true => assert_eq!(open.pop(), Some(name)),
            false if !is_void => open.push(name),
            false => {}
        }
    }
    assert!(open.is_empty(), "{open:?}");
}

#[test]
fn a_run_without_anything_has_a_page() {
    let page = html(&Contents { name: "empty".to_owned(), ..Contents::default() });
    assert!(page.contains("<h1>empty</h1>") && !page.contains("<h2>"), "{page}");
}
