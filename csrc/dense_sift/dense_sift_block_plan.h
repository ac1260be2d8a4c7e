// Part of the block programs (dense_sift_blocks.h): which descriptors a block computes, and its shared memory.
#pragma once

#include <algorithm>
#include <cstdint>

#include "common/host_device.h"
#include "dense_sift/dense_sift.h"
#include "dense_sift/dense_sift_block_votes.h"
#include "dense_sift/dense_sift_grid.h"

namespace preimage::dense_sift {

// The default step and bin size, which the programs are specialized for. Constants halve the instructions of step 2.
constexpr std::int32_t kDefaultSize = 4;
// Columns of one phase (see ColumnLayout) then: one thread per column. Not a multiple of 16, for shared memory's banks.
constexpr std::int32_t kDefaultPitch = kBlockThreads / kDefaultSize + 4;

/// Places of columns in shared memory: those `interleave` apart are adjacent, so that the threads of a warp, whose
/// descriptors are a step apart, read different banks.
struct ColumnLayout {
    std::int32_t interleave;  // the step, or 1 if that would take too much memory
    std::int32_t pitch;       // columns of one phase, that is with the same remainder

    PREIMAGE_HOST_DEVICE std::int32_t place(std::int32_t column) const {
        return column % interleave * pitch + column / interleave;
    }
    PREIMAGE_HOST_DEVICE std::int32_t size() const { return interleave * pitch; }
};

/// Walks over the columns of shared memory from left to right, beginning in phase 0.
template <class Column>
struct ColumnCursor {
    const Column* at;
    ColumnLayout layout;
    std::int32_t phase = 0;

    PREIMAGE_HOST_DEVICE ColumnCursor(const Column* first, const ColumnLayout& columns) : at(first), layout(columns) {}
    PREIMAGE_HOST_DEVICE const Column* next() {
        const Column* column = at;
        at += layout.pitch;
        if (++phase == layout.interleave) {
            phase = 0;
            at -= layout.size() - 1;
        }
        return column;
    }
};

/// Return the layout for `count` columns, read at multiples of the step.
inline ColumnLayout column_layout(std::int32_t step, std::int64_t count) {
    const std::int32_t interleave = step <= 16 ? step : 1;
    // The limit is larger than any shared memory, and avoids overflow.
    const std::int64_t pitch = std::min<std::int64_t>((count - 1) / interleave + 1, std::int64_t{1} << 20);
    return {interleave, static_cast<std::int32_t>(pitch)};
}

/// How the descriptors of an image are divided among blocks.
struct Division {
    std::int32_t rows, frames;   // of a full block: rows, and descriptors in each
    std::uint32_t down, across;  // blocks of an image

    Division() = default;
    Division(const Axis& y, const Axis& x, std::int32_t of_rows, std::int32_t of_frames)
        : rows(of_rows),
          frames(of_frames),
          down(static_cast<std::uint32_t>((y.frames + of_rows - 1) / of_rows)),
          across(static_cast<std::uint32_t>((x.frames + of_frames - 1) / of_frames)) {}

    PREIMAGE_HOST_DEVICE std::uint32_t blocks() const { return down * across; }
};

/// The descriptors of a block: `rows` times `frames` of them, from (row, first) on.
struct FrameRange {
    std::int32_t row, rows, first, frames;

    PREIMAGE_HOST_DEVICE FrameRange(const Axis& y, const Axis& x, const Division& division, std::uint32_t index)
        : row(static_cast<std::int32_t>(index / division.across) * division.rows),
          rows(minimum(division.rows, y.frames - row)),
          first(static_cast<std::int32_t>(index % division.across) * division.frames),
          frames(minimum(division.frames, x.frames - first)) {}
};

/// Parameters shared by all blocks of a launch.
struct BlockPlan {
    Grid grid;
    Division division;
    ColumnLayout layout;
    const float* weights;                                      // (taps, 4)
    float default_weights[(2 * kDefaultSize - 1) * kSpatial];  // the same for the default grid: constants of the launch
};

PREIMAGE_INLINE bool is_default_grid(const Grid& grid) {
    return grid.step == kDefaultSize && grid.bin_size == kDefaultSize;
}

/// The sums of a pixel column for two rows of spatial bins, of one orientation. Two, because a thread's registers do
/// not suffice for four; they are stored and loaded together.
struct alignas(8) ColumnSums {
    float of[2];
};
constexpr int kPairs = kSpatial / 2;

constexpr int kPartials = 4;  // sums over an orientation of a descriptor that threads exchange

PREIMAGE_INLINE std::int32_t pixels_under(const Grid& grid) { return (kSpatial + 1) * grid.bin_size - 1; }

/// What the programs are specialized for.
template <bool default_grid, int rows>
struct BlockShape {
    static constexpr bool kDefaultGrid = default_grid;  // is_default_grid(plan.grid)
    static constexpr int kRows = rows;                  // plan.division.rows
};

/// Call call(BlockShape) with the shape of a plan's blocks.
template <class Call>
void with_block_shape(const BlockPlan& plan, const Call& call) {
    if (!is_default_grid(plan.grid)) {
        call(BlockShape<false, 1>{});
    } else if (plan.division.rows == 1) {
        call(BlockShape<true, 1>{});
    } else {
        call(BlockShape<true, 2>{});
    }
}

template <class Shape>
struct BlockMemory {
    static constexpr bool kDefaultGrid = Shape::kDefaultGrid;

    const BlockPlan& plan;
    float* weights;       // (taps, 4), unless `kDefaultGrid`
    float* partials;      // (kPartials, threads)
    ColumnSums* columns;  // (rows, pairs of rows of bins, 8, plan.layout.size())

    PREIMAGE_HOST_DEVICE BlockMemory(const BlockPlan& block_plan, float* shared)
        : plan(block_plan),
          weights(shared),
          partials(weights + taps_of(plan.grid) * kSpatial),
          columns(reinterpret_cast<ColumnSums*>(partials + kPartials * kBlockThreads)) {}

    PREIMAGE_HOST_DEVICE std::int32_t step() const { return kDefaultGrid ? kDefaultSize : plan.grid.step; }
    PREIMAGE_HOST_DEVICE std::int32_t bin_size() const { return kDefaultGrid ? kDefaultSize : plan.grid.bin_size; }
    PREIMAGE_HOST_DEVICE ColumnLayout layout() const {
        return kDefaultGrid ? ColumnLayout{kDefaultSize, kDefaultPitch} : plan.layout;
    }
    PREIMAGE_HOST_DEVICE float weight(std::int32_t tap, int bin) const {
        return (kDefaultGrid ? plan.default_weights : weights)[tap * kSpatial + bin];
    }
    PREIMAGE_HOST_DEVICE ColumnSums* columns_of(int row, int pair, int orientation) const {
        return columns + ((row * kPairs + pair) * kOrientations + orientation) * layout().size();
    }
};

/// Return the shared memory of a block, in floats.
PREIMAGE_INLINE std::int64_t shared_floats(const BlockPlan& plan) {
    return std::int64_t{kSpatial} * taps_of(plan.grid) + kPartials * kBlockThreads +
           std::int64_t{plan.division.rows} * kSpatial * kOrientations * plan.layout.interleave * plan.layout.pitch;
}

/// Return the plan for blocks of `rows` rows, which must be 1 unless is_default_grid(grid), of at most `most`
/// descriptors, about equally many in each. `weights` on the device, (taps, 4).
inline BlockPlan plan_of(const Grid& grid, const Parameters& parameters, std::int32_t rows, std::int32_t most,
                         const float* weights) {
    const bool default_grid = is_default_grid(grid);
    const std::int32_t blocks = (grid.x.frames + most - 1) / most;
    BlockPlan plan{};
    plan.grid = grid;
    plan.division = {grid.y, grid.x, rows, (grid.x.frames + blocks - 1) / blocks};
    plan.weights = weights;
    if (default_grid) {
        plan.layout = {kDefaultSize, kDefaultPitch};
        fill_weights(parameters, plan.default_weights);
    } else {
        plan.layout = column_layout(grid.step, std::int64_t{plan.division.frames - 1} * grid.step + pixels_under(grid));
    }
    return plan;
}

/// Return the plan used on a GPU with `available` bytes of shared memory per multiprocessor: as many descriptors in a
/// row as have a thread for each pixel column, but at least 16, or as many as fit into 99 KiB. With the default grid,
/// two rows of descriptors, which share most of their pixels, if a multiprocessor has room for two such blocks; with
/// one, too few threads would hide its latency. Throws std::invalid_argument for larger bins than every step has memory
/// for.
inline BlockPlan block_plan(const Grid& grid, const Parameters& parameters, const float* weights,
                            std::int64_t available) {
    constexpr std::int64_t kMost = 99 << 10;     // available on every GPU since compute capability 8.0
    constexpr std::int64_t kReserved = 1 << 10;  // by CUDA, per block
    require(grid.bin_size <= 143,
            "the GPU's shared memory is too small for this bin_size: use at most 143, or the CPU");
    std::int32_t most = maximum((kBlockThreads - pixels_under(grid)) / grid.step + 1, 16);
    if (is_default_grid(grid)) {
        const BlockPlan plan = plan_of(grid, parameters, 2, most, weights);
        if (2 * (shared_floats(plan) * 4 + kReserved) <= available) {
            return plan;
        }
    }
    BlockPlan plan = plan_of(grid, parameters, 1, most, weights);
    while (shared_floats(plan) * 4 > kMost) {
        plan = plan_of(grid, parameters, 1, --most, weights);
    }
    return plan;
}

}  // namespace preimage::dense_sift
