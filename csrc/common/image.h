// One image of a batch, as the kernels read it: memory layout, and pixel values in [0, 1].
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <stdexcept>

#include "common/host_device.h"
#include "tensor_view.h"

namespace preimage {

struct Image {
    const std::byte* pixels;  // (C, H, W)
    ScalarType type;
    int channels;  // 1 or 3
    std::int64_t height, width;
    std::int64_t channel_stride, row_stride, column_stride;  // bytes
};

/// Throw std::invalid_argument with this message unless the condition holds.
inline void require(bool holds, const char* problem) {
    if (!holds) {
        throw std::invalid_argument(problem);
    }
}

/// Return the first image of a batch (B, C, H, W); the others follow images.strides[0] bytes apart. Checks everything
/// but the device. `doubles`: whether float64 is supported.
inline Image first_image(const TensorView& images, bool doubles = false) {
    const auto [batch, channels, height, width] = images.shape;
    static_cast<void>(batch);
    require(images.type == ScalarType::uint8 || images.type == ScalarType::float32 ||
                (doubles && images.type == ScalarType::float64),
            doubles ? "images must be uint8, float32 or float64" : "images must be uint8 or float32");
    require(channels == 1 || channels == 3, "images must have 1 or 3 channels");
    require(height > 0 && width > 0, "images must not be empty");
    // Keeps sums of sizes far from overflow, and columns within 32 bits.
    require(std::max(height, width) < (std::int64_t{1} << 30), "an image's sides must be below 2^30");
    return {images.data, images.type,       static_cast<int>(channels), height,
            width,       images.strides[1], images.strides[2],          images.strides[3]};
}

PREIMAGE_INLINE float unit_value(float value) { return value; }
#ifdef __CUDA_ARCH__
/// Return value / 255, correctly rounded for all values of a byte: a product with 1 / 255 in twice the precision.
PREIMAGE_INLINE float byte_unit_value(float value) {
    constexpr float kInverse = 1.0f / 255.0f;
    constexpr float kRemainder = -2.31917582e-10f;  // 1 / 255 - kInverse
    return __fmaf_rn(value, kInverse, value * kRemainder);
}
/// Return byte `index` of a word as a float: put into the last bits of 2^23, which is faster than a conversion.
PREIMAGE_INLINE float byte_of(std::uint32_t word, int index) {
    return __uint_as_float(__byte_perm(word, 0x4b000000u, 0x7440u + static_cast<std::uint32_t>(index))) - 8388608.0f;
}
#else
PREIMAGE_INLINE float byte_unit_value(float value) { return value / 255.0f; }
PREIMAGE_INLINE float byte_of(std::uint32_t word, int index) {
    return static_cast<float>(static_cast<std::uint8_t>(word >> 8 * index));
}
#endif
PREIMAGE_INLINE float unit_value(std::uint8_t value) { return byte_unit_value(static_cast<float>(value)); }

/// Return Rec. 601 luma.
PREIMAGE_INLINE float luma(float red, float green, float blue) {
    return (0.299f * red + 0.587f * green) + 0.114f * blue;
}

/// Return one pixel of one plane; `planes` is 1 for luma of three channels. For GPU kernels and rarely used paths:
/// others read whole rows (image_rows.h).
PREIMAGE_INLINE float pixel_at(const Image& image, int planes, int plane, std::int64_t y, std::int64_t x) {
    const std::byte* at = image.pixels + plane * image.channel_stride + y * image.row_stride + x * image.column_stride;
    const auto value = [&image](const std::byte* address) {
        return image.type == ScalarType::uint8 ? unit_value(*reinterpret_cast<const std::uint8_t*>(address))
                                               : unit_value(*reinterpret_cast<const float*>(address));
    };
    if (planes == image.channels) {
        return value(at);
    }
    return luma(value(at), value(at + image.channel_stride), value(at + 2 * image.channel_stride));
}

}  // namespace preimage
