//! The folder of one critic's weights: the files of a PEFT adapter, or all weights, beside a manifest of their digests.
//!
//! Invariant: a folder has its name only once it is whole and on disk.

use super::error::{Error, Result};
use super::files;
use crate::disk;
use crate::formats::spec::ModelSpec;
use crate::transformer::full_weights::CriticWeights;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

/// Writes `critic` as the new folder `path`, synced. Returns its digest, which stands for every file. If the folder exists and
/// has the same digest, nothing is written.
///
/// # Errors
/// If the critic does not fit `spec`, the folder exists with other weights, or the disk fails; nothing half-written stays.
pub fn write_critic(path: &Path, critic: &CriticWeights, spec: &ModelSpec, base_model: &str) -> Result<String> {
    let failed = |why| Error::Incompatible { path: path.to_owned(), why };
    let rendered = files::render_critic(critic, spec, base_model).map_err(failed)?;
    let manifest = files::manifest(&rendered);
    let digest = files::sha256(&manifest);
    if path.exists() {
        return match verify_critic(path)? {
            same if same == digest => Ok(digest),
            other => Err(failed(format!("expected the weights of digest {digest}, got {other}"))),
        };
    }
    let io = |path: &Path| {
        let path = path.to_owned();
        move |source| Error::Io { path, source }
    };
    let staging = disk::temporary_folder_for(path).map_err(io(path))?;
    for (name, file) in &rendered {
        let path = staging.path().join(name);
        let written = File::create(&path).and_then(|created| {
            let mut out = BufWriter::new(created);
            file.write(&mut out)?;
            out.flush()
        });
        written.and_then(|()| disk::sync(&path)).map_err(io(&path))?;
    }
    disk::write_synced(&staging.path().join(files::MANIFEST), &manifest).map_err(io(path))?;
    disk::sync(staging.path()).map_err(io(path))?;
    disk::rename(staging.path(), path).map_err(io(path))?;
    // The folder has its name now, and nothing is left to remove.
    let _gone = staging.keep();
    Ok(digest)
}

/// Checks that every file in the critic's folder `path` is whole. Returns its digest.
///
/// # Errors
/// [`Error::Corrupt`] says what is wrong.
pub fn verify_critic(path: &Path) -> Result<String> {
    files::verify_critic(path)
}

/// Reads the critic in the folder `path`, which must have the digest `digest`.
///
/// # Errors
/// If it is not whole, has another digest, or does not fit `spec`.
pub fn read_critic(path: &Path, digest: &str, spec: &ModelSpec) -> Result<CriticWeights> {
    let got = verify_critic(path)?;
    if got != digest {
        let why = format!("expected the digest {digest}, got {got}");
        return Err(Error::Corrupt { path: path.to_owned(), why });
    }
    files::read_critic(path, path, spec)
}
