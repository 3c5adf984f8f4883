//! The cards that are known, as their vendor's data sheets describe them.

use serde::Serialize;

/// A GPU.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Card {
    /// Its name on the command line.
    pub(crate) name: &'static str,
    /// Its name and form.
    pub(crate) title: &'static str,
    /// Compute capability.
    pub(crate) compute_capability: &'static str,
    /// Peak of dense bf16 products summed in f32, in TFLOP/s.
    pub(crate) bf16_tflops: f64,
    /// Peak of f32 without tensor cores, in TFLOP/s.
    pub(crate) f32_tflops: f64,
    /// Memory, in GiB: what data sheets call GB.
    pub(crate) memory_gib: f64,
    /// Bandwidth of its memory, in GB/s (10^9 bytes).
    pub(crate) bandwidth_gb_s: f64,
}

/// Every card that is known.
pub(crate) const CARDS: [Card; 4] = [
    Card {
        name: "a100-40",
        title: "NVIDIA A100 40 GB",
        compute_capability: "8.0",
        bf16_tflops: 312.0,
        f32_tflops: 19.5,
        memory_gib: 40.0,
        bandwidth_gb_s: 1555.0,
    },
    Card {
        name: "h100-80",
        title: "NVIDIA H100 SXM 80 GB",
        compute_capability: "9.0",
        bf16_tflops: 989.0,
        f32_tflops: 67.0,
        memory_gib: 80.0,
        bandwidth_gb_s: 3350.0,
    },
    Card {
        name: "rtx4090",
        title: "NVIDIA GeForce RTX 4090 24 GB",
        compute_capability: "8.9",
        bf16_tflops: 165.0,
        f32_tflops: 82.6,
        memory_gib: 24.0,
        bandwidth_gb_s: 1008.0,
    },
    Card {
        name: "h200-141",
        title: "NVIDIA H200 SXM 141 GB",
        compute_capability: "9.0",
        bf16_tflops: 989.0,
        f32_tflops: 67.0,
        memory_gib: 141.0,
        bandwidth_gb_s: 4800.0,
    },
];
