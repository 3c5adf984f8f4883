// Modules and launches of `libcuda.so.1`. A module is PTX text, of which only the entries' names, the version and the target
// are read, or one line `// emulated module NAME`, which has all kernels that were compiled for the host under that name.
#include "driver.h"
#include "emulator.h"
#include <cstdlib>
#include <cstring>
#include <memory>
#include <mutex>

namespace emulated {
namespace {
struct LoadedModule;
struct Function {
    const Kernel *kernel;
    const LoadedModule *module;
    std::string counted;
};
struct LoadedModule {
    std::string name;
    // Of PTX text; empty for a marker line.
    std::string ptx;
    std::mutex guard;
    std::map<std::string, std::unique_ptr<Function>> functions;
};

// The number behind `word`, and what follows it.
int number_behind(const std::string &text, const char *word, const char **rest) {
    size_t at = text.find(word);
    if (at == std::string::npos) return -1;
    char *end;
    long number = strtol(text.c_str() + at + strlen(word), &end, 10);
    *rest = end;
    return int(number);
}

// Whether the emulated device takes PTX text of this version and target.
int acceptable(const std::string &ptx) {
    const char *rest = "";
    int version = number_behind(ptx, ".version ", &rest);
    int target = number_behind(ptx, ".target sm_", &rest);
    if (version < 0 || target < 0) return CUDA_ERROR_INVALID_IMAGE;
    // PTX 8 came with CUDA 12, PTX 9 with CUDA 13.
    if (setting("EMULATED_CUDA_DRIVER_VERSION", 13000) / 1000 < version + 4) return CUDA_ERROR_UNSUPPORTED_PTX_VERSION;
    int capability = int(setting("EMULATED_CUDA_CAPABILITY", 90));
    // Code for `sm_90a` and the like runs on that architecture only.
    bool accepted = *rest == 'a' ? capability == target : capability >= target;
    return accepted ? 0 : CUDA_ERROR_NO_BINARY_FOR_GPU;
}

// The module whose kernels PTX text has: its first entry is a kernel of one module only.
std::string module_of(const std::string &ptx) {
    static const char *const all[] = {"affine", "binary",  "cast", "conv", "fill",  "indexing",
                                      "quantized", "reduce", "sort", "ternary", "unary"};
    size_t at = ptx.find(".entry ");
    if (at == std::string::npos) return "";
    at += strlen(".entry ");
    std::string entry = ptx.substr(at, ptx.find('(', at) - at);
    for (const char *name : all) {
        const Kernels *kernels = module_kernels(name);
        if (kernels && kernels->count(entry)) return name;
    }
    return "";
}

void check_launch(const Function &function, void **parameters) {
    const Kernel &kernel = *function.kernel;
    for (unsigned i = 0; i < kernel.arguments; i++) {
        if (!(kernel.pointers >> i & 1)) continue;
        const void *pointer = *static_cast<void **>(parameters[i]);
        if (pointer && !emulated_cuda_holds(pointer, 1))
            misuse("%s: argument %u is %p, which is outside of every allocation", function.counted.c_str(), i, pointer);
    }
}
}  // namespace
}  // namespace emulated

using namespace emulated;

EXPORTED int cuModuleLoadData(void **module, const void *image) {
    if (!has_context()) return CUDA_ERROR_INVALID_CONTEXT;
    std::string text = static_cast<const char *>(image);
    auto loaded = std::make_unique<LoadedModule>();
    const char *marker = "// emulated module ";
    if (text.compare(0, strlen(marker), marker) == 0) {
        loaded->name = text.substr(strlen(marker));
        while (!loaded->name.empty() && loaded->name.back() <= ' ') loaded->name.pop_back();
    } else {
        if (int refused = acceptable(text)) return refused;
        loaded->name = module_of(text);
        loaded->ptx = text;
    }
    *module = loaded.release();
    return 0;
}
EXPORTED int cuModuleLoad(void **, const char *path) { misuse("cuModuleLoad: %s: not emulated", path); }
EXPORTED int cuModuleUnload(void *module) {
    delete static_cast<LoadedModule *>(module);
    return 0;
}

EXPORTED int cuModuleGetFunction(void **function, void *handle, const char *name) {
    LoadedModule *module = static_cast<LoadedModule *>(handle);
    if (!module->ptx.empty() && module->ptx.find(std::string(".entry ") + name + "(") == std::string::npos)
        return CUDA_ERROR_NOT_FOUND;
    const Kernels *kernels = module_kernels(module->name);
    if (!kernels) misuse("%s: the module `%s` is not compiled for the host", name, module->name.c_str());
    auto kernel = kernels->find(name);
    if (kernel == kernels->end()) return CUDA_ERROR_NOT_FOUND;
    std::lock_guard<std::mutex> lock(module->guard);
    std::unique_ptr<Function> &found = module->functions[name];
    if (!found) found.reset(new Function{&kernel->second, module, module->name + " " + name});
    *function = found.get();
    return 0;
}

EXPORTED int cuLaunchKernel(void *handle, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x, unsigned block_y,
                            unsigned block_z, unsigned shared, void *stream, void **parameters, void **) {
    if (!has_context()) return CUDA_ERROR_INVALID_CONTEXT;
    if (!is_stream(stream)) return CUDA_ERROR_INVALID_HANDLE;
    const Function &function = *static_cast<Function *>(handle);
    uint64_t threads = uint64_t(block_x) * block_y * block_z, blocks = uint64_t(grid_x) * grid_y * grid_z;
    bool too_large = threads > 1024 || block_z > 64 || grid_x > 0x7fffffff || grid_y > 65535 || grid_z > 65535;
    if (threads == 0 || blocks == 0 || too_large || shared > 48 << 10) return CUDA_ERROR_INVALID_VALUE;
    check_launch(function, parameters);
    emulated_cuda_count(function.counted.c_str());
    emulated_cuda_running(function.counted.c_str());
    run(*function.kernel, has_barriers(function.module->name), {grid_x, grid_y, grid_z}, {block_x, block_y, block_z}, shared,
        parameters);
    emulated_cuda_running(nullptr);
    return 0;
}
EXPORTED int cuFuncGetAttribute(int *value, int, void *) {
    *value = 0;
    return 0;
}
EXPORTED int cuFuncSetAttribute(void *, int, int) { return 0; }
