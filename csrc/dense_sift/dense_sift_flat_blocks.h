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
    Division center_blocks;       // of the centers
    Division blocks;              // of the descriptors
    ColumnLayout layout;
    float means[kSpatial];  // factor of a bin along one axis
};

/// Return whether to use these programs. With few descriptors most centers of the grid would belong to no bin.
inline bool can_share_bins(const Grid& grid, const Parameters& parameters) {
    const std::int32_t frames_per_bin = grid.bin_size / grid.step;
    return parameters.window == Window::flat && grid.bin_size % grid.step == 0 && frames_per_bin < grid.y.frames &&
           frames_per_bin < grid.x.frames;
}

PREIMAGE_INLINE std::int64_t center_shared_floats(const FlatPlan& plan) {
    return taps_of(plan.grid) + std::int64_t{kOrientations} * plan.layout.size();
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
    std::int32_t centers = minimum(maximum(by_threads, 16), plan.x.frames) + 1;
    do {
        --centers;
        plan.layout = column_layout(grid.step, std::int64_t{centers - 1} * grid.step + taps_of(grid));
    } while (centers > 1 && center_shared_floats(plan) > kMost);
    plan.center_blocks = {plan.y, plan.x, 1, centers};
    plan.blocks = {grid.y, grid.x, 1, kTurnFrames};
    return plan;
}

PREIMAGE_INLINE std::int64_t center_floats(const FlatPlan& plan) {
    return static_cast<std::int64_t>(kOrientations) * plan.y.frames * plan.x.frames;
}

/// Compute the sums around the centers of a block: `sums` is (8, rows, columns of centers). `shared`:
/// center_shared_floats(plan).
template <class Block>
PREIMAGE_HOST_DEVICE void center_program(Block& block, const FlatPlan& plan, std::uint32_t index, const Votes& votes,
                                         float* sums, float* shared) {
    const Grid& grid = plan.grid;
    const std::int32_t taps = taps_of(grid);
    const FrameRange range(plan.y, plan.x, plan.center_blocks, index);
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
            float own[kOrientations] = {};
            for (std::int32_t tap = 0; tap < taps; ++tap) {
                const Votes::Polar vote = column.at(inside(grid.y, top + tap));
                const float weighted = weights[tap] * vote.length;
                for (int orientation = 0; orientation < kOrientations; ++orientation) {
                    own[orientation] = multiply_add(weighted, share_of(orientation, vote.octants), own[orientation]);
                }
            }
            for (int orientation = 0; orientation < kOrientations; ++orientation) {
                columns[orientation * plan.layout.size() + plan.layout.place(x)] = own[orientation];
            }
        }
    });
    block.barrier();
    block.each([&](int thread) {
        const int orientation = thread / kTurnFrames;
        for (std::int32_t center = thread % kTurnFrames; center < range.frames; center += kTurnFrames) {
            const std::int32_t place = center * (grid.step / plan.layout.interleave);
            ColumnCursor<float> cursor(columns + orientation * plan.layout.size() + place, plan.layout);
            float total = 0.0f;
            for (std::int32_t tap = 0; tap < taps; ++tap) {
                total = multiply_add(weights[tap], *cursor.next(), total);
            }
            const std::int64_t line = static_cast<std::int64_t>(orientation) * plan.y.frames + range.row;
            sums[line * plan.x.frames + range.first + center] = total;
        }
    });
}

/// Compute up to kTurnFrames descriptors of a row from the sums around their bin centers. `partials`: kPartials times
/// the block's threads.
template <class Block>
PREIMAGE_HOST_DEVICE void flat_program(Block& block, const FlatPlan& plan, std::uint32_t index, const float* sums,
                                       const Output& output, float* partials) {
    const FrameRange range(plan.grid.y, plan.grid.x, plan.blocks, index);
    const Turn turn{range.row, range.first, range.frames};
    finish(block, plan.grid, turn, partials, output, [&](const DescriptorSlice& slice) {
        const std::int64_t line = std::int64_t{slice.orientation} * plan.y.frames + turn.row;
        const float* first = sums + line * plan.x.frames + turn.first + slice.frame;
        const std::int64_t row_pitch = std::int64_t{plan.frames_per_bin} * plan.x.frames;
        OrientationBins values;
        values.load([&](int bin) {
            const int row = bin / kSpatial;
            const int column = bin % kSpatial;
            return first[row * row_pitch + column * plan.frames_per_bin] * (plan.means[row] * plan.means[column]);
        });
        return values;
    });
}

}  // namespace preimage::dense_sift
