//! Checks the header of a GGUF file before it is read as a whole: every count and length against the bytes that are left, every
//! name once, shapes that can be in the file.
//!
//! The reader of the tensor library takes what a header states at its word where this file does not: an alignment of 0, a
//! shape whose product overflows, a name that comes twice. Each array element also costs it 32 bytes of memory.

use crate::formats::error::{Error, Result};
use std::collections::HashSet;
use std::io::{BufRead, Read};
use std::path::Path;

/// The longest key or name of a tensor. The format's own limits are 65,535 and 64.
const NAME_BYTES_MAX: u64 = 65_535;
/// The longest text: a chat template has some ten thousand bytes.
const TEXT_BYTES_MAX: u64 = 1 << 24;
/// Elements of all arrays. The largest vocabularies have 262,144 tokens, with three arrays for them and 514,906 merges.
const ELEMENTS_MAX: u64 = 1 << 23;
/// Keys, and tensors. A model of 126 layers has 1,138 tensors.
const ENTRIES_MAX: u64 = 1 << 16;
/// Dimensions of a tensor.
const DIMENSIONS_MAX: u32 = 4;
/// Arrays of arrays.
const DEPTH_MAX: usize = 2;
/// The key of the alignment of tensors.
const ALIGNMENT: &str = "general.alignment";

/// Codes of value types.
const U32: u32 = 4;
const TEXT: u32 = 8;
const ARRAY: u32 = 9;

/// The tensor types that are read, by their codes: F32, F16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, the K types, BF16.
const TENSOR_TYPES: [u32; 13] = [0, 1, 2, 3, 6, 7, 8, 10, 11, 12, 13, 14, 30];

/// Checks the header that `reader` is at, of a file of `file_bytes`; `path` is for errors.
///
/// # Errors
/// If it is cut short, states a size that cannot be in the file or is beyond every model, or has a name twice.
pub(super) fn check(reader: impl BufRead, file_bytes: u64, path: &Path) -> Result<()> {
    let mut check = Check { reader: reader.take(file_bytes), path, elements: 0 };
    check.header(file_bytes)
}

struct Check<'a, R> {
    /// Knows how many bytes are left.
    reader: std::io::Take<R>,
    path: &'a Path,
    /// Array elements so far.
    elements: u64,
}

impl<R: BufRead> Check<'_, R> {
    fn header(&mut self, file_bytes: u64) -> Result<()> {
        let [_magic, version] = [self.word()?, self.word()?];
        // The first version has lengths of 32 bits.
        if !(2..=3).contains(&version) {
            let (path, got) = (self.path.to_owned(), version.to_string());
            return Err(Error::Unsupported { path, what: "GGUF version", got, expected: "2, 3".to_owned() });
        }
        let [tensors, keys] = [self.entries("tensors")?, self.entries("keys")?];
        let mut names = HashSet::new();
        for _ in 0..keys {
            let key = self.name("key", &mut names)?;
            let kind = self.word()?;
            match key == ALIGNMENT {
                true => self.alignment(kind)?,
                false => self.value(&key, kind, 0)?,
            }
        }
        names.clear();
        for _ in 0..tensors {
            let name = self.name("tensor", &mut names)?;
            self.tensor(&name, file_bytes)?;
        }
        Ok(())
    }

    fn wrong<T>(&self, why: String) -> Result<T> {
        Err(Error::Malformed { path: self.path.to_owned(), why })
    }

    fn bytes<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut bytes = [0; N];
        self.reader.read_exact(&mut bytes).map_err(Error::io(self.path))?;
        Ok(bytes)
    }

    fn word(&mut self) -> Result<u32> {
        self.bytes().map(u32::from_le_bytes)
    }

    fn long(&mut self) -> Result<u64> {
        self.bytes().map(u64::from_le_bytes)
    }

    fn entries(&mut self, what: &str) -> Result<u64> {
        match self.long()? {
            count if count <= ENTRIES_MAX => Ok(count),
            count => self.wrong(format!("{what}: expected at most {ENTRIES_MAX}, got {count}")),
        }
    }

    /// A key or a name, which must not have come before.
    fn name(&mut self, what: &str, names: &mut HashSet<String>) -> Result<String> {
        let length = self.long()?;
        if length > NAME_BYTES_MAX.min(self.reader.limit()) {
            return self.wrong(format!("{what}: expected a name of at most {NAME_BYTES_MAX} bytes, got {length}"));
        }
        let mut bytes = vec![0; length as usize];
        self.reader.read_exact(&mut bytes).map_err(Error::io(self.path))?;
        // The reader that comes after drops zeros at the end.
        let length = bytes.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1);
        bytes.truncate(length);
        let Ok(name) = String::from_utf8(bytes) else {
            return self.wrong(format!("{what}: expected a name in UTF-8"));
        };
        match names.insert(name.clone()) {
            true => Ok(name),
            false => self.wrong(format!("{what} {name}: expected once, got it twice")),
        }
    }

    /// The alignment: a power of two, as `ggml` demands.
    fn alignment(&mut self, kind: u32) -> Result<()> {
        if kind != U32 {
            return self.wrong(format!("{ALIGNMENT}: expected a 32-bit unsigned number, got type {kind}"));
        }
        match self.word()? {
            alignment if alignment.is_power_of_two() && alignment <= 1 << 20 => Ok(()),
            alignment => self.wrong(format!("{ALIGNMENT}: expected a power of two up to 1048576, got {alignment}")),
        }
    }

    /// Passes over the value of `key`.
    fn value(&mut self, key: &str, kind: u32, depth: usize) -> Result<()> {
        match kind {
            TEXT => self.text(key),
            ARRAY if depth < DEPTH_MAX => self.array(key, depth),
            ARRAY => self.wrong(format!("{key}: expected arrays nested {DEPTH_MAX} deep at most")),
            _ => match width(kind) {
                Some(width) => self.skip(key, width),
                None => self.wrong(format!("{key}: expected a value type up to 12, got {kind}")),
            },
        }
    }

    fn text(&mut self, key: &str) -> Result<()> {
        match self.long()? {
            length if length <= TEXT_BYTES_MAX => self.skip(key, length),
            length => self.wrong(format!("{key}: expected a text of at most {TEXT_BYTES_MAX} bytes, got {length}")),
        }
    }

    fn array(&mut self, key: &str, depth: usize) -> Result<()> {
        let (kind, length) = (self.word()?, self.long()?);
        self.elements = self.elements.saturating_add(length);
        if self.elements > ELEMENTS_MAX {
            return self.wrong(format!("{key}: expected at most {ELEMENTS_MAX} elements in all arrays, got more"));
        }
        match width(kind) {
            Some(width) => self.skip(key, width * length),
            None => (0..length).try_for_each(|_| self.value(key, kind, depth + 1)),
        }
    }

    /// Passes over `bytes`.
    fn skip(&mut self, key: &str, bytes: u64) -> Result<()> {
        let left = self.reader.limit();
        if bytes > left {
            return self.wrong(format!("{key}: expected a value that fits the file, got {bytes} bytes of {left}"));
        }
        std::io::copy(&mut (&mut self.reader).take(bytes), &mut std::io::sink()).map_err(Error::io(self.path))?;
        match self.reader.limit() == left - bytes {
            true => Ok(()),
            false => self.wrong(format!("{key}: the file was cut short while it was read")),
        }
    }

    /// Passes over what is said of the tensor `name`; its values must fit the file.
    fn tensor(&mut self, name: &str, file_bytes: u64) -> Result<()> {
        let dimensions = self.word()?;
        if !(1..=DIMENSIONS_MAX).contains(&dimensions) {
            return self.wrong(format!("tensor {name}: expected 1 to {DIMENSIONS_MAX} dimensions, got {dimensions}"));
        }
        let shape = (0..dimensions).map(|_| self.long()).collect::<Result<Vec<_>>>()?;
        let values = shape.iter().try_fold(1u64, |product, &size| product.checked_mul(size));
        // No type has less than two bits a value.
        if values.is_none_or(|values| values == 0 || values / 4 > file_bytes) {
            return self.wrong(format!("tensor {name}: expected a shape that fits the file, got {shape:?}"));
        }
        let (kind, offset) = (self.word()?, self.long()?);
        if !TENSOR_TYPES.contains(&kind) {
            let (path, got) = (self.path.to_owned(), format!("{} of {name}", kind_name(kind)));
            let expected = "F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2_K to Q6_K".to_owned();
            return Err(Error::Unsupported { path, what: "tensor type", got, expected });
        }
        match offset <= file_bytes {
            true => Ok(()),
            false => self.wrong(format!("tensor {name}: expected an offset within the file, got {offset}")),
        }
    }
}

/// The name of a tensor type that is not read, from the list in llama.cpp's `ggml.h`.
fn kind_name(kind: u32) -> String {
    let known = match kind {
        9 => "Q8_1",
        15 => "Q8_K",
        16 => "IQ2_XXS",
        17 => "IQ2_XS",
        18 => "IQ3_XXS",
        19 => "IQ1_S",
        20 => "IQ4_NL",
        21 => "IQ3_S",
        22 => "IQ2_S",
        23 => "IQ4_XS",
        24 => "I8",
        25 => "I16",
        26 => "I32",
        27 => "I64",
        28 => "F64",
        29 => "IQ1_M",
        34 => "TQ1_0",
        35 => "TQ2_0",
        39 => "MXFP4",
        other => return format!("kind {other}"),
    };
    known.to_owned()
}

/// Bytes of a value of the type with the code `kind`, if all have the same.
fn width(kind: u32) -> Option<u64> {
    match kind {
        0 | 1 | 7 => Some(1),
        2 | 3 => Some(2),
        4..=6 => Some(4),
        10..=12 => Some(8),
        _ => None,
    }
}
