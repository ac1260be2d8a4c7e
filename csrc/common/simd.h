// Part of the CPU kernels: vectors as wide as the instruction set's registers (wider ones would be kept in memory), and
// how they are stored as features.
//
// Included by every source that is compiled for several instruction sets, hence without linkage.
#pragma once

#include <cstdint>

#include "common/float16.h"
#include "common/host_device.h"

namespace preimage {
namespace {

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

// `unsigned_to_half` and `unsigned_to_bfloat16` of every lane: compilers unroll loops over the lanes before they could
// vectorize them.
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

/// The same of an array.
template <int kCount, class Stored>
PREIMAGE_INLINE void store_all(Stored* out, const float (&values)[kCount]) {
    static_assert(kCount % kVecSize == 0);
    for (int start = 0; start < kCount; start += kVecSize) {
        store_as(out + start, load(values + start));
    }
}

}  // namespace
}  // namespace preimage
