// Part of HOG's block programs (hog_blocks.h): rows of 8 pixels with a neighbor on each side, fetched one row ahead.
#pragma once

#include "common/image.h"
#include "common/pixel_format.h"

namespace preimage::hog {

constexpr int kRowPixels = 8;

template <int kPlanes>
struct PixelRow {
    float values[kPlanes][kRowPixels + 2];
};

/// Where a thread reads a row. Its pixels consist of a front, the pixel before its first one and 4 more, and a back, 4
/// pixels and the one after. A front or back that is not inside the image is read elsewhere: its pixels do not vote.
/// Strided layouts, whose images have any width, leave such pixels zero.
struct RowPlace {
    const std::byte* front;  // pixel 0
    int back;                // from there to pixel 4, in bytes
    int left;                // column of pixel 0
};

/// A row as it lies in memory, so that it is converted only when it is needed.
template <class Format, class Pixel, bool strided>
struct RawRow;

/// Two loads of 8 bytes per channel or, interleaved, four.
template <class Format>
struct RawRow<Format, std::uint8_t, false> {
    static constexpr int kStep = Format::kLayout == Layout::interleaved ? Format::kChannels : 1;
    static constexpr int kRuns = Format::kChannels / kStep;
    static constexpr int kLoads = kStep == 1 ? 1 : 2;  // of a front or back
    using Load = AlignedLoad<std::uint8_t>;
    Load loads[kRuns][2 * kLoads];

    PREIMAGE_HOST_DEVICE void fetch(const Image& image, const RowPlace& place) {
        for (int run = 0; run < kRuns; ++run) {
            const std::byte* front = place.front + run * image.channel_stride;
            for (int index = 0; index < kLoads; ++index) {
                loads[run][index] = reinterpret_cast<const Load*>(front - 4)[index];
                loads[run][kLoads + index] = reinterpret_cast<const Load*>(front + place.back)[index];
            }
        }
    }
    PREIMAGE_HOST_DEVICE float value(int channel, int k) const {
        const int byte = kStep == 1 ? 3 + k : 1 + kStep * k + channel;
        const Load& load = loads[kStep == 1 ? channel : 0][byte / 8];
        return byte_unit_value(byte_of(load.words[byte / 4 % 2], byte % 4));
    }
};

/// Two loads of 16 bytes per channel, and two of 4 for the neighbors.
template <class Format>
struct RawRow<Format, float, false> {
    static constexpr int kStep = Format::kLayout == Layout::interleaved ? Format::kChannels : 1;
    static constexpr int kRuns = Format::kChannels / kStep;
    using Load = AlignedLoad<float>;
    float before[kRuns][kStep], after[kRuns][kStep];
    Load loads[kRuns][2 * kStep];

    PREIMAGE_HOST_DEVICE void fetch(const Image& image, const RowPlace& place) {
        for (int run = 0; run < kRuns; ++run) {
            const std::byte* front = place.front + run * image.channel_stride;
            const std::byte* back = front + place.back;
            for (int index = 0; index < kStep; ++index) {
                loads[run][index] = reinterpret_cast<const Load*>(front)[index];
                loads[run][kStep + index] = reinterpret_cast<const Load*>(back)[index];
                before[run][index] = reinterpret_cast<const float*>(front)[index - kStep];
                after[run][index] = reinterpret_cast<const float*>(back)[index + 4 * kStep];
            }
        }
    }
    PREIMAGE_HOST_DEVICE float value(int channel, int k) const {
        const int run = kStep == 1 ? channel : 0;
        const int index = kStep == 1 ? 0 : channel;
        const int place = kStep * (k - 1) + index;
        return k == 0                ? before[run][index]
               : k == kRowPixels + 1 ? after[run][index]
                                     : loads[run][place / 4].words[place % 4];
    }
};

/// One load per value.
template <class Format, class Pixel>
struct RawRow<Format, Pixel, true> {
    Pixel values[Format::kChannels][kRowPixels + 2];

    PREIMAGE_HOST_DEVICE void fetch(const Image& image, const RowPlace& place) {
        const std::byte* at = place.front - image.column_stride;
        for (int k = 0; k < kRowPixels + 2; ++k, at += image.column_stride) {
            const int x = place.left - 1 + k;
            if (x >= 0 && x < static_cast<int>(image.width)) {
                for (int channel = 0; channel < Format::kChannels; ++channel) {
                    values[channel][k] = *reinterpret_cast<const Pixel*>(at + channel * image.channel_stride);
                }
            }
        }
    }
    PREIMAGE_HOST_DEVICE float value(int channel, int k) const { return unit_value(values[channel][k]); }
};

/// Goes down an image; the next row is always on its way.
template <class Format, int kPlanes>
class RowReader {
    static constexpr bool kStrided = Format::kLayout == Layout::strided;

public:
    /// Begin at pixel (y, left). Rows above and below the image repeat its first and last row.
    PREIMAGE_HOST_DEVICE void start(const Image& image, int y, int left) {
        int front = left;
        int back = left;  // not used if strided
        if (!kStrided) {
            const auto width = static_cast<int>(image.width);
            front = minimum(maximum(left, 4), width - 4);
            back = minimum(maximum(left + 4, 0), width - 8);
        }
        place_.left = left;
        place_.back = (back - front) * static_cast<int>(image.column_stride);
        place_.front =
            image.pixels + minimum(maximum(y, 0), image.height - 1) * image.row_stride + front * image.column_stride;
        raw_ = {};
        raw_.fetch(image, place_);
    }

    /// Convert row y, which has been fetched, and fetch the next one.
    PREIMAGE_HOST_DEVICE void next(const Image& image, int y, PixelRow<kPlanes>& row) {
        for (int k = 0; k < kRowPixels + 2; ++k) {
            if (kPlanes == Format::kChannels) {
                for (int plane = 0; plane < kPlanes; ++plane) {
                    row.values[plane][k] = raw_.value(plane, k);
                }
            } else {
                row.values[0][k] = luma(raw_.value(0, k), raw_.value(1, k), raw_.value(2, k));
            }
        }
        // Not a branch, which would let the compiler keep the old pixels, and copy all of them in case it does.
        place_.front += image.row_stride * (y >= 0 && y < static_cast<int>(image.height) - 1 ? 1 : 0);
        raw_.fetch(image, place_);
    }

    PREIMAGE_HOST_DEVICE int left() const { return place_.left; }

private:
    RawRow<Format, typename Format::Pixel, kStrided> raw_;
    RowPlace place_;
};

}  // namespace preimage::hog
