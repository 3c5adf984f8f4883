// The 8 bit float of 4 exponent and 3 fraction bits, for kernels compiled for the host: bias 7, no infinities, saturating.
#pragma once
#include "cuda_fp16.h"

enum __nv_fp8_interpretation_t { __NV_E4M3, __NV_E5M2 };

inline float fp8_e4m3_value(uint8_t bits) {
    int exponent = (bits >> 3) & 15, fraction = bits & 7;
    if ((bits & 0x7f) == 0x7f) return NAN;
    float size = exponent ? ldexpf(1.0f + float(fraction) / 8.0f, exponent - 7) : ldexpf(float(fraction), -9);
    return bits & 0x80 ? -size : size;
}

inline __half __nv_cvt_fp8_to_halfraw(uint8_t bits, __nv_fp8_interpretation_t) { return fp8_e4m3_value(bits); }

struct __nv_fp8_e4m3 {
    uint8_t __x;
    __nv_fp8_e4m3() = default;
    template <typename N, typename = std::enable_if_t<std::is_arithmetic_v<N>>> explicit __nv_fp8_e4m3(N number) {
        float value = static_cast<float>(number), size = fabsf(value);
        uint8_t sign = std::signbit(value) ? 0x80 : 0;
        if (std::isnan(value)) {
            __x = 0x7f;
        } else if (size >= 448.0f) {
            __x = sign | 0x7e;
        } else {
            int exponent = size < 0x1p-6f ? -6 : ilogbf(size);
            // In units of the last fraction bit; a carry goes into the exponent by itself.
            int units = int(nearbyintf(ldexpf(size, 3 - exponent)));
            __x = sign | uint8_t(size < 0x1p-6f ? units : ((exponent + 7) << 3) + units - 8);
        }
    }
    explicit __nv_fp8_e4m3(__half value) : __nv_fp8_e4m3(float(value)) {}
    explicit operator float() const { return fp8_e4m3_value(__x); }
};
