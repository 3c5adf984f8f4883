//! The functions of CUDA's libraries that the tensor library calls, as jumps to where they were loaded.
//!
//! The tensor library names them as symbols to be linked. Defined here, they need no library until [`connect`] has found
//! them; before that, each returns its library's error for a library that was not started. A function that is missing
//! here is an error of the linker.

use super::libraries::{Libraries, Library};
use std::arch::naked_asm;
use std::ffi::c_void;
use std::sync::atomic::{AtomicPtr, Ordering};

/// Where a function was loaded.
type Slot = AtomicPtr<c_void>;

/// `CUDA_ERROR_NOT_INITIALIZED`.
extern "C" fn no_driver() -> i32 {
    3
}

/// `CUBLAS_STATUS_NOT_INITIALIZED`, the same number for cuBLASLt.
extern "C" fn no_blas() -> i32 {
    1
}

/// `CURAND_STATUS_NOT_INITIALIZED`.
extern "C" fn no_rand() -> i32 {
    101
}

/// `NVRTC_ERROR_BUILTIN_OPERATION_FAILURE`: kernels are compiled when the program is built, never while it runs.
extern "C" fn no_compiler() -> i32 {
    7
}

/// Defines a function for each name, and the table of them.
macro_rules! forwarded {
    ($($library:expr, $missing:ident: $($name:ident)+;)+) => {
        $($(
            #[allow(non_upper_case_globals, reason = "it is named after its function")]
            static $name: Slot = Slot::new($missing as *mut c_void);
            const _: () = {
                // SAFETY: the symbol is NVIDIA's own name for the function that it jumps to, with every argument where it was.
                #[unsafe(no_mangle)]
                #[unsafe(naked)]
                #[allow(non_snake_case)]
                unsafe extern "C" fn $name() {
                    #[cfg(target_arch = "x86_64")]
                    naked_asm!("jmp qword ptr [rip + {slot}]", slot = sym self::$name);
                    #[cfg(target_arch = "aarch64")]
                    naked_asm!("adrp x16, {slot}", "ldr x16, [x16, :lo12:{slot}]", "br x16", slot = sym self::$name);
                }
            };
        )+)+

        /// Each function: its library, its name, and where it was loaded.
        const FUNCTIONS: &[(Option<Library>, &str, &Slot)] = &[
            $($(($library, stringify!($name), &$name),)+)+
        ];
    };
}

forwarded! {
    Some(Library::Driver), no_driver:
        cuCtxDestroy_v2 cuCtxGetCurrent cuCtxSetCurrent cuCtxSynchronize cuDeviceGet cuDeviceGetAttribute cuDeviceGetCount
        cuDeviceGetDefaultMemPool cuDeviceGetName
        cuDevicePrimaryCtxRelease_v2 cuDevicePrimaryCtxRetain cuEventCreate cuEventDestroy_v2 cuEventRecord
        cuEventSynchronize cuFuncSetAttribute cuGetErrorName cuGetErrorString cuInit cuLaunchKernel cuMemAllocAsync
        cuMemAlloc_v2 cuMemFreeAsync cuMemFree_v2 cuMemGetInfo_v2 cuMemPoolGetAttribute cuMemPoolSetAttribute cuMemcpyDtoDAsync_v2 cuMemcpyDtoHAsync_v2
        cuMemcpyHtoDAsync_v2 cuMemsetD8Async cuMemcpyPeerAsync cuModuleGetFunction cuModuleLoad cuModuleLoadData cuModuleUnload cuStreamCreate
        cuStreamDestroy_v2 cuStreamIsCapturing cuStreamSynchronize cuStreamWaitEvent;
    Some(Library::Blas), no_blas:
        cublasCreate_v2 cublasDestroy_v2 cublasGemmEx cublasGemmStridedBatchedEx cublasSetMathMode cublasSetStream_v2
        cublasSgemmStridedBatched cublasDgemmStridedBatched;
    Some(Library::Rand), no_rand:
        curandCreateGenerator curandDestroyGenerator curandGenerateNormal curandGenerateNormalDouble
        curandGenerateUniform curandGenerateUniformDouble curandSetPseudoRandomGeneratorSeed curandSetStream;
    None, no_compiler:
        nvrtcCompileProgram nvrtcCreateProgram nvrtcDestroyProgram nvrtcGetPTX nvrtcGetPTXSize nvrtcGetProgramLog
        nvrtcGetProgramLogSize;
}

/// Points every function to its place in `libraries`. One that a library lacks keeps returning the error.
pub(super) fn connect(libraries: &Libraries) {
    for &(library, name, slot) in FUNCTIONS {
        let Some(library) = library.and_then(|library| libraries.loaded(library)) else { continue };
        // SAFETY: only its address is taken.
        if let Ok(found) = unsafe { library.get::<*mut c_void>(name) } {
            slot.store(*found, Ordering::Release);
        }
    }
}
