// Runs launches: block after block, each as its threads. Threads that never wait for one another are calls in a loop;
// others are fibers, switched wherever a thread must wait.
#include "include/device.h"
#include "kernel.h"
#include <memory>
#include <sys/mman.h>
#ifndef __x86_64__
#include <ucontext.h>
#endif
#include <vector>

__thread dim3 threadIdx, blockIdx, blockDim, gridDim;

#ifdef __x86_64__
// Saves what a call must keep on the running stack, and goes on with another stack.
extern "C" void emulated_switch(void **save_at, void *go_on);
asm(R"(
    .text
    .type emulated_switch, @function
emulated_switch:
    push %rbp
    push %rbx
    push %r12
    push %r13
    push %r14
    push %r15
    mov %rsp, (%rdi)
    mov %rsi, %rsp
    pop %r15
    pop %r14
    pop %r13
    pop %r12
    pop %rbx
    pop %rbp
    ret
)");
#endif

namespace emulated {
namespace {
// No power of two, or the tops of all stacks would share the same few lines of the processor's cache.
constexpr size_t STACK_BYTES = (32 << 10) + 192;
constexpr unsigned WARP = 32;

#ifdef __x86_64__
// A stack that can be gone on with.
struct Place {
    void *top;
    void start_at(char *stack, size_t bytes, void (*function)()) {
        void **at = reinterpret_cast<void **>(stack + bytes / 16 * 16) - 2;
        *at = reinterpret_cast<void *>(function);
        top = at - 6;
    }
};
void go_on(Place &from, Place &to) { emulated_switch(&from.top, to.top); }
#else
struct Place {
    ucontext_t context;
    void start_at(char *stack, size_t bytes, void (*function)()) {
        getcontext(&context);
        context.uc_stack.ss_sp = stack;
        context.uc_stack.ss_size = bytes;
        context.uc_link = nullptr;
        makecontext(&context, function, 0);
    }
};
void go_on(Place &from, Place &to) { swapcontext(&from.context, &to.context); }
#endif

enum class State { runs, in_block, in_warp, done };

struct Fiber {
    Place place;
    dim3 index;
    State state = State::done;
    // What the thread gives in a shuffle. Two, used in turn: one may be read while the next is given already.
    uint64_t given[2];
    unsigned shuffles = 0;
};

// The fibers of one operating system thread. They are kept: each runs one thread of a block after another.
struct Fibers {
    std::vector<std::unique_ptr<Fiber>> all;
    char *stacks = nullptr;
    unsigned current = 0, size = 0;
    Place scheduler;
    Call call = nullptr;
    void **parameters = nullptr;

    ~Fibers() {
        if (stacks) munmap(stacks, 1024 * STACK_BYTES);
    }
};
// A plain pointer beside what owns it: it is read at every switch.
thread_local Fibers *fibers;
thread_local std::unique_ptr<Fibers> owned;
thread_local std::vector<char> dynamic;

// Goes back to the scheduler until it resumes this fiber.
void wait(State state) {
    Fiber &fiber = *fibers->all[fibers->current];
    fiber.state = state;
    go_on(fiber.place, fibers->scheduler);
}

// A fiber's life: run a thread, wait for the next one.
void live() {
    for (;;) {
        fibers->call(fibers->parameters);
        wait(State::done);
    }
}

void resume(unsigned index) {
    Fiber &fiber = *fibers->all[index];
    fibers->current = index;
    threadIdx = fiber.index;
    fiber.state = State::runs;
    go_on(fibers->scheduler, fiber.place);
}

// Makes fibers until there are `count`.
void grow(unsigned count) {
    if (count > 1024) misuse("a block of %u threads; a device runs at most 1024", count);
    if (!fibers->stacks) {
        void *stacks = mmap(nullptr, 1024 * STACK_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (stacks == MAP_FAILED) misuse("no memory for the stacks of a block");
        fibers->stacks = static_cast<char *>(stacks);
    }
    while (fibers->all.size() < count) {
        auto fiber = std::make_unique<Fiber>();
        fiber->place.start_at(fibers->stacks + fibers->all.size() * STACK_BYTES, STACK_BYTES, live);
        fibers->all.push_back(std::move(fiber));
    }
}

// Lets those go on whose barrier is complete: a warp's or the block's. Threads that ended are not waited for.
bool release_waiting() {
    bool released = false, block_complete = true, all_done = true;
    for (unsigned first = 0; first < fibers->size; first += WARP) {
        bool warp_complete = true;
        unsigned end = min(first + WARP, fibers->size);
        for (unsigned i = first; i < end; i++) {
            State state = fibers->all[i]->state;
            all_done &= state == State::done;
            block_complete &= state == State::done || state == State::in_block;
            warp_complete &= state == State::done || state == State::in_warp;
        }
        for (unsigned i = first; warp_complete && i < end; i++)
            if (fibers->all[i]->state == State::in_warp) fibers->all[i]->state = State::runs, released = true;
    }
    for (unsigned i = 0; block_complete && i < fibers->size; i++)
        if (fibers->all[i]->state == State::in_block) fibers->all[i]->state = State::runs, released = true;
    return released || all_done;
}

void run_fibers(const Kernel &kernel, Extent block, void **parameters) {
    if (!fibers) owned = std::make_unique<Fibers>(), fibers = owned.get();
    fibers->size = block.x * block.y * block.z;
    fibers->call = kernel.call;
    fibers->parameters = parameters;
    grow(fibers->size);
    for (unsigned i = 0; i < fibers->size; i++) {
        Fiber &fiber = *fibers->all[i];
        fiber.index = {i % block.x, i / block.x % block.y, i / block.x / block.y};
        fiber.state = State::runs;
        fiber.shuffles = 0;
    }
    for (bool left = true; left;) {
        left = false;
        for (unsigned i = 0; i < fibers->size; i++) {
            if (fibers->all[i]->state == State::runs) resume(i);
            left |= fibers->all[i]->state != State::done;
        }
        if (left && !release_waiting()) misuse("%s: its threads wait for one another at different places", kernel.name);
    }
}

struct Registered {
    bool barriers;
    Kernels kernels;
};
std::map<std::string, Registered> &modules() {
    static std::map<std::string, Registered> all;
    return all;
}
}  // namespace

Module::Module(const char *name, bool barriers, std::initializer_list<Kernel> kernels) {
    Registered &registered = modules()[name];
    registered.barriers = barriers;
    for (const Kernel &kernel : kernels) registered.kernels[kernel.name] = kernel;
}

const Kernels *module_kernels(const std::string &module) {
    auto found = modules().find(module);
    return found == modules().end() ? nullptr : &found->second.kernels;
}

bool has_barriers(const std::string &module) { return modules().at(module).barriers; }

void block_barrier() { wait(State::in_block); }

uint64_t shuffle_xor(uint64_t bits, int mask, int width) {
    unsigned index = fibers->current, lane = index % WARP;
    Fiber &fiber = *fibers->all[index];
    unsigned turn = fiber.shuffles++ % 2;
    fiber.given[turn] = bits;
    wait(State::in_warp);
    unsigned from = lane ^ unsigned(mask);
    if (from / unsigned(width) != lane / unsigned(width)) return bits;
    unsigned other = index - lane + from;
    if (other >= fibers->size || fibers->all[other]->shuffles <= fiber.shuffles - 1)
        misuse("a shuffle from lane %u, which the block does not have or which ended", from);
    return fibers->all[other]->given[turn];
}

void *dynamic_shared() { return dynamic.data(); }

void run(const Kernel &kernel, bool barriers, Extent grid, Extent block, size_t shared, void **parameters) {
    gridDim = {grid.x, grid.y, grid.z};
    blockDim = {block.x, block.y, block.z};
    dynamic.resize(shared + 16);
    for (unsigned z = 0; z < grid.z; z++)
        for (unsigned y = 0; y < grid.y; y++)
            for (unsigned x = 0; x < grid.x; x++) {
                blockIdx = {x, y, z};
                if (barriers) {
                    run_fibers(kernel, block, parameters);
                    continue;
                }
                for (threadIdx.z = 0; threadIdx.z < block.z; threadIdx.z++)
                    for (threadIdx.y = 0; threadIdx.y < block.y; threadIdx.y++)
                        for (threadIdx.x = 0; threadIdx.x < block.x; threadIdx.x++) kernel.call(parameters);
            }
}
}  // namespace emulated
