// A 16 bit float as CUDA's kernels use it: arithmetic in f32, rounded to the narrow type after each operation.
#pragma once
#include "device.h"

// `Format` has `uint16_t narrow(float)`, to the nearest, ties to even, and `float widen(uint16_t)`.
template <typename Format> struct NarrowFloat {
    uint16_t bits;

    NarrowFloat() = default;
    template <typename N, typename = std::enable_if_t<std::is_arithmetic_v<N>>>
    NarrowFloat(N value) : bits(Format::narrow(static_cast<float>(value))) {}
    operator float() const { return Format::widen(bits); }

    static NarrowFloat of_bits(uint16_t bits) {
        NarrowFloat value;
        value.bits = bits;
        return value;
    }
    NarrowFloat operator-() const { return of_bits(bits ^ 0x8000); }
    NarrowFloat &operator+=(NarrowFloat other) { return *this = *this + other; }
    NarrowFloat &operator-=(NarrowFloat other) { return *this = *this - other; }
    NarrowFloat &operator*=(NarrowFloat other) { return *this = *this * other; }
    NarrowFloat &operator/=(NarrowFloat other) { return *this = *this / other; }
    friend NarrowFloat operator+(NarrowFloat a, NarrowFloat b) { return float(a) + float(b); }
    friend NarrowFloat operator-(NarrowFloat a, NarrowFloat b) { return float(a) - float(b); }
    friend NarrowFloat operator*(NarrowFloat a, NarrowFloat b) { return float(a) * float(b); }
    friend NarrowFloat operator/(NarrowFloat a, NarrowFloat b) { return float(a) / float(b); }
    friend bool operator==(NarrowFloat a, NarrowFloat b) { return float(a) == float(b); }
    friend bool operator!=(NarrowFloat a, NarrowFloat b) { return float(a) != float(b); }
    friend bool operator<(NarrowFloat a, NarrowFloat b) { return float(a) < float(b); }
    friend bool operator<=(NarrowFloat a, NarrowFloat b) { return float(a) <= float(b); }
    friend bool operator>(NarrowFloat a, NarrowFloat b) { return float(a) > float(b); }
    friend bool operator>=(NarrowFloat a, NarrowFloat b) { return float(a) >= float(b); }

    friend bool __hisnan(NarrowFloat a) { return std::isnan(float(a)); }
    friend NarrowFloat __hmax_nan(NarrowFloat a, NarrowFloat b) { return __hisnan(a) ? a : __hisnan(b) ? b : a < b ? b : a; }
    friend NarrowFloat __hmin_nan(NarrowFloat a, NarrowFloat b) { return __hisnan(a) ? a : __hisnan(b) ? b : b < a ? b : a; }
    friend NarrowFloat __habs(NarrowFloat a) { return of_bits(a.bits & 0x7fff); }
    friend NarrowFloat hsqrt(NarrowFloat a) { return sqrtf(a); }
    friend NarrowFloat hcos(NarrowFloat a) { return cosf(a); }
    friend NarrowFloat hsin(NarrowFloat a) { return sinf(a); }
    friend NarrowFloat hlog(NarrowFloat a) { return logf(a); }
    friend NarrowFloat hexp(NarrowFloat a) { return expf(a); }
};

// Two of them, as kernels compute them at once.
template <typename Format> struct __attribute__((may_alias)) NarrowFloatPair {
    NarrowFloat<Format> x, y;
    friend NarrowFloatPair __hadd2(NarrowFloatPair a, NarrowFloatPair b) { return {a.x + b.x, a.y + b.y}; }
    friend NarrowFloatPair __hsub2(NarrowFloatPair a, NarrowFloatPair b) { return {a.x - b.x, a.y - b.y}; }
    friend NarrowFloatPair __hmul2(NarrowFloatPair a, NarrowFloatPair b) { return {a.x * b.x, a.y * b.y}; }
};
