// Part of the CPU kernels: vectors of the instruction set's register width (GCC would keep wider ones in memory), and
// stores that convert to the type of the features.
//
// In an anonymous namespace because it is compiled for several instruction sets (see host_device.h).
#pragma once

#include <cstdint>

#include "common/float16.h"
#include "common/host_device.h"

namespace preimage {
namespace {

constexpr int kChunk = 16;  // elements that loops process together: one cache line of float32

#if defined(__AVX512F__)
constexpr int kVecSize = 16;
#elif defined(__AVX__)
constexpr int kVecSize = 8;
#else
constexpr int kVecSize = 4;
#endif
using FloatVec = float __attribute__((vector_size(kVecSize * sizeof(float))));
using IntVec = std::int32_t __attribute__((vector_size(kVecSize * sizeof(std::int32_t))));
using ShortVec = std::uint16_t __attribute__((vector_size(kVecSize * sizeof(std::uint16_t))));

PREIMAGE_INLINE FloatVec load(const float* from) {
    FloatVec lanes;
    __builtin_memcpy(&lanes, from, sizeof(lanes));
    return lanes;
}
PREIMAGE_INLINE void store(float* to, FloatVec lanes) { __builtin_memcpy(to, &lanes, sizeof(lanes)); }
PREIMAGE_INLINE FloatVec zeros() { return FloatVec{}; }

// `unsigned_to_half` and `unsigned_to_bfloat16` (float16.h) for all lanes. Written with vectors because compilers
// unroll a loop over the lanes before they can vectorize it.
PREIMAGE_INLINE void store_as(float* out, FloatVec values) { store(out, values); }
PREIMAGE_INLINE void store_as(Half* out, FloatVec values) {
    const auto bits = reinterpret_cast<IntVec>(values);
    const IntVec normal = (bits + 0xfff + ((bits >> 13) & 1) - (112 << 23)) >> 13;
    const IntVec subnormal = reinterpret_cast<IntVec>(values + 0.5f) - 0x3f000000;
    const IntVec half = values < 6.103515625e-5f ? subnormal : normal;
    const auto rounded = __builtin_convertvector(values == values ? half : IntVec{} + 0x7e00, ShortVec);
    __builtin_memcpy(out, &rounded, sizeof(rounded));
}
PREIMAGE_INLINE void store_as(Bfloat16* out, FloatVec values) {
    const auto bits = reinterpret_cast<IntVec>(values);
    const IntVec kept = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    const auto rounded = __builtin_convertvector(values == values ? kept : IntVec{} + 0x7fc0, ShortVec);
    __builtin_memcpy(out, &rounded, sizeof(rounded));
}

/// Store a whole array.
template <int kCount, class Stored>
PREIMAGE_INLINE void store_all(Stored* out, const float (&values)[kCount]) {
    static_assert(kCount % kVecSize == 0);
    for (int start = 0; start < kCount; start += kVecSize) {
        store_as(out + start, load(values + start));
    }
}

}  // namespace
}  // namespace preimage
