//! The file by which other programs find a running node: its process and the address of its listener.

use crate::disk;
use serde::{Deserialize, Serialize};
use std::fs::{self, File, TryLockError};
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

/// The file in a run directory.
const FILE: &str = "node.json";
/// The longest such file.
const BYTES_MAX: u64 = 4096;

/// A running node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Presence {
    /// Its process.
    pub pid: u32,
    /// Where it listens.
    pub address: SocketAddr,
}

impl Presence {
    /// Says that this process runs the node of the run directory `run`.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn announce(run: &Path, address: SocketAddr) -> io::Result<Announced> {
        let path = run.join(FILE);
        let presence = Self { pid: std::process::id(), address };
        disk::replace(&path, &serde_json::to_vec(&presence).expect("a number and an address are always JSON"))?;
        Ok(Announced(path))
    }

    /// The node that runs in the run directory `run`; none if there is none, or it has no listener. A file that a killed
    /// process left does not count: nobody holds the directory's lock then.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub fn find(run: &Path) -> io::Result<Option<Self>> {
        let is_held = is_held(run)?;
        match disk::read(&run.join(FILE), BYTES_MAX) {
            Ok(bytes) if is_held => Ok(Some(serde_json::from_slice(&bytes)?)),
            Ok(_) => Ok(None),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// Whether a process works in the run directory `run`: it holds the directory's lock.
///
/// # Errors
/// If the system does not say.
pub fn is_held(run: &Path) -> io::Result<bool> {
    match File::open(run.join("lock")) {
        Ok(lock) => Ok(matches!(lock.try_lock_shared(), Err(TryLockError::WouldBlock))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// The announcement; it is taken back when this is dropped.
#[derive(Debug)]
pub struct Announced(PathBuf);

impl Drop for Announced {
    fn drop(&mut self) {
        // Whoever finds it finds no lock beside it.
        let _ = fs::remove_file(&self.0);
    }
}
