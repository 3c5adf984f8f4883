//! The files of a checkpoint: a snapshot to bytes and back, and the manifest with the size and digest of each file.

use super::error::{Error, Result};
use super::snapshot::{NamedTensor, Snapshot};
use crate::disk;
use crate::formats::spec::ModelSpec;
use crate::transformer::full_weights::{self, CriticWeights, FullWeights, WEIGHTS_FILE};
use crate::types::CriticVersion;
use crate::{formats, transformer};
use safetensors::tensor::Dtype;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read as _, Write};
use std::path::{Component, Path, PathBuf};

/// Names every other file with its size and digest. It is written last.
pub(super) const MANIFEST: &str = "manifest.json";
const ADAPTER: &str = "adapter";
/// Takes the place of [`ADAPTER`] where all weights are trained.
const WEIGHTS: &str = "weights";
const SERVED: &str = "served";
const OPTIMIZER: &str = "optimizer.safetensors";
const STATE: &str = "state.json";
/// The resolved config.
pub(crate) const CONFIG: &str = "config.toml";
/// The version of the format: it changes when a node can no longer read older folders.
const FORMAT: u32 = 1;

/// The longest manifest.
const MANIFEST_BYTES_MAX: u64 = 1 << 20;
/// Files of a manifest. A checkpoint has seven.
const FILES_MAX: usize = 64;
/// The longest state. One of ten thousand groups has 300 MB.
const STATE_BYTES_MAX: u64 = 4 << 30;
/// The longest config.
pub(crate) const CONFIG_BYTES_MAX: u64 = 1 << 20;
/// The longest file of an optimizer: two moments of each of 16 billion weights.
const OPTIMIZER_BYTES_MAX: u64 = 1 << 37;

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
    /// Whether the critic in service is the learner's; its full weights are then written only once.
    #[serde(rename = "serves_own", default, skip_serializing_if = "std::ops::Not::not")]
    serves_learned: bool,
}

/// The files of a checkpoint by their path inside it, such as `adapter/adapter_config.json`; without the manifest.
pub(super) type FileSet<'a> = BTreeMap<String, FileContent<'a>>;

/// The content of a file.
pub(super) enum FileContent<'a> {
    Bytes(Vec<u8>),
    /// All weights of a model. They are written from where they lie: a copy of their bytes would be too large.
    Weights(&'a FullWeights),
    /// Tensors, sorted by name.
    Tensors(Vec<&'a NamedTensor>),
}

impl FileContent<'_> {
    /// Writes the bytes; they are the same each time.
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

/// The files of a checkpoint of `snapshot`.
pub(super) fn render<'a>(snapshot: &'a Snapshot, spec: &ModelSpec, base_model: &str) -> Result<FileSet<'a>> {
    let failed = |why: String| Error::Snapshot { step: snapshot.step, why };
    let Snapshot { step, version, critic, served, state, .. } = snapshot;
    let mut files = BTreeMap::new();
    let is_learned = |served: &CriticWeights| served.full().is_some() && (served.is(critic) || served == critic);
    let serves_learned = served.as_ref().is_some_and(is_learned);
    let own = if critic.full().is_some() { WEIGHTS } else { ADAPTER };
    for (folder, critic) in [(own, Some(critic)), (SERVED, served.as_ref().filter(|_| !serves_learned))] {
        match critic {
            None => {}
            Some(critic) => {
                let rendered = render_critic(critic, spec, base_model).map_err(failed)?;
                files.extend(rendered.into_iter().map(|(name, file)| (format!("{folder}/{name}"), file)));
            }
        }
    }
    files.insert(OPTIMIZER.to_owned(), FileContent::Tensors(sorted(&snapshot.optimizer).map_err(failed)?));
    let state = StateFile { step: *step, version: *version, state: state.clone(), serves_learned };
    let state = serde_json::to_vec(&state).map_err(|error| failed(error.to_string()))?;
    files.insert(STATE.to_owned(), FileContent::Bytes(state));
    files.insert(CONFIG.to_owned(), FileContent::Bytes(snapshot.config.clone().into_bytes()));
    Ok(files)
}

/// The files of one critic's weights, or what is wrong with them.
pub(super) fn render_critic<'a>(
    critic: &'a CriticWeights,
    spec: &ModelSpec,
    base_model: &str,
) -> Result<FileSet<'a>, String> {
    match critic {
        CriticWeights::Full(whole) => Ok([(WEIGHTS_FILE.to_owned(), FileContent::Weights(whole))].into()),
        CriticWeights::Adapter(adapter) => {
            let rendered = adapter.files(Path::new(ADAPTER), base_model, spec).map_err(|error| error.to_string())?;
            Ok(rendered.map(|(name, bytes)| (name.to_owned(), FileContent::Bytes(bytes))).into())
        }
    }
}

/// The manifest of `files`.
pub(super) fn manifest(files: &FileSet<'_>) -> Vec<u8> {
    let entry = |file: &FileContent<'_>| {
        let mut digest = DigestWriter::default();
        file.write(&mut digest).expect("a digest takes every byte");
        digest.entry()
    };
    let files = files.iter().map(|(name, file)| (name.clone(), entry(file))).collect();
    serde_json::to_vec_pretty(&Manifest { format: FORMAT, files }).expect("strings and integers are always JSON")
}

/// Counts and digests the bytes written to it.
#[derive(Default)]
struct DigestWriter {
    bytes: u64,
    sha256: Sha256,
}

impl DigestWriter {
    fn entry(self) -> Entry {
        let sha256 = const_hex::encode(self.sha256.finalize());
        Entry { bytes: self.bytes, sha256 }
    }
}

impl Write for DigestWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.bytes += bytes.len() as u64;
        self.sha256.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Checks that the checkpoint in `path` has its manifest, and that every file matches its digest.
pub(super) fn verify(path: &Path) -> Result<()> {
    verify_digests(path, read_manifest(path)?)
}

/// Checks that every file of the critic's folder `path` matches its digest. Returns the digest of its manifest, which stands
/// for them all.
pub(super) fn verify_critic(path: &Path) -> Result<String> {
    let bytes = read_file(path, MANIFEST, MANIFEST_BYTES_MAX)?;
    verify_digests(path, parse_manifest(path, &bytes)?)?;
    Ok(sha256(&bytes))
}

/// The digest of `bytes`, in hexadecimal digits.
pub(super) fn sha256(bytes: &[u8]) -> String {
    const_hex::encode(Sha256::digest(bytes))
}

fn verify_digests(path: &Path, manifest: Manifest) -> Result<()> {
    for (name, entry) in manifest.files {
        let file = open_sized(path, &name, &entry)?;
        let mut digest = DigestWriter::default();
        io::copy(&mut file.take(entry.bytes), &mut digest).map_err(|source| unreadable(path, &name, source))?;
        let got = digest.entry().sha256;
        if got != entry.sha256 {
            return Err(corrupt(path, format!("{name}: expected sha256 {}, got {got}", entry.sha256)));
        }
    }
    Ok(())
}

/// Checks only that the manifest exists and every file has its size: this finds truncated files without reading them.
pub(super) fn verify_sizes(path: &Path) -> Result<()> {
    for (name, entry) in read_manifest(path)?.files {
        open_sized(path, &name, &entry)?;
    }
    Ok(())
}

/// Whether the manifest in `path` is that of a checkpoint and not of a critic alone.
pub(super) fn is_checkpoint(path: &Path) -> Result<bool> {
    let manifest = parse_manifest(path, &read_file(path, MANIFEST, MANIFEST_BYTES_MAX)?)?;
    Ok(manifest.files.contains_key(STATE))
}

/// The folder of the learner's critic in the checkpoint `path`.
pub(super) fn critic_folder(path: &Path) -> PathBuf {
    path.join(if path.join(WEIGHTS).is_dir() { WEIGHTS } else { ADAPTER })
}

/// Reads the critic in `folder`, a part of `path`, which has been verified.
pub(super) fn read_critic(path: &Path, folder: &Path, spec: &ModelSpec) -> Result<CriticWeights> {
    CriticWeights::load(folder, spec).map_err(|error| match error {
        transformer::Error::File(formats::Error::Io { path, source }) => Error::Io { path, source },
        other => incompatible(path, other.to_string()),
    })
}

/// Reads the checkpoint in `path`, which has been verified.
pub(super) fn read(path: &Path, spec: &ModelSpec) -> Result<Snapshot> {
    let critic = |folder: &str| read_critic(path, &path.join(folder), spec);
    let state: StateFile = serde_json::from_slice(&read_file(path, STATE, STATE_BYTES_MAX)?)
        .map_err(|error| incompatible(path, format!("{STATE}: {error}")))?;
    let config = String::from_utf8(read_file(path, CONFIG, CONFIG_BYTES_MAX)?)
        .map_err(|error| incompatible(path, format!("{CONFIG}: {error}")))?;
    let optimizer = read_tensors(&read_file(path, OPTIMIZER, OPTIMIZER_BYTES_MAX)?)
        .map_err(|why| incompatible(path, format!("{OPTIMIZER}: {why}")))?;
    let StateFile { step, version, state, serves_learned } = state;
    let own = read_critic(path, &critic_folder(path), spec)?;
    let served = match serves_learned {
        true => Some(own.clone()),
        false => path.join(SERVED).is_dir().then(|| critic(SERVED)).transpose()?,
    };
    Ok(Snapshot { step, version, critic: own, served, optimizer, state, config })
}

/// The manifest `bytes` of the folder `path`.
fn parse_manifest(path: &Path, bytes: &[u8]) -> Result<Manifest> {
    let json: serde_json::Value =
        formats::json::parse(bytes).map_err(|why| corrupt(path, format!("{MANIFEST}: {why}")))?;
    if let Some(format) = json["format"].as_u64().filter(|format| *format != u64::from(FORMAT)) {
        return Err(incompatible(path, format!("{MANIFEST}: expected format {FORMAT}, got {format}")));
    }
    let manifest: Manifest =
        serde_json::from_value(json).map_err(|error| corrupt(path, format!("{MANIFEST}: {error}")))?;
    let count = manifest.files.len();
    if count > FILES_MAX {
        return Err(corrupt(path, format!("{MANIFEST}: expected at most {FILES_MAX} files, got {count}")));
    }
    if let Some(name) = manifest.files.keys().find(|name| !is_inside(name)) {
        let why = format!("{MANIFEST}: expected the path of a file within this folder, got {name:?}");
        return Err(corrupt(path, why));
    }
    Ok(manifest)
}

/// The manifest of the folder `path`; it must name the files that every checkpoint has.
fn read_manifest(path: &Path) -> Result<Manifest> {
    let manifest = parse_manifest(path, &read_file(path, MANIFEST, MANIFEST_BYTES_MAX)?)?;
    let adapter = [formats::peft::CONFIG_FILE, formats::peft::WEIGHTS_FILE].map(|name| format!("{ADAPTER}/{name}"));
    let weights = format!("{WEIGHTS}/{WEIGHTS_FILE}");
    let critic = if manifest.files.contains_key(&weights) { vec![weights] } else { adapter.into() };
    let needed = [OPTIMIZER, STATE, CONFIG].map(str::to_owned);
    match needed.iter().chain(&critic).find(|name| !manifest.files.contains_key(*name)) {
        Some(name) => Err(corrupt(path, format!("{MANIFEST}: {name} is not in it"))),
        None => Ok(manifest),
    }
}

/// Whether `name` is a plain relative path, which cannot lead out of its folder.
fn is_inside(name: &str) -> bool {
    !name.is_empty() && Path::new(name).components().all(|part| matches!(part, Component::Normal(_)))
}

/// Reads the file `name` of the checkpoint `path`, of at most `bytes_max`. A missing file makes the checkpoint corrupt; another failure is an I/O
/// error.
fn read_file(path: &Path, name: &str, bytes_max: u64) -> Result<Vec<u8>> {
    disk::read(&path.join(name), bytes_max).map_err(|source| unreadable(path, name, source))
}

/// Opens the file `name` of the checkpoint `path`, which must be as long as its `entry` says.
fn open_sized(path: &Path, name: &str, entry: &Entry) -> Result<File> {
    let unreadable = |source| unreadable(path, name, source);
    let file = disk::open(&path.join(name)).map_err(unreadable)?;
    match file.metadata().map_err(unreadable)?.len() {
        got if got == entry.bytes => Ok(file),
        got => Err(corrupt(path, format!("{name}: expected {} bytes, got {got}", entry.bytes))),
    }
}

fn unreadable(path: &Path, name: &str, source: io::Error) -> Error {
    match source.kind() {
        io::ErrorKind::NotFound
        | io::ErrorKind::NotADirectory
        | io::ErrorKind::IsADirectory
        | io::ErrorKind::InvalidInput
        | io::ErrorKind::FileTooLarge => corrupt(path, format!("{name}: {source}")),
        _ => Error::Io { path: path.join(name), source },
    }
}

fn corrupt(path: &Path, why: String) -> Error {
    Error::Corrupt { path: path.to_owned(), why }
}

fn incompatible(path: &Path, why: String) -> Error {
    Error::Incompatible { path: path.to_owned(), why }
}

/// `tensors` sorted by name, after checking that names are unique and data match shapes.
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

/// The tensors of a file, sorted by name.
fn read_tensors(bytes: &[u8]) -> Result<Vec<NamedTensor>, String> {
    let file = formats::safetensors::parse(bytes)?;
    let mut tensors = file
        .iter()
        .map(|(name, view)| {
            if view.dtype() != Dtype::F32 {
                return Err(format!("tensor {name}: expected F32, got {:?}", view.dtype()));
            }
            let (values, _) = view.data().as_chunks::<4>();
            let data: Vec<f32> = values.iter().map(|value| f32::from_le_bytes(*value)).collect();
            if let Some(why) = formats::values::complaint(&data, 0, name) {
                return Err(why);
            }
            Ok(NamedTensor { name: name.to_owned(), shape: view.shape().to_vec(), data })
        })
        .collect::<Result<Vec<_>, String>>()?;
    tensors.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(tensors)
}
