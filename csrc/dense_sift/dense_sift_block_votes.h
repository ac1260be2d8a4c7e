// Part of the block programs (dense_sift_blocks.h): the gradient of every pixel, computed once, and its votes for the
// eight orientations.
#pragma once

#include <cstdint>

#include "common/block_program.h"
#include "common/image.h"
#include "dense_sift/dense_sift.h"
#include "dense_sift/dense_sift_grid.h"
#include "dense_sift/dense_sift_math.h"

namespace preimage::dense_sift {

constexpr int kBlockThreads = 256;

/// The gradients of an image's pixels, row-major.
struct Votes {
    struct alignas(8) Polar {
        float length, octants;  // octants: the direction in units of 45 degrees, [0, 8)
    };
    Polar* pixels;

    /// `memory`: vote_floats(grid), 8-byte aligned.
    PREIMAGE_HOST_DEVICE explicit Votes(float* memory) : pixels(reinterpret_cast<Polar*>(memory)) {}
};

/// Return the memory for an image's votes, in floats.
PREIMAGE_INLINE std::int64_t vote_floats(const Grid& grid) { return std::int64_t{2} * grid.y.pixels * grid.x.pixels; }

/// Images whose rows of votes have less than 2^32 bytes, so that one instruction computes the offset of a row.
constexpr std::int64_t kMaxWidth = std::int64_t{1} << 29;

/// The votes of the pixel column at x.
struct VoteColumn {
    const Votes::Polar* top;
    std::uint32_t row_bytes;

    PREIMAGE_HOST_DEVICE VoteColumn(const Grid& grid, const Votes& votes, std::int32_t x)
        : top(votes.pixels + x), row_bytes(static_cast<std::uint32_t>(grid.x.pixels) * sizeof(Votes::Polar)) {}

    PREIMAGE_HOST_DEVICE Votes::Polar at(std::int32_t y) const {
        const std::uint64_t offset = static_cast<std::uint64_t>(static_cast<std::uint32_t>(y)) * row_bytes;
        return *reinterpret_cast<const Votes::Polar*>(reinterpret_cast<const std::byte*>(top) + offset);
    }
};

/// Return the share of a gradient's length that an orientation gets. At most two, of adjacent orientations, are not 0.
/// Adding to all eight costs less than adding to two in shared memory, the only place that a thread could select from.
PREIMAGE_INLINE float share_of(int orientation, float octants) {
    return orientation == 0 ? saturate(1.0f - octants) + saturate(octants - (kOrientations - 1))
                            : saturate(1.0f - absolute(octants - static_cast<float>(orientation)));
}

constexpr int kTile = 32;  // side of the tile of a block of `vote_program`, in pixels
constexpr int kTilePitch = kTile + 2;
constexpr int kTileStep = kBlockThreads / kTile;  // rows that all threads process together

PREIMAGE_INLINE std::uint32_t tiles_along(std::int32_t pixels) {
    return (static_cast<std::uint32_t>(pixels) + kTile - 1) / kTile;
}

/// Load the pixels of the tile at (top, left) and around it, those at the image's edge repeated, into `tile`.
template <class Pixel, int kChannels>
PREIMAGE_INLINE void load_tile(const Image& image, const Grid& grid, std::int32_t top, std::int32_t left, int thread,
                               float* tile) {
    const auto load = [&](int row, int column) {
        const std::byte* at = image.pixels + inside(grid.y, top - 1 + row) * image.row_stride +
                              inside(grid.x, left - 1 + column) * image.column_stride;
        const auto value = [&](std::int64_t offset) {
            return unit_value(*reinterpret_cast<const Pixel*>(at + offset));
        };
        tile[row * kTilePitch + column] =
            kChannels == 1 ? value(0) : luma(value(0), value(image.channel_stride), value(2 * image.channel_stride));
    };
    PREIMAGE_UNROLL(kTilePitch)
    for (int first = 0; first < kTilePitch; first += kTileStep) {
        const int row = first + thread / kTile;
        if (row < kTilePitch) {
            load(row, thread % kTile);
        }
    }
    if (thread < 2 * kTilePitch) {
        load(thread / 2, kTile + thread % 2);
    }
}

/// `index`: number of the tile in the image, row-major. `tile`: kTilePitch^2 floats.
template <class Block>
PREIMAGE_HOST_DEVICE void vote_program(Block& block, const Image& image, const Grid& grid, std::uint32_t index,
                                       const Votes& votes, float* tile) {
    static_assert(Block::threads == kBlockThreads);
    const auto top = static_cast<std::int32_t>(index / tiles_along(grid.x.pixels)) * kTile;
    const auto left = static_cast<std::int32_t>(index % tiles_along(grid.x.pixels)) * kTile;
    block.each([&](int thread) {
        if (image.type == ScalarType::uint8) {
            image.channels == 1 ? load_tile<std::uint8_t, 1>(image, grid, top, left, thread, tile)
                                : load_tile<std::uint8_t, 3>(image, grid, top, left, thread, tile);
        } else {
            image.channels == 1 ? load_tile<float, 1>(image, grid, top, left, thread, tile)
                                : load_tile<float, 3>(image, grid, top, left, thread, tile);
        }
    });
    block.barrier();
    block.each([&](int thread) {
        const std::int32_t x = left + thread % kTile;
        for (int row = thread / kTile; row < kTile; row += kTileStep) {
            const std::int32_t y = top + row;
            if (x < grid.x.pixels && y < grid.y.pixels) {
                const float* here = tile + (row + 1) * kTilePitch + thread % kTile + 1;
                const float gx = difference(here[-1], here[1], x > 0 && x < grid.x.pixels - 1);
                const float gy = difference(here[-kTilePitch], here[kTilePitch], y > 0 && y < grid.y.pixels - 1);
                votes.pixels[static_cast<std::int64_t>(y) * grid.x.pixels + x] = {gradient_length(gx, gy),
                                                                                  direction(gx, gy)};
            }
        }
    });
}

}  // namespace preimage::dense_sift
