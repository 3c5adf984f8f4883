//! A PEFT adapter folder. The weights file names the base model and its digest in its metadata.

use super::card::ModelCard;
use super::dtype::Dtype;
use super::error::Result;
use super::output::{self, OutputFolder};
use super::tensors::{self, Entry};
use crate::formats::{self, adapter::Adapter, peft, spec::ModelSpec};
use crate::types::ModelId;
use safetensors::SafeTensors;
use std::path::Path;

/// Writes `adapter`, of a model with `spec`, as the PEFT folder `out`, with its `card`.
///
/// # Errors
/// If `out` exists, the adapter does not fit `spec`, or the disk fails.
pub fn write_peft(out: &Path, adapter: &Adapter, spec: &ModelSpec, base: &ModelId, card: &ModelCard) -> Result<()> {
    let output = OutputFolder::create(out)?;
    card.write(output.temporary_path(), base, true)?;
    for (name, bytes) in adapter.files(out, &base.name, spec)? {
        let path = output.temporary_path().join(name);
        if name != peft::WEIGHTS_FILE {
            output::write(&path, &bytes)?;
            continue;
        }
        let malformed =
            |why: safetensors::SafeTensorError| formats::Error::Malformed { path: path.clone(), why: why.to_string() };
        let file = SafeTensors::deserialize(&bytes).map_err(malformed)?;
        let entries: Vec<Entry> =
            file.iter().map(|(name, view)| Entry { name: name.to_owned(), shape: view.shape().to_vec() }).collect();
        let find = |entry: &Entry| Ok(file.tensor(&entry.name).map_err(malformed)?.data().to_vec());
        tensors::write(&path, &tensors::metadata(base), Dtype::F32, &entries, find)?;
    }
    output.publish()
}
