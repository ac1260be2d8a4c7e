// Dense SIFT on the GPU as block programs (common/block_program.h), which the tests also run on the host.
//
// `vote_program` stores every pixel's vote, so that the many descriptors over a pixel need not work it out again.
// `descriptor_program` makes neighbouring descriptors of one row: their sums (sift_block_sums.h), then the finish, in
// which eight threads share a descriptor: normalised values and the norm.
#pragma once

#include <cstdint>

#include "common/block_program.h"
#include "common/image.h"
#include "sift/sift_block_sums.h"

namespace preimage::sift {

// ---- Votes ----

constexpr int kTile = 32;  // pixels along the side of what a block of `vote_program` works on
constexpr int kTilePitch = kTile + 2;

PREIMAGE_INLINE std::int64_t tiles_along(std::int32_t pixels) { return (pixels + kTile - 1) / kTile; }

/// `index`: row-major number of the tile in the image. `shared`: kTilePitch squared floats.
template <class Block>
PREIMAGE_HOST_DEVICE void vote_program(Block& block, const Image& image, const Grid& grid, std::int64_t index,
                                       const Votes& votes, float* shared) {
    const auto top = static_cast<std::int32_t>(index / tiles_along(grid.x.pixels)) * kTile;
    const auto left = static_cast<std::int32_t>(index % tiles_along(grid.x.pixels)) * kTile;
    block.each([&](int thread) {
        for (int place = thread; place < kTilePitch * kTilePitch; place += Block::threads) {
            const std::int32_t y = inside(grid.y, top + place / kTilePitch - 1);
            const std::int32_t x = inside(grid.x, left + place % kTilePitch - 1);
            shared[place] = pixel_at(image, 1, 0, y, x);
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

// ---- Descriptors ----

/// Where the finish of one thread works: an orientation of a descriptor.
struct Corner {
    int orientation;
    std::int32_t frame;

    PREIMAGE_HOST_DEVICE explicit Corner(int thread) : orientation(thread / kMaxFrames), frame(thread % kMaxFrames) {}
};

constexpr int kBins = kSpatial * kSpatial;  // spatial bins of a descriptor, row-major

/// A descriptor's numbers of one orientation, kept by its thread through the phases of the finish.
struct Eighth {
    float of[kBins];

    template <class Memory>
    PREIMAGE_HOST_DEVICE void load(const Memory& memory, Corner corner) {
        for (int bin = 0; bin < kBins; ++bin) {
            of[bin] = memory.sum(corner.orientation + kOrientations * bin, corner.frame);
        }
    }
    PREIMAGE_HOST_DEVICE float sum() const {
        float total = 0.0f;
        for (int bin = 0; bin < kBins; ++bin) {
            total += of[bin];
        }
        return total;
    }
    PREIMAGE_HOST_DEVICE float dot(const Eighth& other) const {
        float total = 0.0f;
        for (int bin = 0; bin < kBins; ++bin) {
            total += of[bin] * other.of[bin];
        }
        return total;
    }
};

/// Sums over whole descriptors: every thread puts down its part and, after a barrier, adds up all eight in order.
template <class Memory>
PREIMAGE_INLINE void put_part(const Memory& memory, int which, int thread, float part) {
    memory.parts[which * kBlockThreads + thread] = part;
}
template <class Memory>
PREIMAGE_INLINE float whole(const Memory& memory, int which, Corner corner) {
    const float* parts = memory.parts + which * kBlockThreads + corner.frame;
    float total = 0.0f;
    for (int orientation = 0; orientation < kOrientations; ++orientation) {
        total += parts[orientation * kMaxFrames];
    }
    return total;
}

/// One image's descriptors, planar, and their norms.
struct Output {
    std::byte* features;  // (128, rows, columns)
    ScalarType type;
    float* norms;  // (rows, columns)

    PREIMAGE_HOST_DEVICE void store(std::int64_t at, float value) const {
        if (type == ScalarType::float32) {
            reinterpret_cast<float*>(features)[at] = value;
        } else if (type == ScalarType::uint8) {
            reinterpret_cast<std::uint8_t*>(features)[at] = to_byte(value);
        } else {
            reinterpret_cast<std::uint16_t*>(features)[at] =
                type == ScalarType::float16 ? to_half(value) : to_bfloat16(value);
        }
    }
};

/// `index`: number of the block in the image. `shared`: shared_floats(plan), 16-byte aligned. `kUsual`: is_usual(plan).
template <bool kUsual, class Block>
PREIMAGE_HOST_DEVICE void descriptor_program(Block& block, const BlockPlan& plan, std::int64_t index,
                                             const Votes& votes, const Output& output, float* shared) {
    static_assert(Block::threads == kBlockThreads);
    const BlockMemory<kUsual> memory(plan, shared);
    const Place place(plan, index);
    sum_bins(block, plan, memory, place, votes);
    const Axis& across = plan.grid.x;
    const std::int64_t first = static_cast<std::int64_t>(place.row) * across.frames + place.first;
    typename Block::template PerThread<Eighth> values;
    block.each([&](int thread) {
        const Corner corner(thread);
        if (corner.frame < place.frames) {
            values[thread].load(memory, corner);
            put_part(memory, 0, thread, values[thread].sum());
            put_part(memory, 1, thread, values[thread].dot(values[thread]));
        }
    });
    block.barrier();
    block.each([&](int thread) {
        const Corner corner(thread);
        if (corner.frame < place.frames) {
            if (corner.orientation == 0) {
                output.norms[first + corner.frame] = whole(memory, 0, corner) / norm_divisor(plan.grid.bin_size);
            }
            const float factor = normaliser(whole(memory, 1, corner));
            for (float& value : values[thread].of) {
                value = clip(value * factor);
            }
            put_part(memory, 2, thread, values[thread].dot(values[thread]));
        }
    });
    block.barrier();
    block.each([&](int thread) {
        const Corner corner(thread);
        if (corner.frame < place.frames) {
            const float factor = normaliser(whole(memory, 2, corner));
            const std::int64_t plane = static_cast<std::int64_t>(plan.grid.y.frames) * across.frames;
            std::int64_t at = corner.orientation * plane + first + corner.frame;
            for (int bin = 0; bin < kBins; ++bin, at += kOrientations * plane) {
                output.store(at, values[thread].of[bin] * factor);
            }
        }
    });
}

}  // namespace preimage::sift
