// Part of the CPU kernels (sift_cpu_kernel.h): vectors, whose lanes are neighbouring pixels.
#pragma once

#include "common/host_device.h"

namespace preimage::sift {
namespace {

// As wide as the instruction set's registers.
#if defined(__AVX512F__)
constexpr int kWide = 16;
#elif defined(__AVX__)
constexpr int kWide = 8;
#else
constexpr int kWide = 4;
#endif
using Wide = float __attribute__((vector_size(kWide * sizeof(float))));

PREIMAGE_INLINE Wide load_wide(const float* from) {
    Wide lanes;
    __builtin_memcpy(&lanes, from, sizeof(lanes));
    return lanes;
}

}  // namespace
}  // namespace preimage::sift
