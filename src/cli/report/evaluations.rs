//! The figures of an evaluation that `rco-node eval --out` recorded.

use crate::cli::exit::{CommandError, Exit, OrExit};
use crate::disk::{self, json_lines};
use crate::eval::Record;
use crate::eval::bootstrap::Resampling;
use crate::eval::figures::{FigureOptions, Figures};
use crate::report::NamedFigures;
use anyhow::{Context, ensure};
use serde::Deserialize;
use std::path::Path;

/// The longest manifest.
const MANIFEST_BYTES_MAX: u64 = 1 << 20;

/// What is read of the manifest.
#[derive(Deserialize)]
struct Manifest {
    data: String,
    critiques: usize,
    rounds: usize,
    seed: u64,
}

/// The figures of the evaluation in `folder`.
///
/// # Errors
/// If it holds none.
pub(super) fn read(folder: &Path) -> Result<NamedFigures, CommandError> {
    of_folder(folder).with_context(|| folder.display().to_string()).or_exit(Exit::Usage)
}

fn of_folder(folder: &Path) -> anyhow::Result<NamedFigures> {
    let why = "expected a folder that `rco-node eval --out` wrote";
    let manifest = disk::read_text(&folder.join("manifest.json"), MANIFEST_BYTES_MAX).context(why)?;
    let Manifest { data, critiques, rounds, seed } = serde_json::from_str(&manifest).context(why)?;
    let records: Vec<Record> = json_lines::read(&folder.join("records.jsonl")).context(why)?.values;
    ensure!(!records.is_empty(), "expected evaluated prompts, got none");
    let how = Resampling { seed, ..Resampling::default() };
    // The share of orders that agree is the one figure that needs to know of them, and the page does not show it.
    let options = FigureOptions { critiques, rounds, in_both_orders: false, how };
    let name = format!("Critics beside each other, on {data} (N = {critiques})");
    Ok(NamedFigures { name, figures: Figures::of(&records, options) })
}
