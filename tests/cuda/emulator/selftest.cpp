// The emulator by itself, against sums written out here: memory, modules, a reduction with barriers and shuffles, a product
// of matrices, and paged attention. `selftest NAME` misuses it in one way, and must abort.
#include "emulator.h"
#include "include/cuda_bf16.h"
#include <cstdio>
#include <cstdlib>
#include <vector>

extern "C" {
int cuInit(unsigned);
int cuDevicePrimaryCtxRetain(void **, int);
int cuCtxSetCurrent(void *);
int cuMemAlloc_v2(uintptr_t *, size_t);
int cuMemFree_v2(uintptr_t);
int cuMemcpyHtoD_v2(uintptr_t, const void *, size_t);
int cuMemcpyDtoH_v2(void *, uintptr_t, size_t);
int cuModuleLoadData(void **, const void *);
int cuModuleGetFunction(void **, void *, const char *);
int cuLaunchKernel(void *, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, void *, void **, void **);
int cublasCreate_v2(void **);
int cublasGemmStridedBatchedEx(void *, int, int, int, int, int, const void *, const void *, int, int, long long, const void *, int, int,
                               long long, const void *, void *, int, int, long long, int, int, int);
void run_mha(void *, void *, void *, void *, void *, void *, int32_t *, int32_t *, uint32_t, uint32_t, uint32_t, uint32_t, uint32_t,
             uint32_t, uint32_t, uint32_t, uint32_t, uint32_t, uint32_t, uint32_t, uint32_t, uint32_t, uint32_t, uint32_t, uint32_t,
             uint32_t, float, uint32_t, uint32_t, uint32_t, uint32_t, uint32_t, int, int, int, int, int, float, int32_t *, uint32_t, int,
             int32_t *, uint32_t, int, void *);
}

static void expect(bool holds, const char *what) {
    if (holds) return;
    fprintf(stderr, "selftest: %s\n", what);
    exit(1);
}
template <typename T> uintptr_t placed(const std::vector<T> &values) {
    uintptr_t at;
    expect(cuMemAlloc_v2(&at, values.size() * sizeof(T)) == 0, "allocates");
    expect(cuMemcpyHtoD_v2(at, values.data(), values.size() * sizeof(T)) == 0, "copies");
    return at;
}
template <typename T> std::vector<T> fetched(uintptr_t at, size_t count) {
    std::vector<T> values(count);
    expect(cuMemcpyDtoH_v2(values.data(), at, count * sizeof(T)) == 0, "copies back");
    return values;
}
static bool near(double a, double b, double limit) { return fabs(a - b) <= limit; }

static void reduction() {
    void *module, *function;
    expect(cuModuleLoadData(&module, "// emulated module reduce\n") == 0, "loads a module");
    expect(cuModuleGetFunction(&function, module, "no_such_kernel") == 500, "a kernel that is not there");
    expect(cuModuleGetFunction(&function, module, "fast_sum_f32") == 0, "a kernel that is there");
    size_t rows = 7, columns = 100, count = rows * columns, dims = 2;
    std::vector<float> values(count);
    for (size_t i = 0; i < count; i++) values[i] = sinf(float(i));
    uintptr_t info = placed<size_t>({rows, columns, columns, 1}), from = placed(values), to = placed(std::vector<float>(rows));
    void *parameters[] = {&count, &columns, &dims, &info, &from, &to};
    expect(cuLaunchKernel(function, unsigned(rows), 1, 1, 128, 1, 1, 0, nullptr, parameters, nullptr) == 0, "launches");
    std::vector<float> sums = fetched<float>(to, rows);
    for (size_t row = 0; row < rows; row++) {
        double sum = 0;
        for (size_t i = 0; i < columns; i++) sum += values[row * columns + i];
        expect(near(sums[row], sum, 1e-5), "a sum over a row");
    }
}

static void product() {
    // By columns: A is 2 x 3 given transposed, B is 3 x 2.
    void *handle;
    cublasCreate_v2(&handle);
    uintptr_t a = placed<float>({1, 2, 3, 4, 5, 6}), b = placed<float>({1, 0, 2, 0, 1, 1}), c = placed(std::vector<float>(4));
    float one = 1, none = 0;
    auto multiply = [&](int leading) {
        return cublasGemmStridedBatchedEx(handle, 1, 0, 2, 2, 3, &one, reinterpret_cast<void *>(a), 0, leading, 6, reinterpret_cast<void *>(b),
                                          0, 3, 6, &none, reinterpret_cast<void *>(c), 0, 2, 4, 1, 68, 99);
    };
    expect(multiply(2) == 7, "a leading dimension that is too small is refused");
    expect(multiply(3) == 0, "multiplies");
    expect(fetched<float>(c, 4) == std::vector<float>({7, 16, 5, 11}), "a product");
}

// Two rows at the end of 40 keys in pages 2 and 0, one head of 8: causal, or only the last `left` keys and the row's own.
static void attention(int left, int32_t first_page) {
    std::vector<__nv_bfloat16> q(16), k(3 * 32 * 8), v(3 * 32 * 8);
    for (size_t i = 0; i < q.size(); i++) q[i] = float(i % 5) * 0.25f - 0.5f;
    for (size_t i = 0; i < k.size(); i++) k[i] = float(i % 7) * 0.25f - 0.75f, v[i] = float(i % 11) * 0.5f;
    std::vector<int32_t> table = {first_page, 0};
    uintptr_t at_q = placed(q), at_k = placed(k), at_v = placed(v), at_o = placed(q), lse = placed(std::vector<float>(2));
    uintptr_t q_starts = placed<int32_t>({0, 2}), k_starts = placed<int32_t>({0, 40}), tables = placed(table);
    auto pointer = [](uintptr_t at) { return reinterpret_cast<void *>(at); };
    auto numbers = [](uintptr_t at) { return reinterpret_cast<int32_t *>(at); };
    run_mha(pointer(at_q), pointer(at_k), pointer(at_v), pointer(at_o), pointer(lse), nullptr, numbers(q_starts), numbers(k_starts), 0, 256,
            256, 0, 0, 8, 8, 8, 8, 8, 8, 8, 8, 1, 1, 1, 8, 32, 0.5f, 2, 40, 128, 128, 2, 1, left < 0, 1, left < 0 ? 40 : left, 0, 0,
            numbers(tables), 2, 32, nullptr, 0, 0, nullptr);
    std::vector<__nv_bfloat16> out = fetched<__nv_bfloat16>(at_o, 16);
    for (int row = 0; row < 2; row++)
        for (int x = 0; x < 8; x++) {
            double sum = 0, total = 0;
            for (int key = left < 0 ? 0 : 38 + row - left; key <= 38 + row; key++) {
                size_t place = size_t(table[size_t(key / 32)] * 32 + key % 32) * 8;
                double score = 0;
                for (int i = 0; i < 8; i++) score += float(q[size_t(row * 8 + i)]) * float(k[place + size_t(i)]);
                total += exp(score * 0.5);
                sum += exp(score * 0.5) * float(v[place + size_t(x)]);
            }
            expect(near(float(out[size_t(row * 8 + x)]), sum / total, 0.02), "attention over pages");
        }
}

int main(int count, char **arguments) {
    void *context;
    expect(cuInit(0) == 0 && cuDevicePrimaryCtxRetain(&context, 0) == 0 && cuCtxSetCurrent(context) == 0, "opens a device");
    std::string misuse = count > 1 ? arguments[1] : "";
    uintptr_t block = placed<char>({1, 2, 3});
    char bytes[8] = {};
    if (misuse == "freed-twice") cuMemFree_v2(block), cuMemFree_v2(block);
    if (misuse == "copied-too-much") cuMemcpyHtoD_v2(block, bytes, 4);
    if (misuse == "no-such-page") attention(-1, 3);
    expect(misuse.empty(), "misuse was not noticed");
    uintptr_t large;
    expect(cuMemAlloc_v2(&large, size_t(1) << 46) == 2, "memory ends");
    reduction();
    product();
    attention(-1, 2);
    attention(5, 2);
    printf("the emulator's own test passed\n");
}
