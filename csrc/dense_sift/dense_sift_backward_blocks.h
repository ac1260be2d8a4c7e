// The gradient of dense SIFT on the GPU: step 1 of dense_sift_backward.h as a block program. The other steps are
// functions of one element, and need none.
#pragma once

#include <cstdint>

#include "dense_sift/dense_sift_backward.h"
#include "dense_sift/dense_sift_blocks.h"

namespace preimage::dense_sift {

/// One image's part in step 1.
struct Incoming {
    const float* features;  // (128, rows, columns): the gradient with respect to the descriptors
    const float* norms;     // (rows, columns)
    float* sums;            // (rows, 128, columns): written, that with respect to their sums
};

/// A thread's eighth of a descriptor on its way back.
struct Returning {
    Eighth sums, gradient;
    UnitLength unit;  // of the sums

    PREIMAGE_HOST_DEVICE Eighth clipped() const {
        Eighth values;
        values.load([this](int bin) { return clip(sums.of[bin] * unit.factor); });
        return values;
    }
    /// Through the second normalisation and the clipping; `product` of clipped values and gradient.
    PREIMAGE_HOST_DEVICE void through_clipped(const UnitLength& second, float product) {
        for (int bin = 0; bin < kBins; ++bin) {
            const float value = sums.of[bin] * unit.factor;
            gradient.of[bin] = through_clip(value, second.back(clip(value), gradient.of[bin], product));
        }
    }
};

/// The sums of a block's descriptors once more, and back through their normalisation. Parameters as for
/// `descriptor_program`.
template <bool kUsual, class Block>
PREIMAGE_HOST_DEVICE void backward_program(Block& block, const BlockPlan& plan, std::int64_t index, const Votes& votes,
                                           const Incoming& incoming, float* shared) {
    static_assert(Block::threads == kBlockThreads);
    const BlockMemory<kUsual> memory(plan, shared);
    const Place place(plan.grid.x, plan.frames, index);
    sum_bins(block, plan, memory, place, votes);
    const std::int64_t columns = plan.grid.x.frames;
    typename Block::template PerThread<Returning> kept;
    const auto each = [&](const auto& phase) {
        block.each([&](int thread) {
            const Corner corner(thread);
            if (corner.frame < place.frames) {
                phase(thread, corner, kept[thread]);
            }
        });
    };
    each([&](int thread, const Corner& corner, Returning& own) {
        own.sums.load([&](int bin) { return memory.sum(corner.orientation + kOrientations * bin, corner.frame); });
        put_part(memory.parts, 0, thread, own.sums.dot(own.sums));
    });
    block.barrier();
    each([&](int thread, const Corner& corner, Returning& own) {
        own.unit = unit_length(whole(memory.parts, 0, corner));
        const std::int64_t plane = plan.grid.y.frames * columns;
        const float* from =
            incoming.features + corner.orientation * plane + place.row * columns + place.first + corner.frame;
        own.gradient.load([&](int bin) { return from[bin * kOrientations * plane]; });
        const Eighth clipped = own.clipped();
        put_part(memory.parts, 1, thread, clipped.dot(clipped));
        put_part(memory.parts, 2, thread, clipped.dot(own.gradient));
    });
    block.barrier();
    each([&](int thread, const Corner& corner, Returning& own) {
        own.through_clipped(unit_length(whole(memory.parts, 1, corner)), whole(memory.parts, 2, corner));
        put_part(memory.parts, 3, thread, own.sums.dot(own.gradient));
    });
    block.barrier();
    each([&](int, const Corner& corner, const Returning& own) {
        const float product = whole(memory.parts, 3, corner);
        const std::int64_t frame = place.first + corner.frame;
        const float more = incoming.norms[place.row * columns + frame] / norm_divisor(plan.grid.bin_size);
        float* out = incoming.sums + (std::int64_t{place.row} * kChannels + corner.orientation) * columns + frame;
        for (int bin = 0; bin < kBins; ++bin, out += kOrientations * columns) {
            *out = own.unit.back(own.sums.of[bin], own.gradient.of[bin], product) + more;
        }
    });
}

}  // namespace preimage::dense_sift
