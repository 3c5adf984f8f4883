//! What is taken for the program in a reply, beside what evalplus and lm-eval take.
//!
//! `tests/golden/code_extraction.py` made the replies, asked the two, and ran the tests on what they took.

use super::tests::sandbox;
use super::*;
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};

#[derive(Deserialize)]
struct Golden {
    tasks: BTreeMap<String, Task>,
    replies: Vec<Reply>,
}

#[derive(Deserialize)]
struct Task {
    entry_point: String,
    preamble: String,
    test: String,
}

#[derive(Deserialize)]
struct Reply {
    id: String,
    task: String,
    text: String,
    /// Whether it answers with a right program.
    right: bool,
    /// Whether what evalplus takes for the program passes.
    evalplus: bool,
    /// The same of lm-eval, if the reply is of the form that it expects.
    lm_eval: Option<bool>,
}

impl Reply {
    /// What kind of reply it is.
    fn kind(&self) -> &str {
        self.id.rsplit_once(": ").unwrap().0
    }
}

/// Kinds of replies on which evalplus comes to another verdict, and why it is wrong there.
const UNLIKE_EVALPLUS: &[(&str, &str)] = &[
    ("bare, indented", INDENTED),
    ("bare, end of turn", "it keeps the token at the end of the last line"),
    ("body, first line at the margin", "the first line lost its indentation with the blanks before it"),
    ("body, at the margin", INDENTED),
    ("body, fence", "the fence stands between the head in the prompt and the body"),
    ("body, fence at the margin", "the fence stands between the head in the prompt and the body"),
    ("fence, closed on the last line", "it leaves out the line that the fence is on"),
    ("fence, opened on the first line", "it leaves out the line that the fence is on"),
    ("fence, in a list", INDENTED),
    ("fence, quoted", "no line of a quoted block is Python as it stands"),
    ("fence, decorator", "it leaves out what is decorated"),
    ("fence, twice in one", FIRST),
    ("fence, twice in one, wrong last", FIRST),
    ("fence, broken use behind", "the code that was given is not Python"),
    ("two, corrected", LONGEST),
    ("two, worse", LONGEST),
    ("two, helper first", LONGEST),
    ("two, helper last", LONGEST),
    ("thoughts, right then wrong", LONGEST),
    ("thoughts without end", "thoughts are no answer"),
];
const INDENTED: &str = "code may have the indentation of what it stands in";
const FIRST: &str = "it takes the first of two definitions, Python the last";
const LONGEST: &str = "it takes the longest run of lines, not the last answer, and never two blocks";

/// Kinds of replies on which lm-eval comes to another verdict, and why it is wrong there.
const UNLIKE_LM_EVAL: &[(&str, &str)] = &[
    ("bare, prose before", PROSE),
    ("bare, prose behind", PROSE),
    ("bare, prose around", PROSE),
    ("bare, prose behind that calls", PROSE),
    ("bare, prose behind that assigns", PROSE),
    ("bare, prose behind with if", PROSE),
    ("bare, prose behind with return", PROSE),
    ("bare, prose before with import", PROSE),
    ("bare, prose before with class", PROSE),
    ("bare, list behind", PROSE),
    ("bare, list behind without a gap", PROSE),
    ("bare, heading behind", PROSE),
    ("bare, bold behind", PROSE),
    ("bare, quoted word behind", PROSE),
    ("bare, session behind", PROSE),
    ("bare, indented", INDENTED),
    ("bare, tag of the fence", PROSE),
    ("bare, end of turn", PROSE),
    ("bare, marks of CodeLlama", PROSE),
    ("bare, marks of HTML", PROSE),
    ("bare, cut in a second function", "the function is whole"),
    ("body, first line at the margin", INDENTED),
    ("body, at the margin", INDENTED),
    ("body, prose behind", PROSE),
];
const PROSE: &str = "it takes prose for code";

/// Replies on which ours is wrong: a block that is never closed was cut more often than not, so the last one that was is taken.
const WRONG: &[&str] = &["two, correction never closed: square", "two, correction never closed: close"];

/// Whether the program of each reply passes, by the order of the replies.
fn verdicts(golden: &Golden) -> Vec<bool> {
    let sandbox = sandbox();
    let threads = std::thread::available_parallelism().unwrap().get() + 1;
    let passes = |reply: &Reply| {
        let Task { entry_point, preamble, test } = &golden.tasks[&reply.task];
        run_tests(&sandbox, CodeTask { entry_point, test, preamble }, &reply.text, true, 0).unwrap().is_none()
    };
    let share = golden.replies.len().div_ceil(threads);
    std::thread::scope(|scope| {
        let passes = &passes;
        let parts = golden.replies.chunks(share);
        let workers: Vec<_> =
            parts.map(|part| scope.spawn(move || part.iter().map(passes).collect::<Vec<_>>())).collect();
        workers.into_iter().flat_map(|worker| worker.join().unwrap()).collect()
    })
}

#[test]
fn the_program_in_a_reply_is_the_one_that_a_reader_takes() {
    let golden: Golden = serde_json::from_str(include_str!("../../../tests/golden/code_extraction.json")).unwrap();
    assert!(golden.replies.len() >= 150);
    let judged: Vec<(&Reply, bool)> = golden.replies.iter().zip(verdicts(&golden)).collect();
    let wrong = judged.iter().filter(|(reply, passes)| *passes != reply.right).map(|(reply, _)| reply.id.as_str());
    assert_eq!(wrong.collect::<BTreeSet<_>>(), WRONG.iter().copied().collect());
    let unlike = |other: fn(&Reply) -> Option<bool>| -> BTreeSet<&str> {
        let differs = judged.iter().filter(|(reply, passes)| other(reply).is_some_and(|other| other != *passes));
        differs.filter(|(reply, _)| !WRONG.contains(&reply.id.as_str())).map(|(reply, _)| reply.kind()).collect()
    };
    let listed = |kinds: &'static [(&str, &str)]| kinds.iter().map(|(kind, _)| *kind).collect::<BTreeSet<_>>();
    assert_eq!(unlike(|reply| Some(reply.evalplus)), listed(UNLIKE_EVALPLUS));
    assert_eq!(unlike(|reply| reply.lm_eval), listed(UNLIKE_LM_EVAL));
}
