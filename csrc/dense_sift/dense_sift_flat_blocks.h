// Dense SIFT with the flat window on the GPU, where the step divides bin_size: all spatial bins have the same weights,
// a triangle, up to a factor, and those of neighboring descriptors share their centers. So every center of the grid
// is summed around once, by `center_program`, and descriptors are put together from that by `flat_program`.
#pragma once

#include <cstdint>

#include "dense_sift/dense_sift_blocks.h"

namespace preimage::dense_sift {

/// What is the same for all blocks of a launch.
struct FlatPlan {
    Grid grid;
    Axis y, x;                    // the centers of bins, as if they were descriptors
    std::int32_t frames_per_bin;  // centers from one bin of a descriptor to the next
    std::int32_t centers;         // of a full block
    std::int32_t pitch;           // floats between a column's sums in shared memory: a multiple of the 32 banks
    float means[kSpatial];        // a bin's factor along one axis
};

/// Are these programs the ones to use? With few descriptors most centers of the grid would be no bin's.
inline bool can_share_bins(const Grid& grid, const Parameters& parameters) {
    const std::int32_t frames_per_bin = grid.bin_size / grid.step;
    return parameters.window == Window::flat && grid.bin_size % grid.step == 0 && frames_per_bin < grid.y.frames &&
           frames_per_bin < grid.x.frames;
}

PREIMAGE_INLINE std::int64_t center_shared_floats(const FlatPlan& plan) {
    return taps_of(plan.grid) + static_cast<std::int64_t>(kOrientations) * plan.pitch;
}
inline FlatPlan flat_plan(const Grid& grid, const Parameters& parameters) {
    constexpr std::int64_t kMost = (48 << 10) / 4;  // floats, which a center of the largest bins has room in
    FlatPlan plan{};
    plan.grid = grid;
    plan.frames_per_bin = grid.bin_size / grid.step;
    plan.y = grid.y;
    plan.x = grid.x;
    plan.y.frames += (kSpatial - 1) * plan.frames_per_bin;
    plan.x.frames += (kSpatial - 1) * plan.frames_per_bin;
    for (int bin = 0; bin < kSpatial; ++bin) {
        plan.means[bin] = window_mean(bin, grid.bin_size, parameters.window_size);
    }
    // A thread a column; wide bins make threads take several.
    const std::int32_t by_threads = (kBlockThreads - taps_of(grid)) / grid.step + 1;
    plan.centers = minimum(maximum(by_threads, 16), plan.x.frames) + 1;
    do {
        --plan.centers;
        const std::int32_t columns = (plan.centers - 1) * grid.step + taps_of(grid);
        plan.pitch = (columns + columns / 32 + 31) / 32 * 32;
    } while (plan.centers > 1 && center_shared_floats(plan) > kMost);
    return plan;
}

PREIMAGE_INLINE std::int64_t center_floats(const FlatPlan& plan) {
    return static_cast<std::int64_t>(kOrientations) * plan.y.frames * plan.x.frames;
}
PREIMAGE_INLINE std::int64_t center_blocks(const FlatPlan& plan) {
    return static_cast<std::int64_t>(plan.y.frames) * ((plan.x.frames + plan.centers - 1) / plan.centers);
}
PREIMAGE_INLINE std::int64_t flat_blocks(const FlatPlan& plan) {
    return static_cast<std::int64_t>(plan.grid.y.frames) * ((plan.grid.x.frames + kMaxFrames - 1) / kMaxFrames);
}

/// The sums around the centers of a block: `sums` is (8, rows, columns of centers). `shared`:
/// center_shared_floats(plan).
template <class Block>
PREIMAGE_HOST_DEVICE void center_program(Block& block, const FlatPlan& plan, std::int64_t index, const Votes& votes,
                                         float* sums, float* shared) {
    const Grid& grid = plan.grid;
    const std::int32_t taps = taps_of(grid);
    const FrameRange place(plan.x, plan.centers, index);
    float* weights = shared;
    float* columns = shared + taps;
    block.each([&](int thread) {
        for (std::int32_t tap = thread; tap < taps; tap += Block::threads) {
            weights[tap] = triangle_at(tap - (grid.bin_size - 1), grid.bin_size);
        }
    });
    block.barrier();
    const std::int32_t left = plan.x.first + place.first * grid.step - (grid.bin_size - 1);
    const std::int32_t top = plan.y.first + place.row * grid.step - (grid.bin_size - 1);
    block.each([&](int thread) {
        for (std::int32_t x = thread; x < (place.frames - 1) * grid.step + taps; x += Block::threads) {
            const VoteColumn column(grid, votes, inside(grid.x, left + x));
            float* own = columns + place_of(x);
            for (int orientation = 0; orientation < kOrientations; ++orientation) {
                own[orientation * plan.pitch] = 0.0f;
            }
            for (std::int32_t tap = 0; tap < taps; ++tap) {
                const Vote vote = column.at(inside(grid.y, top + tap));
                BinOffsets(vote, plan.pitch).add(weights[tap], vote, own);
            }
        }
    });
    block.barrier();
    block.each([&](int thread) {
        for (std::int32_t item = thread; item < kOrientations * place.frames; item += Block::threads) {
            const std::int32_t orientation = item / place.frames;
            const std::int32_t center = item % place.frames;
            const float* row = columns + orientation * plan.pitch;
            float total = 0.0f;
            for (std::int32_t tap = 0; tap < taps; ++tap) {
                total += weights[tap] * row[place_of(center * grid.step + tap)];
            }
            const std::int64_t line = static_cast<std::int64_t>(orientation) * plan.y.frames + place.row;
            sums[line * plan.x.frames + place.first + center] = total;
        }
    });
}

/// Up to 32 descriptors of a row from the sums around their bins' centers. `shared`: three times the block's threads.
template <class Block>
PREIMAGE_HOST_DEVICE void flat_program(Block& block, const FlatPlan& plan, std::int64_t index, const float* sums,
                                       const Output& output, float* shared) {
    const FrameRange place(plan.grid.x, kMaxFrames, index);
    finish(block, plan.grid, place, shared, output, [&](const DescriptorSlice& slice, int bin) {
        const std::int32_t row = bin / kSpatial;
        const std::int32_t column = bin % kSpatial;
        const std::int64_t line =
            static_cast<std::int64_t>(slice.orientation) * plan.y.frames + place.row + row * plan.frames_per_bin;
        const float sum = sums[line * plan.x.frames + place.first + slice.frame + column * plan.frames_per_bin];
        return sum * (plan.means[row] * plan.means[column]);
    });
}

}  // namespace preimage::dense_sift
