// Conversions from float32 to the 16-bit types, for host and device.
#pragma once

#include <cstdint>

#include "common/host_device.h"

namespace preimage {

#ifdef __CUDA_ARCH__
PREIMAGE_INLINE std::int32_t float_bits(float value) { return __float_as_int(value); }
PREIMAGE_INLINE float float_from_bits(std::int32_t bits) { return __int_as_float(bits); }
#else
PREIMAGE_INLINE std::int32_t float_bits(float value) {
    std::int32_t bits = 0;
    __builtin_memcpy(&bits, &value, sizeof(bits));
    return bits;
}
PREIMAGE_INLINE float float_from_bits(std::int32_t bits) {
    float value = 0.0f;
    __builtin_memcpy(&value, &bits, sizeof(value));
    return value;
}
#endif

// Elements of 16-bit features.
struct Half {
    std::uint16_t bits;
};
struct Bfloat16 {
    std::uint16_t bits;
};

// All round to nearest, ties to even, as torch does.

#ifdef __CUDA_ARCH__
/// Convert a value in [0, 65504], or NaN.
PREIMAGE_INLINE std::uint16_t unsigned_to_half(float value) {
    std::uint16_t bits;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(value));
    return bits;
}
/// Convert a value >= 0, or NaN.
PREIMAGE_INLINE std::uint16_t unsigned_to_bfloat16(float value) {
    std::uint16_t bits;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(bits) : "f"(value));
    return bits;
}
#else
/// Convert a value in [0, 65504], or NaN.
PREIMAGE_INLINE std::uint16_t unsigned_to_half(float value) {
    const std::int32_t bits = float_bits(value);
    const std::int32_t normal = (bits + 0xfff + ((bits >> 13) & 1) - (112 << 23)) >> 13;
    // Adding 0.5 shifts the bits of a subnormal to the end of the fraction, and rounds.
    const std::int32_t subnormal = float_bits(value + 0.5f) - 0x3f000000;
    const std::int32_t half = value < 6.103515625e-5f ? subnormal : normal;
    return static_cast<std::uint16_t>(value == value ? half : 0x7e00);
}
/// Convert a value >= 0, or NaN.
PREIMAGE_INLINE std::uint16_t unsigned_to_bfloat16(float value) {
    const std::int32_t bits = float_bits(value);
    const std::int32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    return static_cast<std::uint16_t>(value == value ? rounded : 0x7fc0);
}
#endif

/// Convert any value; values out of range become infinite.
PREIMAGE_INLINE std::uint16_t to_half(float value) {
    constexpr float kOverflow = 65520.0f;  // halfway between the largest float16 and the next power of two
    const float size = absolute(value);
    const std::int32_t half = size >= kOverflow ? 0x7c00 : unsigned_to_half(size);
    return static_cast<std::uint16_t>(half | (float_bits(value) < 0 ? 0x8000 : 0));
}

}  // namespace preimage
