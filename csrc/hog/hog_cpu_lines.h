// Part of the CPU kernel (hog_cpu_kernel.h): an image's rows as float32, one channel or three.
#pragma once

#include <cstring>

#include "hog/hog.h"
#include "hog/hog_math.h"

namespace preimage::hog {
namespace {

constexpr int kLanes = 16;     // pixels (or cells) worked on together
constexpr int kRowsAhead = 9;  // how far ahead of their use rows are fetched

PREIMAGE_INLINE std::int64_t smaller(std::int64_t a, std::int64_t b) { return a < b ? a : b; }
PREIMAGE_INLINE std::int64_t larger(std::int64_t a, std::int64_t b) { return a > b ? a : b; }

PREIMAGE_INLINE float unit_value(float value) { return value; }
PREIMAGE_INLINE float unit_value(std::uint8_t value) { return static_cast<float>(value) / 255.0f; }

/// Strides in elements; a constant one lets the compiler vectorise the loop.
template <class Pixel>
PREIMAGE_INLINE void convert_plane(const Pixel* in, std::int64_t stride, std::int64_t width, float* __restrict out) {
    for (std::int64_t x = 0; x < width; ++x) {
        out[x] = unit_value(in[x * stride]);
    }
}

template <class Pixel>
PREIMAGE_INLINE void convert_luma(const Pixel* in, std::int64_t plane, std::int64_t stride, std::int64_t width,
                                  float* __restrict out) {
    for (std::int64_t x = 0; x < width; ++x) {
        const Pixel* pixel = in + x * stride;
        out[x] = luma(unit_value(pixel[0]), unit_value(pixel[plane]), unit_value(pixel[2 * plane]));
    }
}

template <class Pixel>
void convert_row(const Band& band, int planes, std::int64_t y, std::int64_t plane_pitch, float* out) {
    const auto* in = reinterpret_cast<const Pixel*>(band.pixels + y * band.row_stride);
    const auto size = static_cast<std::int64_t>(sizeof(Pixel));
    const std::int64_t plane = band.channel_stride / size;
    const std::int64_t stride = band.column_stride / size;
    const std::int64_t width = band.width;
    if (planes == band.channels) {
        for (int channel = 0; channel < planes; ++channel, in += plane, out += plane_pitch) {
            if (stride == 1) {
                convert_plane(in, 1, width, out);
            } else {
                convert_plane(in, stride, width, out);
            }
        }
    } else if (stride == 1) {
        convert_luma(in, plane, 1, width, out);
    } else if (stride == 3 && plane == 1) {
        convert_luma(in, 1, 3, width, out);  // red, green, blue side by side, as decoders give them
    } else {
        convert_luma(in, plane, stride, width, out);
    }
}

/// Gives the image's rows as float: in place where they are float and side by side, else from a ring of
/// converted ones.
class Lines {
public:
    Lines(const Band& band, const Scratch& scratch, std::int64_t ring)
        : band_(band),
          scratch_(scratch),
          ring_(ring),
          planes_(band.channels == 3 && band.parameters.colour == Colour::strongest ? 3 : 1),
          direct_(planes_ == band.channels && band.type == ScalarType::float32 && band.column_stride == 4 &&
                  band.width >= kLanes + 2) {
        if (!direct_) {  // steps of kLanes read on past the row's end
            for (std::int64_t row = 0; row < planes_ * ring_; ++row) {
                float* line = scratch_.lines + row * scratch_.line_pitch;
                std::memset(line + band_.width, 0,
                            static_cast<std::size_t>(scratch_.line_pitch - band_.width) * sizeof(float));
            }
        }
    }

    int planes() const { return planes_; }

    /// The last x at which a step of kLanes gradients may start without reading outside the row.
    std::int64_t last_start() const { return (direct_ ? band_.width : scratch_.line_pitch) - 1 - kLanes; }

    /// Makes the rows [begin, end) readable, as far as the image has them. Calls go down the image.
    void require(std::int64_t begin, std::int64_t end) {
        if (direct_) {
            return;
        }
        for (next_ = larger(larger(next_, begin), 0); next_ < smaller(end, band_.height); ++next_) {
            float* out = scratch_.lines + next_ % ring_ * scratch_.line_pitch;
            const std::int64_t plane_pitch = ring_ * scratch_.line_pitch;
            if (band_.type == ScalarType::uint8) {
                convert_row<std::uint8_t>(band_, planes_, next_, plane_pitch, out);
            } else {
                convert_row<float>(band_, planes_, next_, plane_pitch, out);
            }
        }
    }

    /// What to fetch into the cache while row y is worked on: where the image is read in place, the row that comes
    /// about a block row later (tiles jump from row to row, which the processor's own prefetching does not follow).
    const float* row_to_fetch(int plane, std::int64_t y) const {
        return direct_ ? row(plane, smaller(y + kRowsAhead, band_.height - 1)) : nullptr;
    }

    const float* row(int plane, std::int64_t y) const {
        if (direct_) {
            return reinterpret_cast<const float*>(band_.pixels + plane * band_.channel_stride + y * band_.row_stride);
        }
        return scratch_.lines + (plane * ring_ + y % ring_) * scratch_.line_pitch;
    }

private:
    const Band& band_;
    const Scratch& scratch_;
    const std::int64_t ring_;
    const int planes_;
    const bool direct_;
    std::int64_t next_ = 0;
};

}  // namespace
}  // namespace preimage::hog
