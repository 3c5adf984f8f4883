//! The rooms below the device, made small: an engine that needs two steps a request, and a learner that needs two
//! micro-batches a batch.

#[path = "../../../src/types/engine_load.rs"]
mod engine_load;

pub(crate) mod types {
    #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
    pub struct CriticVersion(pub u64);

    pub use super::engine_load::EngineLoad;

    #[derive(Clone, Debug, PartialEq)]
    pub struct Completion {
        pub log_probs: Vec<f32>,
        /// The critic in service when its request was submitted.
        pub version: CriticVersion,
        /// The request's own number.
        pub number: u64,
    }

    #[derive(Debug)]
    pub struct CritiqueGroup;
}

pub(crate) mod formats {
    pub(crate) mod tokenizer {
        pub struct Tokenizer;
    }
}

pub(crate) mod transformer {
    #[derive(Debug, thiserror::Error)]
    #[error("the model failed")]
    pub struct Error;

    pub struct Transformer;

    impl Transformer {
        pub(crate) fn pack(&self, _: &full_weights::CriticWeights) -> Result<decode::PackedAdapter, Error> {
            shuttle::thread::yield_now();
            Ok(decode::PackedAdapter)
        }
    }

    pub(crate) mod full_weights {
        #[derive(Clone, Debug)]
        pub enum CriticWeights {
            Adapter,
            Full(()),
        }
    }

    pub(crate) mod decode {
        pub struct PackedAdapter;
        pub struct Decoder;

        impl Decoder {
            pub(crate) fn sized<T>(_: T, _: usize) -> Result<Self, super::Error> {
                Ok(Self)
            }
        }
    }
}

pub(crate) mod engine {
    use super::formats::tokenizer::Tokenizer;
    use super::transformer::decode::PackedAdapter;
    use super::types::{Completion, CriticVersion};
    use shuttle::sync::Arc;

    /// Steps that a request needs.
    const STEPS: usize = 2;

    #[derive(Debug, thiserror::Error)]
    pub enum Error {
        #[error("request {request} has no distribution")]
        Logits { request: u64, index: usize },
        #[error("the request can never fit")]
        TooLong,
        #[error("as many are resident as may be")]
        VersionsFull {},
    }

    impl Error {
        pub fn request(&self) -> Option<u64> {
            match self {
                Self::Logits { request, .. } => Some(*request),
                Self::TooLong | Self::VersionsFull {} => None,
            }
        }
    }

    /// For whom a critic is resident.
    #[derive(Clone, Copy)]
    pub enum Holder {
        Swap,
        Client,
    }

    /// The critics in memory: one of no size.
    pub(crate) struct Critics;

    impl Critics {
        pub(crate) fn load(
            &mut self,
            _: CriticVersion,
            _: Option<Arc<PackedAdapter>>,
            _: Holder,
        ) -> Result<(), Error> {
            Ok(())
        }

        pub(crate) fn unload(&mut self, _: CriticVersion) -> bool {
            false
        }

        pub(crate) fn alive(&self) -> usize {
            1
        }

        pub(crate) fn bytes(&self) -> usize {
            0
        }
    }

    pub struct EngineConfig {
        pub kv_cache_mib: usize,
    }

    #[derive(Clone, Copy, Debug)]
    pub enum Policy {
        Serving,
    }

    #[derive(Clone, Copy, Debug)]
    pub enum Kind {
        Good,
        NeverFits,
        HasNoDistribution,
    }

    #[derive(Debug)]
    pub struct Request {
        pub number: u64,
        pub kind: Kind,
    }

    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
    pub struct RequestId(pub u64);

    #[derive(Clone, Debug)]
    pub struct StepReport;

    /// A step of a streamed request.
    #[derive(Clone, Debug, PartialEq)]
    pub struct StreamEvent {
        pub number: u64,
    }

    struct Running {
        id: RequestId,
        request: Request,
        version: CriticVersion,
        steps_left: usize,
        streamed: bool,
    }

    pub struct Engine<D> {
        _model: D,
        next: u64,
        version: CriticVersion,
        running: Vec<Running>,
        finished: Vec<(RequestId, Vec<Completion>)>,
        events: Vec<(RequestId, StreamEvent)>,
    }

    impl<D> Engine<D> {
        pub(crate) fn new(model: D, _: Tokenizer, _: EngineConfig) -> Self {
            Self {
                _model: model,
                next: 0,
                version: CriticVersion(0),
                running: vec![],
                finished: vec![],
                events: vec![],
            }
        }

        pub(crate) fn submit(&mut self, request: Request) -> Result<RequestId, Error> {
            self.accept(request, false)
        }

        pub(crate) fn submit_streamed(&mut self, request: Request) -> Result<RequestId, Error> {
            self.accept(request, true)
        }

        fn accept(&mut self, request: Request, streamed: bool) -> Result<RequestId, Error> {
            if matches!(request.kind, Kind::NeverFits) {
                return Err(Error::TooLong);
            }
            let id = RequestId(self.next);
            self.next += 1;
            self.running.push(Running { id, request, version: self.version, steps_left: STEPS, streamed });
            Ok(id)
        }

        pub(crate) fn score_candidates(
            &mut self,
            _: Policy,
            _: Vec<u32>,
            candidates: Vec<u32>,
        ) -> Result<RequestId, Error> {
            self.submit(Request { number: candidates.len() as u64, kind: Kind::Good })
        }

        pub(crate) fn cancel(&mut self, id: RequestId) {
            self.running.retain(|running| running.id != id);
        }

        pub(crate) fn install(&mut self, version: CriticVersion, _: Option<Arc<PackedAdapter>>) {
            self.version = version;
        }

        pub(crate) fn critics(&self) -> Critics {
            Critics
        }

        pub(crate) fn critics_mut(&mut self) -> Critics {
            Critics
        }

        pub(crate) fn kv_touched(&self) -> f64 {
            1.0
        }

        pub(crate) fn set_share(&mut self, _: f64) {}

        pub(crate) fn take_events(&mut self) -> Vec<(RequestId, StreamEvent)> {
            std::mem::take(&mut self.events)
        }

        pub(crate) fn critic_version(&self) -> CriticVersion {
            self.version
        }

        pub(crate) fn is_idle(&self) -> bool {
            self.running.is_empty()
        }

        pub(crate) fn step(&mut self) -> Result<StepReport, Error> {
            shuttle::thread::yield_now();
            if let Some(bad) =
                self.running.iter().find(|running| matches!(running.request.kind, Kind::HasNoDistribution))
            {
                return Err(Error::Logits { request: bad.id.0, index: 0 });
            }
            for running in &mut self.running {
                running.steps_left -= 1;
                if running.streamed {
                    self.events.push((running.id, StreamEvent { number: running.request.number }));
                }
            }
            let (done, running) =
                std::mem::take(&mut self.running).into_iter().partition(|running| running.steps_left == 0);
            self.running = running;
            let complete = |Running { id, request, version, .. }: Running| {
                (id, vec![Completion { log_probs: vec![0.0], version, number: request.number }])
            };
            self.finished.extend(Vec::into_iter(done).map(complete));
            Ok(StepReport)
        }

        pub(crate) fn take_finished(&mut self) -> Vec<(RequestId, Vec<Completion>)> {
            std::mem::take(&mut self.finished)
        }

        pub(crate) fn running(&self) -> usize {
            self.running.len()
        }

        pub(crate) fn waiting(&self) -> usize {
            0
        }

        pub(crate) fn kv_usage(&self) -> f64 {
            0.0
        }
    }
}

pub(crate) mod learner {
    use super::transformer::Transformer;
    use super::transformer::full_weights::CriticWeights;
    use super::types::{CriticVersion, CritiqueGroup};
    use shuttle::sync::Arc;

    /// Micro-batches that a batch needs.
    const MICRO_BATCHES: usize = 2;

    #[derive(Debug, thiserror::Error)]
    pub enum Error {
        #[error("the step was abandoned")]
        Abandoned,
    }

    pub struct LearnerConfig {
        pub device_share: f64,
    }

    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct Report {
        pub batch: u64,
        /// Steps so far, this one included.
        pub step: u64,
    }

    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct State {
        pub step: u64,
    }

    pub struct Learner {
        pub(crate) config: LearnerConfig,
        step: u64,
        last: Option<Report>,
        /// The batch in progress and its micro-batches left.
        busy: Option<(u64, usize)>,
    }

    impl Learner {
        pub(crate) fn bytes(&self) -> usize {
            0
        }

        pub(crate) fn new(_: Arc<Transformer>, config: LearnerConfig, _: f32, _: u64) -> Result<Self, Error> {
            Ok(Self { config, step: 0, last: None, busy: None })
        }

        pub(crate) fn resume(_: Arc<Transformer>, config: LearnerConfig, _: f32, state: State) -> Result<Self, Error> {
            Ok(Self { config, step: state.step, last: None, busy: None })
        }

        pub(crate) fn is_busy(&self) -> bool {
            self.busy.is_some()
        }

        pub(crate) fn begin(&mut self, batch: u64, _: Vec<Arc<CritiqueGroup>>) -> Option<Report> {
            self.busy = None;
            if let Some(report) = self.last.as_ref().filter(|report| report.batch == batch) {
                return Some(report.clone());
            }
            self.busy = Some((batch, MICRO_BATCHES));
            None
        }

        pub(crate) fn abandon(&mut self) {
            self.busy = None;
        }

        pub(crate) fn advance(&mut self) -> Result<Option<Report>, Error> {
            shuttle::thread::yield_now();
            match &mut self.busy {
                Some((batch, 1)) => {
                    self.step += 1;
                    let report = Report { batch: *batch, step: self.step };
                    self.busy = None;
                    self.last = Some(report.clone());
                    Ok(Some(report))
                }
                Some((_, left)) => {
                    *left -= 1;
                    Ok(None)
                }
                None => Ok(None),
            }
        }

        pub(crate) fn adopt(&mut self, _: Option<CriticWeights>) -> Result<(), Error> {
            self.busy = None;
            Ok(())
        }

        pub(crate) fn configure(&mut self, _: &LearnerConfig) {}

        pub(crate) fn serves(&mut self, _: CriticVersion) {}

        pub(crate) fn published(&mut self, _: CriticVersion) {}

        pub(crate) fn state(&self) -> State {
            State { step: self.step }
        }
    }
}

/// What a journal's storage would be.
pub trait StorageBackend: 'static + Send {}

pub(crate) mod groups {
    use super::types::CritiqueGroup;

    pub struct GroupRecorder;

    impl GroupRecorder {
        pub(crate) fn line(&self, _: &CritiqueGroup) -> String {
            String::new()
        }

        pub(crate) fn append(&self, _: &str) -> Result<(), std::io::Error> {
            Ok(())
        }
    }
}
