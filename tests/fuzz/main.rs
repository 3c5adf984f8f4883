//! Files and answers of others, changed at random: whatever they hold, reading them ends in a value or in one line of error,
//! soon, and without more memory than the files are long.
//!
//! The seeds are whole files of `tests/golden` and what this crate writes itself. An input that panics, takes longer than
//! [`SECONDS_MAX`] of the processor or allocates more than [`ALLOCATION_MAX`] at once is kept, and its path printed.
//! `scripts/fuzz` runs more of them than the tests do.
#![allow(clippy::unwrap_used, clippy::print_stdout, missing_docs, unreachable_pub)]

mod heap;
mod known;
mod mutate;
mod targets;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use rco_node::kernels::LimitedAllocator;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::{Mutex, OnceLock};
use std::time::Instant;
use targets::{Input, Target};

#[global_allocator]
static HEAP: LimitedAllocator<heap::Heap> = LimitedAllocator(heap::Heap);

/// The most time for one input.
const SECONDS_MAX: f64 = 1.0;
/// The most memory at once: seeds have 0.4 MB, and a template may hold 128 MiB.
const ALLOCATION_MAX: usize = 128 << 20;
/// The longest error.
const ERROR_CHARS_MAX: usize = 4000;
/// Inputs for each target in the tests.
const INPUTS: u64 = 400;

/// What became of the inputs of a target.
#[derive(Default)]
struct Tally {
    refused: u64,
    accepted: u64,
    seconds: f64,
    bytes: usize,
    /// What went wrong, and where the input is kept.
    faults: Vec<String>,
}

/// Processor time of this process in seconds, so that a busy machine makes no faults; the time of the clock where the system
/// does not say.
fn seconds() -> f64 {
    static BEGUN: OnceLock<Instant> = OnceLock::new();
    let text = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // After the name in parentheses: the state, ten numbers, then user and system time in ticks of 10 ms.
    let ticks = text.rsplit(')').next().map(|rest| rest.split_whitespace().skip(11).take(2).map(str::parse::<u64>));
    match ticks.map(|ticks| ticks.flatten().collect::<Vec<_>>()).as_deref() {
        Some([user, system]) => (user + system) as f64 / 100.0,
        _ => BEGUN.get_or_init(Instant::now).elapsed().as_secs_f64(),
    }
}

/// The message of the last panic of this process.
static PANIC: Mutex<String> = Mutex::new(String::new());

fn run(target: &Target, folder: &Path, inputs: u64, seed: u64) -> Tally {
    let mut tally = Tally::default();
    for number in 0..inputs {
        let mut rng = ChaCha8Rng::seed_from_u64(seed ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let input = target.input(&mut rng, folder);
        if let Input::Bytes(bytes) = &input {
            // Whoever looks into a run that does not end finds the input here.
            std::fs::write(folder.join("current"), bytes).unwrap();
        }
        heap::take_largest();
        let begun = seconds();
        let outcome = catch_unwind(AssertUnwindSafe(|| target.read(&input)));
        let (took, bytes) = (seconds() - begun, heap::take_largest());
        tally.seconds = tally.seconds.max(took);
        tally.bytes = tally.bytes.max(bytes);
        let mut fault = match outcome {
            Ok(Ok(())) => {
                tally.accepted += 1;
                None
            }
            Ok(Err(error)) => {
                tally.refused += 1;
                let long = error.chars().count() > ERROR_CHARS_MAX || error.contains('\n');
                long.then(|| format!("an error of {} bytes or several lines: {error:.200}", error.len()))
            }
            Err(_) => Some(format!("panic: {}", PANIC.lock().unwrap())),
        };
        if took > SECONDS_MAX {
            fault = Some(format!("took {took:.2} s"));
        }
        if bytes > ALLOCATION_MAX {
            fault = Some(format!("allocated {bytes} bytes at once"));
        }
        if let Some(fault) = fault {
            tally.faults.push(format!("{} {number}: {fault}; kept as {}", target.name(), keep(&input).display()));
        }
    }
    tally
}

/// Copies an input out of the folder that is removed.
fn keep(input: &Input) -> std::path::PathBuf {
    let kept = std::env::temp_dir().join(format!("rco-fuzz-{}", std::process::id()));
    std::fs::create_dir_all(&kept).unwrap();
    let kept = kept.join(std::fs::read_dir(&kept).unwrap().count().to_string());
    match input {
        Input::Path(path, changed) => std::fs::copy(path.join(changed), &kept).map(drop).unwrap(),
        Input::Bytes(bytes) => std::fs::write(&kept, bytes).unwrap(),
    }
    kept
}

#[test]
fn what_others_wrote_is_read_or_refused_in_one_line() {
    let _alone = heap::alone();
    let number = |name: &str| std::env::var(name).ok().map(|value| value.parse::<u64>().unwrap());
    let (inputs, seed) = (number("RCO_FUZZ_INPUTS").unwrap_or(INPUTS), number("RCO_FUZZ_SEED").unwrap_or(0));
    let only = std::env::var("RCO_FUZZ_TARGET").ok();
    std::panic::set_hook(Box::new(|info| *PANIC.lock().unwrap() = info.to_string().replace('\n', " ")));
    // In memory where there is such a place: every input is written as the file that it is.
    let shared = Path::new("/dev/shm");
    let parent = if shared.is_dir() { shared.to_owned() } else { std::env::temp_dir() };
    let folder = tempfile::tempdir_in(parent).unwrap();
    let (mut faults, mut seen) = (vec![], 0);
    println!(
        "{:<16} {:>10} {:>10} {:>10} {:>10} {:>12}",
        "target", "inputs", "refused", "accepted", "worst ms", "worst bytes"
    );
    for target in Target::all(folder.path()) {
        if only.as_deref().is_some_and(|only| only != target.name()) {
            continue;
        }
        let tally = run(&target, folder.path(), inputs, seed);
        let Tally { refused, accepted, seconds, bytes, .. } = tally;
        println!("{:<16} {inputs:>10} {refused:>10} {accepted:>10} {:>10.1} {bytes:>12}", target.name(), seconds * 1e3);
        assert!(inputs < 100 || refused > 0, "{}: some inputs are refused", target.name());
        assert!(inputs < 100 || accepted > 0, "{}: some inputs are accepted", target.name());
        faults.extend(tally.faults);
        seen += 1;
    }
    let _ = std::panic::take_hook();
    assert!(seen > 0, "no target of that name");
    assert!(faults.is_empty(), "{} faults:\n{}", faults.len(), faults.join("\n"));
}
