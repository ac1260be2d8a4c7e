// What an x86-64 processor supports, asked of the processor itself.
//
// Compilers have __builtin_cpu_supports for this, which reads a table in their runtime library. Clang does not link
// that library on Windows, so there the answer comes from here.
#pragma once

#include <cpuid.h>

#include <cstdint>

namespace preimage {

struct X86Features {
    bool avx2;    // with FMA
    bool avx512;  // F, DQ, BW and VL, and AVX2
};

/// Return what both the processor and the operating system support: a system that does not save the wide registers
/// when it switches threads must not see them used.
inline X86Features x86_features() {
    const auto all_of = [](std::uint64_t bits, std::uint64_t wanted) { return (bits & wanted) == wanted; };
    unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
    constexpr unsigned kFma = 1u << 12, kXsave = 1u << 27;
    if (__get_cpuid_count(1, 0, &eax, &ebx, &ecx, &edx) == 0 || !all_of(ecx, kFma | kXsave)) {
        return {false, false};
    }
    unsigned low = 0, high = 0;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    constexpr std::uint64_t kSaves256 = 0x06, kSaves512 = 0xe6;  // XMM and YMM; opmask and ZMM, too
    if (!all_of(low, kSaves256) || __get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) == 0) {
        return {false, false};
    }
    constexpr unsigned kAvx2 = 1u << 5, kF = 1u << 16, kDq = 1u << 17, kBw = 1u << 30, kVl = 1u << 31;
    const bool avx2 = all_of(ebx, kAvx2);
    return {avx2, avx2 && all_of(low, kSaves512) && all_of(ebx, kF | kDq | kBw | kVl)};
}

}  // namespace preimage
