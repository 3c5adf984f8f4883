// bfloat16 for kernels compiled for the host.
#pragma once
#include "narrow_float.h"

struct Bfloat16Format {
    static float widen(uint16_t bits) { return same_bits<float>(uint32_t(bits) << 16); }
    static uint16_t narrow(float value) {
        uint32_t bits = same_bits<uint32_t>(value);
        if ((bits & 0x7fffffff) > 0x7f800000) return uint16_t(bits >> 16) | 0x40;
        return uint16_t((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
    }
};
using __nv_bfloat16 = NarrowFloat<Bfloat16Format>;
using __nv_bfloat162 = NarrowFloatPair<Bfloat16Format>;

inline float __bfloat162float(__nv_bfloat16 value) { return value; }
inline __nv_bfloat16 __float2bfloat16(float value) { return value; }
inline __nv_bfloat16 __float2bfloat16_rn(float value) { return value; }
