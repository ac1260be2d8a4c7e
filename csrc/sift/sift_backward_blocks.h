// The gradient of dense SIFT on the GPU: step 1 of sift_backward.h as a block program. The other steps are functions
// of one element, and need none.
#pragma once

#include <cstdint>

#include "sift/sift_backward.h"
#include "sift/sift_blocks.h"

namespace preimage::sift {

/// One image's part in step 1.
struct Incoming {
    const float* features;  // (128, rows, columns): the gradient with respect to the descriptors
    const float* norms;     // (rows, columns)
    float* sums;            // (rows, 128, columns): written, that with respect to their sums
};

/// The sums of a block's descriptors once more, and back through their normalisation. Parameters as for
/// `descriptor_program`.
template <bool kUsual, class Block>
PREIMAGE_HOST_DEVICE void backward_program(Block& block, const BlockPlan& plan, std::int64_t index, const Votes& votes,
                                           const Incoming& incoming, float* shared) {
    static_assert(Block::threads == kBlockThreads);
    const BlockMemory<kUsual> memory(plan, shared);
    const Place place(plan, index);
    sum_bins(block, plan, memory, place, votes);
    const std::int64_t columns = plan.grid.x.frames;
    struct Kept {
        Eighth sums, gradient;
        UnitLength unit;
    };
    typename Block::template PerThread<Kept> kept;
    block.each([&](int thread) {
        const Corner corner(thread);
        if (corner.frame < place.frames) {
            Eighth& sums = kept[thread].sums;
            sums.load(memory, corner);
            put_part(memory, 0, thread, sums.dot(sums));
        }
    });
    block.barrier();
    block.each([&](int thread) {
        const Corner corner(thread);
        if (corner.frame < place.frames) {
            Kept& own = kept[thread];
            own.unit = unit_length(whole(memory, 0, corner));
            const std::int64_t plane = plan.grid.y.frames * columns;
            std::int64_t at = corner.orientation * plane + place.row * columns + place.first + corner.frame;
            Eighth clipped;
            for (int bin = 0; bin < kBins; ++bin, at += kOrientations * plane) {
                clipped.of[bin] = clip(own.sums.of[bin] * own.unit.factor);
                own.gradient.of[bin] = incoming.features[at];
            }
            put_part(memory, 1, thread, clipped.dot(clipped));
            put_part(memory, 2, thread, clipped.dot(own.gradient));
        }
    });
    block.barrier();
    block.each([&](int thread) {
        const Corner corner(thread);
        if (corner.frame < place.frames) {
            Kept& own = kept[thread];
            const UnitLength second = unit_length(whole(memory, 1, corner));
            const float product = whole(memory, 2, corner);
            for (int bin = 0; bin < kBins; ++bin) {
                const float value = own.sums.of[bin] * own.unit.factor;
                own.gradient.of[bin] = through_clip(value, second.back(clip(value), own.gradient.of[bin], product));
            }
            put_part(memory, 3, thread, own.sums.dot(own.gradient));
        }
    });
    block.barrier();
    block.each([&](int thread) {
        const Corner corner(thread);
        if (corner.frame < place.frames) {
            const Kept& own = kept[thread];
            const float product = whole(memory, 3, corner);
            const std::int64_t frame = place.first + corner.frame;
            const float more = incoming.norms[place.row * columns + frame] / norm_divisor(plan.grid.bin_size);
            std::int64_t at = (std::int64_t{place.row} * kChannels + corner.orientation) * columns + frame;
            for (int bin = 0; bin < kBins; ++bin, at += kOrientations * columns) {
                incoming.sums[at] = own.unit.back(own.sums.of[bin], own.gradient.of[bin], product) + more;
            }
        }
    });
}

}  // namespace preimage::sift
