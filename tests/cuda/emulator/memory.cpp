// Memory of the emulated device: host pages, each allocation of its own, ending right before a page that nothing may touch.
// New memory is filled with bytes that read as NaN in every float type, so that a value nobody wrote is seen.
#include "emulator.h"
#include <algorithm>
#include <csignal>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <sys/mman.h>
#include <unistd.h>

namespace emulated {
namespace {
struct Allocation {
    size_t bytes;
    char *pages;
    size_t page_bytes;
};
std::mutex guard;
std::map<uintptr_t, Allocation> allocations;
size_t used = 0, used_at_most = 0;
thread_local const char *running = nullptr;
struct sigaction before_ours;

// What vectorised kernels and flash attention ask of a pointer. CUDA gives 256, but the end must be near the guard page.
constexpr size_t ALIGNMENT = 16;

size_t page() {
    static const size_t size = size_t(sysconf(_SC_PAGESIZE));
    return size;
}
size_t rounded(size_t bytes, size_t to) { return (bytes + to - 1) / to * to; }
size_t total() { return size_t(setting("EMULATED_CUDA_MEMORY_MIB", 8192)) << 20; }

// Writes the memory in use to the file of EMULATED_CUDA_USED, in MiB, where there is one; the emulator's nvidia-smi reads it.
void tell_used() {
    static const char *path = getenv("EMULATED_CUDA_USED");
    static size_t told = ~size_t(0);
    if (!path || !*path || told == used >> 20) return;
    told = used >> 20;
    if (FILE *file = fopen(path, "w")) {
        fprintf(file, "%zu\n", told);
        fclose(file);
    }
}

// The bytes between an allocation's end and its guard page hold this value.
constexpr unsigned char PADDING = 0xa5;

void fault(int signal, siginfo_t *info, void *context) {
    if (running) {
        char line[256];
        int length = snprintf(line, sizeof line, "emulated CUDA: %s touched %p, which is outside of every allocation\n",
                              running, info->si_addr);
        if (write(STDERR_FILENO, line, size_t(length)) < 0) _exit(134);
        abort();
    }
    if (before_ours.sa_flags & SA_SIGINFO) return before_ours.sa_sigaction(signal, info, context);
    sigaction(signal, &before_ours, nullptr);
}
}  // namespace

void misuse(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    fputs("emulated CUDA: ", stderr);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    va_end(arguments);
    abort();
}

long long setting(const char *name, long long otherwise) {
    const char *text = getenv(name);
    if (!text || !*text) return otherwise;
    char *end;
    long long number = strtoll(text, &end, 10);
    if (*end || number < 0) misuse("%s: expected a number, got %s", name, text);
    return number;
}

// Called once: accesses to guard pages are told with the name of the kernel.
void report_faults() {
    struct sigaction ours = {};
    ours.sa_sigaction = fault;
    ours.sa_flags = SA_SIGINFO | SA_ONSTACK;
    sigaction(SIGSEGV, &ours, &before_ours);
}

Allocated allocate(size_t bytes, void **start) {
    if (bytes == 0) return Allocated::no_bytes;
    size_t size = rounded(bytes, ALIGNMENT), page_bytes = rounded(size, page());
    std::lock_guard<std::mutex> lock(guard);
    if (used + bytes > total()) return Allocated::out_of_memory;
    void *pages = mmap(nullptr, page_bytes + page(), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (pages == MAP_FAILED) return Allocated::out_of_memory;
    char *end = static_cast<char *>(pages) + page_bytes;
    if (mprotect(end, page(), PROT_NONE) != 0) misuse("too many allocations at once for guard pages");
    char *first = end - size;
    // Large allocations are caches and weights; touching all of their pages would cost real memory.
    if (bytes < size_t(64) << 20) memset(first, 0xff, bytes);
    memset(first + bytes, PADDING, size - bytes);
    allocations[uintptr_t(first)] = {bytes, static_cast<char *>(pages), page_bytes + page()};
    used += bytes;
    used_at_most = std::max(used_at_most, used);
    tell_used();
    *start = first;
    return Allocated::yes;
}

void release(void *start, const char *function) {
    std::lock_guard<std::mutex> lock(guard);
    auto found = allocations.find(uintptr_t(start));
    if (found == allocations.end()) misuse("%s: %p is not an allocation, or was freed before", function, start);
    const Allocation &allocation = found->second;
    const char *end = static_cast<char *>(start) + allocation.bytes;
    for (const char *at = end; at < static_cast<char *>(start) + rounded(allocation.bytes, ALIGNMENT); at++)
        if (static_cast<unsigned char>(*at) != PADDING)
            misuse("%s: something wrote beyond the %zu bytes at %p", function, allocation.bytes, start);
    munmap(allocation.pages, allocation.page_bytes);
    used -= allocation.bytes;
    tell_used();
    allocations.erase(found);
}

void memory_use(size_t *free_bytes, size_t *total_bytes) {
    std::lock_guard<std::mutex> lock(guard);
    *total_bytes = total();
    *free_bytes = *total_bytes - used;
}

size_t peak(bool reset) {
    std::lock_guard<std::mutex> lock(guard);
    if (reset) used_at_most = used;
    return used_at_most;
}

void check_range(const char *function, const char *argument, const void *start, size_t bytes) {
    if (!emulated_cuda_holds(start, bytes))
        misuse("%s: %s: %zu bytes at %p are not inside one allocation", function, argument, bytes, start);
}
}  // namespace emulated

int emulated_cuda_holds(const void *start, size_t bytes) {
    using namespace emulated;
    if (bytes == 0) return 1;
    std::lock_guard<std::mutex> lock(guard);
    auto after = allocations.upper_bound(uintptr_t(start));
    if (after == allocations.begin()) return 0;
    auto &[first, allocation] = *std::prev(after);
    size_t offset = uintptr_t(start) - first;
    return offset < allocation.bytes && bytes <= allocation.bytes - offset;
}

void emulated_cuda_running(const char *what) { emulated::running = what; }
