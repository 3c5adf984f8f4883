// Stands for flash attention's library: `run_mha` as candle-flash-attn calls it, computed on the CPU. It holds its arguments
// to what the kernels' headers and host code ask for, and names the first one that breaks it.
//
// As in the kernel, scores and sums are f32, and the weights are rounded to the values' type before they multiply them.
#include "include/cuda_bf16.h"
#include "include/cuda_fp16.h"
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <dlfcn.h>
#include <string>
#include <vector>

namespace {
// A function of the emulated driver, which the program may have loaded by itself.
template <typename F> F driver(const char *name) {
    void *library = dlopen("libcuda.so.1", RTLD_NOW);
    void *function = library ? dlsym(library, name) : nullptr;
    if (!function) {
        fprintf(stderr, "flash attention: libcuda.so.1 is not the emulator: it has no %s\n", name);
        abort();
    }
    return reinterpret_cast<F>(function);
}

[[noreturn]] void refuse(const std::string &argument, long long value, const std::string &expected) {
    fprintf(stderr, "flash attention: %s: %lld, expected %s\n", argument.c_str(), value, expected.c_str());
    abort();
}
void expect(bool holds, const std::string &argument, long long value, const std::string &expected) {
    if (!holds) refuse(argument, value, expected);
}

struct Call {
    const void *q, *k, *v;
    void *o;
    float *lse;
    const int32_t *q_starts, *k_starts;
    size_t q_row, k_row, v_row, o_row, q_head, k_head, v_head, o_head, k_batch, v_batch;
    int b, h, h_k, d, longest_q, longest_k, total_q;
    float scale, softcap;
    bool causal;
    int left, right;
    const int32_t *table;
    size_t table_stride;
    int page;
};

void check_range(const char *argument, const void *start, size_t bytes) {
    static const auto holds = driver<int (*)(const void *, size_t)>("emulated_cuda_holds");
    expect(start != nullptr, argument, 0, "a pointer");
    expect(holds(start, bytes), argument, (long long)bytes, "a range inside one allocation");
    expect(uintptr_t(start) % 4 == 0, argument, (long long)uintptr_t(start), "an aligned pointer");
}

// Rows are loaded 16 bytes at a time.
void check_rows(const char *argument, const void *start, size_t row, size_t head, int heads, int d) {
    expect(uintptr_t(start) % 16 == 0, argument, (long long)uintptr_t(start), "a pointer aligned to 16 bytes");
    expect(row % 8 == 0 && head % 8 == 0, std::string(argument) + " strides", (long long)row, "multiples of 8");
    expect(head >= size_t(d) || heads == 1, std::string(argument) + "_head_stride", (long long)head, "at least the head size");
}

// Bytes up to the last element of `rows` rows.
size_t span(size_t rows, size_t row, int heads, size_t head, int d) {
    return rows == 0 ? 0 : ((rows - 1) * row + size_t(heads - 1) * head + size_t(d)) * 2;
}

void check_starts(const char *argument, const int32_t *starts, int b, int longest, const char *longest_name) {
    check_range(argument, starts, size_t(b + 1) * 4);
    expect(starts[0] == 0, std::string(argument) + "[0]", starts[0], "0");
    for (int i = 0; i < b; i++) {
        int length = starts[i + 1] - starts[i];
        expect(length >= 0, std::string(argument) + "[" + std::to_string(i + 1) + "]", starts[i + 1], "ascending offsets");
        expect(length <= longest, longest_name, longest, "at least the longest sequence, " + std::to_string(length));
    }
}

void check_sizes(const Call &c, int d_rounded, int q_rounded, int k_rounded) {
    auto rounded = [](int x, int to) { return (x + to - 1) / to * to; };
    expect(c.b > 0, "b", c.b, "at least 1");
    expect(c.h_k > 0 && c.h % c.h_k == 0, "h", c.h, "a multiple of h_k, " + std::to_string(c.h_k));
    expect(c.d > 0 && c.d <= 512 && c.d % 8 == 0, "d", c.d, "a multiple of 8, at most 512");
    expect(d_rounded == rounded(c.d, 32), "d_rounded", d_rounded, "d, rounded up to 32");
    expect(q_rounded == rounded(c.longest_q, 128), "seqlen_q_rounded", q_rounded, "seqlen_q, rounded up to 128");
    expect(k_rounded == rounded(c.longest_k, 128), "seqlen_k_rounded", k_rounded, "seqlen_k, rounded up to 128");
    expect(c.scale > 0, "softmax_scale", (long long)c.scale, "above 0");
    expect(c.softcap >= 0, "softcap", (long long)c.softcap, "at least 0");
    // Causal attention is told by the flag alone; a window without it is local attention.
    expect(!c.causal || c.right == 0, "window_size_right", c.right, "0 where is_causal is set");
    expect(!c.causal || c.left < 0 || c.left >= c.longest_k, "window_size_left", c.left, "none where is_causal is set");
    expect((c.left < 0) == (c.right < 0), "window_size_left", c.left, "both windows or none");
}

void check_tensors(const Call &c) {
    size_t total_q = size_t(c.total_q);
    check_range("o", c.o, span(total_q, c.o_row, c.h, c.o_head, c.d));
    check_range("q", c.q, span(total_q, c.q_row, c.h, c.q_head, c.d));
    check_range("softmax_lse", c.lse, size_t(c.h) * total_q * 4);
    check_rows("q", c.q, c.q_row, c.q_head, c.h, c.d);
    check_rows("o", c.o, c.o_row, c.o_head, c.h, c.d);
    check_rows("k", c.k, c.k_row, c.k_head, c.h_k, c.d);
    check_rows("v", c.v, c.v_row, c.v_head, c.h_k, c.d);
    if (!c.table) {
        expect(c.page <= 0, "page_block_size", c.page, "none without a block table");
        check_range("k", c.k, span(size_t(c.k_starts[c.b]), c.k_row, c.h_k, c.k_head, c.d));
        check_range("v", c.v, span(size_t(c.k_starts[c.b]), c.v_row, c.h_k, c.v_head, c.d));
        return;
    }
    expect(c.page > 0 && c.page % 32 == 0, "page_block_size", c.page, "a multiple of 32");
    size_t page = size_t(c.page);
    expect(c.k_batch >= page * c.k_row && c.v_batch >= page * c.v_row, "k_batch_stride", (long long)c.k_batch, "at least a page");
    check_range("block_table", c.table, (size_t(c.b - 1) * c.table_stride + 1) * 4);
    for (int s = 0; s < c.b; s++) {
        size_t blocks = (size_t(c.k_starts[s + 1] - c.k_starts[s]) + page - 1) / page;
        expect(blocks <= c.table_stride, "block_table_batch_stride", (long long)c.table_stride, "at least " + std::to_string(blocks));
        const int32_t *row = c.table + size_t(s) * c.table_stride;
        check_range("block_table", row, blocks * 4);
        for (size_t i = 0; i < blocks; i++) {
            expect(row[i] >= 0, "block_table entry", row[i], "the number of a page");
            check_range("k page", static_cast<const char *>(c.k) + size_t(row[i]) * c.k_batch * 2, span(page, c.k_row, c.h_k, c.k_head, c.d));
            check_range("v page", static_cast<const char *>(c.v) + size_t(row[i]) * c.v_batch * 2, span(page, c.v_row, c.h_k, c.v_head, c.d));
        }
    }
}

// Where a sequence's key or value number `at` begins.
size_t place(const Call &c, int sequence, int at, size_t row, size_t batch) {
    if (!c.table) return size_t(c.k_starts[sequence] + at) * row;
    int32_t block = c.table[size_t(sequence) * c.table_stride + size_t(at / c.page)];
    return size_t(block) * batch + size_t(at % c.page) * row;
}

// Row `i` of a sequence, for one head. Without a key in sight the output is 0.
template <typename T> void attend(const Call &c, int sequence, int head, int i, int rows, int keys) {
    int right = c.causal || c.right >= 0 ? std::min(keys, i + 1 + keys - rows + std::max(c.right, 0)) : keys;
    int left = !c.causal && c.left >= 0 ? std::max(0, i + keys - rows - c.left) : 0;
    size_t row = size_t(c.q_starts[sequence] + i), of_kv = size_t(head / (c.h / c.h_k));
    const T *q = static_cast<const T *>(c.q) + row * c.q_row + size_t(head) * c.q_head;
    std::vector<float> scores, sums(size_t(c.d), 0.0f);
    float top = -INFINITY, total = 0;
    for (int key = left; key < right; key++) {
        const T *k = static_cast<const T *>(c.k) + place(c, sequence, key, c.k_row, c.k_batch) + of_kv * c.k_head;
        float score = 0;
        for (int x = 0; x < c.d; x++) score += float(q[x]) * float(k[x]);
        score = c.softcap > 0 ? c.softcap * tanhf(score * c.scale / c.softcap) : score * c.scale;
        scores.push_back(score);
        top = std::max(top, score);
    }
    for (int key = left; key < right; key++) {
        const T *v = static_cast<const T *>(c.v) + place(c, sequence, key, c.v_row, c.v_batch) + of_kv * c.v_head;
        float weight = expf(scores[size_t(key - left)] - top);
        total += weight;
        for (int x = 0; x < c.d; x++) sums[size_t(x)] += float(T(weight)) * float(v[x]);
    }
    T *o = static_cast<T *>(c.o) + row * c.o_row + size_t(head) * c.o_head;
    for (int x = 0; x < c.d; x++) o[x] = total > 0 ? sums[size_t(x)] / total : 0.0f;
    c.lse[size_t(head) * size_t(c.total_q) + row] = total > 0 ? top + logf(total) : INFINITY;
}

template <typename T> void attend_all(const Call &c) {
    for (int sequence = 0; sequence < c.b; sequence++) {
        int rows = c.q_starts[sequence + 1] - c.q_starts[sequence], keys = c.k_starts[sequence + 1] - c.k_starts[sequence];
        for (int head = 0; head < c.h; head++)
            for (int i = 0; i < rows; i++) attend<T>(c, sequence, head, i, rows, keys);
    }
}
}  // namespace

extern "C" void run_mha(void *q, void *k, void *v, void *o, void *lse, void *alibi, int32_t *q_starts, int32_t *k_starts, uint32_t,
                        uint32_t k_batch, uint32_t v_batch, uint32_t, uint32_t, uint32_t q_row, uint32_t k_row, uint32_t v_row,
                        uint32_t o_row, uint32_t q_head, uint32_t k_head, uint32_t v_head, uint32_t o_head, uint32_t b, uint32_t h,
                        uint32_t h_k, uint32_t d, uint32_t d_rounded, float scale, uint32_t longest_q, uint32_t longest_k,
                        uint32_t q_rounded, uint32_t k_rounded, uint32_t total_q, int is_bf16, int is_causal, int unpadded_lse, int left,
                        int right, float softcap, int32_t *table, uint32_t table_stride, int page, int32_t *prefix_ranges, uint32_t,
                        int prefixes, void *) {
    static const auto count = driver<void (*)(const char *)>("emulated_cuda_count");
    static const auto running = driver<void (*)(const char *)>("emulated_cuda_running");
    expect(!alibi, "alibi_slopes", 1, "none: not emulated");
    expect(!prefix_ranges && prefixes == 0, "mm_prefix_ranges", prefixes, "none: not emulated");
    expect(unpadded_lse == 1 && q_starts && k_starts, "cu_seqlens", unpadded_lse, "sequences of varying lengths");
    Call c = {q, k, v, o, static_cast<float *>(lse), q_starts, k_starts, q_row, k_row, v_row, o_row, q_head, k_head, v_head, o_head,
              k_batch, v_batch, int(b), int(h), int(h_k), int(d), int(longest_q), int(longest_k), int(total_q), scale, softcap,
              is_causal != 0, left, right, table, table_stride, page};
    check_sizes(c, int(d_rounded), int(q_rounded), int(k_rounded));
    check_starts("cu_seqlens_q", q_starts, c.b, c.longest_q, "seqlen_q");
    check_starts("cu_seqlens_k", k_starts, c.b, c.longest_k, "seqlen_k");
    expect(q_starts[b] == c.total_q, "total_q", c.total_q, "the last of cu_seqlens_q, " + std::to_string(q_starts[b]));
    check_tensors(c);
    std::string counted = std::string("flash_attention run_mha ") + (is_bf16 ? "bf16" : "f16") + (table ? " paged" : " unpaged");
    counted += c.causal ? " causal" : c.left >= 0 ? " window" : " full";
    count(counted.c_str());
    running(counted.c_str());
    is_bf16 ? attend_all<__nv_bfloat16>(c) : attend_all<__half>(c);
    running(nullptr);
}
