// Types, channels and memory layouts of pixels, for which GPU kernels are specialized.
#pragma once

#include <cstdint>

#include "common/image.h"

namespace preimage {

enum class Layout {
    planar,       // rows of each channel are contiguous
    interleaved,  // three channels, one after the other, as image decoders return them
    strided       // anything else
};

template <class PixelType, int channels, Layout layout>
struct PixelFormat {
    using Pixel = PixelType;
    static constexpr int kChannels = channels;
    static constexpr Layout kLayout = layout;
};

// Loads of 4 pixels of a channel, float32, or 8, uint8, are aligned in layouts other than `strided`. The width is a
// multiple of 8, so that no group of pixels lies across the end of a row.
constexpr int kGroup = 8;
constexpr std::int64_t load_size(ScalarType type) { return type == ScalarType::float32 ? 16 : 8; }

/// What such a load returns.
template <class Pixel>
struct AlignedLoad;
template <>
struct alignas(16) AlignedLoad<float> {
    float words[4];
};
template <>
struct alignas(8) AlignedLoad<std::uint8_t> {
    std::uint32_t words[2];
};

/// Return the layout of all images of a batch that follow `image_stride` bytes apart.
inline Layout layout_of(const Image& image, std::int64_t image_stride) {
    const std::int64_t size = image.type == ScalarType::float32 ? 4 : 1;
    const auto aligned = [&image](std::int64_t bytes) { return bytes % load_size(image.type) == 0; };
    if (image.width % kGroup != 0 ||
        !aligned(static_cast<std::int64_t>(reinterpret_cast<std::uintptr_t>(image.pixels))) ||
        !aligned(image.row_stride) || !aligned(image_stride)) {
        return Layout::strided;
    }
    if (image.column_stride == size && (image.channels == 1 || aligned(image.channel_stride))) {
        return Layout::planar;
    }
    const bool interleaved = image.channels == 3 && image.channel_stride == size && image.column_stride == 3 * size;
    return interleaved ? Layout::interleaved : Layout::strided;
}

/// Call call(PixelFormat) with the format of a batch.
template <class Call>
void with_pixel_format(const Image& image, std::int64_t image_stride, const Call& call) {
    const Layout layout = layout_of(image, image_stride);
    const auto with_type = [&](auto pixel) {
        using Pixel = decltype(pixel);
        if (image.channels == 1) {
            layout == Layout::planar ? call(PixelFormat<Pixel, 1, Layout::planar>{})
                                     : call(PixelFormat<Pixel, 1, Layout::strided>{});
        } else if (layout == Layout::planar) {
            call(PixelFormat<Pixel, 3, Layout::planar>{});
        } else if (layout == Layout::interleaved) {
            call(PixelFormat<Pixel, 3, Layout::interleaved>{});
        } else {
            call(PixelFormat<Pixel, 3, Layout::strided>{});
        }
    };
    image.type == ScalarType::float32 ? with_type(float{}) : with_type(std::uint8_t{});
}

}  // namespace preimage
