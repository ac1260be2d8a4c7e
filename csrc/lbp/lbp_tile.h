// Part of LBP's block programs (lbp_blocks.h): inputs and outputs, and a tile of an image in shared memory.
#pragma once

#include <type_traits>

#include "common/image.h"
#include "common/pixel_format.h"
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

/// One pixel.
template <class Format>
struct Values {
    typename Format::Pixel of[Format::kChannels];

    PREIMAGE_HOST_DEVICE void fetch(const Image& image, const std::byte* at) {
        for (int channel = 0; channel < Format::kChannels; ++channel) {
            of[channel] = *reinterpret_cast<const typename Format::Pixel*>(at + channel * image.channel_stride);
        }
    }
    PREIMAGE_HOST_DEVICE float brightness() const {
        float numbers[Format::kChannels];
        for (int channel = 0; channel < Format::kChannels; ++channel) {
            numbers[channel] = static_cast<float>(of[channel]);
        }
        return brightness_of(numbers);
    }
    /// Return what LBP compares: the luma of three channels. Of one channel only the order of values matters, so bytes
    /// are not divided by 255.
    PREIMAGE_HOST_DEVICE static float brightness_of(const float (&numbers)[Format::kChannels]) {
        if constexpr (Format::kChannels == 1) {
            return numbers[0];
        } else if constexpr (sizeof(typename Format::Pixel) == 1) {
            return luma(byte_unit_value(numbers[0]), byte_unit_value(numbers[1]), byte_unit_value(numbers[2]));
        } else {
            return luma(numbers[0], numbers[1], numbers[2]);
        }
    }
};

/// A group of pixels of a row as a thread fetches it: bytes as they lie in memory, converted when they are needed,
/// possibly much later, so that no thread waits for memory; in other formats the pixels' brightness.
template <class Format>
struct Group {
    using Pixel = typename Format::Pixel;
    static constexpr int kChannels = Format::kChannels;
    static constexpr bool kStrided = Format::kLayout == Layout::strided;
    static constexpr bool kInterleaved = Format::kLayout == Layout::interleaved;
    static constexpr bool kBytes = sizeof(Pixel) == 1 && !kStrided;
    using Word = std::conditional_t<kBytes, std::uint32_t, float>;
    using Load = AlignedLoad<Pixel>;
    static constexpr int kLoadWords = sizeof(Load) / sizeof(Word);
    static constexpr int kLoads = kGroup / (kBytes ? 8 : 4);  // of a channel

    Word words[kBytes ? 2 * kChannels : kGroup];

    /// Fetch the pixels from column x on, at this address. Strided ones beyond the image's last column become 0.
    PREIMAGE_HOST_DEVICE void fetch(const Image& image, const std::byte* at, int x) {
        if constexpr (kStrided) {
            for (int k = 0; k < kGroup; ++k) {
                Values<Format> values{};
                if (x + k < static_cast<int>(image.width)) {
                    values.fetch(image, at + k * image.column_stride);
                }
                words[k] = values.brightness();
            }
        } else {
            fetch_aligned(image, at);
        }
    }

    /// Return the brightness of one pixel.
    PREIMAGE_HOST_DEVICE float value(int k) const {
        if constexpr (kBytes) {
            float numbers[kChannels];
            for (int channel = 0; channel < kChannels; ++channel) {
                const int byte = place(channel, k);
                numbers[channel] = byte_of(words[byte / 4], byte % 4);
            }
            return Values<Format>::brightness_of(numbers);
        } else {
            return words[k];
        }
    }

private:
    PREIMAGE_HOST_DEVICE static constexpr int place(int channel, int k) {
        return kInterleaved ? kChannels * k + channel : kGroup * channel + k;
    }

    PREIMAGE_HOST_DEVICE void fetch_aligned(const Image& image, const std::byte* at) {
        Load loads[kChannels * kLoads];
        for (int index = 0; index < kChannels * kLoads; ++index) {
            const std::byte* run = kInterleaved ? at : at + index / kLoads * image.channel_stride;
            loads[index] = reinterpret_cast<const Load*>(run)[kInterleaved ? index : index % kLoads];
        }
        const auto word = [&loads](int index) { return loads[index / kLoadWords].words[index % kLoadWords]; };
        if constexpr (kBytes) {
            for (int index = 0; index < 2 * kChannels; ++index) {
                words[index] = word(index);
            }
        } else {
            for (int k = 0; k < kGroup; ++k) {
                float numbers[kChannels];
                for (int channel = 0; channel < kChannels; ++channel) {
                    numbers[channel] = word(place(channel, k));
                }
                words[k] = Values<Format>::brightness_of(numbers);
            }
        }
    }
};

/// A tile of an image with a border of one pixel, and the table of labels. Each thread fetches groups of pixels of the
/// same columns, and labels other groups of these columns.
template <class Format>
struct Tile {
    static constexpr int kThreads = 256;
    static constexpr int kAcross = 32;  // groups
    static constexpr int kWidth = kAcross * kGroup;
    static constexpr int kHeight = 16;
    static constexpr int kStep = kThreads / kAcross;  // rows that all threads fetch together
    static constexpr int kEach = kHeight / kStep;     // groups that each thread fetches, and rows that it labels

    // A row consists of the first 4 pixels of every group, the pixel after the tile, the pixel before it, and the other
    // 4 pixels of every group: accesses of 16 bytes then use all banks equally.
    static constexpr int kHalf = kGroup / 2;
    static constexpr int kSecond = kAcross * kHalf + 4;
    static constexpr int kPitch = kSecond + kAcross * kHalf;
    struct alignas(16) Quad {
        float values[kHalf];
    };
    static constexpr int kKeptQuads = 2 * kPitch / kHalf;

    /// What a thread fetches: groups, and one of the pixels before or after the tile.
    struct Fetched {
        Group<Format> groups[kEach];
        Values<Format> edge;
    };
    /// The pixels of a group and their neighbors.
    using Row = float[kGroup + 2];

    alignas(16) float pixels[kHeight + 2][kPitch];
    std::uint8_t labels[256];

    /// Write the table, and the first two rows of the tile at (top, left): the row before and its first.
    PREIMAGE_HOST_DEVICE void begin(const Image& image, int top, int left, int thread) {
        static_assert(kThreads == 256, "every thread writes one entry");
        labels[thread] = static_cast<std::uint8_t>(label_of(static_cast<std::uint32_t>(thread)));
        if (thread < 2 * kAcross) {
            const int row = thread / kAcross;
            store_group(row, thread % kAcross, fetch_group(image, top - 1 + row, left, thread % kAcross));
        }
        if (thread < 4) {
            edge(thread / 2, thread % 2) = fetch_edge(image, top - 1 + thread / 2, left, thread % 2).brightness();
        }
    }

    /// Fetch the other rows of the tile, of which the last one comes after it.
    PREIMAGE_HOST_DEVICE static Fetched fetch(const Image& image, int top, int left, int thread) {
        Fetched fetched{};
        for (int index = 0; index < kEach; ++index) {
            const int row = thread / kAcross + index * kStep;
            fetched.groups[index] = fetch_group(image, top + 1 + row, left, thread % kAcross);
        }
        if (thread < 2 * kHeight) {
            fetched.edge = fetch_edge(image, top + 1 + thread / 2, left, thread % 2);
        }
        return fetched;
    }

    PREIMAGE_HOST_DEVICE void store(const Fetched& fetched, int thread) {
        for (int index = 0; index < kEach; ++index) {
            store_group(2 + thread / kAcross + index * kStep, thread % kAcross, fetched.groups[index]);
        }
        if (thread < 2 * kHeight) {
            edge(2 + thread / 2, thread % 2) = fetched.edge.brightness();
        }
    }

    // The last two rows of a tile are the first two of the tile below.
    PREIMAGE_HOST_DEVICE Quad read_last_rows(int thread) const {
        return thread < kKeptQuads ? reinterpret_cast<const Quad*>(pixels[kHeight])[thread] : Quad{};
    }
    PREIMAGE_HOST_DEVICE void write_first_rows(const Quad& quad, int thread) {
        if (thread < kKeptQuads) {
            reinterpret_cast<Quad*>(pixels[0])[thread] = quad;
        }
    }

    /// Read a group of row y, where -1 is the row before the tile.
    PREIMAGE_HOST_DEVICE void read(int y, int group, Row& row) const {
        const float* from = pixels[y + 1] + kHalf * group;
        const Quad first = *reinterpret_cast<const Quad*>(from);
        const Quad second = *reinterpret_cast<const Quad*>(from + kSecond);
        row[0] = from[kSecond - 1];
        for (int k = 0; k < kHalf; ++k) {
            row[1 + k] = first.values[k];
            row[1 + kHalf + k] = second.values[k];
        }
        row[1 + kGroup] = from[kHalf];
    }

    /// Return the label of pixel k of a group.
    PREIMAGE_HOST_DEVICE std::int32_t label(const Row& above, const Row& here, const Row& below, int k) const {
        return labels[summed_code(above + 1 + k, here + 1 + k, below + 1 + k)];
    }

    /// Return whether pixel k of a group at column x has neighbors on both sides. Groups in layouts other than strided
    /// are inside the image or outside.
    PREIMAGE_HOST_DEVICE static bool has_neighbors(const Image& image, int x, int k) {
        const bool inside = Format::kLayout != Layout::strided;
        const auto width = static_cast<int>(image.width);
        return ((inside && k > 0) || x + k > 0) && ((inside && k < kGroup - 1) || x + k < width - 1);
    }

private:
    /// Return where the pixel before or after the tile is.
    PREIMAGE_HOST_DEVICE float& edge(int row, int side) {
        return pixels[row][side == 0 ? kSecond - 1 : kHalf * kAcross];
    }

    PREIMAGE_HOST_DEVICE static bool is_inside(const Image& image, int y, int x) {
        return static_cast<std::uint32_t>(y) < static_cast<std::uint32_t>(image.height) &&
               static_cast<std::uint32_t>(x) < static_cast<std::uint32_t>(image.width);
    }

    PREIMAGE_HOST_DEVICE static const std::byte* address(const Image& image, int y, int x) {
        constexpr int kPixelBytes =
            sizeof(typename Format::Pixel) * (Group<Format>::kInterleaved ? Format::kChannels : 1);
        return image.pixels + y * image.row_stride +
               x * (Group<Format>::kStrided ? image.column_stride : std::int64_t{kPixelBytes});
    }

    // Pixels outside the image become 0 and are not used.
    PREIMAGE_HOST_DEVICE static Group<Format> fetch_group(const Image& image, int y, int left, int group) {
        const int x = left + group * kGroup;
        Group<Format> fetched{};
        if (is_inside(image, y, x)) {
            fetched.fetch(image, address(image, y, x), x);
        }
        return fetched;
    }
    PREIMAGE_HOST_DEVICE static Values<Format> fetch_edge(const Image& image, int y, int left, int side) {
        const int x = side == 0 ? left - 1 : left + kWidth;
        Values<Format> fetched{};
        if (is_inside(image, y, x)) {
            fetched.fetch(image, address(image, y, x));
        }
        return fetched;
    }

    PREIMAGE_HOST_DEVICE void store_group(int row, int group, const Group<Format>& fetched) {
        Quad first, second;
        for (int k = 0; k < kHalf; ++k) {
            first.values[k] = fetched.value(k);
            second.values[k] = fetched.value(kHalf + k);
        }
        *reinterpret_cast<Quad*>(&pixels[row][kHalf * group]) = first;
        *reinterpret_cast<Quad*>(&pixels[row][kSecond + kHalf * group]) = second;
    }
};

}  // namespace preimage::lbp
