//! A file of packed matrices: their bytes, then a header with a checksum for each piece, then where the header is.
//!
//! The header is last because the checksums are known when the bytes are written. Sizes are those that the model's spec
//! demands, whatever a header says.

use crate::disk;
use crate::kernels::{PassPrecisions, StoredInt8, Weight};
use crate::transformer::stack::Part;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

/// Changes with what a file holds, and with how weights are quantised.
const VERSION: u32 = 2;
/// The last bytes of a file.
const MAGIC: [u8; 8] = *b"rcopack\n";
/// Bytes with one checksum; pieces are read by several threads.
const PIECE_BYTES: usize = 4 << 20;
/// The longest header: a model of 126 layers has 506 matrices of a few hundred bytes each.
const HEADER_BYTES_MAX: u64 = 16 << 20;
/// The ending of the files' names.
pub(super) const ENDING: &str = "packed";

/// The file of the model with the digest `digest`.
pub(super) fn path(folder: &Path, digest: &str) -> PathBuf {
    folder.join(format!("{digest}.{ENDING}"))
}

#[derive(Serialize, Deserialize)]
struct Header {
    version: u32,
    layout: String,
    model: String,
    /// By the names of the tensors.
    matrices: BTreeMap<String, Place>,
}

/// Where a matrix is in the file.
#[derive(Serialize, Deserialize)]
struct Place {
    form: StoredInt8,
    start: u64,
    /// Of each piece of the codes, then of the scales.
    checksums: Vec<u32>,
}

/// Where the header is: the end of the file.
const TRAILER_BYTES: usize = 8 + 8 + 4 + MAGIC.len();

/// An open file.
pub(super) struct PackedFile {
    file: File,
    matrices: BTreeMap<String, Place>,
}

impl PackedFile {
    /// Opens the file `path` of the model `model`; none if there is none.
    ///
    /// # Errors
    /// With what is wrong with it.
    pub(super) fn open(path: &Path, model: &str) -> Result<Option<Self>, String> {
        let file = match disk::open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            opened => opened.map_err(|error| error.to_string())?,
        };
        let header = header(&file)?;
        let Header { version, layout, matrices, .. } = header;
        if (version, layout.as_str()) != (VERSION, StoredInt8::LAYOUT) {
            return Err(format!("expected version {VERSION} of {}, got {version} of {layout}", StoredInt8::LAYOUT));
        }
        if header.model != model {
            return Err(format!("expected the model {model}, got {}", header.model));
        }
        // The least recently used file is the first to go.
        let _ = file.set_modified(SystemTime::now());
        Ok(Some(Self { file, matrices }))
    }

    /// Reads the matrix `name` of `parts`.
    ///
    /// # Errors
    /// With what is wrong with it.
    pub(super) fn read(&self, name: &str, parts: &[Part], precisions: PassPrecisions) -> Result<Weight, String> {
        let Place { form, start, checksums } = self.matrices.get(name).ok_or_else(|| format!("{name} is missing"))?;
        let outputs = parts.iter().map(|(_, [outputs, _])| outputs).sum();
        if parts.iter().any(|(_, [_, inputs])| [outputs, *inputs] != form.shape()) {
            return Err(format!("{name}: expected {outputs} rows, got shape {:?}", form.shape()));
        }
        let [codes, scales] = form.bytes();
        let [code_pieces, scale_pieces] = [codes, scales].map(|bytes| bytes.div_ceil(PIECE_BYTES));
        if checksums.len() != code_pieces + scale_pieces {
            return Err(format!("{name}: expected {} pieces, got {}", code_pieces + scale_pieces, checksums.len()));
        }
        Weight::from_stored(*form, precisions, |[to_codes, to_scales]| {
            let starts = (0..code_pieces).map(|piece| piece * PIECE_BYTES);
            let starts = starts.chain((0..scale_pieces).map(|piece| codes + piece * PIECE_BYTES));
            let pieces = to_codes.chunks_mut(PIECE_BYTES).chain(to_scales.chunks_mut(PIECE_BYTES));
            let pieces: Vec<_> = pieces.zip(starts).zip(checksums).collect();
            pieces.into_par_iter().try_for_each(|((bytes, at), checksum)| {
                disk::read_exact_at(&self.file, bytes, start.saturating_add(at as u64))
                    .map_err(|error| format!("{name}: {error}"))?;
                match crc32fast::hash(bytes) == *checksum {
                    true => Ok(()),
                    false => Err(format!("{name}: the checksum of the piece at {at} is wrong")),
                }
            })
        })
    }
}

fn header(file: &File) -> Result<Header, String> {
    let length = file.metadata().map_err(|error| error.to_string())?.len();
    let cut_short = || format!("expected a file of packed weights, got one of {length} bytes that ends otherwise");
    let end = length.checked_sub(TRAILER_BYTES as u64).ok_or_else(cut_short)?;
    let mut trailer = [0; TRAILER_BYTES];
    let read = |bytes: &mut [u8], at: u64| disk::read_exact_at(file, bytes, at).map_err(|error| error.to_string());
    read(&mut trailer, end)?;
    let [start, bytes] = [0, 8].map(|at| u64::from_le_bytes(*trailer[at..].first_chunk().expect("eight bytes")));
    let checksum = u32::from_le_bytes(*trailer[16..].first_chunk().expect("four bytes"));
    if trailer[20..] != MAGIC || start.checked_add(bytes) != Some(end) || bytes > HEADER_BYTES_MAX {
        return Err(cut_short());
    }
    let mut text = vec![0; bytes as usize];
    read(&mut text, start)?;
    if crc32fast::hash(&text) != checksum {
        return Err("the checksum of the header is wrong".to_owned());
    }
    serde_json::from_slice(&text).map_err(|error| format!("header: {error}"))
}

/// Writes `matrices` of the model `model` to `to`.
///
/// # Errors
/// If the disk fails.
pub(super) fn write(to: &mut impl Write, model: &str, matrices: &[(String, Arc<Weight>)]) -> io::Result<()> {
    let (mut at, mut places) = (0, BTreeMap::new());
    for (name, weight) in matrices {
        let Some((form, parts)) = weight.stored() else { continue };
        let mut checksums = vec![];
        for piece in parts.into_iter().flat_map(|bytes| bytes.chunks(PIECE_BYTES)) {
            checksums.push(crc32fast::hash(piece));
            to.write_all(piece)?;
        }
        places.insert(name.clone(), Place { form, start: at, checksums });
        at += parts.iter().map(|bytes| bytes.len() as u64).sum::<u64>();
    }
    let layout = StoredInt8::LAYOUT.to_owned();
    let header = Header { version: VERSION, layout, model: model.to_owned(), matrices: places };
    let text = serde_json::to_vec(&header)?;
    to.write_all(&text)?;
    to.write_all(&at.to_le_bytes())?;
    to.write_all(&(text.len() as u64).to_le_bytes())?;
    to.write_all(&crc32fast::hash(&text).to_le_bytes())?;
    to.write_all(&MAGIC)
}
