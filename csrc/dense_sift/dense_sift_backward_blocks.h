// The gradient of dense SIFT on the GPU: step 1 of dense_sift_backward.h as a block program. The other steps are
// element-wise.
#pragma once

#include <cstdint>

#include "dense_sift/dense_sift_backward.h"
#include "dense_sift/dense_sift_blocks.h"

namespace preimage::dense_sift {

/// Inputs and output of step 1 for one image.
struct BackwardInput {
    const float* features;  // (128, rows, columns): gradient with respect to the descriptors
    const float* norms;     // (rows, columns)
    float* sums;            // (rows, 128, columns): output, gradient with respect to the sums
};

/// The state of a thread, which processes one orientation of a descriptor.
struct BackwardState {
    OrientationBins sums, gradient;
    UnitLength unit;  // scaling of the sums

    PREIMAGE_HOST_DEVICE OrientationBins clipped() const {
        OrientationBins values;
        values.load([this](int bin) { return clip(sums.of[bin] * unit.factor); });
        return values;
    }
    /// Go back through the second normalization and clipping; `product` is that of clipped values and gradient.
    PREIMAGE_HOST_DEVICE void normalize_backward(const UnitLength& second, float product) {
        for (int bin = 0; bin < kBins; ++bin) {
            const float value = sums.of[bin] * unit.factor;
            gradient.of[bin] = clip_backward(value, second.backward(clip(value), gradient.of[bin], product));
        }
    }
};

/// Recompute the sums of the block's descriptors and go back through their normalization. Parameters as for
/// `descriptor_program`.
template <class Shape, class Block>
PREIMAGE_HOST_DEVICE void backward_program(Block& block, const BlockPlan& plan, std::uint32_t index, const Votes& votes,
                                           const BackwardInput& input, float* shared) {
    static_assert(Block::threads == kBlockThreads);
    const BlockMemory<Shape> memory(plan, shared);
    const FrameRange range(plan.grid.y, plan.grid.x, plan.division, index);
    sum_columns(block, memory, range, votes);
    const std::int64_t columns = plan.grid.x.frames;
    const std::int64_t plane = plan.grid.y.frames * columns;
    float* const partials = memory.partials;
    for_each_turn(range, [&](const Turn& turn, int row, std::int32_t first) {
        typename Block::template PerThread<BackwardState> kept;
        const auto each = [&](const auto& phase) {
            block.each([&](int thread) {
                const DescriptorSlice slice(thread);
                if (slice.frame < turn.frames) {
                    phase(thread, slice, kept[thread]);
                }
            });
        };
        each([&](int thread, const DescriptorSlice& slice, BackwardState& own) {
            own.sums = sum_across(memory, row, first + slice.frame, slice.orientation);
            store_partial(partials, 0, thread, own.sums.dot(own.sums));
        });
        block.barrier();
        each([&](int thread, const DescriptorSlice& slice, BackwardState& own) {
            own.unit = unit_length(reduce_partials(partials, 0, slice));
            const float* from =
                input.features + slice.orientation * plane + turn.row * columns + turn.first + slice.frame;
            own.gradient.load([&](int bin) { return from[bin * kOrientations * plane]; });
            const OrientationBins clipped = own.clipped();
            store_partial(partials, 1, thread, clipped.dot(clipped));
            store_partial(partials, 2, thread, clipped.dot(own.gradient));
        });
        block.barrier();
        each([&](int thread, const DescriptorSlice& slice, BackwardState& own) {
            own.normalize_backward(unit_length(reduce_partials(partials, 1, slice)),
                                   reduce_partials(partials, 2, slice));
            store_partial(partials, 3, thread, own.sums.dot(own.gradient));
        });
        block.barrier();
        each([&](int, const DescriptorSlice& slice, const BackwardState& own) {
            const float product = reduce_partials(partials, 3, slice);
            const std::int64_t frame = turn.first + slice.frame;
            const float more = input.norms[turn.row * columns + frame] / norm_divisor(plan.grid.bin_size);
            float* out = input.sums + (std::int64_t{turn.row} * kChannels + slice.orientation) * columns + frame;
            for (int bin = 0; bin < kBins; ++bin, out += kOrientations * columns) {
                *out = own.unit.backward(own.sums.of[bin], own.gradient.of[bin], product) + more;
            }
        });
    });
}

}  // namespace preimage::dense_sift
