//! A file system of its own, for faults of disks. Needs the right to mount, which root has.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// A file system in memory at a folder.
pub struct Mounted(PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        // Lazily: a node that a failed test left behind may hold files.
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

impl Mounted {
    /// Mounts one; none, with the reason, if that is not allowed.
    pub fn new(folder: &Path) -> Result<Self, String> {
        std::fs::create_dir_all(folder).unwrap();
        let arguments = ["-t", "tmpfs", "-o", "size=64m", "rco-test"];
        let mounted = Command::new("mount").args(arguments).arg(folder).output().map_err(|error| error.to_string())?;
        match mounted.status.success() {
            true => Ok(Self(folder.to_owned())),
            false => Err(String::from_utf8_lossy(&mounted.stderr).into_owned()),
        }
    }

    /// Mounts it again with `option`, `ro` or `rw`. While a file is open for writing, `ro` is refused and tried again.
    pub async fn set(&self, option: &str) {
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            let done = Command::new("mount").args(["-o", &format!("remount,{option}")]).arg(&self.0).output().unwrap();
            if done.status.success() {
                return;
            }
            assert!(Instant::now() < deadline, "{done:?}");
            tokio::task::yield_now().await;
        }
    }
}
