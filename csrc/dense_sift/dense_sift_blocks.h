// Dense SIFT on the GPU as block programs (common/block_program.h), which the tests also run on the host.
//
// `vote_program` stores every pixel's vote, so that the many descriptors over a pixel need not work it out again.
// `descriptor_program` makes neighbouring descriptors of one row: their sums (dense_sift_block_sums.h), then the
// finish, in which eight threads share a descriptor: normalised values and the norm.
#pragma once

#include <cstdint>

#include "common/block_program.h"
#include "dense_sift/dense_sift_block_sums.h"
#include "dense_sift/dense_sift_block_votes.h"

namespace preimage::dense_sift {

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

    /// value(bin) for each of them.
    template <class Value>
    PREIMAGE_HOST_DEVICE void load(const Value& value) {
        for (int bin = 0; bin < kBins; ++bin) {
            of[bin] = value(bin);
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
PREIMAGE_INLINE void put_part(float* parts, int which, int thread, float part) {
    parts[which * kBlockThreads + thread] = part;
}
PREIMAGE_INLINE float whole(const float* parts, int which, Corner corner) {
    float total = 0.0f;
    for (int orientation = 0; orientation < kOrientations; ++orientation) {
        total += parts[which * kBlockThreads + orientation * kMaxFrames + corner.frame];
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
                type == ScalarType::float16 ? unsigned_to_half(value) : unsigned_to_bfloat16(value);
        }
    }
};

/// From the sums of a block's descriptors, of which value(corner, bin) tells one, to what is put out. `parts`: three
/// times the block's threads.
template <class Block, class Value>
PREIMAGE_HOST_DEVICE void finish(Block& block, const Grid& grid, const Place& place, float* parts, const Output& output,
                                 const Value& value) {
    static_assert(Block::threads == kBlockThreads);
    const std::int64_t first = static_cast<std::int64_t>(place.row) * grid.x.frames + place.first;
    typename Block::template PerThread<Eighth> values;
    block.each([&](int thread) {
        const Corner corner(thread);
        if (corner.frame < place.frames) {
            values[thread].load([&](int bin) { return value(corner, bin); });
            put_part(parts, 0, thread, values[thread].sum());
            put_part(parts, 1, thread, values[thread].dot(values[thread]));
        }
    });
    block.barrier();
    block.each([&](int thread) {
        const Corner corner(thread);
        if (corner.frame < place.frames) {
            if (corner.orientation == 0) {
                output.norms[first + corner.frame] = whole(parts, 0, corner) / norm_divisor(grid.bin_size);
            }
            const float factor = normaliser(whole(parts, 1, corner));
            for (float& one : values[thread].of) {
                one = clip(one * factor);
            }
            put_part(parts, 2, thread, values[thread].dot(values[thread]));
        }
    });
    block.barrier();
    block.each([&](int thread) {
        const Corner corner(thread);
        if (corner.frame < place.frames) {
            const float factor = normaliser(whole(parts, 2, corner));
            const std::int64_t plane = static_cast<std::int64_t>(grid.y.frames) * grid.x.frames;
            std::int64_t at = corner.orientation * plane + first + corner.frame;
            for (int bin = 0; bin < kBins; ++bin, at += kOrientations * plane) {
                output.store(at, values[thread].of[bin] * factor);
            }
        }
    });
}

/// `index`: number of the block in the image. `shared`: shared_floats(plan), 16-byte aligned. `kUsual`: is_usual(plan).
template <bool kUsual, class Block>
PREIMAGE_HOST_DEVICE void descriptor_program(Block& block, const BlockPlan& plan, std::int64_t index,
                                             const Votes& votes, const Output& output, float* shared) {
    const BlockMemory<kUsual> memory(plan, shared);
    const Place place(plan.grid.x, plan.frames, index);
    sum_bins(block, plan, memory, place, votes);
    finish(block, plan.grid, place, memory.parts, output, [&](const Corner& corner, int bin) {
        return memory.sum(corner.orientation + kOrientations * bin, corner.frame);
    });
}

}  // namespace preimage::dense_sift
