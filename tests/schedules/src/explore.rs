//! How a test is explored.

use shuttle::scheduler::{PctScheduler, RandomScheduler};
use shuttle::{Config, FailurePersistence, MaxSteps, Runner};

/// Schedules of each kind that a test explores, unless `SCHEDULES` says otherwise.
const SCHEDULES: usize = 1_000;
/// Steps of one run. A run that is still going then waits for what never comes.
const STEPS_MAX: usize = 100_000;

/// Preemptions that the second kind of schedule places: most faults need two or three.
const PREEMPTIONS: usize = 3;

/// Runs `body` under schedules drawn at random, and under schedules with few preemptions. Both are fair to threads that
/// spin, as an operating system is; a systematic search is not, and would find that a thread may spin for ever.
///
/// # Panics
/// If `body` does under one of them, and if it deadlocks or does not end. The schedule is printed.
pub(crate) fn explore(name: &str, body: impl Fn() + Send + Sync + Clone + 'static) {
    let schedules = std::env::var("SCHEDULES").map_or(SCHEDULES, |text| text.parse().expect("SCHEDULES is a number"));
    let seed = std::env::var("SEED").map_or(0, |text| text.parse().expect("SEED is a number"));
    let mut config = Config::new();
    config.max_steps = MaxSteps::FailAfter(STEPS_MAX);
    config.failure_persistence = FailurePersistence::Print;
    config.silence_warnings = true;
    let random = Runner::new(RandomScheduler::new_from_seed(seed, schedules), config.clone()).run(body.clone());
    let few = Runner::new(PctScheduler::new_from_seed(seed, PREEMPTIONS, schedules), config).run(body);
    eprintln!("{name}: explored {random} random schedules, {few} with few preemptions");
}
