// Part of the CPU kernels: vectors as wide as the instruction set's registers (wider ones would be kept in memory), and
// how they are stored as features.
//
// Included by every source that is compiled for several instruction sets, hence without linkage.
#pragma once

#include <cstdint>

#include "common/float_bits.h"
#include "common/host_device.h"

namespace preimage {
namespace {

#if defined(__AVX512F__)
constexpr int kWidth = 16;
#elif defined(__AVX__)
constexpr int kWidth = 8;
#else
constexpr int kWidth = 4;
#endif
using Lanes = float __attribute__((vector_size(kWidth * sizeof(float))));
using Integers = std::int32_t __attribute__((vector_size(kWidth * sizeof(std::int32_t))));
using Shorts = std::uint16_t __attribute__((vector_size(kWidth * sizeof(std::uint16_t))));

PREIMAGE_INLINE Lanes load(const float* from) {
    Lanes lanes;
    __builtin_memcpy(&lanes, from, sizeof(lanes));
    return lanes;
}
PREIMAGE_INLINE void store(float* to, Lanes lanes) { __builtin_memcpy(to, &lanes, sizeof(lanes)); }
PREIMAGE_INLINE Lanes zeros() { return Lanes{}; }

// `unsigned_to_half` and `unsigned_to_bfloat16` of every lane: compilers unroll loops over the lanes before they could
// vectorise them.
PREIMAGE_INLINE void store_as(float* out, Lanes values) { store(out, values); }
PREIMAGE_INLINE void store_as(Half* out, Lanes values) {
    const auto bits = reinterpret_cast<Integers>(values);
    const Integers normal = (bits + 0xfff + ((bits >> 13) & 1) - (112 << 23)) >> 13;
    const Integers subnormal = reinterpret_cast<Integers>(values + 0.5f) - 0x3f000000;
    const Integers half = values < 6.103515625e-5f ? subnormal : normal;
    const auto rounded = __builtin_convertvector(values == values ? half : Integers{} + 0x7e00, Shorts);
    __builtin_memcpy(out, &rounded, sizeof(rounded));
}
PREIMAGE_INLINE void store_as(Bfloat16* out, Lanes values) {
    const auto bits = reinterpret_cast<Integers>(values);
    const Integers kept = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    const auto rounded = __builtin_convertvector(values == values ? kept : Integers{} + 0x7fc0, Shorts);
    __builtin_memcpy(out, &rounded, sizeof(rounded));
}

/// The same of an array.
template <int kCount, class Stored>
PREIMAGE_INLINE void store_all(Stored* out, const float (&values)[kCount]) {
    static_assert(kCount % kWidth == 0);
    for (int start = 0; start < kCount; start += kWidth) {
        store_as(out + start, load(values + start));
    }
}

}  // namespace
}  // namespace preimage
