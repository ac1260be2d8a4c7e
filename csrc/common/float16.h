// The bits of a float32, and conversions to the 16-bit types, shared by host and device.
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

// Elements of features in 16 bits.
struct Half {
    std::uint16_t bits;
};
struct Bfloat16 {
    std::uint16_t bits;
};

// Rounded to the nearest, ties to even, as torch does.

/// Of values in [0, 65504] or not a number.
PREIMAGE_INLINE std::uint16_t unsigned_to_half(float value) {
    const std::int32_t bits = float_bits(value);
    const std::int32_t normal = (bits + 0xfff + ((bits >> 13) & 1) - (112 << 23)) >> 13;
    // Adding a half moves the bits that a subnormal has to the end of the fraction, and rounds.
    const std::int32_t subnormal = float_bits(value + 0.5f) - 0x3f000000;
    const std::int32_t half = value < 6.103515625e-5f ? subnormal : normal;
    return static_cast<std::uint16_t>(value == value ? half : 0x7e00);
}

/// Of any value; too large ones become infinite.
PREIMAGE_INLINE std::uint16_t to_half(float value) {
    constexpr float kOverflow = 65520.0f;  // halfway between the largest half and the next power of two
    const float size = absolute(value);
    const std::int32_t half = size >= kOverflow ? 0x7c00 : unsigned_to_half(size);
    return static_cast<std::uint16_t>(half | (float_bits(value) < 0 ? 0x8000 : 0));
}

/// Of values >= 0 or not a number.
PREIMAGE_INLINE std::uint16_t unsigned_to_bfloat16(float value) {
    const std::int32_t bits = float_bits(value);
    const std::int32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    return static_cast<std::uint16_t>(value == value ? rounded : 0x7fc0);
}

}  // namespace preimage
