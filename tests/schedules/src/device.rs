//! Promises of the device under every schedule that is explored.

use super::*;
use crate::engine::{EngineConfig, Kind, Request};
use crate::explore::explore;
use crate::formats::tokenizer::Tokenizer;
use crate::learner::LearnerConfig;
use shuttle::future::{block_on, spawn};
use std::future::Future;
use std::pin::pin;
use std::task::Poll;

async fn started() -> Device {
    let learner =
        LearnerSetup { config: LearnerConfig { device_share: 0.5 }, temperature: 1.0, seed: 0, state: None };
    let setup = Setup {
        model: Arc::new(Transformer),
        tokenizer: Tokenizer,
        engine: EngineConfig { kv_cache_mib: 1 },
        judge: None,
        learner: Some(learner),
        version: CriticVersion(0),
        served: None,
        observer: Box::new(|_| {}),
    };
    Device::start(setup).await.expect("the setup is a good one")
}

fn request(number: u64, kind: Kind) -> Request {
    Request { number, kind }
}

/// Polls `future` at most `polls` times, then drops it.
async fn dropped_after<T>(polls: usize, future: impl Future<Output = T>) -> Option<T> {
    let (mut future, mut left) = (pin!(future), polls);
    std::future::poll_fn(|context| {
        if let Poll::Ready(output) = future.as_mut().poll(context) {
            return Poll::Ready(Some(output));
        }
        if left == 0 {
            return Poll::Ready(None);
        }
        left -= 1;
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await
}

/// No command is left in the channel, and every permit is back.
async fn assert_no_permit_is_lost(device: &Device) {
    // A permit is returned after its answer is sent.
    let all = device.permits.acquire_many(COMMANDS_MAX as u32).await.expect("nobody closes the semaphore");
    drop(all);
}

#[test]
fn every_caller_gets_its_own_answer() {
    explore("callers", || {
        block_on(async {
            let device = started().await;
            let kinds = [Kind::Good, Kind::HasNoDistribution, Kind::Good, Kind::NeverFits];
            let ask = |(number, kind): (usize, Kind)| {
                let device = device.clone();
                spawn(async move { (number as u64, kind, device.write(request(number as u64, kind)).await) })
            };
            for caller in Vec::from_iter(kinds.into_iter().enumerate().map(ask)) {
                let (number, kind, answer) = caller.await.expect("the caller ran to its end");
                match (kind, answer) {
                    (Kind::Good, Ok(texts)) => assert_eq!(texts[0].number, number),
                    (Kind::HasNoDistribution, Err(Error::Engine(engine::Error::Logits { .. })))
                    | (Kind::NeverFits, Err(Error::Engine(engine::Error::TooLong))) => {}
                    (kind, answer) => panic!("request {number}, {kind:?}: {answer:?}"),
                }
            }
            assert_no_permit_is_lost(&device).await;
        });
    });
}

#[test]
fn callers_that_leave_keep_no_permit_and_disturb_nobody() {
    explore("callers that leave", || {
        block_on(async {
            let device = started().await;
            let leave = |polls: usize| {
                let device = device.clone();
                spawn(async move { drop(dropped_after(polls, device.write(request(9, Kind::Good))).await) })
            };
            let leavers = [leave(1), leave(2), leave(3)];
            let texts = device.write(request(1, Kind::Good)).await.expect("it fits");
            assert_eq!(texts[0].number, 1);
            for leaver in leavers {
                leaver.await.expect("it left");
            }
            assert_no_permit_is_lost(&device).await;
        });
    });
}

#[test]
fn a_stream_has_all_its_events_or_its_error_and_one_that_is_dropped_disturbs_nobody() {
    explore("streams", || {
        block_on(async {
            let device = started().await;
            let stream = |number: u64, kind: Kind, events_max: usize| {
                let device = device.clone();
                spawn(async move {
                    let mut stream = device.stream(request(number, kind)).await.expect("it fits");
                    let mut events = vec![];
                    while events.len() < events_max
                        && let Some(event) = stream.next().await
                    {
                        events.push(event.map(|event| event.number));
                    }
                    events
                })
            };
            let (good, bad) = (stream(1, Kind::Good, 9), stream(2, Kind::HasNoDistribution, 9));
            let (gone, left) = (stream(3, Kind::Good, 0), stream(4, Kind::Good, 1));
            let texts = device.write(request(5, Kind::Good)).await.expect("it fits");
            assert_eq!(texts[0].number, 5);
            assert!(matches!(good.await.expect("it ran to its end")[..], [Ok(1), Ok(1)]));
            assert!(matches!(bad.await.expect("it ran to its end")[..], [Err(Error::Engine(_))]));
            assert!(gone.await.expect("it left").is_empty());
            assert!(matches!(left.await.expect("it left")[..], [Ok(4)]));
            assert_no_permit_is_lost(&device).await;
        });
    });
}

/// `end` ends the thread while callers wait: each gets an answer or [`Error::Gone`], later ones [`Error::Gone`].
fn explore_an_end(name: &'static str, end: fn(&Device), text: Option<&'static str>) {
    explore(name, move || {
        block_on(async move {
            let device = started().await;
            let ask = |number: u64| {
                let device = device.clone();
                spawn(async move { device.write(request(number, Kind::Good)).await })
            };
            let callers = [ask(0), ask(1), ask(2)];
            let learner = device.clone();
            let learning = spawn(async move { learner.learn(1, vec![]).await });
            end(&device);
            for caller in callers {
                assert!(matches!(caller.await.expect("it ended"), Ok(_) | Err(Error::Gone)));
            }
            assert!(matches!(learning.await.expect("it ended"), Ok(_) | Err(Error::Gone)));
            assert_eq!(device.ended().await.as_deref(), text);
            assert!(matches!(device.snapshot().await, Err(Error::Gone)));
            assert_no_permit_is_lost(&device).await;
        });
    });
}

#[test]
fn a_stop_leaves_no_caller_waiting() {
    explore_an_end("a stop", Device::stop, None);
}

#[test]
fn a_panic_leaves_no_caller_waiting() {
    explore_an_end("a panic", |device| device.inject_fault("broken"), Some("broken"));
}

#[test]
fn the_thread_ends_with_its_last_handle() {
    explore("the last handle", || {
        block_on(async {
            let device = started().await;
            let mut ended = device.ended.clone();
            let other = device.clone();
            let caller = spawn(async move { drop(dropped_after(2, other.write(request(1, Kind::Good))).await) });
            drop(device);
            caller.await.expect("it ended");
            let end = ended.wait_for(|ended| !matches!(ended, Ended::Running)).await;
            assert!(matches!(*end.expect("the thread says how it ended"), Ended::Stopped));
        });
    });
}

#[test]
fn a_batch_is_learned_once_however_often_it_is_asked_for() {
    explore("a batch asked for twice", || {
        block_on(async {
            let device = started().await;
            let first = device.clone();
            // The learner is restarted: its first call is dropped, then it asks again.
            let restarted = spawn(async move {
                drop(dropped_after(2, first.learn(7, vec![])).await);
                first.learn(7, vec![]).await
            });
            let writer = device.clone();
            let written = spawn(async move { writer.write(request(1, Kind::Good)).await });
            let report = restarted.await.expect("it ended").expect("nobody abandons it");
            assert_eq!(report, learner::Report { batch: 7, step: 1 });
            assert_eq!(device.snapshot().await.expect("there is a learner").step, 1);
            assert!(written.await.expect("it ended").is_ok());
        });
    });
}

#[test]
fn an_installed_critic_writes_what_is_asked_later() {
    explore("an install", || {
        block_on(async {
            let device = started().await;
            let other = device.clone();
            let early = spawn(async move { other.write(request(1, Kind::Good)).await });
            device.install(CriticVersion(1), Some(CriticWeights::Full(())), MadeBy::Learner).await.expect("it fits");
            let late = device.write(request(2, Kind::Good)).await.expect("it fits");
            assert_eq!(late[0].version, CriticVersion(1));
            let early = early.await.expect("it ended").expect("it fits");
            assert!(early[0].version <= CriticVersion(1));
        });
    });
}
