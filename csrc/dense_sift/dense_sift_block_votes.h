// Part of the block programs (dense_sift_blocks.h): the vote of every pixel, computed once.
#pragma once

#include <cstdint>

#include "common/block_program.h"
#include "common/image.h"
#include "dense_sift/dense_sift.h"
#include "dense_sift/dense_sift_grid.h"
#include "dense_sift/dense_sift_math.h"

namespace preimage::dense_sift {

constexpr int kBlockThreads = 256;
constexpr int kMaxFrames = 32;  // per block: `finish` (dense_sift_blocks.h) uses eight threads per descriptor
static_assert(kBlockThreads == kMaxFrames * kOrientations);

/// The votes of an image, row-major: their two parts, and the first of the two orientations.
struct Votes {
    struct alignas(8) Parts {
        float first, second;
    };
    Parts* parts;
    std::uint8_t* bins;

    /// `memory`: vote_floats(grid), 8-byte aligned.
    PREIMAGE_HOST_DEVICE Votes(const Grid& grid, float* memory)
        : parts(reinterpret_cast<Parts*>(memory)),
          bins(reinterpret_cast<std::uint8_t*>(parts + static_cast<std::int64_t>(grid.y.pixels) * grid.x.pixels)) {}

    PREIMAGE_HOST_DEVICE void put(std::int64_t pixel, const Vote& vote) const {
        parts[pixel] = {vote.first, vote.second};
        bins[pixel] = static_cast<std::uint8_t>(vote.bin);
    }
};

/// The votes of the pixel column at x.
struct VoteColumn {
    const Votes::Parts* parts;
    const std::uint8_t* bins;
    std::uint32_t width;

    PREIMAGE_HOST_DEVICE VoteColumn(const Grid& grid, const Votes& votes, std::int32_t x)
        : parts(votes.parts + x), bins(votes.bins + x), width(static_cast<std::uint32_t>(grid.x.pixels)) {}

    PREIMAGE_HOST_DEVICE Vote at(std::int32_t y) const {
        const std::uint64_t pixel = static_cast<std::uint64_t>(static_cast<std::uint32_t>(y)) * width;
        const Votes::Parts both = parts[pixel];
        return {bins[pixel], both.first, both.second};
    }
};

/// Return the memory for an image's votes, in floats: nine bytes per pixel.
PREIMAGE_INLINE std::int64_t vote_floats(const Grid& grid) {
    const std::int64_t pixels = static_cast<std::int64_t>(grid.y.pixels) * grid.x.pixels;
    return 2 * pixels + (pixels + 7) / 8 * 2;
}

/// Offsets of the two orientations that a vote goes to, among eight sums `pitch` apart.
struct BinOffsets {
    std::int32_t first, second;

    PREIMAGE_HOST_DEVICE BinOffsets(const Vote& vote, std::int32_t pitch)
        : first(vote.bin * pitch), second(((vote.bin + 1) & (kOrientations - 1)) * pitch) {}

    PREIMAGE_HOST_DEVICE void add(float weight, const Vote& vote, float* sums) const {
        const float more = sums[second] + weight * vote.second;
        sums[first] += weight * vote.first;
        sums[second] = more;
    }
};

constexpr int kTile = 32;  // side of the tile of a block of `vote_program`, in pixels
constexpr int kTilePitch = kTile + 2;

PREIMAGE_INLINE std::int64_t tiles_along(std::int32_t pixels) { return (pixels + kTile - 1) / kTile; }

/// `index`: number of the tile in the image, row-major. `shared`: kTilePitch^2 floats.
template <class Block>
PREIMAGE_HOST_DEVICE void vote_program(Block& block, const Image& image, const Grid& grid, std::int64_t index,
                                       const Votes& votes, float* shared) {
    const auto top = static_cast<std::int32_t>(index / tiles_along(grid.x.pixels)) * kTile;
    const auto left = static_cast<std::int32_t>(index % tiles_along(grid.x.pixels)) * kTile;
    block.each([&](int thread) {
        for (int position = thread; position < kTilePitch * kTilePitch; position += Block::threads) {
            const std::int32_t y = inside(grid.y, top + position / kTilePitch - 1);
            const std::int32_t x = inside(grid.x, left + position % kTilePitch - 1);
            shared[position] = pixel_at(image, 1, 0, y, x);
        }
    });
    block.barrier();
    block.each([&](int thread) {
        const std::int32_t x = left + thread % kTile;
        for (int row = thread / kTile; row < kTile; row += Block::threads / kTile) {
            const std::int32_t y = top + row;
            if (x < grid.x.pixels && y < grid.y.pixels) {
                const float* here = shared + (row + 1) * kTilePitch + thread % kTile + 1;
                const float gx = difference(here[-1], here[1], x > 0 && x < grid.x.pixels - 1);
                const float gy = difference(here[-kTilePitch], here[kTilePitch], y > 0 && y < grid.y.pixels - 1);
                votes.put(static_cast<std::int64_t>(y) * grid.x.pixels + x, vote(gx, gy));
            }
        }
    });
}

}  // namespace preimage::dense_sift
