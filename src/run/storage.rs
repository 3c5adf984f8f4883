//! What a run takes on its disk, as metrics. Looks at the files themselves, so that a resumed run is right from its start.

use super::journal;
use crate::checkpoint;
use crate::groups;
use crate::records;
use crate::telemetry::metrics;
use std::fs::{self, Metadata};
use std::io;
use std::path::Path;
use std::time::UNIX_EPOCH;

/// Brings the metrics of the run directory `run` up to date. Blocks on the disk; what cannot be read keeps its last value.
pub(crate) fn observe(run: &Path) {
    let size = |name: &str| fs::metadata(run.join(name)).map_or(0, |file| file.len());
    metrics::JOURNAL_BYTES.set(size(journal::FILE) as f64);
    metrics::EPISODES_FILE_BYTES.set((size(records::FILE) + size(records::EARLIER_FILE)) as f64);
    metrics::GROUPS_FILE_BYTES.set((size(groups::FILE) + size(groups::EARLIER_FILE)) as f64);
    if let Ok(disk) = rustix::fs::statvfs(run) {
        metrics::DISK_FREE_BYTES.set(disk.f_bavail as f64 * disk.f_frsize as f64);
        metrics::DISK_BYTES.set(disk.f_blocks as f64 * disk.f_frsize as f64);
    }
    let newest = checkpoint::list(&run.join("checkpoints")).ok().and_then(|listed| listed.into_iter().next());
    let Some(newest) = newest else { return };
    let Ok((bytes, written)) = taken(&newest.path) else { return };
    metrics::CHECKPOINT_STEP.set(newest.step as f64);
    metrics::CHECKPOINT_BYTES.set(bytes as f64);
    metrics::CHECKPOINT_TIMESTAMP.set(written);
}

/// Bytes of the files in `folder`, and when the last of them was written, in seconds since 1970.
fn taken(folder: &Path) -> io::Result<(u64, f64)> {
    let mut taken = (0, 0.0_f64);
    for entry in fs::read_dir(folder)? {
        let file = entry?.metadata()?;
        taken = (taken.0 + file.len(), taken.1.max(modified(&file)?));
    }
    Ok(taken)
}

fn modified(file: &Metadata) -> io::Result<f64> {
    Ok(file.modified()?.duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_checkpoint_and_the_files_of_a_run_are_measured() {
        let folder = tempfile::tempdir().unwrap();
        let newest = folder.path().join("checkpoints/step-00000012");
        fs::create_dir_all(&newest).unwrap();
        fs::create_dir_all(folder.path().join("checkpoints/step-00000004")).unwrap();
        fs::write(newest.join("a"), [0; 700]).unwrap();
        fs::write(newest.join("b"), [0; 300]).unwrap();
        fs::write(folder.path().join(journal::FILE), [0; 50]).unwrap();
        fs::write(folder.path().join(groups::FILE), [0; 30]).unwrap();
        fs::write(folder.path().join(records::EARLIER_FILE), [0; 20]).unwrap();
        let recorder = metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder();
        ::metrics::with_local_recorder(&recorder, || observe(folder.path()));
        let text = recorder.handle().render();
        let value = |name: &str| -> f64 {
            let line = text.lines().find_map(|line| line.strip_prefix(&format!("{name} "))).unwrap();
            line.parse().unwrap()
        };
        assert_eq!((value("rco_checkpoint_step"), value("rco_checkpoint_size_bytes")), (12.0, 1000.0));
        assert_eq!((value("rco_node_journal_bytes"), value("rco_node_groups_file_bytes")), (50.0, 30.0));
        assert_eq!(value("rco_node_episodes_file_bytes"), 20.0);
        let age = UNIX_EPOCH.elapsed().unwrap().as_secs_f64() - value("rco_checkpoint_timestamp_seconds");
        assert!((0.0..60.0).contains(&age), "{age}");
        assert!(0.0 < value("rco_node_disk_free_bytes"), "{text}");
        assert!(value("rco_node_disk_free_bytes") <= value("rco_node_disk_size_bytes"), "{text}");
    }
}
