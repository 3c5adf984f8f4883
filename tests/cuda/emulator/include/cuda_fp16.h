// IEEE half precision for kernels compiled for the host.
#pragma once
#include "narrow_float.h"

struct HalfFormat {
    static float widen(uint16_t bits) {
        uint32_t sign = uint32_t(bits & 0x8000) << 16, exponent = (bits >> 10) & 31, fraction = bits & 1023;
        if (exponent == 31) return same_bits<float>(sign | 0x7f800000 | fraction << 13);
        if (exponent > 0) return same_bits<float>(sign | (exponent + 112) << 23 | fraction << 13);
        float subnormal = float(fraction) * 0x1p-24f;
        return sign ? -subnormal : subnormal;
    }
    static uint16_t narrow(float value) {
        uint16_t sign = uint16_t(same_bits<uint32_t>(value) >> 16 & 0x8000);
        float size = fabsf(value);
        if (std::isnan(value)) return sign | 0x7e00;
        if (size >= 65520.0f) return sign | 0x7c00;
        // Below the smallest normal number, the unit is fixed; adding it makes the processor round to it.
        if (size < 0x1p-14f) return sign | uint16_t(nearbyintf(size * 0x1p24f));
        uint32_t bits = same_bits<uint32_t>(size);
        return sign | uint16_t((bits - (112u << 23) + 0xfff + ((bits >> 13) & 1)) >> 13);
    }
};
using __half = NarrowFloat<HalfFormat>;
using half = __half;
using __half2 = NarrowFloatPair<HalfFormat>;

inline float __half2float(__half value) { return value; }
inline __half __float2half(float value) { return value; }
inline unsigned short __half_as_ushort(__half value) { return value.bits; }
inline __half __ushort_as_half(unsigned short bits) { return __half::of_bits(bits); }
