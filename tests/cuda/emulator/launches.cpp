// The record of what was launched and called. EMULATED_CUDA_LAUNCHES names a file that holds one line for each kernel
// (`module kernel count`) and each library function (`cublas function A B C compute count`), sorted; it is written at the
// first launch of each and at exit. EMULATED_CUDA_TRACE names a file that gets a line for every launch, call and copy.
#include "emulator.h"
#include <cstdio>
#include <cstdlib>
#include <mutex>

namespace {
struct Record {
    std::mutex guard;
    std::map<std::string, unsigned long> counts;
    FILE *trace = nullptr;

    Record() {
        if (const char *path = getenv("EMULATED_CUDA_TRACE")) trace = fopen(path, "a");
    }
    ~Record() {
        write();
        if (trace) fclose(trace);
    }
    void write() {
        const char *path = getenv("EMULATED_CUDA_LAUNCHES");
        if (!path || counts.empty()) return;
        // Renamed when complete, so that a crash in between leaves the file before it.
        std::string part = std::string(path) + ".part";
        FILE *file = fopen(part.c_str(), "w");
        if (!file) emulated::misuse("EMULATED_CUDA_LAUNCHES: %s cannot be written", path);
        for (auto &[what, count] : counts) fprintf(file, "%s %lu\n", what.c_str(), count);
        fclose(file);
        rename(part.c_str(), path);
    }
};
Record record;
}  // namespace

void emulated_cuda_count(const char *what) {
    std::lock_guard<std::mutex> lock(record.guard);
    bool first = ++record.counts[what] == 1;
    if (first) record.write();
    if (record.trace) {
        fprintf(record.trace, "%s\n", what);
        fflush(record.trace);
    }
}
