// What the emulator's own sources share: memory of the emulated device, kernels compiled for the host, and the record of
// what was launched.
#pragma once
#include <cstddef>
#include <cstdint>
#include <map>
#include <string>

#define EXPORTED extern "C" __attribute__((visibility("default")))

// Used by the stand-ins for CUDA's other libraries too; `libcuda.so.1` has them.
// 1 where the bytes from `start` on lie in one allocation of the device, else 0. No bytes lie anywhere.
EXPORTED int emulated_cuda_holds(const void *start, size_t bytes);
// Counts one call of a function of CUDA's libraries, or of a kernel.
EXPORTED void emulated_cuda_count(const char *what);
// Names what touches the device's memory until the next call, for the message after a fault; null for nothing.
EXPORTED void emulated_cuda_running(const char *what);

namespace emulated {

// Prints one line to standard error and aborts.
[[noreturn]] void misuse(const char *format, ...) __attribute__((format(printf, 1, 2)));

// A number from the environment, `otherwise` where it is not set.
long long setting(const char *name, long long otherwise);

// --- memory.cpp: every allocation ends at a page that nothing may touch.
enum class Allocated { yes, no_bytes, out_of_memory };
Allocated allocate(size_t bytes, void **start);
void release(void *start, const char *function);
void memory_use(size_t *free_bytes, size_t *total_bytes);
// The most bytes that were allocated at once since the last reset, which comes before the answer.
size_t peak(bool reset);
// Aborts unless the range lies in one allocation.
void check_range(const char *function, const char *argument, const void *start, size_t bytes);
void report_faults();

// --- blocks.cpp: kernels and how their threads run.
struct Extent {
    unsigned x, y, z;
};
// Calls the kernel once, as one thread, with the arguments that `parameters` point at.
using Call = void (*)(void **parameters);
struct Kernel {
    const char *name;
    Call call;
    // How many arguments it has, and which of them are pointers, one bit each.
    unsigned arguments, pointers;
};
using Kernels = std::map<std::string, Kernel>;
// The kernels of a module; null where it is not compiled for the host.
const Kernels *module_kernels(const std::string &module);
// Runs a launch to its end. `barriers` says whether threads must be able to wait for one another.
void run(const Kernel &kernel, bool barriers, Extent grid, Extent block, size_t dynamic_shared, void **parameters);
bool has_barriers(const std::string &module);
}  // namespace emulated
