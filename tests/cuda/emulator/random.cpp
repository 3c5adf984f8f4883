// The stand-in for `libcurand.so.10`: a counter of its own in place of CUDA's generators, so numbers are uniform or normal
// and repeatable, and not those that a GPU gives.
#include "emulator.h"
#include <cmath>

namespace {
struct Generator {
    uint64_t state = 0;
    // SplitMix64.
    uint64_t next() {
        uint64_t z = state += 0x9e3779b97f4a7c15;
        z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
        z = (z ^ z >> 27) * 0x94d049bb133111eb;
        return z ^ z >> 31;
    }
    // Above 0, at most 1, as CUDA's.
    double uniform() { return double((next() >> 11) + 1) * 0x1p-53; }
    double normal() { return std::sqrt(-2 * std::log(uniform())) * std::cos(6.283185307179586 * uniform()); }
};

template <typename T, typename Make> int fill(T *out, size_t count, Make make) {
    enum { OUTSIDE_OF_MEMORY = 102 };
    if (!emulated_cuda_holds(out, count * sizeof(T))) return OUTSIDE_OF_MEMORY;
    for (size_t i = 0; i < count; i++) out[i] = T(make());
    return 0;
}
Generator &of(void *generator) { return *static_cast<Generator *>(generator); }
}  // namespace

EXPORTED int curandCreateGenerator(void **generator, int) {
    *generator = new Generator;
    return 0;
}
EXPORTED int curandDestroyGenerator(void *generator) {
    delete static_cast<Generator *>(generator);
    return 0;
}
EXPORTED int curandSetPseudoRandomGeneratorSeed(void *generator, unsigned long long seed) {
    of(generator).state = seed;
    return 0;
}
EXPORTED int curandSetGeneratorOffset(void *generator, unsigned long long offset) {
    of(generator).state += offset;
    return 0;
}
EXPORTED int curandSetStream(void *, void *) { return 0; }
EXPORTED int curandGenerateUniform(void *generator, float *out, size_t count) {
    return fill(out, count, [&] { return of(generator).uniform(); });
}
EXPORTED int curandGenerateUniformDouble(void *generator, double *out, size_t count) {
    return fill(out, count, [&] { return of(generator).uniform(); });
}
EXPORTED int curandGenerateNormal(void *generator, float *out, size_t count, float mean, float deviation) {
    return fill(out, count, [&] { return mean + deviation * of(generator).normal(); });
}
EXPORTED int curandGenerateNormalDouble(void *generator, double *out, size_t count, double mean, double deviation) {
    return fill(out, count, [&] { return mean + deviation * of(generator).normal(); });
}
