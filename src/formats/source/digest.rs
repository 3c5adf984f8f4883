//! The digest that identifies a model.

use crate::disk;
use crate::formats::error::{Error, Result};
use sha2::{Digest as _, Sha256};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

/// The sha256 of the model at `path`, in hexadecimal digits. For a folder it is the sha256 of what `sha256sum` prints there
/// for its `*.json` and `*.safetensors` files, sorted by the bytes of their names.
///
/// # Errors
/// If a file cannot be read.
pub fn digest(path: &Path) -> Result<String> {
    if !path.is_dir() {
        return of_file(path);
    }
    let mut files = vec![];
    for entry in std::fs::read_dir(path).map_err(Error::io(path))? {
        let file = entry.map_err(Error::io(path))?.path();
        let ending = file.extension().and_then(|ending| ending.to_str());
        if matches!(ending, Some("json" | "safetensors")) && file.is_file() {
            files.push(file);
        }
    }
    files.sort_unstable();
    let line = |file: &PathBuf| {
        let name = file.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        Ok(format!("{}  {name}\n", of_file(file)?))
    };
    let lines = files.iter().map(line).collect::<Result<String>>()?;
    Ok(copy_and_digest(&mut lines.as_bytes(), &mut io::sink()).map_err(Error::io(path))?.0)
}

fn of_file(path: &Path) -> Result<String> {
    let mut file = disk::open(path).map_err(Error::io(path))?;
    Ok(copy_and_digest(&mut file, &mut io::sink()).map_err(Error::io(path))?.0)
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
        // printf of the two lines below, through sha256sum.
        let of_abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        let of_nothing = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        write("lines", &format!("{of_nothing}  b.safetensors\n{of_abc}  config.json\n"));
        let first = digest(folder.path()).unwrap();
        assert_eq!(first, digest(&folder.path().join("lines")).unwrap());
        std::fs::rename(folder.path().join("config.json"), folder.path().join("other.json")).unwrap();
        assert_ne!(digest(folder.path()).unwrap(), first);
    }
}
