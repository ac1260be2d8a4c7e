// Dense SIFT as block programs for the GPU (common/block_program.h), which tests also run on the host.
//
// `vote_program` stores the vote of every pixel, which the many descriptors over it share. `descriptor_program`
// computes neighboring descriptors of a row: their sums (dense_sift_block_sums.h), then `finish`, in which eight
// threads per descriptor normalize the values and compute the norm.
#pragma once

#include <cstdint>

#include "common/block_program.h"
#include "dense_sift/dense_sift_block_sums.h"
#include "dense_sift/dense_sift_block_votes.h"

namespace preimage::dense_sift {

/// The orientation and descriptor that a thread processes in `finish`.
struct DescriptorSlice {
    int orientation;
    std::int32_t frame;

    PREIMAGE_HOST_DEVICE explicit DescriptorSlice(int thread)
        : orientation(thread / kMaxFrames), frame(thread % kMaxFrames) {}
};

constexpr int kBins = kSpatial * kSpatial;  // spatial bins of a descriptor, row-major

/// The values of one orientation of a descriptor, kept by a thread across phases.
struct OrientationBins {
    float of[kBins];

    /// Set each value to value(bin).
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
    PREIMAGE_HOST_DEVICE float dot(const OrientationBins& other) const {
        float total = 0.0f;
        for (int bin = 0; bin < kBins; ++bin) {
            total += of[bin] * other.of[bin];
        }
        return total;
    }
};

/// Sums over whole descriptors: every thread stores a partial sum and, after a barrier, adds all eight in order.
PREIMAGE_INLINE void store_partial(float* partials, int which, int thread, float part) {
    partials[which * kBlockThreads + thread] = part;
}
PREIMAGE_INLINE float reduce_partials(const float* partials, int which, DescriptorSlice slice) {
    float total = 0.0f;
    for (int orientation = 0; orientation < kOrientations; ++orientation) {
        total += partials[which * kBlockThreads + orientation * kMaxFrames + slice.frame];
    }
    return total;
}

/// The descriptors of one image, planar, and their norms.
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

/// Normalize the descriptors of a block, whose sums are value(slice, bin), and store them. `partials`: three times
/// the block's threads.
template <class Block, class Value>
PREIMAGE_HOST_DEVICE void finish(Block& block, const Grid& grid, const FrameRange& range, float* partials,
                                 const Output& output, const Value& value) {
    static_assert(Block::threads == kBlockThreads);
    const std::int64_t first = static_cast<std::int64_t>(range.row) * grid.x.frames + range.first;
    typename Block::template PerThread<OrientationBins> values;
    block.each([&](int thread) {
        const DescriptorSlice slice(thread);
        if (slice.frame < range.frames) {
            values[thread].load([&](int bin) { return value(slice, bin); });
            store_partial(partials, 0, thread, values[thread].sum());
            store_partial(partials, 1, thread, values[thread].dot(values[thread]));
        }
    });
    block.barrier();
    block.each([&](int thread) {
        const DescriptorSlice slice(thread);
        if (slice.frame < range.frames) {
            if (slice.orientation == 0) {
                output.norms[first + slice.frame] = reduce_partials(partials, 0, slice) / norm_divisor(grid.bin_size);
            }
            const float factor = normalizer(reduce_partials(partials, 1, slice));
            for (float& one : values[thread].of) {
                one = clip(one * factor);
            }
            store_partial(partials, 2, thread, values[thread].dot(values[thread]));
        }
    });
    block.barrier();
    block.each([&](int thread) {
        const DescriptorSlice slice(thread);
        if (slice.frame < range.frames) {
            const float factor = normalizer(reduce_partials(partials, 2, slice));
            const std::int64_t plane = static_cast<std::int64_t>(grid.y.frames) * grid.x.frames;
            std::int64_t at = slice.orientation * plane + first + slice.frame;
            for (int bin = 0; bin < kBins; ++bin, at += kOrientations * plane) {
                output.store(at, values[thread].of[bin] * factor);
            }
        }
    });
}

/// `index`: number of the block in the image. `shared`: shared_floats(plan), 16-byte aligned. `kDefaultPitches`:
/// has_default_pitches(plan).
template <bool kDefaultPitches, class Block>
PREIMAGE_HOST_DEVICE void descriptor_program(Block& block, const BlockPlan& plan, std::int64_t index,
                                             const Votes& votes, const Output& output, float* shared) {
    const BlockMemory<kDefaultPitches> memory(plan, shared);
    const FrameRange range(plan.grid.x, plan.frames, index);
    sum_bins(block, plan, memory, range, votes);
    finish(block, plan.grid, range, memory.partials, output, [&](const DescriptorSlice& slice, int bin) {
        return memory.sum(slice.orientation + kOrientations * bin, slice.frame);
    });
}

}  // namespace preimage::dense_sift
