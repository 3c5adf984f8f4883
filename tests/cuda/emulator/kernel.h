// Turns kernels into entries that a launch finds by name. A generated file for each module includes the module's source in
// a namespace of its own, then names its kernels: MODULE(name, barriers, KERNEL(a) KERNEL(b) ...).
#pragma once
#include "emulator.h"
#include <type_traits>
#include <utility>

namespace emulated {

template <auto function> struct Entry;

template <typename... Arguments, void (*function)(Arguments...)> struct Entry<function> {
    template <size_t... index> static void call_each(void **parameters, std::index_sequence<index...>) {
        function(*static_cast<std::remove_cv_t<Arguments> *>(parameters[index])...);
    }
    static void call(void **parameters) { call_each(parameters, std::index_sequence_for<Arguments...>()); }
    static Kernel of(const char *name) {
        unsigned index = 0, pointers = 0;
        ((pointers |= unsigned(std::is_pointer_v<Arguments>) << index++), ...);
        return {name, call, index, pointers};
    }
};

// Makes a module known while the library is loaded.
struct Module {
    Module(const char *name, bool barriers, std::initializer_list<Kernel> kernels);
};
}  // namespace emulated

#define KERNEL(name) emulated::Entry<&kernels::name>::of(#name),
#define MODULE(name, barriers, list) static emulated::Module registered(name, barriers, {list});
