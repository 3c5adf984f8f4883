//! The digest that identifies a model.

use super::known::{self, Stamp};
use crate::disk;
use crate::formats::error::{Error, Result};
use crate::formats::safetensors;
use sha2::{Digest as _, Sha256};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

/// Files up to this length are digested in no time.
const QUICK_BYTES_MAX: u64 = 16 << 20;
/// The longest `*.json` file. Gemma's `tokenizer.json` has 33 MB.
const JSON_BYTES_MAX: u64 = 256 << 20;

/// The sha256 of the model at `path`, in hexadecimal digits. For a folder it is the sha256 of what `sha256sum` prints there
/// for its `*.json` files and the `*.safetensors` files that it reads, sorted by the bytes of their names.
///
/// # Errors
/// If a file cannot be read, or a `*.json` file is longer than any that a model has.
pub fn digest(path: &Path) -> Result<String> {
    if !path.is_dir() {
        return of_file(path, u64::MAX);
    }
    let files = files(path)?;
    let line = |(file, bytes_max): &(PathBuf, u64)| Ok(line(file, &of_file(file, *bytes_max)?));
    let lines = files.iter().map(line).collect::<Result<String>>()?;
    of_lines(&lines, path)
}

/// The stamps of a model's files; see [`stamps`].
pub(crate) type Stamps = Vec<(PathBuf, Option<Stamp>)>;

/// What the system says of the content of each file of the model at `path`. As long as it says the same, so does [`digest`].
///
/// # Errors
/// If the folder cannot be read.
pub(crate) fn stamps(path: &Path) -> Result<Stamps> {
    let files = if path.is_dir() { files(path)? } else { vec![(path.to_owned(), u64::MAX)] };
    Ok(files.into_iter().map(|(file, _)| (file.clone(), Stamp::of(&file))).collect())
}

/// The [`digest`] of the model at `path`, if those of its large files are known: then it takes no time.
pub(crate) fn known_digest(path: &Path) -> Option<String> {
    let large = |file: &Path| std::fs::metadata(file).is_ok_and(|file| file.len() > QUICK_BYTES_MAX);
    let known = |file: &Path| !large(file) || known::find(file).is_some();
    let files = if path.is_dir() { files(path).ok()? } else { vec![(path.to_owned(), u64::MAX)] };
    files.iter().all(|(file, _)| known(file)).then(|| digest(path).ok()).flatten()
}

fn line(file: &Path, digest: &str) -> String {
    let name = file.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    format!("{digest}  {name}\n")
}

fn of_lines(lines: &str, path: &Path) -> Result<String> {
    Ok(copy_and_digest(&mut lines.as_bytes(), &mut io::sink()).map_err(Error::io(path))?.0)
}

/// The files of the folder `path` that are part of the model, with the most bytes that each may have.
fn files(path: &Path) -> Result<Vec<(PathBuf, u64)>> {
    let weights = safetensors::weight_files(path)?;
    let mut files = vec![];
    for entry in std::fs::read_dir(path).map_err(Error::io(path))? {
        let file = entry.map_err(Error::io(path))?.path();
        let name = file.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let is_json = file.extension().is_some_and(|ending| ending == "json");
        if !(is_json || weights.contains(name)) || !file.is_file() {
            continue;
        }
        files.push((file, if is_json { JSON_BYTES_MAX } else { u64::MAX }));
    }
    files.sort_unstable();
    Ok(files)
}

/// The sha256 of the file `path`, which has at most `bytes_max` bytes; computed only if it is not [known].
///
/// # Errors
/// If it cannot be read, or is longer.
pub(super) fn of_file(path: &Path, bytes_max: u64) -> Result<String> {
    if let Some(sha256) = known::find(path) {
        return Ok(sha256);
    }
    let stamp = Stamp::of(path);
    let file = disk::open(path).map_err(Error::io(path))?;
    let mut file = file.take(bytes_max.saturating_add(1));
    let (digest, bytes) = copy_and_digest(&mut file, &mut io::sink()).map_err(Error::io(path))?;
    if bytes > bytes_max {
        return Err(Error::Malformed {
            path: path.to_owned(),
            why: format!("expected at most {bytes_max} bytes, got more"),
        });
    }
    known::remember(path, stamp, &digest);
    Ok(digest)
}

/// Copies all of `from` to `to`. Returns the sha256 in hexadecimal digits and the number of bytes.
pub(super) fn copy_and_digest(from: &mut impl Read, to: &mut impl Write) -> io::Result<(String, u64)> {
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    let mut bytes = 0;
    loop {
        let read = match from.read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        hasher.update(&buffer[..read]);
        to.write_all(&buffer[..read])?;
        bytes += read as u64;
    }
    Ok((const_hex::encode(hasher.finalize()), bytes))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_known_by_its_files_and_their_names() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
        write("config.json", "abc");
        write("b.safetensors", "");
        write("model.safetensors.index.json", r#"{"weight_map": {"x": "b.safetensors"}}"#);
        // printf of the two lines below, through sha256sum.
        let of_abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        let of_nothing = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        let of_index = "117e31fcd4f5bc1d07261e314b986f29e48838a6c8aed569556a70b9b0d0a636";
        let lines =
            [(of_nothing, "b.safetensors"), (of_abc, "config.json"), (of_index, "model.safetensors.index.json")];
        write("lines", &lines.map(|(digest, name)| format!("{digest}  {name}\n")).concat());
        let first = digest(folder.path()).unwrap();
        assert_eq!(first, digest(&folder.path().join("lines")).unwrap());
        // What the model does not read is not part of it, however long it is.
        let lengthen = |name: &str| std::fs::File::create(folder.path().join(name)).unwrap().set_len(1 << 42).unwrap();
        lengthen("model.safetensors");
        lengthen("pytorch_model.bin");
        assert_eq!(digest(folder.path()).unwrap(), first);
        lengthen("long.json");
        let error = digest(folder.path()).unwrap_err().to_string();
        assert!(error.contains("long.json: expected at most 268435456 bytes"), "{error}");
        std::fs::remove_file(folder.path().join("long.json")).unwrap();
        std::fs::rename(folder.path().join("config.json"), folder.path().join("other.json")).unwrap();
        assert_ne!(digest(folder.path()).unwrap(), first);
    }
}
