#include "common/dispatch.h"

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <stdexcept>

#if defined(PREIMAGE_X86_KERNELS) && defined(_WIN32)
#include "common/x86_features.h"
#endif

namespace preimage {
namespace {

InstructionSet available(const std::string& name, const std::string& source) {
    const std::vector<std::string> names = instruction_sets();
    if (std::find(names.begin(), names.end(), name) == names.end()) {
        std::string message = source + "='" + name + "' is not available here; choose one of:";
        for (const std::string& known : names) {
            message += " " + known;
        }
        throw std::invalid_argument(message);
    }
    return name == "avx512" ? InstructionSet::avx512 : name == "avx2" ? InstructionSet::avx2 : InstructionSet::portable;
}

InstructionSet from_environment() {
    const char* name = std::getenv("PREIMAGE_ISA");
    return available(name == nullptr || *name == '\0' ? instruction_sets().front() : name, "PREIMAGE_ISA");
}

std::atomic<InstructionSet>& current() {
    // Initialized by one thread; if that throws, the next call tries again and reports the same error.
    static std::atomic<InstructionSet> set{from_environment()};
    return set;
}

}  // namespace

std::vector<std::string> instruction_sets() {
    std::vector<std::string> names;
#ifdef PREIMAGE_X86_KERNELS
#ifdef _WIN32
    const auto [avx2, avx512] = x86_features();
#else
    // The compiler's builtin also checks that the operating system saves the wide registers.
    const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
                        __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl");
#endif
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

InstructionSet instruction_set() { return current(); }

void set_instruction_set(const std::string& name) { current() = available(name, "instruction_set"); }

std::string name_of(InstructionSet set) {
    return set == InstructionSet::avx512 ? "avx512" : set == InstructionSet::avx2 ? "avx2" : "portable";
}

}  // namespace preimage
