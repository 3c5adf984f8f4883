//! The report of a run is a page that stands alone, of a run that goes on, one that has ended, and one of `learn`.

use super::trackers::{program, read};
use crate::support::node::{config, likes_even, start};
use rco_node::run::events::Event;
use rco_node::{groups, tracking};
use serde_json::Value;
use std::path::Path;
use std::sync::Arc;

const PAGES: &[&str] = &["html5lib==1.1"];

/// Writes the report of `run` as `file`, and returns it.
fn report(place: &Path, run: &str, file: &str, more: &[&str]) -> String {
    let (code, out, err) = program(place, &[&["report", run, "--html", file], more].concat());
    assert_eq!((code, out), (Some(0), format!("{file}\n")), "{err}");
    std::fs::read_to_string(place.join(file)).unwrap()
}

fn strings(value: &Value) -> Vec<&str> {
    value.as_array().unwrap().iter().map(|value| value.as_str().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_report_shows_a_run_while_it_goes_on_and_after_and_what_was_learned_from_it() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path();
    let running = start(config(place, "learner.beta=0.25"), false, None, Arc::new(likes_even)).await;
    let steps = |events: &[Event]| events.iter().filter(|event| matches!(event, Event::Learned { .. })).count();
    running.log.until("a few steps", |events| steps(events) >= 3).await;
    let during = report(place, "run", "during.html", &[]);
    assert!(during.contains("; running when this was made"), "{during}");
    running.node.stop();
    running.done().await;
    let config = "model.source='nowhere'";
    let after = report(place, "run", "after.html", &["--set", config]);
    assert!(after.contains("; not running when this was made"), "{after}");
    let learn = ["learn", "--from", "run", "--out", "offline", "--steps", "4", "--hold-out", "0.3"];
    let (code, _, err) = program(place, &learn);
    assert_eq!(code, Some(0), "{err}");
    report(place, "offline", "offline.html", &[]);

    let paths = ["during.html", "after.html", "offline.html"].map(|name| place.join(name).to_str().unwrap().to_owned());
    let Some(read) = read("page_reader", PAGES, &paths.each_ref().map(String::as_str)) else { return };
    let pages = read.as_array().unwrap();
    for page in pages {
        assert_eq!((&page["scripts"], &page["asked"]), (&0.into(), &serde_json::json!([])));
        let pictures = page["pictures"].as_array().unwrap();
        assert!(pictures.len() >= 5 && pictures.iter().all(|paths| paths.as_u64() > Some(8)), "{pictures:?}");
    }
    let [_, after, offline] = pages.as_slice() else { panic!("three pages") };
    for heading in ["Learning", "Critique utility by task", "Loss", "Rollout", "Critiques", "Critics", "Config"] {
        assert!(strings(&after["headings"]).contains(&heading), "{heading}: {}", after["headings"]);
    }
    let offline_headings = strings(&offline["headings"]);
    assert!(
        offline_headings.contains(&"Held-out groups") && !offline_headings.contains(&"Rollout"),
        "{offline_headings:?}"
    );
    // What it says is what the run left: settings, steps, critiques.
    let cells = strings(&after["cells"]);
    let beta = cells.iter().position(|cell| *cell == "learner.beta").expect("a setting that differs");
    assert_eq!(&cells[beta + 1..beta + 3], ["0.25", "0.05"]);
    let last = tracking::read(&place.join("run")).unwrap().lines.last().unwrap().step;
    assert_eq!(cells[0], last.to_string());
    let recorded = groups::read(&place.join("run")).unwrap().groups;
    let of = |find: fn(f32, f32) -> f32, from: f32| {
        recorded.iter().flat_map(|recorded| &recorded.group.critiques).map(|c| c.utility).fold(from, find)
    };
    let texts = strings(&after["texts"]);
    let asked = texts.iter().filter(|text| text.starts_with("say ")).count();
    assert!(asked >= 2, "what the critic was asked is decoded: {texts:?}");
    for utility in [of(f32::max, 0.0), of(f32::min, 1.0)] {
        let class = if utility > 0.5 {
            "good"
        } else if utility < 0.5 {
            "bad"
        } else {
            "even"
        };
        let shown = format!("<article class=\"{class}\">\n<p class=\"facts\"><b>{:.1}</b>", 100.0 * utility);
        assert!(std::fs::read_to_string(place.join("after.html")).unwrap().contains(&shown), "{shown}");
    }
}

#[test]
fn what_is_no_run_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("empty")).unwrap();
    std::fs::create_dir(folder.path().join("odd")).unwrap();
    std::fs::write(folder.path().join("odd/metrics.jsonl"), "{\"step\": 1, \"time\": 2, \"a\": \"b\"}\n").unwrap();
    for (arguments, says) in [
        (&["report", "empty", "--html", "a.html"][..], "empty: expected the directory of a run"),
        (&["report", "odd", "--html", "a.html"], "metrics.jsonl, line 1: expected an object"),
        (&["report", "empty", "--html", "a.html", "--eval", "empty"], "expected"),
    ] {
        let (code, _, err) = program(folder.path(), arguments);
        assert!(code == Some(2) && err.contains(says), "{arguments:?}: {code:?} {err}");
    }
}
