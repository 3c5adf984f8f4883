//! Remote servers that fail in every way: what the client makes of it, and that it costs no episode a wrong score.

use crate::support::node::{config, held, judged, saved};
use crate::support::server::{Act, Asked, Rigged};
use rco_node::remote::{ChatRequest, Client, Error, RemoteConfig};
use rco_node::run::events::Event;
use rco_node::run::state::DropReason;
use rco_node::telemetry::Telemetry;
use rco_node::types::{ChatRole, Choice, CritiqueGroup, Invalid, Objective, Turn, Verdict};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

pub fn patient(server: &Rigged) -> RemoteConfig {
    RemoteConfig {
        base_url: server.base_url.clone(),
        model: "rigged".into(),
        api_key_env: String::new(),
        key_over_http: false,
        concurrency_max: 4,
        timeout_seconds: 1,
        retries_max: 4,
        retry_share: 1.0,
        backoff_milliseconds: 1,
        backoff_max_milliseconds: 4,
        more_base_urls: vec![],
        omit: vec![],
        rename: BTreeMap::new(),
        extra_body: serde_json::Map::new(),
    }
}

fn question(seed: u64) -> ChatRequest {
    ChatRequest { turns: vec![Turn::new(ChatRole::User, "which?")], max_tokens: 4, seed, ..ChatRequest::default() }
}

async fn outcome(script: &'static [Act], change: impl FnOnce(&mut RemoteConfig)) -> (Result<String, Error>, usize) {
    let server = Rigged::start(move |n, _| script[n.min(script.len() - 1)].clone()).await;
    let mut config = patient(&server);
    change(&mut config);
    let answer = Client::new(&config).unwrap().chat(&question(1)).await;
    (answer.map(|answer| answer.text), server.asked().len())
}

#[tokio::test]
async fn what_may_pass_is_tried_again_and_what_will_not_pass_is_not() {
    const FAILURES: [Act; 4] = [Act::Status(503, None), Act::Status(429, None), Act::Babble("<html>"), Act::Die];
    let server = Rigged::start(|n, _| FAILURES.get(n).cloned().unwrap_or(Act::Say("B".into()))).await;
    let answer = Client::new(&patient(&server)).unwrap().chat(&question(1)).await.unwrap();
    assert_eq!((answer.text.as_str(), answer.usage.prompt_tokens, server.asked().len()), ("B", 11, 5));

    let (refused, tries) = outcome(&[Act::Status(400, None)], |_| ()).await;
    assert!(matches!(&refused, Err(Error::Refused { status: 400, .. })) && tries == 1, "{refused:?} after {tries}");
    for (script, expected) in [
        (&[Act::Status(500, None)][..], Error::ServerError(500)),
        (&[Act::Status(429, None)], Error::Busy),
        (&[Act::Status(302, None)], Error::Refused { status: 302, why: "{\"error\": \"no, \"}".into() }),
    ] {
        let tries_expected = if matches!(expected, Error::Refused { .. }) { 1 } else { 3 };
        let got = outcome(script, |config| config.retries_max = 2).await;
        assert_eq!(got, (Err(expected), tries_expected));
    }
    let (died, _) = outcome(&[Act::Die], |config| config.retries_max = 0).await;
    assert!(matches!(&died, Err(Error::Unreachable(_))), "{died:?}");
    for body in ["", "{}", "{\"choices\": []}", "{\"choices\": [{\"message\": {\"content\": \"A\"}}]}"] {
        let server = Rigged::start(move |_, _| Act::Babble(body)).await;
        let config = RemoteConfig { retries_max: 1, ..patient(&server) };
        let babbled = Client::new(&config).unwrap().chat(&question(1)).await;
        assert!(matches!(&babbled, Err(Error::Unreadable(_))), "{body}: {babbled:?}");
    }
}

#[tokio::test]
async fn a_server_that_hangs_or_is_not_there_is_given_up_in_time() {
    let started = Instant::now();
    let (hung, tries) = outcome(&[Act::Hang], |config| config.retries_max = 1).await;
    assert_eq!((hung, tries), (Err(Error::Timeout { seconds: 1 }), 2));
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
    // A port that was bound and is free again.
    let config = patient(&Rigged::start(|_, _| Act::Hang).await);
    let lost = Client::new(&RemoteConfig { retries_max: 0, ..config }).unwrap().chat(&question(1)).await;
    assert!(matches!(&lost, Err(Error::Unreachable(_) | Error::Timeout { .. })), "{lost:?}");
}

#[tokio::test]
async fn who_is_told_when_to_come_back_comes_then_and_so_does_everybody_else() {
    let busy = |n, _: &Asked| if n == 0 { Act::Status(429, Some("1")) } else { Act::Say("A".into()) };
    let server = Rigged::start(busy).await;
    let client = Client::new(&patient(&server)).unwrap();
    let (started, question) = (Instant::now(), question(1));
    let other = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        client.chat(&ChatRequest { seed: 2, ..question.clone() }).await.unwrap();
        started.elapsed()
    };
    let (first, other) = tokio::join!(client.chat(&question), other);
    assert_eq!(first.unwrap().text, "A");
    assert!(started.elapsed() >= Duration::from_secs(1) && other >= Duration::from_secs(1), "{other:?}");
}

#[tokio::test]
async fn a_server_that_says_never_is_asked_again_after_the_time_out() {
    let busy = |n, _: &Asked| if n == 0 { Act::Status(429, Some("99999999")) } else { Act::Say("A".into()) };
    let server = Rigged::start(busy).await;
    let (client, question) = (Client::new(&patient(&server)).unwrap(), question(1));
    let answer = tokio::time::timeout(Duration::from_secs(20), client.chat(&question)).await;
    assert_eq!(answer.expect("an answer in time").unwrap().text, "A");
}

#[tokio::test]
async fn a_key_that_a_server_repeats_is_in_no_text_and_in_no_error() {
    // Any variable that is set does for a key.
    let key = std::env::var("CARGO_PKG_NAME").unwrap();
    for in_json in [true, false] {
        let repeats = move |_, asked: &Asked| {
            let said = asked.authorization.clone().unwrap();
            if in_json { Act::Say(said) } else { Act::Babble(said.leak()) }
        };
        let server = Rigged::start(repeats).await;
        let config = RemoteConfig { api_key_env: "CARGO_PKG_NAME".into(), retries_max: 0, ..patient(&server) };
        let said = format!("{:?}", Client::new(&config).unwrap().chat(&question(1)).await);
        assert!(!said.contains(&key), "{said}");
        assert_eq!(server.asked()[0].authorization.as_deref(), Some(&*format!("Bearer {key}")));
    }
}

#[tokio::test]
async fn no_more_questions_are_with_a_server_than_allowed() {
    let server = Rigged::start(|_, _| Act::Say("A".into())).await;
    let client = Arc::new(Client::new(&RemoteConfig { concurrency_max: 3, ..patient(&server) }).unwrap());
    let mut asking = tokio::task::JoinSet::new();
    for seed in 0..24 {
        let client = client.clone();
        asking.spawn(async move { client.chat(&question(seed)).await.unwrap() });
    }
    assert_eq!(asking.join_all().await.len(), 24);
    assert_eq!((server.asked().len(), server.in_flight_max()), (24, 3));
}

#[tokio::test]
async fn a_server_that_is_down_gets_no_storm_of_retries() {
    let server = Rigged::start(|_, _| Act::Status(503, None)).await;
    let client = Client::new(&RemoteConfig { retry_share: 0.1, retries_max: 9, ..patient(&server) }).unwrap();
    for seed in 0..40 {
        assert_eq!(client.chat(&question(seed)).await, Err(Error::ServerError(503)));
    }
    // One for each question, ten that are always allowed, and a tenth.
    let tries = server.asked().len();
    assert!((50..=54).contains(&tries), "{tries}");
}

#[tokio::test]
async fn a_key_that_a_server_repeats_in_escapes_is_in_no_text_and_in_no_error() {
    // The variable that cargo sets holds "rco-node".
    const CONTENT: &str = r#"{"choices": [{"finish_reason": "stop", "message": {"content": "\u0072co-node, A"}}]}"#;
    const STRANGE: &str = r#"{"choices": "Bearer rco\u002dnode"}"#;
    for (body, is_answer) in [(CONTENT, true), (STRANGE, false)] {
        let server = Rigged::start(move |_, _| Act::Babble(body)).await;
        let config = RemoteConfig { api_key_env: "CARGO_PKG_NAME".into(), retries_max: 0, ..patient(&server) };
        let answer = Client::new(&config).unwrap().chat(&question(1)).await;
        assert_eq!(answer.is_ok(), is_answer, "{answer:?}");
        let told = format!("{answer:?}");
        assert!(told.contains("[the key]") && !told.contains("rco-node"), "{told}");
    }
}

#[tokio::test]
async fn the_key_is_sent_from_the_environment_and_shown_nowhere() {
    let server = Rigged::start(|_, _| Act::Status(401, None)).await;
    let quiet = patient(&server);
    // Cargo sets this one for tests.
    let config = RemoteConfig { api_key_env: "CARGO_PKG_NAME".into(), ..quiet.clone() };
    let refused = Client::new(&config).unwrap().chat(&question(1)).await.unwrap_err().to_string();
    assert_eq!(server.asked()[0].authorization.as_deref(), Some("Bearer rco-node"));
    assert!(refused.contains("401") && refused.contains("[the key]") && !refused.contains("rco-node"), "{refused}");
    Client::new(&quiet).unwrap().chat(&question(1)).await.unwrap_err();
    assert_eq!(server.asked()[1].authorization, None);
    assert_eq!(server.asked()[1].body["model"], "rigged");
}

#[tokio::test]
async fn dropping_a_question_frees_its_place() {
    let server = Rigged::start(|n, _| if n == 0 { Act::Hang } else { Act::Say("A".into()) }).await;
    let client = Client::new(&RemoteConfig { concurrency_max: 1, timeout_seconds: 60, ..patient(&server) }).unwrap();
    let patience = Duration::from_millis(200);
    assert!(tokio::time::timeout(patience, client.chat(&question(1))).await.is_err());
    let next = tokio::time::timeout(Duration::from_secs(10), client.chat(&question(2))).await;
    assert_eq!(next.unwrap().unwrap().text, "A");
}

/// A node whose judge is `server`.
fn remote_judge(run: &Path, server: &Rigged, more: &str) -> rco_node::config::Config {
    let base = format!(
        "judge.kind='remote'\nremote.judge.base_url='{}'\nremote.judge.model='rigged'\nremote.judge.retries_max=1\n\
         remote.judge.timeout_seconds=1\nremote.judge.backoff_milliseconds=1\nremote.judge.backoff_max_milliseconds=2\n\
         rollout.refinements=2\njudge.prompt='{{{{ prompt }}}}⟦1⟧{{{{ first }}}}⟦2⟧{{{{ second }}}}'\n\
         judge.critiques_prompt='{{{{ prompt }}}}{{{{ response }}}}⟦1⟧{{{{ first }}}}⟦2⟧{{{{ second }}}}'\n",
        server.base_url
    );
    config(run, &(base + more))
}

/// Every way to fail, by the question's number; now and then an answer.
fn fails(number: usize) -> Option<Act> {
    match number % 11 {
        0 => Some(Act::Status(500, None)),
        3 => Some(Act::Babble("not json")),
        4 => Some(Act::Die),
        6 => Some(Act::Status(429, None)),
        8 => Some(Act::Status(400, None)),
        9 => Some(Act::Say("I cannot say.".into())),
        10 if number < 30 => Some(Act::Hang),
        _ => None,
    }
}

fn counted(series: &str) -> u64 {
    let text = Telemetry::install().unwrap().render();
    let value = |line: &str| line.strip_prefix(series)?.trim().parse::<u64>().ok();
    text.lines().find_map(value).unwrap_or_else(|| panic!("no {series} in {text}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_biased_judge_that_dies_at_random_costs_no_episode_a_wrong_score() {
    let folder = tempfile::tempdir().unwrap();
    let names = ["answered", "timeout", "unreachable", "busy", "server_error", "refused", "unreadable"];
    let counts = || names.map(|name| counted(&format!("rco_remote_tries_total{{outcome=\"{name}\"}}")));
    let invalid = || counted("rco_judge_verdicts_total{verdict=\"invalid_remote\"}");
    let (before, invalid_before) = (counts(), invalid());
    // It always prefers what is shown first: any score but one half is the bias of an order that stands alone.
    let server = Rigged::start(|n, _| fails(n).unwrap_or(Act::Say("A".into()))).await;
    let running = judged(remote_judge(folder.path(), &server, ""), false, None, None).await;
    let ways = |event: &Event, way: Invalid| matches!(event, Event::Judged(Verdict::Invalid(got)) if *got == way);
    let enough = |events: &[Event]| {
        let scored = events.iter().filter(|event| matches!(event, Event::CritiqueScored { .. })).count();
        let failed = events.iter().filter(|event| ways(event, Invalid::Remote)).count();
        scored >= 40 && failed >= 10 && events.iter().any(|event| ways(event, Invalid::Unreadable))
    };
    running.log.until("scores and failures", enough).await;
    running.node.stop();
    let (progress, log) = running.done().await;
    assert_eq!(progress.restarts, 0, "a server's failure is nobody's fault here");
    let events = log.events.lock().unwrap();
    for event in events.iter() {
        match event {
            Event::CritiqueScored { utility, .. } => assert_eq!(*utility, 0.5),
            Event::PairJudged { heard: [forward, backward], .. } => {
                for heard in [forward, backward] {
                    assert!(!matches!(heard, Ok(Choice::B | Choice::Tie)), "nobody said that: {heard:?}");
                }
            }
            _ => {}
        }
    }
    for way in [Invalid::Remote, Invalid::Unreadable, Invalid::Unpaired] {
        assert!(events.iter().any(|event| ways(event, way)), "{way:?} was met");
    }
    assert!(invalid() > invalid_before);
    for (name, (before, after)) in names.iter().zip(before.iter().zip(counts())) {
        assert!(after > *before, "{name} was counted: {before} and {after}");
    }
}

/// The text that a judge of this taste prefers: the one of the greater length.
fn longer(asked: &Asked) -> Option<&'static str> {
    let (first, second) = asked.last().rsplit_once("⟦2⟧")?;
    let first = first.rsplit_once("⟦1⟧")?.1;
    Some(match first.chars().count().cmp(&second.chars().count()) {
        std::cmp::Ordering::Greater => "A",
        std::cmp::Ordering::Equal => "tie",
        std::cmp::Ordering::Less => "B",
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn critiques_that_both_orders_prefer_become_preferences_of_their_group() {
    let of_longer = |longer: Option<&str>| match longer {
        Some("A") => Act::Weigh(vec![("A", 0.7), ("B", 0.1), ("t", 0.1)]),
        Some("B") => Act::Weigh(vec![("Sure", 0.4), (" B", 0.3), ("A", 0.2)]),
        _ => Act::Weigh(vec![("tie", 0.3), ("T", 0.3), ("A", 0.2), ("B", 0.2)]),
    };
    let learnable = |group: &CritiqueGroup| !group.is_zero_variance(Objective::Rco) && !group.preferences.is_empty();
    let folder = compared("logprob", of_longer, |groups| groups.len() >= 12 && groups.iter().any(learnable)).await;
    let snapshot = saved(folder.path());
    let entries = snapshot.state["shelf"]["replay"]["held"].as_array().unwrap();
    assert!(!entries.is_empty() && entries.len() == held(&snapshot).len());
    let groups = entries.iter().map(|entry| serde_json::from_value(entry["group"].clone()).unwrap());
    assert!(preferences(groups) > 0, "{entries:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_judge_that_always_says_the_first_has_preferences_once_its_bias_is_taken_out() {
    let of_longer = |longer: Option<&str>| match longer {
        Some("A") => Act::Weigh(vec![("A", 0.95), ("B", 0.02)]),
        Some("B") => Act::Weigh(vec![("A", 0.90), ("B", 0.05)]),
        _ => Act::Weigh(vec![("A", 0.93), ("B", 0.03)]),
    };
    for (read, has_preferences) in [("logprob", false), ("balanced", true)] {
        let preferred = |groups: &[CritiqueGroup]| groups.iter().any(|group| !group.preferences.is_empty());
        let enough = |groups: &[CritiqueGroup]| groups.len() >= 12 && (!has_preferences || preferred(groups));
        let folder = compared(read, of_longer, enough).await;
        // All that were scored: replay keeps none of zero variance.
        let groups = recorded(folder.path());
        assert!(groups.len() >= 12, "{groups:?}");
        assert_eq!(preferences(groups.into_iter()) > 0, has_preferences, "{read}");
    }
}

/// All groups that a run scored so far.
fn recorded(folder: &Path) -> Vec<CritiqueGroup> {
    match rco_node::groups::read(&folder.join("run")) {
        Ok(read) => read.groups.into_iter().map(|recorded| recorded.group).collect(),
        Err(rco_node::groups::Error::NoRun(_)) => vec![],
        Err(error) => panic!("{error}"),
    }
}

/// A run of `enough` groups with a judge that fails now and then and else says so of which of two texts is longer.
async fn compared(
    read: &str,
    says: fn(Option<&str>) -> Act,
    enough: impl Fn(&[CritiqueGroup]) -> bool,
) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    // By the critiques' length, and of refinements by luck, so that the utilities of a group differ.
    let server = Rigged::start(move |n, asked| match fails(n) {
        Some(act) => act,
        None if asked.body["top_logprobs"] == 20 => says(longer(asked)),
        None => Act::Status(400, None),
    })
    .await;
    let more = format!("judge.critique_preferences=true\njudge.read='{read}'\nlearner.groups_per_step=64");
    let running = judged(remote_judge(folder.path(), &server, &more), false, None, None).await;
    // Failures strike by luck: how many groups it takes to meet a preference is not known before.
    running.log.until("groups", |_| enough(&recorded(folder.path()))).await;
    running.node.stop();
    running.done().await;
    folder
}

/// How many preferences `groups` have; all must be of the longer critique.
fn preferences(groups: impl Iterator<Item = CritiqueGroup>) -> usize {
    let mut preferred = 0;
    for group in groups {
        let length = |place: usize| group.critiques[place].completion.text.chars().count();
        for preference in &group.preferences {
            assert!(length(preference.chosen) > length(preference.rejected), "{preference:?} of {group:?}");
        }
        preferred += group.preferences.len();
    }
    preferred
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_remote_generator_answers_and_refines_and_its_failures_end_no_more_than_their_episode() {
    let folder = tempfile::tempdir().unwrap();
    let server = Rigged::start(|n, asked| match (n % 9, asked.body["messages"].as_array().unwrap().len()) {
        (4, _) => Act::Status(400, None),
        (_, 1) => Act::Say("forty-two".into()),
        // Prompt, response, critique.
        (_, 3) => Act::Say(format!("better than {}", asked.body["messages"][1]["content"])),
        (_, turns) => panic!("expected one turn or three, got {turns}"),
    })
    .await;
    let more = format!(
        "generator.kind='remote'\nremote.generator.base_url='{}'\nremote.generator.model='big'\n\
         remote.generator.backoff_milliseconds=1\nremote.generator.backoff_max_milliseconds=1",
        server.base_url
    );
    let judge = |pair: rco_node::episode::judge::Pair<'_>| {
        assert_eq!(pair.response.text, "forty-two");
        assert_eq!(pair.refinement.text, "better than \"forty-two\"");
        assert_eq!(pair.response.ids, b"forty-two".map(u32::from));
        crate::support::node::likes_even(pair)
    };
    let running = judged(config(folder.path(), &more), false, Some(2), Some(Arc::new(judge))).await;
    let (progress, log) = running.done().await;
    assert_eq!((progress.restarts, progress.step), (0, 2));
    let events = log.events.lock().unwrap();
    let lost = |event: &&Event| {
        matches!(
            event,
            Event::CritiqueDropped(DropReason::Remote) | Event::EpisodeEnded { dropped: Some(DropReason::Remote), .. }
        )
    };
    assert!(events.iter().filter(lost).count() > 0);
    assert!(
        !events.iter().any(|event| matches!(event, Event::Judged(Verdict::Invalid(_)))),
        "the judge saw only whole texts"
    );
    assert!(server.asked().iter().all(|asked| asked.body["model"] == "big"));
}
