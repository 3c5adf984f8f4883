//! Where a model runs: the choice in a config or on the command line, and the device that it opens.
//!
//! A GPU needs a build with the feature `cuda`; without it, asking for a GPU is an error that says so.

#[cfg(feature = "cuda")]
mod gpu;

use crate::kernels::KvPrecision;
use crate::transformer::error::{Error, Result};
use candle_core::{DType, Device, DeviceLocation};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// Where a model runs: `auto`, `cpu` or `cuda:N`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum DeviceChoice {
    /// The first GPU where this build has CUDA and a GPU answers, else the CPU.
    Auto,
    /// The CPU.
    Cpu,
    /// The GPU of this number.
    Cuda(usize),
}

impl DeviceChoice {
    /// Opens the device. One thread at a time may compute on it.
    ///
    /// # Errors
    /// Where a GPU is asked for by number, why it cannot be used: no CUDA in this build, no driver, an old one, no such GPU, one
    /// that the build is not for, a missing library, or no memory left.
    pub fn open(self) -> Result<Device> {
        match self {
            Self::Cpu => Ok(Device::Cpu),
            #[cfg(feature = "cuda")]
            Self::Auto => Ok(gpu::first().unwrap_or(Device::Cpu)),
            #[cfg(feature = "cuda")]
            Self::Cuda(number) => gpu::open(number),
            #[cfg(not(feature = "cuda"))]
            Self::Auto => Ok(Device::Cpu),
            #[cfg(not(feature = "cuda"))]
            Self::Cuda(_) => {
                let why = "this build has no CUDA; build with --features cuda, or with flash-attn too";
                Err(Error::Device { choice: self.to_string(), why: why.to_owned() })
            }
        }
    }
}

/// The type of weights, keys and values as tensors on a device.
pub(crate) fn dtype(device: &Device) -> DType {
    if device.is_cpu() { DType::F32 } else { DType::BF16 }
}

/// Whether the passes over tensors, those of every device but the CPU, keep keys and values in `kv`.
///
/// # Errors
/// Where the device at `location` does not.
pub(crate) fn check_kv(kv: KvPrecision, location: DeviceLocation) -> Result<()> {
    let own = if location == DeviceLocation::Cpu { KvPrecision::F32 } else { KvPrecision::Bf16 };
    if kv == KvPrecision::Auto || kv == own {
        return Ok(());
    }
    Err(Error::KvPrecision { kv: kv.name(), own: own.name(), device: name_of(location) })
}

/// The name of an open device, in the form of [`DeviceChoice`].
pub fn name(device: &Device) -> String {
    name_of(device.location())
}

/// The name of the device at `location`.
pub fn name_of(location: DeviceLocation) -> String {
    match location {
        DeviceLocation::Cpu => "cpu".to_owned(),
        DeviceLocation::Cuda { gpu_id } => format!("cuda:{gpu_id}"),
        DeviceLocation::Metal { gpu_id } => format!("metal:{gpu_id}"),
    }
}

/// Free memory of the device, in bytes; `None` where the system does not say.
pub fn available_bytes(device: &Device) -> Option<usize> {
    match device {
        Device::Cpu => {
            let text = std::fs::read_to_string("/proc/meminfo").ok()?;
            let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
            let free = kib(line)?;
            Some(address_space_left().map_or(free, |left| left.min(free)))
        }
        #[cfg(feature = "cuda")]
        Device::Cuda(gpu) => {
            gpu.cuda_stream().context().bind_to_thread().ok()?;
            // What was freed is only given back when the device has come to it.
            gpu.cuda_stream().synchronize().ok()?;
            let (free, _) = candle_core::cuda_backend::cudarc::driver::result::mem_get_info().ok()?;
            Some(free)
        }
        _ => None,
    }
}

/// Most bytes of a GPU's memory that tensors held at once; `None` on the CPU, and where the driver does not say.
pub(crate) fn peak_bytes(device: &Device) -> Option<usize> {
    match device {
        #[cfg(feature = "cuda")]
        Device::Cuda(gpu) => gpu::peak_bytes(gpu),
        _ => None,
    }
}

/// Counts [`peak_bytes`] from now on. Does nothing on the CPU.
#[cfg(all(test, feature = "cuda"))]
pub(crate) fn reset_peak(device: &Device) {
    if let Device::Cuda(gpu) = device {
        gpu::reset_peak(gpu);
    }
}

/// What the limit of this process's address space leaves, if there is one.
#[cfg(target_os = "linux")]
fn address_space_left() -> Option<usize> {
    let limit = rustix::process::getrlimit(rustix::process::Resource::As).current?;
    let text = std::fs::read_to_string("/proc/self/status").ok()?;
    let used = kib(text.lines().find_map(|line| line.strip_prefix("VmSize:"))?)?;
    Some(usize::try_from(limit).unwrap_or(usize::MAX).saturating_sub(used))
}

#[cfg(not(target_os = "linux"))]
fn address_space_left() -> Option<usize> {
    None
}

/// The bytes of a number of `kB` in a file of `/proc`.
fn kib(text: &str) -> Option<usize> {
    let number: usize = text.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(number * 1024)
}

impl FromStr for DeviceChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = |text: &str| text.strip_prefix("cuda:").and_then(|number| number.parse().ok());
        match (text, number(text)) {
            ("auto", _) => Ok(Self::Auto),
            ("cpu", _) => Ok(Self::Cpu),
            (_, Some(number)) => Ok(Self::Cuda(number)),
            _ => Err(format!("expected `auto`, `cpu` or `cuda:` and a number, got {text:?}")),
        }
    }
}

impl TryFrom<String> for DeviceChoice {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<DeviceChoice> for String {
    fn from(choice: DeviceChoice) -> Self {
        choice.to_string()
    }
}

impl fmt::Display for DeviceChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(number) => write!(f, "cuda:{number}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_typed_is_what_is_printed() {
        for text in ["auto", "cpu", "cuda:0", "cuda:7"] {
            assert_eq!(text.parse::<DeviceChoice>().unwrap().to_string(), text);
        }
        for text in ["", "gpu", "cuda", "cuda:", "cuda:-1", "cuda:x", "CPU"] {
            assert!(text.parse::<DeviceChoice>().is_err(), "{text}");
        }
    }

    #[cfg(not(feature = "cuda"))]
    #[test]
    fn without_cuda_auto_is_the_cpu_and_a_gpu_is_refused_with_the_feature_it_needs() {
        assert_eq!(name(&DeviceChoice::Auto.open().unwrap()), "cpu");
        let refused = DeviceChoice::Cuda(1).open().unwrap_err().to_string();
        assert!(refused.contains("cuda:1") && refused.contains("--features cuda"), "{refused}");
        assert!(available_bytes(&Device::Cpu).is_none_or(|bytes| bytes > 0));
    }
}
