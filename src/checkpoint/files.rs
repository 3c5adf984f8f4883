//! What a checkpoint's folder holds: snapshot to bytes, bytes to snapshot, and the manifest over them.

use super::{Error, NamedTensor, Result, Snapshot};
use crate::episode::CriticVersion;
use crate::model;
use crate::model::lora::Adapter;
use crate::model::spec::ModelSpec;
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// Names every other file with its size and digest; written last.
pub(super) const MANIFEST: &str = "manifest.json";
const ADAPTER: &str = "adapter";
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
}

/// The files of a checkpoint by their path inside it, folders with a slash; the manifest not among them.
pub(super) fn render(snapshot: &Snapshot, spec: &ModelSpec, base_model: &str) -> Result<BTreeMap<String, Vec<u8>>> {
    let failed = |why: String| Error::Snapshot { step: snapshot.step, why };
    let mut files = BTreeMap::new();
    for (folder, adapter) in [(ADAPTER, Some(&snapshot.adapter)), (SERVED, snapshot.served.as_ref())] {
        let Some(adapter) = adapter else { continue };
        let rendered = adapter.files(Path::new(folder), base_model, spec).map_err(|error| failed(error.to_string()))?;
        files.extend(rendered.map(|(name, bytes)| (format!("{folder}/{name}"), bytes)));
    }
    files.insert(OPTIMIZER.to_owned(), render_tensors(&snapshot.optimizer).map_err(failed)?);
    let Snapshot { step, version, state, .. } = snapshot;
    let state = StateFile { step: *step, version: *version, state: state.clone() };
    files.insert(STATE.to_owned(), serde_json::to_vec(&state).map_err(|error| failed(error.to_string()))?);
    files.insert(CONFIG.to_owned(), snapshot.config.clone().into_bytes());
    Ok(files)
}

/// The manifest over `files`.
pub(super) fn manifest(files: &BTreeMap<String, Vec<u8>>) -> Vec<u8> {
    let entry = |bytes: &Vec<u8>| Entry { bytes: bytes.len() as u64, sha256: digest(bytes) };
    let files = files.iter().map(|(name, bytes)| (name.clone(), entry(bytes))).collect();
    serde_json::to_vec_pretty(&Manifest { format: FORMAT, files }).expect("strings and integers are always JSON")
}

/// Sha256 in lowercase hexadecimal.
fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Checks that the checkpoint in `path` has its manifest and every file of it, byte for byte.
pub(super) fn verify(path: &Path) -> Result<()> {
    for (name, entry) in read_manifest(path)?.files {
        let bytes = read_part(path, &name)?;
        let got = digest(&bytes);
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
    let adapter = |folder: &str| {
        Adapter::load(&path.join(folder), spec).map_err(|error| match error {
            model::Error::Io { path, source } => Error::Io { path, source },
            other => unfit(path, other.to_string()),
        })
    };
    let state: StateFile =
        serde_json::from_slice(&read_part(path, STATE)?).map_err(|error| unfit(path, format!("{STATE}: {error}")))?;
    let config =
        String::from_utf8(read_part(path, CONFIG)?).map_err(|error| unfit(path, format!("{CONFIG}: {error}")))?;
    let optimizer =
        read_tensors(&read_part(path, OPTIMIZER)?).map_err(|why| unfit(path, format!("{OPTIMIZER}: {why}")))?;
    let served = path.join(SERVED).is_dir().then(|| adapter(SERVED)).transpose()?;
    let StateFile { step, version, state } = state;
    Ok(Snapshot { step, version, adapter: adapter(ADAPTER)?, served, optimizer, state, config })
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
    let adapter = [model::lora::CONFIG_FILE, model::lora::WEIGHTS_FILE].map(|name| format!("{ADAPTER}/{name}"));
    let needed = [OPTIMIZER, STATE, CONFIG].map(str::to_owned);
    match needed.iter().chain(&adapter).find(|name| !manifest.files.contains_key(*name)) {
        Some(name) => Err(broken(path, format!("{MANIFEST}: {name} is not in it"))),
        None => Ok(manifest),
    }
}

/// The file `name` of the checkpoint `path`; one that is not there breaks it, one that cannot be read is an error.
fn read_part(path: &Path, name: &str) -> Result<Vec<u8>> {
    let file = path.join(name);
    fs::read(&file).map_err(|source| match source.kind() {
        std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory | std::io::ErrorKind::IsADirectory => {
            broken(path, format!("{name}: {source}"))
        }
        _ => Error::Io { path: file, source },
    })
}

fn broken(path: &Path, why: String) -> Error {
    Error::Broken { path: path.to_owned(), why }
}

fn unfit(path: &Path, why: String) -> Error {
    Error::Unfit { path: path.to_owned(), why }
}

/// `tensors` as one safetensors file, f32, little-endian.
fn render_tensors(tensors: &[NamedTensor]) -> Result<Vec<u8>, String> {
    let bytes: BTreeMap<&str, (&[usize], Vec<u8>)> = tensors
        .iter()
        .map(|tensor| {
            let bytes = tensor.data.iter().flat_map(|value| value.to_le_bytes()).collect();
            (tensor.name.as_str(), (tensor.shape.as_slice(), bytes))
        })
        .collect();
    if bytes.len() != tensors.len() {
        return Err("two tensors of one name".to_owned());
    }
    let views = bytes
        .iter()
        .map(|(name, (shape, bytes))| {
            let view = TensorView::new(Dtype::F32, shape.to_vec(), bytes);
            Ok((*name, view.map_err(|error| format!("tensor {name}: {error}"))?))
        })
        .collect::<Result<Vec<_>, String>>()?;
    safetensors::serialize(views, None).map_err(|error| error.to_string())
}

/// Back from [`render_tensors`], sorted by name.
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
