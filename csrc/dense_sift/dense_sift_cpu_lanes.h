// Part of the CPU kernel (dense_sift_cpu_kernel.h): vectors, whose lanes are neighbouring descriptors.
#pragma once

#include <cstdint>

#include "common/host_device.h"

namespace preimage::dense_sift {
namespace {

// As wide as the instruction set's registers: wider vectors would be kept in memory.
#if defined(__AVX512F__)
constexpr int kWidth = 16;
#elif defined(__AVX__)
constexpr int kWidth = 8;
#else
constexpr int kWidth = 4;
#endif
using Lanes = float __attribute__((vector_size(kWidth * sizeof(float))));
using Integers = std::int32_t __attribute__((vector_size(kWidth * sizeof(std::int32_t))));

PREIMAGE_INLINE Lanes load(const float* from) {
    Lanes lanes;
    __builtin_memcpy(&lanes, from, sizeof(lanes));
    return lanes;
}
PREIMAGE_INLINE void store(float* to, Lanes lanes) { __builtin_memcpy(to, &lanes, sizeof(lanes)); }
PREIMAGE_INLINE Lanes zeros() { return Lanes{}; }

}  // namespace
}  // namespace preimage::dense_sift
