//! The device thread: the one thread that owns the device. It interleaves engine steps and learner micro-batches by a
//! configured share of the time.
//!
//! Commands arrive over a bounded channel, each with a permit; replies are oneshots. Requests whose callers have gone
//! are cancelled. A panic ends the thread and is reported to every holder of a handle. Knows no actor and no metric: it
//! reports its work to an observer.

mod command;
mod engine_slot;
mod error;
mod heartbeat;
mod setup;
mod share;
mod stream;
mod thread;

use crate::engine::Holder;
pub use crate::engine::{Policy, StreamEvent};
pub use error::Error;
pub(crate) use error::has_lost_gpu;
pub use setup::{Event, JudgeSetup, LearnerSetup, Observer, Setup};
pub use stream::CompletionStream;

use crate::engine;
use crate::learner::{self, LearnerConfig};
use crate::transformer::Transformer;
use crate::transformer::decode::PackedAdapter;
pub use crate::transformer::full_weights::CriticWeights;
use crate::types::{Completion, CriticVersion, CritiqueGroup};
pub use command::MadeBy;
use command::{Command, EngineSlot, Envelope, PendingInstall, Reply};
use heartbeat::Heartbeat;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};
use thread::Thread;
use tokio::sync::{Semaphore, oneshot, watch};

/// Capacity of the command queue.
const COMMANDS_MAX: usize = 256;
/// Candle's backward pass is recursive, so deep models need a large stack.
pub(crate) const STACK_BYTES: usize = 256 << 20;

/// A handle to the device thread; clones share it.
#[derive(Clone)]
pub struct Device {
    model: Arc<Transformer>,
    commands: crossbeam_channel::Sender<Envelope>,
    permits: Arc<Semaphore>,
    ended: watch::Receiver<Ended>,
    heartbeat: Arc<Heartbeat>,
    slot: EngineSlot,
}

/// State of the thread.
#[derive(Clone, Debug, Default)]
enum Ended {
    #[default]
    Running,
    Stopped,
    Panicked(String),
}

impl Device {
    /// Starts the thread and waits until engine and learner are ready.
    ///
    /// # Errors
    /// If the learner's self-test fails or its state does not fit.
    pub async fn start(setup: Setup) -> Result<Self, Error> {
        let model = setup.model.clone();
        let (commands, inbox) = crossbeam_channel::unbounded();
        let (status, ended) = watch::channel(Ended::Running);
        let (ready, is_ready) = oneshot::channel();
        let heartbeat = Arc::new(Heartbeat::new());
        let beating = heartbeat.clone();
        let body = move || {
            let run = AssertUnwindSafe(|| match Thread::new(setup, beating) {
                Ok(mut thread) => {
                    // A caller that stopped waiting has also dropped the command channel.
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
        let (permits, slot) = (Arc::new(Semaphore::new(COMMANDS_MAX)), EngineSlot::Own);
        Ok(Self { model, commands, permits, ended, heartbeat, slot })
    }

    /// A handle that uses the judge's own model, or the node's if the judge has none.
    pub fn for_judge(&self) -> Self {
        Self { slot: EngineSlot::Judge, ..self.clone() }
    }

    /// Writes the continuations of `request`. Dropping the future cancels the request.
    ///
    /// # Errors
    /// If the request can never fit, the model fails, or the thread is gone.
    pub async fn write(&self, request: engine::Request) -> Result<Vec<Completion>, Error> {
        self.ask(|reply| Command::Write(self.slot, request, reply)).await
    }

    /// Like [`Device::write`], as a stream of what is written. Dropping the stream cancels the request.
    ///
    /// # Errors
    /// As [`Device::write`].
    pub async fn stream(&self, request: engine::Request) -> Result<CompletionStream, Error> {
        let (updates, stream) = CompletionStream::new();
        self.ask(|reply| Command::Stream(self.slot, request, updates, reply)).await?;
        Ok(stream)
    }

    /// Makes `critic` resident as `version`, beside the one in service; `None` is the base's weights.
    ///
    /// # Errors
    /// If the critic does not fit the model, as many are resident as the config allows, or the thread is gone.
    pub async fn load(&self, version: CriticVersion, critic: Option<CriticWeights>) -> Result<(), Error> {
        let pending = self.pending(critic).await?;
        self.ask(|reply| Command::Load(version, pending, Holder::Swap, reply)).await
    }

    /// Like [`Device::load`], for clients who ask for it by its number: it makes room for others, the one that was loaded
    /// longest ago first.
    ///
    /// # Errors
    /// As [`Device::load`], where none may make room.
    pub async fn lend(&self, version: CriticVersion, critic: Option<CriticWeights>) -> Result<(), Error> {
        let pending = self.pending(critic).await?;
        self.ask(|reply| Command::Load(version, pending, Holder::Client, reply)).await
    }

    /// Forgets a resident critic that is not in service. Sequences under way keep it. Returns whether it was resident.
    ///
    /// # Errors
    /// If the thread is gone.
    pub async fn unload(&self, version: CriticVersion) -> Result<bool, Error> {
        self.ask(|reply| Command::Unload(version, reply)).await
    }

    /// Sets the share of the engine that requests over HTTP get while rollouts have work too, a number in `(0, 1]`.
    ///
    /// # Errors
    /// If the thread is gone.
    pub async fn set_share(&self, http: f64) -> Result<(), Error> {
        self.ask(|reply| Command::SetShare(http, reply)).await
    }

    /// Like [`Device::write`], with `critic`, which is put into service as `version`. A version must always name the
    /// same critic. Only for a device without a learner: a learner would not know that the critic in service has
    /// changed.
    ///
    /// # Errors
    /// As [`Device::write`], and if the critic does not fit the model.
    pub async fn write_as(
        &self,
        version: CriticVersion,
        critic: CriticWeights,
        request: engine::Request,
    ) -> Result<Vec<Completion>, Error> {
        self.ask(|reply| Command::WriteAs(version, critic, request, reply)).await
    }

    /// Log-probabilities (nats) of `candidates`, each as the next token of `prompt`, by `policy`. Dropping the future cancels
    /// the request.
    ///
    /// # Errors
    /// As [`Device::write`], and if a candidate is not a token of the model.
    pub async fn score_candidates(
        &self,
        policy: engine::Policy,
        prompt: Vec<u32>,
        candidates: Vec<u32>,
    ) -> Result<Vec<f32>, Error> {
        let asked = |reply| Command::ScoreCandidates(self.slot, policy, prompt, candidates, reply);
        let completions = self.ask(asked).await?;
        Ok(completions.into_iter().next().map_or(Vec::new(), |completion| completion.log_probs))
    }

    /// Runs one learner step on `groups`, named `batch`. A batch that was already applied is not applied again; its
    /// report is returned instead, so a restarted caller may repeat the call.
    ///
    /// # Errors
    /// If the step is abandoned or not finite, or the thread is gone.
    pub async fn learn(&self, batch: u64, groups: Vec<Arc<CritiqueGroup>>) -> Result<learner::Report, Error> {
        self.ask(|reply| Command::Learn(batch, groups, reply)).await
    }

    /// The learner's whole state, for a checkpoint. It does not include a step in progress.
    ///
    /// # Errors
    /// If there is no learner or the thread is gone.
    pub async fn snapshot(&self) -> Result<learner::State, Error> {
        self.ask(Command::Snapshot).await
    }

    /// Puts a critic into service between two steps; `None` is the base. `made` says who made it.
    ///
    /// # Errors
    /// If the critic does not fit the model, or the thread is gone.
    pub async fn install(
        &self,
        version: CriticVersion,
        critic: Option<CriticWeights>,
        made: MadeBy,
    ) -> Result<(), Error> {
        let pending = self.pending(critic).await?;
        self.ask(|reply| Command::Install(version, pending, made, reply)).await
    }

    /// Changes the learner's learning rate, beta and share of the time to those of `config`; from the next step on.
    ///
    /// # Errors
    /// If there is no learner, or the thread is gone.
    pub async fn configure(&self, config: LearnerConfig) -> Result<(), Error> {
        self.ask(|reply| Command::Configure(Box::new(config), reply)).await
    }

    /// Lets the learner go on from `critic`, with its optimizer's moments at zero. A step in progress is abandoned.
    ///
    /// # Errors
    /// If the critic is not of the kind that is trained, there is no learner, or the thread is gone.
    pub async fn adopt(&self, critic: Option<CriticWeights>) -> Result<(), Error> {
        self.ask(|reply| Command::Adopt(critic, reply)).await
    }

    async fn pending(&self, critic: Option<CriticWeights>) -> Result<Option<PendingInstall>, Error> {
        Ok(match critic {
            // Packing all weights takes seconds, so it is done here while the thread continues to generate.
            Some(critic @ CriticWeights::Full(_)) => Some(PendingInstall::Packed(self.pack(critic).await?)),
            plain => plain.map(PendingInstall::Plain),
        })
    }

    /// Needs no deadline: packing computes, and waits for no lock, no disk and no device.
    async fn pack(&self, critic: CriticWeights) -> Result<Arc<PackedAdapter>, Error> {
        let model = self.model.clone();
        let packed = tokio::task::spawn_blocking(move || model.pack(&critic));
        Ok(Arc::new(packed.await.map_err(|_| Error::Gone)??))
    }

    /// Abandons the learner step in progress, if any: its `learn` returns [`learner::Error::Abandoned`].
    ///
    /// # Errors
    /// If the thread is gone.
    pub async fn abandon(&self) -> Result<(), Error> {
        self.ask(Command::Abandon).await
    }

    /// Resolves when the thread has ended: with the panic's text if it panicked.
    pub async fn ended(&self) -> Option<String> {
        let mut ended = self.ended.clone();
        // The sender lives as long as the thread and sends once, just before the thread ends.
        let _ = ended.wait_for(|ended| !matches!(ended, Ended::Running)).await;
        match &*ended.borrow() {
            Ended::Panicked(text) => Some(text.clone()),
            Ended::Running | Ended::Stopped => None,
        }
    }

    /// Commands that wait for the thread, or that it is at.
    pub fn queued(&self) -> usize {
        COMMANDS_MAX - self.permits.available_permits()
    }

    /// How long the thread has been at one engine step, micro-batch or command; none while it waits for commands.
    pub fn busy(&self) -> Option<Duration> {
        self.heartbeat.busy()
    }

    /// Asks the thread to end after the current engine step or micro-batch. Waiting commands fail with [`Error::Gone`].
    pub fn stop(&self) {
        self.send_at_once(Command::Stop);
    }

    /// Makes the thread panic with `text`, as a violated invariant would.
    #[cfg(feature = "faults")]
    pub fn inject_fault(&self, text: &str) {
        self.send_at_once(Command::Fault(text.to_owned()));
    }

    /// Makes the thread stand still, as a driver that hangs would.
    #[cfg(feature = "faults")]
    pub fn inject_stall(&self, duration: Duration) {
        self.send_at_once(Command::Stall(duration));
    }

    fn send_at_once(&self, command: Command) {
        // An error means that the thread is already gone.
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

#[cfg(test)]
mod tests;
