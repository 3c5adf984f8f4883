//! The machine: its threads, its peak, the memory of this process.

use crate::kernels::peak;
use crate::transformer::device;
use candle_core::Device;
use serde::Serialize;

/// The machine, measured once per command.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Machine {
    /// Threads that compute.
    pub(super) threads: usize,
    /// Peak rate of f32 multiply-adds on registers alone, in 10^9 operations per second.
    pub(super) peak_gflops_per_second: f64,
}

impl Machine {
    pub(super) fn measure() -> Self {
        Self { threads: rayon::current_num_threads(), peak_gflops_per_second: peak::flops_per_second() / 1e9 }
    }
}

/// Most memory that this process held, if the system reports it: of a GPU's where `device` is one, else resident.
pub(super) fn peak_memory_bytes(device: &Device) -> Option<u64> {
    if !device.is_cpu() {
        return device::peak_bytes(device).map(|bytes| bytes as u64);
    }
    let text = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}
