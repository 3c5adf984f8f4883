//! Copies the node's files that are explored, with the standard library's threads and locks replaced by the explorer's.

use std::path::PathBuf;

/// Text and replacement, in every file.
const EVERYWHERE: &[(&str, &str)] = &[
    ("use std::sync::atomic::", "use shuttle::sync::atomic::"),
    ("use std::sync::Arc;", "use shuttle::sync::Arc;"),
    ("use std::sync::{", "use shuttle::sync::{"),
    ("use crossbeam_channel::", "use crate::replaced::channel::"),
    ("use std::time::Instant;", "use crate::replaced::Instant;"),
    ("use std::time::{Duration, Instant};", "use crate::replaced::Instant;\nuse std::time::Duration;"),
    ("use std::thread::JoinHandle;", "use shuttle::thread::JoinHandle;"),
    ("std::thread::", "shuttle::thread::"),
    ("std::hint::", "shuttle::hint::"),
    ("crossbeam_channel::", "crate::replaced::channel::"),
];

/// A file below the node's `src`, or with `here:` a double below this package's, and replacements that must apply to it.
type File = (&'static str, &'static [(&'static str, &'static str)]);

/// The thread pool. The process's pool becomes one of each explored run; spinning is cut short, since the explorer
/// switches threads at each spin; a failed spawn is a failure; a panic that a test expects is not printed.
const POOL: &[File] = &[
    (
        "kernels/thread_pool.rs",
        &[
            ("const SPINS: usize = 1 << 13;", "const SPINS: usize = 1;"),
            ("{Condvar, Mutex, OnceLock}", "{Condvar, Mutex}"),
            (
                "static POOL: OnceLock<&'static ThreadPool> = OnceLock::new();",
                "shuttle::lazy_static! { static ref POOL: crate::replaced::OnceLock<&'static ThreadPool> = crate::replaced::OnceLock::new(); }",
            ),
            ("std::thread::Builder", "crate::replaced::Builder"),
            ("rayon::current_num_threads()", "crate::replaced::threads()"),
            ("tracing::warn!(%error, \"cannot start a compute thread\")", "panic!(\"{error}\")"),
        ],
    ),
    (
        "kernels/thread_pool/shared.rs",
        &[
            ("const SPINS_BEFORE_YIELD: usize = 1 << 10;", "const SPINS_BEFORE_YIELD: usize = 1;"),
            (
                "assert!(!self.failed.load(SeqCst), \"a piece of a loop panicked on another thread\");",
                "if self.failed.load(SeqCst) { std::panic::resume_unwind(Box::new(\"a piece on another thread\")) }",
            ),
        ],
    ),
];

/// The device. Two commands fill the channel, so that permits run out; a fault is not printed.
const DEVICE: &[File] = &[
    (
        "device.rs",
        &[("const COMMANDS_MAX: usize = 256;", "const COMMANDS_MAX: usize = 2;"), (".stack_size(STACK_BYTES)", "")],
    ),
    ("device/command.rs", &[]),
    ("device/engine_slot.rs", &[]),
    ("device/error.rs", &[]),
    ("device/heartbeat.rs", &[]),
    ("device/setup.rs", &[]),
    ("device/share.rs", &[]),
    ("device/stream.rs", &[]),
    ("device/thread.rs", &[("panic!(\"{text}\")", "std::panic::resume_unwind(Box::new(text))")]),
];

/// The journal, over a double of its table; `tracing` has no subscriber here.
const JOURNAL: &[File] = &[
    ("run/journal.rs", &[("use redb::StorageBackend;", "use crate::doubles::StorageBackend;")]),
    ("run/journal/error.rs", &[]),
    ("here:journal/record.rs", &[]),
    ("here:journal/table.rs", &[]),
];

/// Copies `files` into the module `name`; its first file is the module's own and gets `tests`, a file of this package,
/// as a child. Returns the module's declaration.
fn copy(name: &str, files: &[File], tests: &str) -> String {
    let own = PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it"));
    let folder = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets it")).join(name);
    std::fs::create_dir_all(&folder).expect("the output folder can be written");
    for (place, (file, replacements)) in files.iter().enumerate() {
        let from = match file.strip_prefix("here:") {
            Some(double) => own.join("src").join(double),
            None => own.join("../../src").join(file),
        };
        println!("cargo::rerun-if-changed={}", from.display());
        let mut text = std::fs::read_to_string(&from).unwrap_or_else(|error| panic!("{}: {error}", from.display()));
        if let Some(unit_tests) = text
            .find("#[cfg(test)]\n#[allow(clippy::unwrap_used)]\nmod tests")
            .or_else(|| text.find("#[cfg(test)]\nmod tests"))
        {
            text.truncate(unit_tests);
        }
        for (old, new) in replacements.iter() {
            assert!(text.contains(old), "{file}: expected to find {old}");
            text = text.replace(old, new);
        }
        for (old, new) in EVERYWHERE {
            text = text.replace(old, new);
        }
        if place == 0 {
            text += &format!("\n#[cfg(test)]\n#[path = {:?}]\nmod schedules;\n", own.join("src").join(tests));
        }
        let to = if place == 0 { "mod.rs".into() } else { from.file_name().expect("it is a file").to_owned() };
        std::fs::write(folder.join(to), &text).expect("the output folder can be written");
    }
    format!("#[path = {:?}]\nmod {name};\n", folder.join("mod.rs"))
}

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let modules = copy("thread_pool", POOL, "pool.rs")
        + &copy("device", DEVICE, "device.rs")
        + &copy("journal", JOURNAL, "journal.rs");
    let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets it"));
    std::fs::write(out.join("modules.rs"), modules).expect("the output folder can be written");
}
