//! What a checkpoint's folder holds: snapshot to bytes, bytes to snapshot, and the manifest over them.

use super::{Error, NamedTensor, Result, Snapshot};
use crate::formats;
use crate::formats::spec::ModelSpec;
use crate::transformer::{
    full_weights, full_weights::CriticWeights, full_weights::FullWeights, full_weights::WEIGHTS_FILE,
};
use crate::types::CriticVersion;
use safetensors::tensor::{Dtype, SafeTensors};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

/// Names every other file with its size and digest; written last.
pub(super) const MANIFEST: &str = "manifest.json";
const ADAPTER: &str = "adapter";
/// In the adapter's place where all weights are trained.
const WEIGHTS: &str = "weights";
const SERVED: &str = "served";
const OPTIMIZER: &str = "optimizer.safetensors";
const STATE: &str = "state.json";
/// The resolved config.
pub(crate) const CONFIG: &str = "config.toml";
/// Changes when a newer node could not read an older folder.
const FORMAT: u32 = 1;

/// The manifest.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Manifest {
    format: u32,
    files: BTreeMap<String, Entry>,
}

/// One file of the manifest.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    bytes: u64,
    sha256: String,
}

/// `state.json`.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StateFile {
    step: u64,
    version: CriticVersion,
    state: serde_json::Value,
    /// The critic in service is the learner's, whose weights are not written twice.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    serves_own: bool,
}

/// The files of a checkpoint by their path inside it, folders with a slash; the manifest not among them.
pub(super) type Rendered<'a> = BTreeMap<String, Rendering<'a>>;

/// What a file is made of.
pub(super) enum Rendering<'a> {
    Bytes(Vec<u8>),
    /// All weights: too many to hold their bytes as well.
    Weights(&'a FullWeights),
    /// Sorted by name.
    Tensors(Vec<&'a NamedTensor>),
}

impl Rendering<'_> {
    /// Writes the file's bytes, the same ones each time.
    pub(super) fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        match self {
            Self::Bytes(bytes) => out.write_all(bytes),
            Self::Weights(weights) => full_weights::write(weights, out),
            Self::Tensors(tensors) => {
                let named: Vec<_> = tensors.iter().map(|tensor| (tensor.name.clone(), tensor.shape.clone())).collect();
                full_weights::write_f32(out, &named, |index| Cow::Borrowed(&tensors[index].data))
            }
        }
    }
}

/// What a checkpoint of `snapshot` consists of.
pub(super) fn render<'a>(snapshot: &'a Snapshot, spec: &ModelSpec, base_model: &str) -> Result<Rendered<'a>> {
    let failed = |why: String| Error::Snapshot { step: snapshot.step, why };
    let Snapshot { step, version, critic, served, state, .. } = snapshot;
    let mut files = BTreeMap::new();
    let is_own = |served: &CriticWeights| served.full().is_some() && (served.is(critic) || served == critic);
    let serves_own = served.as_ref().is_some_and(is_own);
    let own = if critic.full().is_some() { WEIGHTS } else { ADAPTER };
    for (folder, critic) in [(own, Some(critic)), (SERVED, served.as_ref().filter(|_| !serves_own))] {
        match critic {
            None => {}
            Some(CriticWeights::Full(whole)) => {
                files.insert(format!("{folder}/{WEIGHTS_FILE}"), Rendering::Weights(whole));
            }
            Some(CriticWeights::Adapter(adapter)) => {
                let rendered = adapter.files(Path::new(folder), base_model, spec);
                let rendered = rendered.map_err(|error| failed(error.to_string()))?;
                files.extend(rendered.map(|(name, bytes)| (format!("{folder}/{name}"), Rendering::Bytes(bytes))));
            }
        }
    }
    files.insert(OPTIMIZER.to_owned(), Rendering::Tensors(sorted(&snapshot.optimizer).map_err(failed)?));
    let state = StateFile { step: *step, version: *version, state: state.clone(), serves_own };
    let state = serde_json::to_vec(&state).map_err(|error| failed(error.to_string()))?;
    files.insert(STATE.to_owned(), Rendering::Bytes(state));
    files.insert(CONFIG.to_owned(), Rendering::Bytes(snapshot.config.clone().into_bytes()));
    Ok(files)
}

/// The manifest over `files`.
pub(super) fn manifest(files: &Rendered<'_>) -> Vec<u8> {
    let entry = |file: &Rendering<'_>| {
        let mut digest = Digesting::default();
        file.write(&mut digest).expect("a digest takes every byte");
        digest.entry()
    };
    let files = files.iter().map(|(name, file)| (name.clone(), entry(file))).collect();
    serde_json::to_vec_pretty(&Manifest { format: FORMAT, files }).expect("strings and integers are always JSON")
}

/// Length and sha256 of what is written to it.
#[derive(Default)]
struct Digesting {
    bytes: u64,
    sha256: Sha256,
}

impl Digesting {
    fn entry(self) -> Entry {
        let sha256 = self.sha256.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        Entry { bytes: self.bytes, sha256 }
    }
}

impl Write for Digesting {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.bytes += bytes.len() as u64;
        self.sha256.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Checks that the checkpoint in `path` has its manifest and every file of it, byte for byte.
pub(super) fn verify(path: &Path) -> Result<()> {
    for (name, entry) in read_manifest(path)?.files {
        let mut digest = Digesting::default();
        let mut file = open_part(path, &name)?;
        io::copy(&mut file, &mut digest).map_err(|source| unreadable(path, &name, source))?;
        let got = digest.entry().sha256;
        if got != entry.sha256 {
            return Err(broken(path, format!("{name}: expected sha256 {}, got {got}", entry.sha256)));
        }
    }
    Ok(())
}

/// Checks only that the manifest is there and every file of it has its size: enough to tell what was cut off.
pub(super) fn glance(path: &Path) -> Result<()> {
    for (name, entry) in read_manifest(path)?.files {
        let got = fs::metadata(path.join(&name)).map_err(|error| broken(path, format!("{name}: {error}")))?.len();
        if got != entry.bytes {
            return Err(broken(path, format!("{name}: expected {} bytes, got {got}", entry.bytes)));
        }
    }
    Ok(())
}

/// Reads the checkpoint in `path`, which was verified.
pub(super) fn read(path: &Path, spec: &ModelSpec) -> Result<Snapshot> {
    let critic = |folder: &str| {
        CriticWeights::load(&path.join(folder), spec).map_err(|error| match error {
            formats::Error::Io { path, source } => Error::Io { path, source },
            other => unfit(path, other.to_string()),
        })
    };
    let state: StateFile =
        serde_json::from_slice(&read_part(path, STATE)?).map_err(|error| unfit(path, format!("{STATE}: {error}")))?;
    let config =
        String::from_utf8(read_part(path, CONFIG)?).map_err(|error| unfit(path, format!("{CONFIG}: {error}")))?;
    let optimizer =
        read_tensors(&read_part(path, OPTIMIZER)?).map_err(|why| unfit(path, format!("{OPTIMIZER}: {why}")))?;
    let StateFile { step, version, state, serves_own } = state;
    let own = critic(if path.join(WEIGHTS).is_dir() { WEIGHTS } else { ADAPTER })?;
    let served = match serves_own {
        true => Some(own.clone()),
        false => path.join(SERVED).is_dir().then(|| critic(SERVED)).transpose()?,
    };
    Ok(Snapshot { step, version, critic: own, served, optimizer, state, config })
}

/// The manifest of the folder `path`, which must name what every checkpoint has.
fn read_manifest(path: &Path) -> Result<Manifest> {
    let bytes = read_part(path, MANIFEST)?;
    let json: serde_json::Value =
        serde_json::from_slice(&bytes).map_err(|error| broken(path, format!("{MANIFEST}: {error}")))?;
    if let Some(format) = json["format"].as_u64().filter(|format| *format != u64::from(FORMAT)) {
        return Err(unfit(path, format!("{MANIFEST}: expected format {FORMAT}, got {format}")));
    }
    let manifest: Manifest =
        serde_json::from_value(json).map_err(|error| broken(path, format!("{MANIFEST}: {error}")))?;
    let adapter = [formats::lora::CONFIG_FILE, formats::lora::WEIGHTS_FILE].map(|name| format!("{ADAPTER}/{name}"));
    let weights = format!("{WEIGHTS}/{WEIGHTS_FILE}");
    let critic = if manifest.files.contains_key(&weights) { vec![weights] } else { adapter.into() };
    let needed = [OPTIMIZER, STATE, CONFIG].map(str::to_owned);
    match needed.iter().chain(&critic).find(|name| !manifest.files.contains_key(*name)) {
        Some(name) => Err(broken(path, format!("{MANIFEST}: {name} is not in it"))),
        None => Ok(manifest),
    }
}

/// The file `name` of the checkpoint `path`; one that is not there breaks it, one that cannot be read is an error.
fn read_part(path: &Path, name: &str) -> Result<Vec<u8>> {
    fs::read(path.join(name)).map_err(|source| unreadable(path, name, source))
}

/// As [`read_part`], to be read piece by piece.
fn open_part(path: &Path, name: &str) -> Result<File> {
    File::open(path.join(name)).map_err(|source| unreadable(path, name, source))
}

fn unreadable(path: &Path, name: &str, source: io::Error) -> Error {
    match source.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory | io::ErrorKind::IsADirectory => {
            broken(path, format!("{name}: {source}"))
        }
        _ => Error::Io { path: path.join(name), source },
    }
}

fn broken(path: &Path, why: String) -> Error {
    Error::Broken { path: path.to_owned(), why }
}

fn unfit(path: &Path, why: String) -> Error {
    Error::Unfit { path: path.to_owned(), why }
}

/// `tensors` by name, each as large as its shape says.
fn sorted(tensors: &[NamedTensor]) -> Result<Vec<&NamedTensor>, String> {
    let mut sorted: Vec<&NamedTensor> = tensors.iter().collect();
    sorted.sort_by(|one, other| one.name.cmp(&other.name));
    if sorted.windows(2).any(|pair| pair[0].name == pair[1].name) {
        return Err("two tensors of one name".to_owned());
    }
    let is_whole = |tensor: &&&NamedTensor| tensor.data.len() == tensor.shape.iter().product::<usize>();
    match sorted.iter().find(|tensor| !is_whole(tensor)) {
        Some(NamedTensor { name, shape, data }) => {
            Err(format!("tensor {name}: expected values of shape {shape:?}, got {}", data.len()))
        }
        None => Ok(sorted),
    }
}

/// A file of tensors, sorted by name.
fn read_tensors(bytes: &[u8]) -> Result<Vec<NamedTensor>, String> {
    let file = SafeTensors::deserialize(bytes).map_err(|error| error.to_string())?;
    let mut tensors = file
        .iter()
        .map(|(name, view)| {
            if view.dtype() != Dtype::F32 {
                return Err(format!("tensor {name}: expected F32, got {:?}", view.dtype()));
            }
            let (values, _) = view.data().as_chunks::<4>();
            let data = values.iter().map(|value| f32::from_le_bytes(*value)).collect();
            Ok(NamedTensor { name: name.to_owned(), shape: view.shape().to_vec(), data })
        })
        .collect::<Result<Vec<_>, String>>()?;
    tensors.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(tensors)
}
