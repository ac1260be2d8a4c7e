// Which of the instruction sets that this library is compiled for does this processor have?
#pragma once

#include <string>
#include <vector>

namespace preimage {

enum class InstructionSet { portable, avx2, avx512 };

/// The names of what can run here, best first; the last is always "portable".
std::vector<std::string> instruction_sets();

/// The set of that name, or the best one here for an empty name.
/// Throws std::invalid_argument when the name is unknown or the processor (or this build) lacks it.
InstructionSet choose_instruction_set(const std::string& name);

/// Of a function compiled for several instruction sets, the one for `chosen`: PREIMAGE_PICK(chosen, band) is
/// band_portable, band_avx2 or band_avx512.
#ifdef PREIMAGE_X86_KERNELS
#define PREIMAGE_PICK(chosen, function) \
    ::preimage::pick(chosen, function##_portable, function##_avx2, function##_avx512)
#else
#define PREIMAGE_PICK(chosen, function) (static_cast<void>(chosen), &function##_portable)
#endif

template <class Function>
Function pick(InstructionSet chosen, Function portable, Function avx2, Function avx512) {
    return chosen == InstructionSet::avx512 ? avx512 : chosen == InstructionSet::avx2 ? avx2 : portable;
}

}  // namespace preimage
