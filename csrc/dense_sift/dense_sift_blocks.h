// Dense SIFT as block programs for the GPU (common/block_program.h), which tests also run on the host.
//
// `vote_program` stores the gradient of every pixel, which the many descriptors over it share. `descriptor_program`
// computes neighboring descriptors: their sums (dense_sift_block_sums.h), then, 32 at a time, `finish`, in which eight
// threads per descriptor normalize the values and compute the norm.
#pragma once

#include <cstdint>

#include "common/block_program.h"
#include "dense_sift/dense_sift_block_sums.h"
#include "dense_sift/dense_sift_block_votes.h"

namespace preimage::dense_sift {

constexpr int kTurnFrames = kBlockThreads / kOrientations;  // descriptors that `finish` processes together

/// The orientation and descriptor that a thread processes in `finish`.
struct DescriptorSlice {
    int orientation;
    std::int32_t frame;

    PREIMAGE_HOST_DEVICE explicit DescriptorSlice(int thread)
        : orientation(thread / kTurnFrames), frame(thread % kTurnFrames) {}
};

/// Up to kTurnFrames descriptors of a row, from `first` on.
struct Turn {
    std::int32_t row, first, frames;
};

/// Call visit(turn, row of the block, first of the block) for all descriptors of a block.
template <class Visit>
PREIMAGE_HOST_DEVICE void for_each_turn(const FrameRange& range, const Visit& visit) {
    for (std::int32_t row = 0; row < range.rows; ++row) {
        for (std::int32_t first = 0; first < range.frames; first += kTurnFrames) {
            visit(Turn{range.row + row, range.first + first, minimum(kTurnFrames, range.frames - first)}, row, first);
        }
    }
}

/// Sums over whole descriptors: every thread stores a partial sum and, after a barrier, adds all eight in order. What
/// one barrier separates from its last use may be stored again.
PREIMAGE_INLINE void store_partial(float* partials, int which, int thread, float part) {
    partials[which * kBlockThreads + thread] = part;
}
PREIMAGE_INLINE float reduce_partials(const float* partials, int which, DescriptorSlice slice) {
    float total = 0.0f;
    for (int orientation = 0; orientation < kOrientations; ++orientation) {
        total += partials[which * kBlockThreads + orientation * kTurnFrames + slice.frame];
    }
    return total;
}

/// The descriptors of one image, planar, and their norms.
struct Output {
    std::byte* features;  // (128, rows, columns)
    ScalarType type;
    float* norms;  // (rows, columns)

    /// Store values `pitch` elements apart, times `factor`. The threads of a warp store adjacent descriptors.
    PREIMAGE_HOST_DEVICE void store(std::int64_t at, std::int64_t pitch, const OrientationBins& values,
                                    float factor) const {
        if (type == ScalarType::float32) {
            store_as<float>(at, pitch, values, factor, [](float value) { return value; });
        } else if (type == ScalarType::uint8) {
            store_as<std::uint8_t>(at, pitch, values, factor, [](float value) { return to_byte(value); });
        } else if (type == ScalarType::float16) {
            store_as<std::uint16_t>(at, pitch, values, factor, [](float value) { return unsigned_to_half(value); });
        } else {
            store_as<std::uint16_t>(at, pitch, values, factor, [](float value) { return unsigned_to_bfloat16(value); });
        }
    }

private:
    template <class Element, class Convert>
    PREIMAGE_HOST_DEVICE void store_as(std::int64_t at, std::int64_t pitch, const OrientationBins& values, float factor,
                                       const Convert& convert) const {
        Element* to = reinterpret_cast<Element*>(features) + at;
        for (int bin = 0; bin < kBins; ++bin, to += pitch) {
            *to = convert(values.of[bin] * factor);
        }
    }
};

/// Normalize descriptors, whose sums are sums(slice), and store them. `partials`: kPartials times the block's threads.
template <class Block, class Sums>
PREIMAGE_HOST_DEVICE void finish(Block& block, const Grid& grid, const Turn& turn, float* partials,
                                 const Output& output, const Sums& sums) {
    static_assert(Block::threads == kBlockThreads);
    const std::int64_t first = static_cast<std::int64_t>(turn.row) * grid.x.frames + turn.first;
    typename Block::template PerThread<OrientationBins> values;
    const auto each = [&](const auto& phase) {
        block.each([&](int thread) {
            const DescriptorSlice slice(thread);
            if (slice.frame < turn.frames) {
                phase(thread, slice, values[thread]);
            }
        });
    };
    each([&](int thread, const DescriptorSlice& slice, OrientationBins& own) {
        own = sums(slice);
        store_partial(partials, 0, thread, own.sum());
        store_partial(partials, 1, thread, own.dot(own));
    });
    block.barrier();
    each([&](int thread, const DescriptorSlice& slice, OrientationBins& own) {
        if (slice.orientation == 0) {
            output.norms[first + slice.frame] = reduce_partials(partials, 0, slice) / norm_divisor(grid.bin_size);
        }
        const float factor = normalizer(reduce_partials(partials, 1, slice));
        for (float& value : own.of) {
            value = clip(value * factor);
        }
        store_partial(partials, 2, thread, own.dot(own));
    });
    block.barrier();
    each([&](int, const DescriptorSlice& slice, const OrientationBins& own) {
        const std::int64_t plane = static_cast<std::int64_t>(grid.y.frames) * grid.x.frames;
        output.store(slice.orientation * plane + first + slice.frame, kOrientations * plane, own,
                     normalizer(reduce_partials(partials, 2, slice)));
    });
}

/// `index`: number of the block in the image. `shared`: shared_floats(plan), 16-byte aligned. `Shape`: that of
/// the plan.
template <class Shape, class Block>
PREIMAGE_HOST_DEVICE void descriptor_program(Block& block, const BlockPlan& plan, std::uint32_t index,
                                             const Votes& votes, const Output& output, float* shared) {
    const BlockMemory<Shape> memory(plan, shared);
    const FrameRange range(plan.grid.y, plan.grid.x, plan.division, index);
    sum_columns(block, memory, range, votes);
    for_each_turn(range, [&](const Turn& turn, int row, std::int32_t first) {
        finish(block, plan.grid, turn, memory.partials, output, [&](const DescriptorSlice& slice) {
            return sum_across(memory, row, first + slice.frame, slice.orientation);
        });
    });
}

}  // namespace preimage::dense_sift
