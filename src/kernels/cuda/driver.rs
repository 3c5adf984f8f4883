//! What the NVIDIA driver says of a machine's GPUs.

use super::unusable::Unusable;
use libloading::os::unix;
use std::ffi::{CStr, c_char, c_int, c_uint};

/// `CUDA_ERROR_NO_DEVICE`.
const NO_DEVICE: c_int = 100;
/// `CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR` and `..._MINOR`.
const CAPABILITY: [c_int; 2] = [75, 76];
/// Bytes of a device's name, its end included.
const NAME_BYTES: usize = 128;

/// A GPU that the driver sees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Gpu {
    /// Its name, such as `NVIDIA H100 80GB HBM3`.
    pub(crate) name: String,
    /// Compute capability, major and minor.
    pub(crate) capability: (u32, u32),
}

/// The driver's functions that answer questions about GPUs. Each returns a `CUresult`, 0 where it worked.
pub(super) struct Driver {
    pub(super) driver_version: unsafe extern "C" fn(*mut c_int) -> c_int,
    pub(super) init: unsafe extern "C" fn(c_uint) -> c_int,
    pub(super) device_count: unsafe extern "C" fn(*mut c_int) -> c_int,
    pub(super) device_name: unsafe extern "C" fn(*mut c_char, c_int, c_int) -> c_int,
    pub(super) device_attribute: unsafe extern "C" fn(*mut c_int, c_int, c_int) -> c_int,
}

impl Driver {
    /// The functions of the loaded driver.
    pub(super) fn of(library: &'static unix::Library) -> Result<Self, Unusable> {
        /// The function `name`, whose type is that of the field it becomes.
        fn function<F: Copy>(library: &'static unix::Library, name: &'static str) -> Result<F, Unusable> {
            // SAFETY: the driver's functions of these names have had these types since CUDA 2.
            let found = unsafe { library.get::<F>(name.as_bytes()) };
            found.map(|function| *function).map_err(|error| Unusable::NoDriver { why: error.to_string() })
        }
        Ok(Self {
            driver_version: function(library, "cuDriverGetVersion")?,
            init: function(library, "cuInit")?,
            device_count: function(library, "cuDeviceGetCount")?,
            device_name: function(library, "cuDeviceGetName")?,
            device_attribute: function(library, "cuDeviceGetAttribute")?,
        })
    }

    /// The newest CUDA that it supports, major and minor.
    pub(super) fn version(&self) -> Result<(u32, u32), Unusable> {
        // SAFETY: the function writes one number.
        let version = number("cuDriverGetVersion", |version| unsafe { (self.driver_version)(version) })?;
        Ok((version / 1000, version % 1000 / 10))
    }

    /// Starts the driver. Returns the number of GPUs, at least 1.
    pub(super) fn start(&self) -> Result<u32, Unusable> {
        // SAFETY: 0 is the only flag there is.
        match unsafe { (self.init)(0) } {
            0 => {}
            NO_DEVICE => return Err(Unusable::NoDevice),
            code => return Err(Unusable::Driver { call: "cuInit", code }),
        }
        // SAFETY: the function writes one number.
        match number("cuDeviceGetCount", |count| unsafe { (self.device_count)(count) })? {
            0 => Err(Unusable::NoDevice),
            count => Ok(count),
        }
    }

    /// The GPU of this number, which is less than what [`Self::start`] returned.
    pub(super) fn gpu(&self, device: u32) -> Result<Gpu, Unusable> {
        let device = device.cast_signed();
        let mut name = [0 as c_char; NAME_BYTES];
        // SAFETY: the function writes at most as many bytes as it is told, the end of the text included.
        let code = unsafe { (self.device_name)(name.as_mut_ptr(), NAME_BYTES as c_int, device) };
        worked("cuDeviceGetName", code)?;
        let bytes = name.map(c_char::cast_unsigned);
        let name = CStr::from_bytes_until_nul(&bytes).map(|name| name.to_string_lossy().into_owned());
        let [major, minor] = CAPABILITY.map(|attribute| {
            // SAFETY: the function writes one number.
            number("cuDeviceGetAttribute", |value| unsafe { (self.device_attribute)(value, attribute, device) })
        });
        Ok(Gpu { name: name.unwrap_or_default(), capability: (major?, minor?) })
    }
}

fn worked(call: &'static str, code: c_int) -> Result<(), Unusable> {
    if code == 0 { Ok(()) } else { Err(Unusable::Driver { call, code }) }
}

/// The number that `ask` writes.
fn number(call: &'static str, ask: impl FnOnce(&mut c_int) -> c_int) -> Result<u32, Unusable> {
    let mut value = 0;
    worked(call, ask(&mut value))?;
    Ok(u32::try_from(value).unwrap_or(0))
}
