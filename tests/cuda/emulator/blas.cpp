// The stand-in for `libcublas.so.13`: products of matrices by columns, in f32, f64, bf16 and f16, with sums in the compute
// type. Arguments that cuBLAS refuses are refused with its code; ranges outside of an allocation are named and abort.
#include "emulator.h"
#include "include/cuda_bf16.h"
#include "include/cuda_fp16.h"
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <tuple>
#include <vector>

namespace {
enum { SUCCESS = 0, NOT_INITIALIZED = 1, INVALID_VALUE = 7, NOT_SUPPORTED = 15 };
enum { R_32F = 0, R_64F = 1, R_16F = 2, R_16BF = 14 };

struct Handle {
    void *stream = nullptr;
    int pointer_mode = 0;
};

[[noreturn]] void misuse(const char *function, const char *argument, const std::string &why) {
    fprintf(stderr, "emulated CUDA: %s: %s: %s\n", function, argument, why.c_str());
    abort();
}

const char *type_name(int type) {
    switch (type) {
        case R_32F: return "f32";
        case R_64F: return "f64";
        case R_16F: return "f16";
        case R_16BF: return "bf16";
        default: return nullptr;
    }
}
const char *compute_name(int compute) {
    switch (compute) {
        case 64: return "compute_16f";
        case 68: return "compute_32f";
        case 74: return "compute_32f_fast_16f";
        case 75: return "compute_32f_fast_16bf";
        case 77: return "compute_32f_fast_tf32";
        case 70: return "compute_64f";
        default: return nullptr;
    }
}
size_t type_bytes(int type) { return type == R_64F ? 8 : type == R_32F ? 4 : 2; }

double load(const void *at, int type, size_t index) {
    switch (type) {
        case R_32F: return static_cast<const float *>(at)[index];
        case R_64F: return static_cast<const double *>(at)[index];
        case R_16F: return float(static_cast<const __half *>(at)[index]);
        default: return float(static_cast<const __nv_bfloat16 *>(at)[index]);
    }
}
void store(void *at, int type, size_t index, double value) {
    switch (type) {
        case R_32F: static_cast<float *>(at)[index] = float(value); break;
        case R_64F: static_cast<double *>(at)[index] = value; break;
        case R_16F: static_cast<__half *>(at)[index] = float(value); break;
        default: static_cast<__nv_bfloat16 *>(at)[index] = float(value);
    }
}

// A matrix as it is stored, before it is transposed.
struct Matrix {
    const char *name;
    const void *start;
    int type, rows, columns, leading;
    long long stride;
};

// Whether the leading dimension fits; the elements of all of the batch must be in one allocation.
bool valid(const char *function, const Matrix &m, int batch) {
    if (m.leading < std::max(1, m.rows)) return false;
    if (m.rows == 0 || m.columns == 0 || batch == 0) return true;
    if (m.stride < 0) misuse(function, m.name, "a negative stride");
    size_t last = size_t(batch - 1) * size_t(m.stride) + size_t(m.columns - 1) * size_t(m.leading) + size_t(m.rows);
    if (!emulated_cuda_holds(m.start, last * type_bytes(m.type)))
        misuse(function, m.name, std::to_string(last) + " elements are not inside one allocation");
    if (uintptr_t(m.start) % type_bytes(m.type)) misuse(function, m.name, "not aligned to its type");
    return true;
}

// Rows of `inner` elements: of A the rows of op(A), of B the columns of op(B).
template <typename S> std::vector<S> packed(const Matrix &m, int item, bool by_column, int count, int inner) {
    std::vector<S> rows(size_t(count) * size_t(inner));
    size_t base = size_t(item) * size_t(m.stride), leading = size_t(m.leading);
    for (size_t i = 0; i < size_t(count); i++)
        for (size_t k = 0; k < size_t(inner); k++)
            rows[i * size_t(inner) + k] = S(load(m.start, m.type, base + (by_column ? i * leading + k : k * leading + i)));
    return rows;
}

template <typename S>
void multiply(const Matrix &a, const Matrix &b, const Matrix &c, bool a_turned, bool b_turned, int m, int n, int k, S alpha, S beta, int batch) {
    for (int item = 0; item < batch; item++) {
        std::vector<S> of_a = packed<S>(a, item, a_turned, m, k), of_b = packed<S>(b, item, !b_turned, n, k);
        for (int column = 0; column < n; column++)
            for (int row = 0; row < m; row++) {
                const S *x = &of_a[size_t(row) * size_t(k)], *y = &of_b[size_t(column) * size_t(k)];
                S sum = 0;
                for (int i = 0; i < k; i++) sum += x[i] * y[i];
                size_t at = size_t(item) * size_t(c.stride) + size_t(column) * size_t(c.leading) + size_t(row);
                // With beta 0, C is not read: it may hold anything.
                S before = beta == 0 ? S(0) : S(load(c.start, c.type, at)) * beta;
                store(const_cast<void *>(c.start), c.type, at, double(alpha * sum + before));
            }
    }
}

int product(const char *function, void *handle, int turn_a, int turn_b, int m, int n, int k, const void *alpha, Matrix a, Matrix b,
            const void *beta, Matrix c, int batch, int compute) {
    if (!handle) return NOT_INITIALIZED;
    const char *names[] = {type_name(a.type), type_name(b.type), type_name(c.type), compute_name(compute)};
    for (const char *name : names)
        if (!name) misuse(function, "types", "one that the emulator does not know");
    bool scalar_64f = compute == 70;
    if (a.type != b.type || (a.type != c.type && c.type != R_32F) || scalar_64f != (a.type == R_64F)) return NOT_SUPPORTED;
    if (turn_a < 0 || turn_a > 2 || turn_b < 0 || turn_b > 2 || m < 0 || n < 0 || k < 0 || batch < 0) return INVALID_VALUE;
    std::tie(a.rows, a.columns) = turn_a ? std::make_pair(k, m) : std::make_pair(m, k);
    std::tie(b.rows, b.columns) = turn_b ? std::make_pair(n, k) : std::make_pair(k, n);
    std::tie(c.rows, c.columns) = std::make_pair(m, n);
    for (const Matrix *matrix : {&a, &b, &c})
        if (!valid(function, *matrix, batch)) return INVALID_VALUE;
    // Items of the batch must not be written over one another.
    if (batch > 1 && c.stride < (long long)c.leading * (n - 1) + m) misuse(function, "C", "products of the batch overlap");
    std::string counted = std::string("cublas ") + function;
    for (const char *name : names) counted += std::string(" ") + name;
    emulated_cuda_count(counted.c_str());
    emulated_cuda_running(counted.c_str());
    if (scalar_64f) {
        auto of = [](const void *scalar) { return *static_cast<const double *>(scalar); };
        multiply<double>(a, b, c, turn_a, turn_b, m, n, k, of(alpha), of(beta), batch);
    } else {
        auto of = [&](const void *scalar) {
            return compute == 64 ? float(*static_cast<const __half *>(scalar)) : *static_cast<const float *>(scalar);
        };
        multiply<float>(a, b, c, turn_a, turn_b, m, n, k, of(alpha), of(beta), batch);
    }
    emulated_cuda_running(nullptr);
    return SUCCESS;
}
}  // namespace

EXPORTED int cublasCreate_v2(void **handle) {
    *handle = new Handle;
    return SUCCESS;
}
EXPORTED int cublasDestroy_v2(void *handle) {
    delete static_cast<Handle *>(handle);
    return SUCCESS;
}
EXPORTED int cublasSetStream_v2(void *handle, void *stream) {
    static_cast<Handle *>(handle)->stream = stream;
    return SUCCESS;
}
EXPORTED int cublasSetPointerMode_v2(void *handle, int mode) {
    if (mode != 0) misuse("cublasSetPointerMode", "mode", "scalars on the device are not emulated");
    static_cast<Handle *>(handle)->pointer_mode = mode;
    return SUCCESS;
}
EXPORTED int cublasGetPointerMode_v2(void *handle, int *mode) {
    *mode = static_cast<Handle *>(handle)->pointer_mode;
    return SUCCESS;
}

EXPORTED int cublasGemmStridedBatchedEx(void *handle, int turn_a, int turn_b, int m, int n, int k, const void *alpha, const void *a,
                                        int a_type, int lda, long long stride_a, const void *b, int b_type, int ldb, long long stride_b,
                                        const void *beta, void *c, int c_type, int ldc, long long stride_c, int batch, int compute, int) {
    return product("GemmStridedBatchedEx", handle, turn_a, turn_b, m, n, k, alpha, {"A", a, a_type, 0, 0, lda, stride_a},
                   {"B", b, b_type, 0, 0, ldb, stride_b}, beta, {"C", c, c_type, 0, 0, ldc, stride_c}, batch, compute);
}
EXPORTED int cublasGemmEx(void *handle, int turn_a, int turn_b, int m, int n, int k, const void *alpha, const void *a, int a_type,
                          int lda, const void *b, int b_type, int ldb, const void *beta, void *c, int c_type, int ldc, int compute, int) {
    return product("GemmEx", handle, turn_a, turn_b, m, n, k, alpha, {"A", a, a_type, 0, 0, lda, 0}, {"B", b, b_type, 0, 0, ldb, 0}, beta,
                   {"C", c, c_type, 0, 0, ldc, 0}, 1, compute);
}
EXPORTED int cublasSgemm_v2(void *handle, int turn_a, int turn_b, int m, int n, int k, const float *alpha, const float *a, int lda,
                            const float *b, int ldb, const float *beta, float *c, int ldc) {
    return product("Sgemm", handle, turn_a, turn_b, m, n, k, alpha, {"A", a, R_32F, 0, 0, lda, 0}, {"B", b, R_32F, 0, 0, ldb, 0}, beta,
                   {"C", c, R_32F, 0, 0, ldc, 0}, 1, 68);
}
EXPORTED int cublasSgemmStridedBatched(void *handle, int turn_a, int turn_b, int m, int n, int k, const float *alpha, const float *a,
                                       int lda, long long stride_a, const float *b, int ldb, long long stride_b, const float *beta,
                                       float *c, int ldc, long long stride_c, int batch) {
    return product("SgemmStridedBatched", handle, turn_a, turn_b, m, n, k, alpha, {"A", a, R_32F, 0, 0, lda, stride_a},
                   {"B", b, R_32F, 0, 0, ldb, stride_b}, beta, {"C", c, R_32F, 0, 0, ldc, stride_c}, batch, 68);
}
EXPORTED int cublasDgemmStridedBatched(void *handle, int turn_a, int turn_b, int m, int n, int k, const double *alpha, const double *a,
                                       int lda, long long stride_a, const double *b, int ldb, long long stride_b, const double *beta,
                                       double *c, int ldc, long long stride_c, int batch) {
    return product("DgemmStridedBatched", handle, turn_a, turn_b, m, n, k, alpha, {"A", a, R_64F, 0, 0, lda, stride_a},
                   {"B", b, R_64F, 0, 0, ldb, stride_b}, beta, {"C", c, R_64F, 0, 0, ldc, stride_c}, batch, 70);
}
