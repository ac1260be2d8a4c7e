// Part of LBP's block programs (lbp_blocks.h): inputs and outputs, and a tile of an image in shared memory.
#pragma once

#include "common/image.h"
#include "lbp/lbp.h"
#include "lbp/lbp_math.h"

namespace preimage::lbp {

/// Inputs and outputs. Output: (B, 58, Hc, Wc); labels: (B, H, W).
struct Batch {
    Image image;  // the first one
    std::int64_t image_stride, images;
    std::int64_t cell_size, cell_rows, cell_columns;
    float* output;
    std::uint8_t* labels;

    PREIMAGE_HOST_DEVICE Image at(std::int64_t index) const {
        Image chosen = image;
        chosen.pixels += index * image_stride;
        return chosen;
    }
};

/// Type and channels of pixels, for which kernels are specialized. `fetch` loads a pixel, `brightness` converts it when
/// it is needed, possibly much later, so that no thread waits for memory.
template <class Pixel, int kChannels>
struct PixelFormat {
    using Raw = float;  // three channels: their luma
    PREIMAGE_HOST_DEVICE static Raw fetch(const std::byte* at, std::int64_t channel_stride) {
        const auto read = [at](std::int64_t offset) {
            return unit_value(*reinterpret_cast<const Pixel*>(at + offset));
        };
        return luma(read(0), read(channel_stride), read(2 * channel_stride));
    }
    PREIMAGE_HOST_DEVICE static float brightness(Raw raw) { return raw; }
};

template <class Pixel>
struct PixelFormat<Pixel, 1> {
    using Raw = Pixel;
    PREIMAGE_HOST_DEVICE static Raw fetch(const std::byte* at, std::int64_t) {
        return *reinterpret_cast<const Pixel*>(at);
    }
    /// Only the order of values matters, so bytes are not divided by 255.
    PREIMAGE_HOST_DEVICE static float brightness(Raw raw) { return static_cast<float>(raw); }
};

/// Call call(PixelFormat) with the image's format.
template <class Call>
void with_pixel_format(const Image& image, const Call& call) {
    if (image.type == ScalarType::float32) {
        image.channels == 1 ? call(PixelFormat<float, 1>{}) : call(PixelFormat<float, 3>{});
    } else {
        image.channels == 1 ? call(PixelFormat<std::uint8_t, 1>{}) : call(PixelFormat<std::uint8_t, 3>{});
    }
}

/// A tile of an image with a border of one pixel, and the table of labels.
template <class PixelFormat, int kRows, int kWidth, int kThreads>
struct Tile {
    static constexpr int kStep = kThreads / kWidth;  // rows fetched by all threads together
    static constexpr int kEach = (kRows + 2 + kStep - 1) / kStep;

    /// Pixels fetched by one thread: every kStep-th pixel of a column, and one of the two remaining columns.
    struct Fetched {
        typename PixelFormat::Raw column[kEach];
        typename PixelFormat::Raw edge;
    };

    float pixels[kRows + 2][kWidth + 2];
    std::int32_t labels[256];

    PREIMAGE_HOST_DEVICE void prepare(int thread) {
        for (int code = thread; code < 256; code += kThreads) {
            labels[code] = label_of(static_cast<std::uint32_t>(code));
        }
    }

    /// Fetch pixels of the tile at (top, left) and its border. Positions outside the image stay zero and are not
    /// used.
    PREIMAGE_HOST_DEVICE static Fetched fetch(const Image& image, int top, int left, int thread) {
        Fetched fetched{};
        const int y = top - 1 + thread / kWidth;
        const int x = left - 1 + thread % kWidth;
        if (rows_inside(image, top) && (kRows + 2) % kStep == 0) {
            fetch_column<true>(image, y, x, fetched.column);
        } else {
            fetch_column<false>(image, y, x, fetched.column);
        }
        if (thread < 2 * (kRows + 2)) {
            typename PixelFormat::Raw edge[1] = {};
            fetch_column<false>(image, top - 1 + thread / 2, left - 1 + kWidth + thread % 2, edge);
            fetched.edge = edge[0];
        }
        return fetched;
    }

    PREIMAGE_HOST_DEVICE void store(const Fetched& fetched, int thread) {
#ifdef __CUDA_ARCH__
#pragma unroll
#endif
        for (int index = 0; index < kEach; ++index) {
            const int row = thread / kWidth + index * kStep;
            if (row < kRows + 2) {
                pixels[row][thread % kWidth] = PixelFormat::brightness(fetched.column[index]);
            }
        }
        if (thread < 2 * (kRows + 2)) {
            pixels[thread / 2][kWidth + thread % 2] = PixelFormat::brightness(fetched.edge);
        }
    }

    /// Return whether all rows of the tile at `top` and its border are inside the image. Most tiles need no test per
    /// row.
    PREIMAGE_HOST_DEVICE static bool rows_inside(const Image& image, int top) {
        return top >= 1 && top + kRows < image.height;
    }

    /// Read the pixels (y, x - 1), (y, x), (y, x + 1) of the tile.
    PREIMAGE_HOST_DEVICE void read(int y, int x, float (&row)[3]) const {
        row[0] = pixels[y + 1][x];
        row[1] = pixels[y + 1][x + 1];
        row[2] = pixels[y + 1][x + 2];
    }

    /// Return the label of the pixel in the middle of three such rows.
    PREIMAGE_HOST_DEVICE std::int32_t label(const float (&above)[3], const float (&here)[3],
                                            const float (&below)[3]) const {
        return labels[code_at(&above[1], &here[1], &below[1])];
    }

private:
    /// Fetch the pixels (y, x), (y + kStep, x) and so on that are inside the image; with `kInside` all rows are.
    template <bool kInside, int kCount>
    PREIMAGE_HOST_DEVICE static void fetch_column(const Image& image, int y, int x,
                                                  typename PixelFormat::Raw (&column)[kCount]) {
        if (static_cast<std::uint32_t>(x) >= static_cast<std::uint32_t>(image.width)) {
            return;
        }
        const auto height = static_cast<std::uint32_t>(image.height);
        const std::int64_t step = kStep * image.row_stride;
        std::int64_t offset = y * image.row_stride + x * image.column_stride;
#ifdef __CUDA_ARCH__
#pragma unroll
#endif
        for (int index = 0; index < kCount; ++index, offset += step) {
            if (kInside || static_cast<std::uint32_t>(y + index * kStep) < height) {
                column[index] = PixelFormat::fetch(image.pixels + offset, image.channel_stride);
            }
        }
    }
};

}  // namespace preimage::lbp
