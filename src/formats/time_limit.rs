//! Runs what a file of others makes run (a template, a regex) on a thread of its own, within limits of processor time and
//! memory.
//!
//! Processor time is no longer on a busy machine than on an idle one, so that a limit of a fraction of a second refuses
//! nothing that is good. A thread cannot be ended from outside: one that is late or takes too much is left behind. Where its
//! memory is limited, it then waits for ever in its next allocation.

use crate::kernels::HeapLimit;
use std::fs::File;
use std::io::{self, Read as _, Seek as _};
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

/// The time between two looks at the thread's processor time.
const LOOK: Duration = Duration::from_millis(20);
/// The longest time by the clock: on a system that does not say what a thread has used, and on one that does, where a thread
/// may have to wait for its turn.
const CLOCK_MAX: [Duration; 2] = [Duration::from_secs(5), Duration::from_secs(60)];

/// What a piece of work may take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Processor time.
    pub(super) time: Duration,
    /// Memory held at once; no limit if none.
    pub(super) bytes_max: Option<usize>,
    /// The stack, which is not part of that memory.
    pub(super) stack_bytes: usize,
}

/// Why there is no result.
#[derive(Debug, thiserror::Error)]
pub(super) enum NoResult {
    /// It takes too long; its thread may run on until it allocates, or to its end if its memory is not limited.
    #[error("expected a result within {} ms of processor time, got none", .0.as_millis())]
    Late(Duration),
    /// It takes too much memory; its thread waits for ever.
    #[error("expected a result from at most {} MiB of memory, got none", .0 >> 20)]
    Large(usize),
    /// It panicked.
    #[error("panicked")]
    Panicked,
    /// The thread could not be started.
    #[error(transparent)]
    Thread(#[from] io::Error),
}

/// The result of `work`, which runs on a thread called `name`.
///
/// # Errors
/// If it takes more than `limits`, or panics.
pub(super) fn within<T: Send + 'static>(
    limits: Limits,
    name: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, NoResult> {
    let heap = limits.bytes_max.map(|bytes_max| Arc::new(HeapLimit::new(bytes_max)));
    let heap_of_work = heap.clone();
    let (tell_clock, clock) = mpsc::sync_channel(1);
    let (sender, receiver) = mpsc::sync_channel(1);
    let body = move || {
        // An open file stays with the thread that opened it. A caller that has left needs no answer.
        let _ = tell_clock.send(File::open("/proc/thread-self/stat"));
        let result = match heap_of_work {
            Some(heap) => heap.run(work),
            None => work(),
        };
        drop(sender.send(result));
    };
    let thread = std::thread::Builder::new().name(name.to_owned()).stack_size(limits.stack_bytes).spawn(body)?;
    let mut clock = clock.recv().ok().and_then(Result::ok);
    let started = Instant::now();
    loop {
        match receiver.recv_timeout(LOOK) {
            Ok(result) => {
                let _ = thread.join();
                return Ok(result);
            }
            Err(RecvTimeoutError::Disconnected) => return Err(NoResult::Panicked),
            Err(RecvTimeoutError::Timeout) => {}
        }
        if heap.as_ref().is_some_and(|heap| heap.is_exceeded()) {
            return Err(NoResult::Large(limits.bytes_max.unwrap_or_default()));
        }
        let used = clock.as_mut().and_then(|clock| processor_time(clock).ok().flatten());
        let clock_max = CLOCK_MAX[usize::from(used.is_some())];
        if used.is_some_and(|used| used >= limits.time) || started.elapsed() >= clock_max {
            heap.iter().for_each(|heap| heap.stop());
            return Err(NoResult::Late(limits.time));
        }
    }
}

/// The processor time of the thread whose `stat` file this is.
fn processor_time(stat: &mut File) -> io::Result<Option<Duration>> {
    let mut text = String::new();
    stat.rewind()?;
    stat.read_to_string(&mut text)?;
    // After the name in parentheses: the state, ten numbers, then user and system time in ticks of 10 ms.
    let fields = text.rsplit(')').next().unwrap_or_default().split_whitespace();
    let ticks: Option<u64> = fields.skip(11).take(2).map(|ticks| ticks.parse::<u64>().ok()).sum();
    Ok(ticks.map(|ticks| Duration::from_millis(10 * ticks)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicBool, Ordering};

    const LIMITS: Limits = Limits { time: Duration::from_millis(200), bytes_max: None, stack_bytes: 1 << 20 };

    #[test]
    fn a_result_in_time_is_returned_and_a_panic_is_told() {
        assert_eq!(within(LIMITS, "test", || 7).unwrap(), 7);
        let panicked = within(LIMITS, "test", || assert_eq!(1 + 1, 3));
        assert!(matches!(panicked, Err(NoResult::Panicked)));
    }

    #[test]
    fn work_without_an_end_is_given_up_and_a_thread_that_waits_is_not_charged() {
        static END: AtomicBool = AtomicBool::new(false);
        let started = Instant::now();
        let endless = within(LIMITS, "test", || {
            while !END.load(Ordering::Relaxed) {
                std::hint::spin_loop()
            }
        });
        END.store(true, Ordering::Relaxed);
        let why = endless.unwrap_err().to_string();
        assert_eq!(why, "expected a result within 200 ms of processor time, got none");
        assert!(started.elapsed() >= LIMITS.time, "{:?}", started.elapsed());
        let waits = within(LIMITS, "test", || std::thread::sleep(3 * LIMITS.time));
        assert!(waits.is_ok() || !cfg!(target_os = "linux"));
    }

    #[test]
    fn work_that_takes_too_much_memory_is_given_up_before_its_time() {
        let limits = Limits { time: Duration::from_secs(20), bytes_max: Some(4 << 20), ..LIMITS };
        let endless = within(limits, "test", || {
            let mut held = vec![];
            loop {
                held.push(vec![1_u8; 1 << 16]);
            }
        });
        let why = endless.map(|()| "a result").unwrap_err().to_string();
        assert_eq!(why, "expected a result from at most 4 MiB of memory, got none");
        assert_eq!(within(limits, "test", || vec![7_u8; 1 << 20].len()).unwrap(), 1 << 20);
    }
}
