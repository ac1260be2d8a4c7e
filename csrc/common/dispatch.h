// The choice among the kernels' builds for several instruction sets.
//
// Every *_cpu_kernel.cpp is compiled once per instruction set, each time into a namespace of that name (see
// CMakeLists.txt). PREIMAGE_DECLARE_KERNEL declares such a function in all of them, PREIMAGE_KERNEL picks one:
//
//     namespace preimage::hog {
//     PREIMAGE_DECLARE_KERNEL(void band(const Band& band, const Scratch& scratch));
//     ...
//     const auto run = PREIMAGE_KERNEL(band);
//     }
#pragma once

#include <string>
#include <vector>

namespace preimage {

enum class InstructionSet { portable, avx2, avx512 };

/// Return the names of the instruction sets that this build and this processor support, best first; the last is always
/// "portable".
std::vector<std::string> instruction_sets();

/// Return the instruction set that kernels use: the one named by the environment variable PREIMAGE_ISA, or the best.
/// The variable is read once, at the first call. Throws std::invalid_argument if it names one that is not available.
InstructionSet instruction_set();

/// Make all later calls use this instruction set, on every thread. For tests and benchmarks that compare them.
/// Throws std::invalid_argument if it is not available.
void set_instruction_set(const std::string& name);

std::string name_of(InstructionSet set);

#ifdef PREIMAGE_X86_KERNELS
#define PREIMAGE_DECLARE_KERNEL(declaration) \
    namespace portable {                     \
    declaration;                             \
    }                                        \
    namespace avx2 {                         \
    declaration;                             \
    }                                        \
    namespace avx512 {                       \
    declaration;                             \
    }                                        \
    static_assert(true, "to end with a semicolon")
#define PREIMAGE_KERNEL(function) ::preimage::pick(portable::function, avx2::function, avx512::function)
#else
#define PREIMAGE_DECLARE_KERNEL(declaration) \
    namespace portable {                     \
    declaration;                             \
    }                                        \
    static_assert(true, "to end with a semicolon")
#define PREIMAGE_KERNEL(function) ::preimage::pick(portable::function)
#endif

template <class Function>
Function* pick(Function* portable, Function* avx2, Function* avx512) {
    switch (instruction_set()) {
        case InstructionSet::avx512:
            return avx512;
        case InstructionSet::avx2:
            return avx2;
        default:
            return portable;
    }
}

/// The only choice where there are no others; an instruction set that is not available is an error all the same.
template <class Function>
Function* pick(Function* portable) {
    instruction_set();
    return portable;
}

}  // namespace preimage
