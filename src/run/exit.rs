//! The exit codes of the process.

/// How the process ends: its exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// The command succeeded; after a run, a whole checkpoint is on disk.
    Done = 0,
    /// It failed in a way that has no code of its own.
    Failed = 1,
    /// The command line, the config or an input file is wrong.
    Usage = 2,
    /// The model could not be fetched or loaded.
    Model = 3,
    /// Actors failed more often than `supervisor.restarts_max` allows.
    Restarts = 4,
    /// The device could not be started again.
    Device = 5,
    /// A checkpoint could not be written or read.
    Checkpoint = 6,
}
