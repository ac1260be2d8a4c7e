// Dense SIFT with the flat window, if the step divides bin_size, as block programs for the GPU. All spatial bins then
// have the same triangular weights, up to a factor, and neighboring descriptors share bin centers. `center_program`
// computes the sums around every center of the grid once, and `flat_program` assembles descriptors from them.
#pragma once

#include <cstdint>

#include "dense_sift/dense_sift_blocks.h"

namespace preimage::dense_sift {

/// Parameters shared by all blocks of a launch.
struct FlatPlan {
    Grid grid;
    Axis y, x;                    // the bin centers, as if they were descriptors
    std::int32_t frames_per_bin;  // distance of a descriptor's bins in centers
    std::int32_t centers;         // per block
    std::int32_t pitch;           // floats between a column's sums in shared memory: a multiple of the 32 banks
    float means[kSpatial];        // factor of a bin along one axis
};

/// Return whether to use these programs. With few descriptors most centers of the grid would belong to no bin.
inline bool can_share_bins(const Grid& grid, const Parameters& parameters) {
    const std::int32_t frames_per_bin = grid.bin_size / grid.step;
    return parameters.window == Window::flat && grid.bin_size % grid.step == 0 && frames_per_bin < grid.y.frames &&
           frames_per_bin < grid.x.frames;
}

PREIMAGE_INLINE std::int64_t center_shared_floats(const FlatPlan& plan) {
    return taps_of(plan.grid) + static_cast<std::int64_t>(kOrientations) * plan.pitch;
}
inline FlatPlan flat_plan(const Grid& grid, const Parameters& parameters) {
    constexpr std::int64_t kMost = (48 << 10) / 4;  // floats; enough for one center of the largest bins
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
    // One thread per column; with wide bins, several columns per thread.
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

/// Compute the sums around the centers of a block: `sums` is (8, rows, columns of centers). `shared`:
/// center_shared_floats(plan).
template <class Block>
PREIMAGE_HOST_DEVICE void center_program(Block& block, const FlatPlan& plan, std::int64_t index, const Votes& votes,
                                         float* sums, float* shared) {
    const Grid& grid = plan.grid;
    const std::int32_t taps = taps_of(grid);
    const FrameRange range(plan.x, plan.centers, index);
    float* weights = shared;
    float* columns = shared + taps;
    block.each([&](int thread) {
        for (std::int32_t tap = thread; tap < taps; tap += Block::threads) {
            weights[tap] = triangle_at(tap - (grid.bin_size - 1), grid.bin_size);
        }
    });
    block.barrier();
    const std::int32_t left = plan.x.first + range.first * grid.step - (grid.bin_size - 1);
    const std::int32_t top = plan.y.first + range.row * grid.step - (grid.bin_size - 1);
    block.each([&](int thread) {
        for (std::int32_t x = thread; x < (range.frames - 1) * grid.step + taps; x += Block::threads) {
            const VoteColumn column(grid, votes, inside(grid.x, left + x));
            float* own = columns + shared_column(x);
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
        for (std::int32_t item = thread; item < kOrientations * range.frames; item += Block::threads) {
            const std::int32_t orientation = item / range.frames;
            const std::int32_t center = item % range.frames;
            const float* row = columns + orientation * plan.pitch;
            float total = 0.0f;
            for (std::int32_t tap = 0; tap < taps; ++tap) {
                total += weights[tap] * row[shared_column(center * grid.step + tap)];
            }
            const std::int64_t line = static_cast<std::int64_t>(orientation) * plan.y.frames + range.row;
            sums[line * plan.x.frames + range.first + center] = total;
        }
    });
}

/// Compute up to 32 descriptors of a row from the sums around their bin centers. `shared`: three times the block's
/// threads.
template <class Block>
PREIMAGE_HOST_DEVICE void flat_program(Block& block, const FlatPlan& plan, std::int64_t index, const float* sums,
                                       const Output& output, float* shared) {
    const FrameRange range(plan.grid.x, kMaxFrames, index);
    finish(block, plan.grid, range, shared, output, [&](const DescriptorSlice& slice, int bin) {
        const std::int32_t row = bin / kSpatial;
        const std::int32_t column = bin % kSpatial;
        const std::int64_t line =
            static_cast<std::int64_t>(slice.orientation) * plan.y.frames + range.row + row * plan.frames_per_bin;
        const float sum = sums[line * plan.x.frames + range.first + slice.frame + column * plan.frames_per_bin];
        return sum * (plan.means[row] * plan.means[column]);
    });
}

}  // namespace preimage::dense_sift
