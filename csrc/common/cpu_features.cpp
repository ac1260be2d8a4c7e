#include "common/cpu_features.h"

#include <algorithm>
#include <stdexcept>

namespace preimage {

std::vector<std::string> instruction_sets() {
    std::vector<std::string> names;
#ifdef PREIMAGE_X86_KERNELS
    // The compiler's probe also asks whether the operating system saves the wide registers.
    const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
                        __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl");
    if (avx512) {
        names.emplace_back("avx512");
    }
    if (avx2) {
        names.emplace_back("avx2");
    }
#endif
    names.emplace_back("portable");
    return names;
}

InstructionSet choose_instruction_set(const std::string& name) {
    const std::vector<std::string> available = instruction_sets();
    const std::string chosen = name.empty() ? available.front() : name;
    if (std::find(available.begin(), available.end(), chosen) == available.end()) {
        std::string message = "PREIMAGE_ISA='" + name + "' is not available here; choose one of:";
        for (const std::string& known : available) {
            message += " " + known;
        }
        throw std::invalid_argument(message);
    }
    return chosen == "avx512" ? InstructionSet::avx512
           : chosen == "avx2" ? InstructionSet::avx2
                              : InstructionSet::portable;
}

}  // namespace preimage
