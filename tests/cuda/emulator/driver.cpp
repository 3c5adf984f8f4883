// The stand-in for `libcuda.so.1`: devices, contexts, streams, events and memory as far as candle and cudarc ask for them.
// Everything completes before the call returns, so streams and events have nothing to wait for.
//
// EMULATED_CUDA_DEVICES (1), EMULATED_CUDA_DRIVER_VERSION (13000), EMULATED_CUDA_CAPABILITY (90), EMULATED_CUDA_MEMORY_MIB
// (8192) and EMULATED_CUDA_NAME say what the devices are. Misuse that a GPU would answer with wrong numbers or a crash is
// named on standard error and aborts; what a GPU answers with an error code gets that code.
#include "driver.h"
#include "emulator.h"
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <set>

namespace emulated {
namespace {
int initialised = CUDA_ERROR_NOT_INITIALIZED;
// A device's context is a pointer to its entry here.
char contexts[16];
thread_local void *current = nullptr;
std::mutex guard;
std::set<void *> streams, events;

int devices() {
    long long count = setting("EMULATED_CUDA_DEVICES", 1);
    return count > 16 ? 16 : int(count);
}

void *made(std::set<void *> &all) {
    std::lock_guard<std::mutex> lock(guard);
    return *all.insert(malloc(1)).first;
}

int dropped(std::set<void *> &all, void *handle) {
    std::lock_guard<std::mutex> lock(guard);
    if (all.erase(handle) == 0) return CUDA_ERROR_INVALID_HANDLE;
    free(handle);
    return 0;
}
}  // namespace

bool has_context() { return current != nullptr; }

// 0 to 2 are CUDA's own: the default stream, in both senses, and the calling thread's.
bool is_stream(void *stream) {
    std::lock_guard<std::mutex> lock(guard);
    return uintptr_t(stream) <= 2 || streams.count(stream);
}

bool is_event(void *event) {
    std::lock_guard<std::mutex> lock(guard);
    return events.count(event) != 0;
}
}  // namespace emulated

using namespace emulated;

#define NEEDS_CONTEXT() \
    if (!has_context()) return CUDA_ERROR_INVALID_CONTEXT
#define NEEDS_STREAM(stream) \
    NEEDS_CONTEXT(); \
    if (!is_stream(stream)) return CUDA_ERROR_INVALID_HANDLE

EXPORTED int cuInit(unsigned) {
    static std::once_flag once;
    std::call_once(once, report_faults);
    return initialised = devices() > 0 ? 0 : CUDA_ERROR_NO_DEVICE;
}
EXPORTED int cuDriverGetVersion(int *version) {
    *version = int(setting("EMULATED_CUDA_DRIVER_VERSION", 13000));
    return 0;
}
EXPORTED int cuDeviceGetCount(int *count) {
    *count = initialised == 0 ? devices() : 0;
    return initialised;
}
EXPORTED int cuDeviceGet(int *device, int ordinal) {
    if (initialised != 0) return initialised;
    *device = ordinal;
    return ordinal >= 0 && ordinal < devices() ? 0 : CUDA_ERROR_INVALID_DEVICE;
}
EXPORTED int cuDeviceGetName(char *name, int length, int) {
    const char *set = getenv("EMULATED_CUDA_NAME");
    snprintf(name, size_t(length), "%s", set ? set : "Emulated GPU");
    return 0;
}
EXPORTED int cuDeviceGetUuid_v2(char uuid[16], int device) {
    memset(uuid, 0, 16);
    uuid[15] = char(device + 1);
    return 0;
}
EXPORTED int cuDeviceGetAttribute(int *value, int attribute, int) {
    int capability = int(setting("EMULATED_CUDA_CAPABILITY", 90));
    switch (attribute) {
        case 1: *value = 1024; return 0;               // threads of a block
        case 8: *value = 48 << 10; return 0;           // shared memory of a block
        case 10: *value = 32; return 0;                // threads of a warp
        case 16: *value = 132; return 0;               // multiprocessors
        case 75: *value = capability / 10; return 0;   // capability, major
        case 76: *value = capability % 10; return 0;   // capability, minor
        case 115: *value = 1; return 0;                // memory pools
        default: *value = 0; return 0;
    }
}
EXPORTED int cuDeviceTotalMem_v2(size_t *bytes, int) {
    size_t free_bytes;
    memory_use(&free_bytes, bytes);
    return 0;
}

EXPORTED int cuDevicePrimaryCtxRetain(void **context, int device) {
    if (initialised != 0) return initialised;
    *context = &contexts[device];
    return 0;
}
EXPORTED int cuDevicePrimaryCtxRelease_v2(int) { return 0; }
EXPORTED int cuCtxSetCurrent(void *context) {
    current = context;
    return 0;
}
EXPORTED int cuCtxGetCurrent(void **context) {
    *context = current;
    return 0;
}
EXPORTED int cuCtxDestroy_v2(void *) { return 0; }
EXPORTED int cuCtxSynchronize() {
    NEEDS_CONTEXT();
    return 0;
}

EXPORTED int cuStreamCreate(void **stream, unsigned) {
    NEEDS_CONTEXT();
    *stream = made(streams);
    return 0;
}
EXPORTED int cuStreamDestroy_v2(void *stream) { return dropped(streams, stream); }
EXPORTED int cuStreamSynchronize(void *stream) {
    NEEDS_STREAM(stream);
    return 0;
}
EXPORTED int cuStreamIsCapturing(void *stream, int *status) {
    NEEDS_STREAM(stream);
    *status = 0;
    return 0;
}
EXPORTED int cuStreamWaitEvent(void *stream, void *event, unsigned) {
    NEEDS_STREAM(stream);
    return is_event(event) ? 0 : CUDA_ERROR_INVALID_HANDLE;
}
EXPORTED int cuEventCreate(void **event, unsigned) {
    NEEDS_CONTEXT();
    *event = made(events);
    return 0;
}
EXPORTED int cuEventDestroy_v2(void *event) { return dropped(events, event); }
EXPORTED int cuEventRecord(void *event, void *stream) {
    NEEDS_STREAM(stream);
    return is_event(event) ? 0 : CUDA_ERROR_INVALID_HANDLE;
}
EXPORTED int cuEventSynchronize(void *event) { return is_event(event) ? 0 : CUDA_ERROR_INVALID_HANDLE; }
EXPORTED int cuEventQuery(void *event) { return is_event(event) ? 0 : CUDA_ERROR_INVALID_HANDLE; }
EXPORTED int cuEventElapsedTime(float *milliseconds, void *, void *) {
    *milliseconds = 0;
    return 0;
}
EXPORTED int cuEventElapsedTime_v2(float *milliseconds, void *, void *) {
    *milliseconds = 0;
    return 0;
}

EXPORTED int cuMemAlloc_v2(uintptr_t *pointer, size_t bytes) {
    NEEDS_CONTEXT();
    void *start = nullptr;
    switch (allocate(bytes, &start)) {
        case Allocated::yes: *pointer = uintptr_t(start); return 0;
        case Allocated::no_bytes: return CUDA_ERROR_INVALID_VALUE;
        default: return CUDA_ERROR_OUT_OF_MEMORY;
    }
}
EXPORTED int cuMemAllocAsync(uintptr_t *pointer, size_t bytes, void *stream) {
    NEEDS_STREAM(stream);
    return cuMemAlloc_v2(pointer, bytes);
}
EXPORTED int cuMemFree_v2(uintptr_t pointer) {
    NEEDS_CONTEXT();
    if (pointer) release(reinterpret_cast<void *>(pointer), "cuMemFree");
    return 0;
}
EXPORTED int cuMemFreeAsync(uintptr_t pointer, void *stream) {
    NEEDS_STREAM(stream);
    return cuMemFree_v2(pointer);
}
EXPORTED int cuMemHostAlloc(void **pointer, size_t bytes, unsigned) {
    *pointer = malloc(bytes);
    return *pointer ? 0 : CUDA_ERROR_OUT_OF_MEMORY;
}
EXPORTED int cuMemFreeHost(void *pointer) {
    free(pointer);
    return 0;
}
EXPORTED int cuMemGetInfo_v2(size_t *free_bytes, size_t *total_bytes) {
    NEEDS_CONTEXT();
    memory_use(free_bytes, total_bytes);
    return 0;
}

// The pool that cuMemAllocAsync takes from: the memory in use at most, and nothing else of it.
constexpr int USED_MEM_HIGH = 8;
EXPORTED int cuDeviceGetDefaultMemPool(void **pool, int) {
    static char only;
    *pool = &only;
    return 0;
}
EXPORTED int cuMemPoolGetAttribute(void *, int attribute, uint64_t *value) {
    if (attribute != USED_MEM_HIGH) return CUDA_ERROR_INVALID_VALUE;
    *value = peak(false);
    return 0;
}
EXPORTED int cuMemPoolSetAttribute(void *, int attribute, const uint64_t *value) {
    if (attribute != USED_MEM_HIGH || *value != 0) return CUDA_ERROR_INVALID_VALUE;
    peak(true);
    return 0;
}

EXPORTED int cuMemcpyHtoDAsync_v2(uintptr_t to, const void *from, size_t bytes, void *stream) {
    NEEDS_STREAM(stream);
    check_range("copy to the device", "to", reinterpret_cast<void *>(to), bytes);
    emulated_cuda_count("driver copy_to_device");
    memcpy(reinterpret_cast<void *>(to), from, bytes);
    return 0;
}
EXPORTED int cuMemcpyDtoHAsync_v2(void *to, uintptr_t from, size_t bytes, void *stream) {
    NEEDS_STREAM(stream);
    check_range("copy from the device", "from", reinterpret_cast<void *>(from), bytes);
    emulated_cuda_count("driver copy_from_device");
    memcpy(to, reinterpret_cast<void *>(from), bytes);
    return 0;
}
EXPORTED int cuMemcpyDtoDAsync_v2(uintptr_t to, uintptr_t from, size_t bytes, void *stream) {
    NEEDS_STREAM(stream);
    check_range("copy on the device", "from", reinterpret_cast<void *>(from), bytes);
    check_range("copy on the device", "to", reinterpret_cast<void *>(to), bytes);
    if (from < to + bytes && to < from + bytes) misuse("copy on the device: the ranges overlap");
    emulated_cuda_count("driver copy_on_device");
    memcpy(reinterpret_cast<void *>(to), reinterpret_cast<void *>(from), bytes);
    return 0;
}
// Between devices. Memory of all of them is the host's.
EXPORTED int cuMemcpyPeerAsync(uintptr_t to, void *, uintptr_t from, void *, size_t bytes, void *stream) {
    return cuMemcpyDtoDAsync_v2(to, from, bytes, stream);
}
EXPORTED int cuMemsetD8Async(uintptr_t to, unsigned char value, size_t bytes, void *stream) {
    NEEDS_STREAM(stream);
    check_range("fill", "to", reinterpret_cast<void *>(to), bytes);
    emulated_cuda_count("driver fill");
    memset(reinterpret_cast<void *>(to), value, bytes);
    return 0;
}
EXPORTED int cuMemcpyHtoD_v2(uintptr_t to, const void *from, size_t bytes) { return cuMemcpyHtoDAsync_v2(to, from, bytes, nullptr); }
EXPORTED int cuMemcpyDtoH_v2(void *to, uintptr_t from, size_t bytes) { return cuMemcpyDtoHAsync_v2(to, from, bytes, nullptr); }
EXPORTED int cuMemcpyDtoD_v2(uintptr_t to, uintptr_t from, size_t bytes) { return cuMemcpyDtoDAsync_v2(to, from, bytes, nullptr); }
EXPORTED int cuMemsetD8_v2(uintptr_t to, unsigned char value, size_t bytes) { return cuMemsetD8Async(to, value, bytes, nullptr); }

static const char *error_name(int error) {
    switch (error) {
        case 0: return "CUDA_SUCCESS";
        case CUDA_ERROR_INVALID_VALUE: return "CUDA_ERROR_INVALID_VALUE";
        case CUDA_ERROR_OUT_OF_MEMORY: return "CUDA_ERROR_OUT_OF_MEMORY";
        case CUDA_ERROR_NOT_INITIALIZED: return "CUDA_ERROR_NOT_INITIALIZED";
        case CUDA_ERROR_NO_DEVICE: return "CUDA_ERROR_NO_DEVICE";
        case CUDA_ERROR_INVALID_DEVICE: return "CUDA_ERROR_INVALID_DEVICE";
        case CUDA_ERROR_INVALID_IMAGE: return "CUDA_ERROR_INVALID_IMAGE";
        case CUDA_ERROR_INVALID_CONTEXT: return "CUDA_ERROR_INVALID_CONTEXT";
        case CUDA_ERROR_NO_BINARY_FOR_GPU: return "CUDA_ERROR_NO_BINARY_FOR_GPU";
        case CUDA_ERROR_UNSUPPORTED_PTX_VERSION: return "CUDA_ERROR_UNSUPPORTED_PTX_VERSION";
        case CUDA_ERROR_INVALID_HANDLE: return "CUDA_ERROR_INVALID_HANDLE";
        case CUDA_ERROR_NOT_FOUND: return "CUDA_ERROR_NOT_FOUND";
        default: return nullptr;
    }
}
EXPORTED int cuGetErrorName(int error, const char **text) {
    *text = error_name(error);
    return *text ? 0 : CUDA_ERROR_INVALID_VALUE;
}
EXPORTED int cuGetErrorString(int error, const char **text) { return cuGetErrorName(error, text); }
