// Part of the CPU kernels: rows of an image as float32 in [0, 1], or as other values, in one plane or three.
//
// In an anonymous namespace because it is compiled for several instruction sets (see host_device.h).
#pragma once

#include <cstring>

#include "common/host_device.h"
#include "common/image.h"
#include "common/simd.h"

namespace preimage {
namespace {

constexpr int kPrefetchRows = 9;  // number of rows ahead that pixels are prefetched

/// Conversion of pixels to values of rows: float32 in [0, 1].
struct UnitValues {
    using Value = float;
    template <class Pixel>
    PREIMAGE_INLINE float value(Pixel pixel) {
        return unit_value(pixel);
    }
    PREIMAGE_INLINE float combined(float red, float green, float blue) { return luma(red, green, blue); }
};

/// `stride` is in elements; a constant one lets the compiler vectorize the loop.
template <class Values, class Pixel>
PREIMAGE_INLINE void convert_plane(const Pixel* in, std::int64_t stride, std::int64_t width,
                                   typename Values::Value* __restrict out) {
    for (std::int64_t x = 0; x < width; ++x) {
        out[x] = Values::value(in[x * stride]);
    }
}

template <class Values, class Pixel>
PREIMAGE_INLINE void convert_luma(const Pixel* in, std::int64_t plane, std::int64_t stride, std::int64_t width,
                                  typename Values::Value* __restrict out) {
    for (std::int64_t x = 0; x < width; ++x) {
        const Pixel* pixel = in + x * stride;
        out[x] =
            Values::combined(Values::value(pixel[0]), Values::value(pixel[plane]), Values::value(pixel[2 * plane]));
    }
}

/// Convert interleaved RGB, as image decoders return it, to luma or to three planes. In two steps, because every
/// instruction set has shuffles for floats but not for bytes.
template <class Values, class Pixel>
PREIMAGE_INLINE void convert_interleaved(const Pixel* in, int planes, std::int64_t width, std::int64_t plane_pitch,
                                         typename Values::Value* __restrict out) {
    using Value = typename Values::Value;
    constexpr std::int64_t kTogether = 64;
    alignas(64) Value values[3 * kTogether];
    for (std::int64_t start = 0; start < width; start += kTogether) {
        const std::int64_t count = minimum(kTogether, width - start);
        convert_plane<Values>(in + 3 * start, 1, 3 * count, values);
        if (planes == 1) {
            convert_luma<Values>(values, 1, 3, count, out + start);
        } else {
            Value* __restrict red = out + start;
            Value* __restrict green = red + plane_pitch;
            Value* __restrict blue = green + plane_pitch;
            for (std::int64_t x = 0; x < count; ++x) {
                red[x] = values[3 * x];
                green[x] = values[3 * x + 1];
                blue[x] = values[3 * x + 2];
            }
        }
    }
}

/// `Values::value` must not change values that it has returned, because some are converted twice.
template <class Pixel, class Values = UnitValues>
void convert_row(const Image& image, int planes, std::int64_t y, std::int64_t plane_pitch,
                 typename Values::Value* out) {
    const auto* in = reinterpret_cast<const Pixel*>(image.pixels + y * image.row_stride);
    const auto size = static_cast<std::int64_t>(sizeof(Pixel));
    const std::int64_t plane = image.channel_stride / size;
    const std::int64_t stride = image.column_stride / size;
    const std::int64_t width = image.width;
    if (image.channels == 3 && stride == 3 && plane == 1) {
        convert_interleaved<Values>(in, planes, width, plane_pitch, out);
    } else if (planes == image.channels) {
        for (int channel = 0; channel < planes; ++channel, in += plane, out += plane_pitch) {
            if (stride == 1) {
                convert_plane<Values>(in, 1, width, out);
            } else {
                convert_plane<Values>(in, stride, width, out);
            }
        }
    } else if (stride == 1) {
        convert_luma<Values>(in, plane, 1, width, out);
    } else {
        convert_luma<Values>(in, plane, stride, width, out);
    }
}

/// Provides the image's rows as float32: in place if they are contiguous float32, else converted into a ring buffer.
class ImageRows {
public:
    /// `planes` is 1 (three channels become luma) or the image's number of channels. `memory` has space for planes *
    /// ring rows of `pitch` floats, pitch >= width + 2 * kChunk.
    ImageRows(const Image& image, int planes, float* memory, std::int64_t pitch, std::int64_t ring)
        : image_(image),
          planes_(planes),
          memory_(memory),
          pitch_(pitch),
          ring_(ring),
          direct_(planes == image.channels && image.type == ScalarType::float32 && image.column_stride == 4 &&
                  image.width >= kChunk + 2) {
        if (!direct_) {  // steps of kChunk read past the end of the row
            for (std::int64_t row = 0; row < planes_ * ring_; ++row) {
                std::memset(memory_ + row * pitch_ + image_.width, 0,
                            static_cast<std::size_t>(pitch_ - image_.width) * sizeof(float));
            }
        }
    }

    int planes() const { return planes_; }

    /// Return the last x at which kChunk pixels and both their neighbors may be read without leaving the row.
    std::int64_t last_start() const { return (direct_ ? image_.width : pitch_) - 1 - kChunk; }

    /// Make the rows [begin, end) readable, as far as the image has them. Successive calls go down the image.
    void require(std::int64_t begin, std::int64_t end) {
        if (direct_) {
            return;
        }
        for (next_ = maximum(maximum(next_, begin), 0); next_ < minimum(end, image_.height); ++next_) {
            float* out = memory_ + next_ % ring_ * pitch_;
            if (image_.type == ScalarType::uint8) {
                convert_row<std::uint8_t>(image_, planes_, next_, ring_ * pitch_, out);
            } else {
                convert_row<float>(image_, planes_, next_, ring_ * pitch_, out);
            }
        }
    }

    /// Return the row to prefetch while row y is processed, or null. Where the image is read in place, it is the row
    /// needed about one block row later: tiles jump from row to row, which hardware prefetchers do not follow.
    const float* row_to_prefetch(int plane, std::int64_t y, std::int64_t ahead = kPrefetchRows) const {
        return direct_ ? row(plane, minimum(y + ahead, image_.height - 1)) : nullptr;
    }

    const float* row(int plane, std::int64_t y) const {
        if (direct_) {
            return reinterpret_cast<const float*>(image_.pixels + plane * image_.channel_stride +
                                                  y * image_.row_stride);
        }
        return memory_ + (plane * ring_ + y % ring_) * pitch_;
    }

private:
    const Image& image_;
    const int planes_;
    float* const memory_;
    const std::int64_t pitch_;
    const std::int64_t ring_;
    const bool direct_;
    std::int64_t next_ = 0;
};

}  // namespace
}  // namespace preimage
