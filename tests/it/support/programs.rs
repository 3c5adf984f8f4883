//! Programs that tests ask and this crate does not build. `scripts/fetch-test-programs` installs them.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The program `name`. Where it is missing, the test says that it is skipped; with `RCO_TEST_PROGRAMS=required`, it fails.
pub fn find(name: &str) -> Option<PathBuf> {
    let folders = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&folders).map(|folder| folder.join(name)).find(|path| path.is_file());
    if found.is_none() {
        let why = format!("{name} is not installed: scripts/fetch-test-programs installs it");
        assert!(std::env::var("RCO_TEST_PROGRAMS").as_deref() != Ok("required"), "{why}");
        eprintln!("skipped: {why}");
    }
    found
}

/// A Python that has `packages`; none, with the reason, if they cannot be installed.
pub fn python(name: &str, packages: &[&str]) -> Result<PathBuf, String> {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("clients-{name}"));
    let (python, done) = (folder.join("bin/python"), folder.join("installed"));
    std::fs::create_dir_all(&folder).map_err(|error| error.to_string())?;
    // One process at a time installs.
    let lock = File::create(folder.join("lock")).map_err(|error| error.to_string())?;
    lock.lock().map_err(|error| error.to_string())?;
    if std::fs::read_to_string(&done).is_ok_and(|installed| installed == packages.join(" ")) {
        return Ok(python);
    }
    run(Command::new("python3").args(["-m", "venv"]).arg(&folder))?;
    let pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check"];
    run(Command::new(&python).args(pip).args(packages))?;
    std::fs::write(&done, packages.join(" ")).map_err(|error| error.to_string())?;
    Ok(python)
}

fn run(command: &mut Command) -> Result<(), String> {
    let output = command.output().map_err(|error| format!("{command:?}: {error}"))?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    if output.status.success() { Ok(()) } else { Err(format!("{command:?}: {said}")) }
}
