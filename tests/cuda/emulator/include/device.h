// What a kernel's source may say beside C++: thread indices, shared memory, barriers, shuffles, atomics and arithmetic that
// CUDA's compiler knows by itself. Every kernel's translation unit includes this first.
//
// One operating system thread runs all blocks of a launch, one after another, so shared memory is one object for each such
// thread and atomics are plain operations.
#pragma once
#include <cassert>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <math.h>
#include <stdint.h>
#include <type_traits>

#define __CUDA_ARCH__ 900
#define __CUDACC_VER_MAJOR__ 13
#define __CUDACC_VER_MINOR__ 0
#ifndef __global__
#define __global__
#endif
#define __device__
#define __host__
#define __forceinline__ inline
#define __shared__ static thread_local

struct dim3 {
    unsigned x = 1, y = 1, z = 1;
};
struct float2 {
    float x, y;
};
// 16 bytes that kernels also load other types through, hence allowed to alias them.
struct __attribute__((may_alias)) float4 {
    float x, y, z, w;
};
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }

// Where the running thread is. Set by the emulator before a thread runs or goes on.
extern __thread dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace emulated {
// Waits until every thread of the block that still runs waits here as well.
void block_barrier();
// Gives `value`'s bits to the warp and returns those that the lane `lane ^ mask` gave.
uint64_t shuffle_xor(uint64_t bits, int mask, int width);
// The dynamic shared memory of the launch.
void *dynamic_shared();
}  // namespace emulated

inline void __syncthreads() { emulated::block_barrier(); }

template <typename T> T __shfl_xor_sync(unsigned, T value, int mask, int width = 32) {
    static_assert(sizeof(T) <= sizeof(uint64_t), "shuffled values are at most 8 bytes");
    uint64_t bits = 0;
    memcpy(&bits, &value, sizeof(T));
    bits = emulated::shuffle_xor(bits, mask, width);
    memcpy(&value, &bits, sizeof(T));
    return value;
}

template <typename A, typename B> constexpr auto min(A a, B b) {
    using T = std::common_type_t<A, B>;
    return T(a) < T(b) ? T(a) : T(b);
}
template <typename A, typename B> constexpr auto max(A a, B b) {
    using T = std::common_type_t<A, B>;
    return T(a) < T(b) ? T(b) : T(a);
}

inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }
inline float normcdff(float x) { return 0.5f * erfcf(-x * 0.70710678f); }
inline double normcdf(double x) { return 0.5 * erfc(-x * 0.70710678118654752); }

template <typename To, typename From> To same_bits(From from) {
    static_assert(sizeof(To) == sizeof(From), "types of one size");
    To to;
    memcpy(&to, &from, sizeof(To));
    return to;
}
inline float __int_as_float(int x) { return same_bits<float>(x); }
inline int __float_as_int(float x) { return same_bits<int>(x); }
inline float __uint_as_float(unsigned x) { return same_bits<float>(x); }
inline unsigned __float_as_uint(float x) { return same_bits<unsigned>(x); }
inline double __longlong_as_double(long long x) { return same_bits<double>(x); }
inline long long __double_as_longlong(double x) { return same_bits<long long>(x); }

template <typename T> T atomicAdd(T *at, std::common_type_t<T> value) {
    T old = *at;
    *at = old + value;
    return old;
}
template <typename T> T atomicMin(T *at, std::common_type_t<T> value) {
    T old = *at;
    if (T(value) < old) *at = value;
    return old;
}
template <typename T> T atomicMax(T *at, std::common_type_t<T> value) {
    T old = *at;
    if (old < T(value)) *at = value;
    return old;
}
template <typename T> T atomicCAS(T *at, std::common_type_t<T> expected, std::common_type_t<T> value) {
    T old = *at;
    if (old == expected) *at = value;
    return old;
}
