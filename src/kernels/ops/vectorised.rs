//! The macro that compiles a safe loop for several instruction sets.

/// Compiles a loop over rows for AVX-512, for AVX2 and for any processor, and chooses at run time. AVX-512, with twice
/// the registers, may have another body. A body must be `#[inline(always)]`, or it is compiled for any processor only.
macro_rules! vectorised {
    ($(#[$doc:meta])* $name:ident, $body:ident, ($($arg:ident: $type:ty),*) $(-> $result:ty)?) => {
        crate::kernels::ops::vectorised!($(#[$doc])* $name, $body, $body, ($($arg: $type),*) $(-> $result)?);
    };
    ($(#[$doc:meta])* $name:ident, $body:ident, $wide:ident, ($($arg:ident: $type:ty),*) $(-> $result:ty)?) => {
        $(#[$doc])*
        pub(crate) fn $name($($arg: $type),*) $(-> $result)? {
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx2,fma")]
                fn fast($($arg: $type),*) $(-> $result)? { $body($($arg),*) }
                #[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512dq,avx512vl")]
                fn wide($($arg: $type),*) $(-> $result)? { $wide($($arg),*) }
                if crate::kernels::has_avx512() {
                    #[allow(unsafe_code, reason = "rooms above compile loops of their own by this macro")]
                    // SAFETY: the processor has all these instructions.
                    return unsafe { wide($($arg),*) };
                }
                if crate::kernels::has_avx2_fma() {
                    #[allow(unsafe_code, reason = "as above")]
                    // SAFETY: the processor has AVX2 and FMA.
                    return unsafe { fast($($arg),*) };
                }
            }
            $body($($arg),*)
        }
    };
}
pub(crate) use vectorised;
