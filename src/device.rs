//! The one thread that owns the device: interleaves engine steps and learner pieces by a configured share.
//!
//! Commands come in over a bounded channel, each with a permit, and answers go out as oneshots. A caller who
//! left is skipped. A panic ends this thread and is told to whoever holds a handle; it never leaves it. Knows
//! no actor and no metric: what it did goes to an observer.

mod engine_slot;
mod share;
mod thread;

use crate::engine::{self, EngineConfig, StepReport};
use crate::formats::tokenizer::Tokenizer;
use crate::learner::{self, LearnerConfig};
use crate::transformer::Transformer;
use crate::transformer::decode::PackedAdapter;
use crate::transformer::full_weights::CriticWeights;
use crate::types::Completion;
use crate::types::{CriticVersion, CritiqueGroup};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};
use thread::Thread;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot, watch};

/// Commands that may wait at once.
const COMMANDS_MAX: usize = 256;
/// Candle walks a graph recursively when it differentiates: deep models want a deep stack.
pub(crate) const STACK_BYTES: usize = 256 << 20;

/// Why a command was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The thread is gone: it was stopped or it panicked.
    #[error("the device thread is gone")]
    Gone,
    /// The node runs without a learner.
    #[error("this device has no learner")]
    NoLearner,
    /// The engine refused or failed.
    #[error(transparent)]
    Engine(#[from] engine::Error),
    /// The learner refused or failed.
    #[error(transparent)]
    Learner(#[from] learner::Error),
    /// The model could not be laid out on the device.
    #[error(transparent)]
    Model(#[from] crate::formats::Error),
    /// The thread could not be started.
    #[error("starting the device thread: {0}")]
    Spawn(#[from] std::io::Error),
}

/// What the thread did, told as it happens; called on that thread, so it must be quick.
pub type Observer = Box<dyn Fn(Event) + Send>;

/// One thing the thread did.
#[derive(Clone, Debug)]
pub enum Event {
    /// One engine step.
    Engine {
        /// What it did.
        report: StepReport,
        /// How long it took.
        duration: Duration,
        /// Sequences that decode or prefill.
        running: usize,
        /// Sequences that wait.
        waiting: usize,
        /// Share of the KV blocks in use.
        kv_usage: f64,
    },
    /// One piece of a learner step.
    Learner {
        /// How long it took.
        duration: Duration,
    },
    /// A command was taken.
    Command {
        /// How long it waited.
        waited: Duration,
    },
}

/// What a device thread starts from.
pub struct Setup {
    /// Base weights, shared by all that run on them.
    pub model: Arc<Transformer>,
    /// Ids to text, for stop strings.
    pub tokenizer: Tokenizer,
    /// Limits of the engine.
    pub engine: EngineConfig,
    /// The judge's own model, where it has one.
    pub judge: Option<JudgeSetup>,
    /// The learner, where there is one.
    pub learner: Option<LearnerSetup>,
    /// The critic in service at the start.
    pub version: CriticVersion,
    /// Its weights; none for the base's.
    pub served: Option<CriticWeights>,
    /// Is told what the thread does.
    pub observer: Observer,
}

/// What a judge with a model of its own starts from: a second engine on the same thread.
pub struct JudgeSetup {
    /// Its weights.
    pub model: Arc<Transformer>,
    /// Its ids to text.
    pub tokenizer: Tokenizer,
    /// Limits of its engine.
    pub engine: EngineConfig,
}

/// Whose engine a handle writes with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum EngineSlot {
    /// The node's own.
    Own,
    /// The judge's, or the node's own where the judge has none.
    Judge,
}

/// What a learner starts from.
pub struct LearnerSetup {
    /// How it learns.
    pub config: LearnerConfig,
    /// The critic's sampling temperature.
    pub temperature: f32,
    /// Seed of a fresh adapter.
    pub seed: u64,
    /// The state to go on from.
    pub state: Option<learner::State>,
}

/// A handle to the device thread; clones share it.
#[derive(Clone)]
pub struct Device {
    model: Arc<Transformer>,
    commands: crossbeam_channel::Sender<Envelope>,
    permits: Arc<Semaphore>,
    ended: watch::Receiver<Ended>,
    seat: EngineSlot,
}

/// How the thread stands.
#[derive(Clone, Debug, Default)]
enum Ended {
    #[default]
    Running,
    Stopped,
    Panicked(String),
}

type Reply<T> = oneshot::Sender<Result<T, Error>>;

enum Command {
    Write(EngineSlot, engine::Request, Reply<Vec<Completion>>),
    WriteAs(CriticVersion, CriticWeights, engine::Request, Reply<Vec<Completion>>),
    Weigh(EngineSlot, Vec<u32>, Vec<u32>, Reply<Vec<Completion>>),
    Learn(u64, Vec<Arc<CritiqueGroup>>, Reply<learner::Report>),
    Snapshot(Reply<learner::State>),
    Install(CriticVersion, Option<PendingInstall>, Reply<()>),
    Abandon(Reply<()>),
    Fault(String),
    Stop,
}

/// A critic on its way into service.
enum PendingInstall {
    /// To be laid out by the thread, since it owns the device.
    Plain(CriticWeights),
    /// Laid out already.
    Packed(Arc<PackedAdapter>),
}

struct Envelope {
    command: Command,
    sent: Instant,
    _permit: Option<OwnedSemaphorePermit>,
}

impl Device {
    /// Starts the thread and waits until engine and learner stand ready.
    ///
    /// # Errors
    /// Where the learner's self-test fails or its state does not fit.
    pub async fn start(setup: Setup) -> Result<Self, Error> {
        let model = setup.model.clone();
        let (commands, inbox) = crossbeam_channel::unbounded();
        let (status, ended) = watch::channel(Ended::Running);
        let (ready, is_ready) = oneshot::channel();
        let body = move || {
            let run = AssertUnwindSafe(|| match Thread::new(setup) {
                Ok(mut thread) => {
                    // A caller that no longer waits for readiness has dropped the inbox's other end as well.
                    let _ = ready.send(Ok(()));
                    thread.run(&inbox);
                }
                Err(error) => drop(ready.send(Err(error))),
            });
            let end = std::panic::catch_unwind(run)
                .map_or_else(|panic| Ended::Panicked(panic_text(&*panic)), |()| Ended::Stopped);
            status.send_replace(end);
        };
        std::thread::Builder::new().name("rco-device".into()).stack_size(STACK_BYTES).spawn(body)?;
        is_ready.await.map_err(|_| Error::Gone)??;
        Ok(Self { model, commands, permits: Arc::new(Semaphore::new(COMMANDS_MAX)), ended, seat: EngineSlot::Own })
    }

    /// A handle that writes and weighs with the judge's own model, or with the node's where the judge has none.
    pub fn of_judge(&self) -> Self {
        Self { seat: EngineSlot::Judge, ..self.clone() }
    }

    /// Writes the continuations of `request`. Dropping the future cancels the request.
    ///
    /// # Errors
    /// Where the request can never fit, the model fails, or the thread is gone.
    pub async fn write(&self, request: engine::Request) -> Result<Vec<Completion>, Error> {
        self.ask(|reply| Command::Write(self.seat, request, reply)).await
    }

    /// As [`Device::write`], by `critic` as version `version`, which is in service from here on. Versions name
    /// critics: no two go by one. For a device without a learner: one that learns is not told what was put into service.
    ///
    /// # Errors
    /// As [`Device::write`], and where the critic does not fit the model.
    pub async fn write_as(
        &self,
        version: CriticVersion,
        critic: CriticWeights,
        request: engine::Request,
    ) -> Result<Vec<Completion>, Error> {
        self.ask(|reply| Command::WriteAs(version, critic, request, reply)).await
    }

    /// Log-probabilities (nats) of `candidates`, each as the next token of `prompt`, by the base without adapter.
    /// Dropping the future takes the question back.
    ///
    /// # Errors
    /// As [`Device::write`], and where a candidate is no token of the model.
    pub async fn weigh(&self, prompt: Vec<u32>, candidates: Vec<u32>) -> Result<Vec<f32>, Error> {
        let weighed = self.ask(|reply| Command::Weigh(self.seat, prompt, candidates, reply)).await?;
        Ok(weighed.into_iter().next().map_or(Vec::new(), |completion| completion.log_probs))
    }

    /// One learner step on `groups`. `batch` names it: a batch already applied is not applied again,
    /// and its report returned instead (so that a restarted caller may simply ask again).
    ///
    /// # Errors
    /// Where the step is abandoned or not finite, or the thread is gone.
    pub async fn learn(&self, batch: u64, groups: Vec<Arc<CritiqueGroup>>) -> Result<learner::Report, Error> {
        self.ask(|reply| Command::Learn(batch, groups, reply)).await
    }

    /// The learner's whole state, for a checkpoint. A step under way is not in it.
    ///
    /// # Errors
    /// Where there is no learner or the thread is gone.
    pub async fn snapshot(&self) -> Result<learner::State, Error> {
        self.ask(Command::Snapshot).await
    }

    /// Puts a critic into service between two steps; `None` is the base.
    ///
    /// # Errors
    /// Where the model does not take it, or the thread is gone.
    pub async fn install(&self, version: CriticVersion, critic: Option<CriticWeights>) -> Result<(), Error> {
        let coming = match critic {
            // A whole weight set takes seconds: it is packed while the thread goes on writing.
            Some(critic @ CriticWeights::Full(_)) => Some(PendingInstall::Packed(self.pack(critic).await?)),
            plain => plain.map(PendingInstall::Plain),
        };
        self.ask(|reply| Command::Install(version, coming, reply)).await
    }

    async fn pack(&self, critic: CriticWeights) -> Result<Arc<PackedAdapter>, Error> {
        let model = self.model.clone();
        let packed = tokio::task::spawn_blocking(move || model.pack(&critic));
        Ok(Arc::new(packed.await.map_err(|_| Error::Gone)??))
    }

    /// Gives up the learner step under way, if any: its `learn` answers [`learner::Error::Abandoned`].
    ///
    /// # Errors
    /// Where the thread is gone.
    pub async fn abandon(&self) -> Result<(), Error> {
        self.ask(Command::Abandon).await
    }

    /// Resolves when the thread has ended: with the panic's text if it panicked.
    pub async fn ended(&self) -> Option<String> {
        let mut ended = self.ended.clone();
        // The sender lives as long as the thread and speaks once before it ends.
        let _ = ended.wait_for(|ended| !matches!(ended, Ended::Running)).await;
        match &*ended.borrow() {
            Ended::Panicked(text) => Some(text.clone()),
            Ended::Running | Ended::Stopped => None,
        }
    }

    /// Asks the thread to end after the piece of work under way; what waits is answered with [`Error::Gone`].
    pub fn stop(&self) {
        self.send_at_once(Command::Stop);
    }

    /// Makes the thread panic, as a broken invariant would: for tests of what happens then.
    #[doc(hidden)]
    pub fn inject_fault(&self, text: &str) {
        self.send_at_once(Command::Fault(text.to_owned()));
    }

    fn send_at_once(&self, command: Command) {
        // A thread that is gone needs no telling.
        let _ = self.commands.send(Envelope { command, sent: Instant::now(), _permit: None });
    }

    async fn ask<T>(&self, command: impl FnOnce(Reply<T>) -> Command) -> Result<T, Error> {
        let permit = self.permits.clone().acquire_owned().await.map_err(|_| Error::Gone)?;
        let (reply, answer) = oneshot::channel();
        let envelope = Envelope { command: command(reply), sent: Instant::now(), _permit: Some(permit) };
        self.commands.send(envelope).map_err(|_| Error::Gone)?;
        answer.await.map_err(|_| Error::Gone)?
    }
}

/// The text of a panic's payload.
fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "a panic without a text".to_owned())
}
