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

/// Of a function compiled for several instruction sets, the one for `chosen`.
template <class Function>
Function pick(InstructionSet chosen, Function portable, Function avx2, Function avx512) {
    return chosen == InstructionSet::avx512 ? avx512 : chosen == InstructionSet::avx2 ? avx2 : portable;
}
template <class Function>
Function pick(InstructionSet, Function portable) {
    return portable;
}

}  // namespace preimage
