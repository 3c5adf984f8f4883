//! Reading what others wrote: regular files only, and never more bytes than the reader allows.
//!
//! A device file would be read without end and a FIFO would block for ever, so neither is opened. A length is checked before
//! memory is taken for it.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

/// Opens the file `path` for reading.
///
/// # Errors
/// If it cannot be opened, or is no regular file: a folder, a device, a FIFO, a socket.
pub(crate) fn open(path: &Path) -> io::Result<File> {
    let mut options = File::options();
    options.read(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt as _;
        // Opening a FIFO without a writer would wait for one.
        options.custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY);
    }
    let file = options.open(path)?;
    match file.metadata()?.file_type() {
        kind if kind.is_file() => Ok(file),
        kind if kind.is_dir() => Err(io::Error::new(io::ErrorKind::IsADirectory, "expected a file, got a folder")),
        _ => Err(io::Error::new(io::ErrorKind::InvalidInput, "expected a regular file, got a device, FIFO or socket")),
    }
}

/// Fills `bytes` from `start` of `file`. Several threads may read a file at once.
///
/// # Errors
/// If it cannot be read, or ends before.
pub(crate) fn read_exact_at(file: &File, bytes: &mut [u8], start: u64) -> io::Result<()> {
    #[cfg(unix)]
    {
        std::os::unix::fs::FileExt::read_exact_at(file, bytes, start)
    }
    #[cfg(not(unix))]
    {
        use std::io::{Seek as _, SeekFrom};
        /// A file has one position.
        static POSITION: std::sync::Mutex<()> = std::sync::Mutex::new(());
        let _position = POSITION.lock();
        let mut file = file;
        file.seek(SeekFrom::Start(start))?;
        file.read_exact(bytes)
    }
}

/// The content of the file `path`.
///
/// # Errors
/// As [`open`]; [`io::ErrorKind::FileTooLarge`] if it is longer than `bytes_max`.
pub(crate) fn read(path: &Path, bytes_max: u64) -> io::Result<Vec<u8>> {
    let file = open(path)?;
    let length = file.metadata()?.len();
    if length > bytes_max {
        return Err(too_large(bytes_max, &length.to_string()));
    }
    let mut bytes = Vec::with_capacity(length as usize);
    // A file may grow while it is read, and those of some virtual file systems have no length.
    file.take(bytes_max.saturating_add(1)).read_to_end(&mut bytes)?;
    match bytes.len() as u64 > bytes_max {
        true => Err(too_large(bytes_max, "more")),
        false => Ok(bytes),
    }
}

/// As [`read`], of a text in UTF-8.
///
/// # Errors
/// As [`read`]; [`io::ErrorKind::InvalidData`] if it is not UTF-8.
pub(crate) fn read_text(path: &Path, bytes_max: u64) -> io::Result<String> {
    String::from_utf8(read(path, bytes_max)?).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

fn too_large(bytes_max: u64, got: &str) -> io::Error {
    io::Error::new(io::ErrorKind::FileTooLarge, format!("expected at most {bytes_max} bytes, got {got}"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn only_regular_files_of_the_allowed_length_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        std::fs::write(&path, "12345").unwrap();
        assert_eq!(read(&path, 5).unwrap(), b"12345");
        let error = read(&path, 4).unwrap_err();
        assert_eq!(
            (error.kind(), error.to_string().as_str()),
            (io::ErrorKind::FileTooLarge, "expected at most 4 bytes, got 5")
        );
        // A sparse file takes no memory before it is refused.
        File::options().write(true).open(&path).unwrap().set_len(1 << 42).unwrap();
        assert_eq!(read(&path, 1 << 30).unwrap_err().kind(), io::ErrorKind::FileTooLarge);

        let fifo = folder.path().join("fifo");
        assert!(std::process::Command::new("mkfifo").arg(&fifo).status().unwrap().success());
        std::os::unix::fs::symlink("/dev/zero", folder.path().join("link")).unwrap();
        for name in ["fifo", "link", "/dev/zero"] {
            let error = read(&folder.path().join(name), 10).unwrap_err().to_string();
            assert!(error.contains("expected a regular file"), "{name}: {error}");
        }
        assert!(read(folder.path(), 10).unwrap_err().to_string().contains("got a folder"));
        std::fs::write(&path, [0xff]).unwrap();
        assert_eq!(read_text(&path, 5).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }
}
