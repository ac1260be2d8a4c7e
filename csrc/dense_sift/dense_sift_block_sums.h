// Part of the block programs (dense_sift_blocks.h): from votes to the 128 sums of up to 32 descriptors of a row.
//   1. Down: every pixel column under the descriptors is summed, weighted, into 4 x 8 numbers, for the four rows of
//      spatial bins and the eight orientations. A thread owns a column, so it can add to any orientation.
//   2. Across: columns are summed, weighted, around the centers of spatial bins. If the step divides bin_size, bins of
//      neighboring descriptors share their centers, and a column that was read serves four of them.
// In shared memory, columns and then descriptors are adjacent, so that the threads of a warp read without bank
// conflicts.
#pragma once

#include <algorithm>
#include <cstdint>

#include "common/block_program.h"
#include "dense_sift/dense_sift.h"
#include "dense_sift/dense_sift_block_votes.h"
#include "dense_sift/dense_sift_grid.h"
#include "dense_sift/dense_sift_math.h"

namespace preimage::dense_sift {

/// Parameters shared by all blocks of a launch.
struct BlockPlan {
    Grid grid;
    std::int32_t frames;       // descriptors of a full block
    std::int32_t pitch;        // floats between a column's sums in shared memory: a multiple of the 32 banks
    std::int32_t frame_pitch;  // floats between a descriptor's sums in shared memory
    const float* weights;      // (taps, 4)
};

// A pitch large enough for most grids. As a compile-time constant it saves a fifth of the work.
constexpr std::int32_t kDefaultPitch = 192;

/// Return the position of a column in a row of shared memory: every 33rd is skipped, so that columns a few pixels
/// apart, as step 2 reads them, are in different banks.
PREIMAGE_INLINE std::uint32_t shared_column(std::int32_t column) {
    return static_cast<std::uint32_t>(column) + static_cast<std::uint32_t>(column) / 32;
}

/// The weights of the four bins for one tap, loaded together.
struct alignas(16) Weights {
    float of[kSpatial];
};

/// `kDefaultPitches`: the plan has the default pitches.
template <bool kDefaultPitches>
struct BlockMemory {
    Weights* weights;  // (taps)
    float* columns;    // (4 bin rows, 8 orientations, pitch)
    float* sums;       // (128, frame_pitch)
    float* partials;   // (4, 8, 32): sums over one orientation of a descriptor; reuses `columns`
    std::int32_t any_pitch, any_frame_pitch;

    PREIMAGE_HOST_DEVICE BlockMemory(const BlockPlan& plan, float* shared)
        : weights(reinterpret_cast<Weights*>(shared)),
          columns(shared + taps_of(plan.grid) * kSpatial),
          any_pitch(plan.pitch),
          any_frame_pitch(plan.frame_pitch) {
        sums = columns + kSpatial * kOrientations * pitch();
        partials = columns;
    }

    PREIMAGE_HOST_DEVICE std::int32_t pitch() const { return kDefaultPitches ? kDefaultPitch : any_pitch; }
    PREIMAGE_HOST_DEVICE std::int32_t frame_pitch() const { return kDefaultPitches ? kMaxFrames : any_frame_pitch; }
    /// Return the sum of one channel of a descriptor.
    PREIMAGE_HOST_DEVICE float& sum(int channel, std::int32_t frame) const {
        return sums[channel * frame_pitch() + frame];
    }
};

/// The descriptors of a block: `frames` of them from (row, first) on.
struct FrameRange {
    std::int32_t row, first, frames;

    PREIMAGE_HOST_DEVICE FrameRange(const Axis& axis, std::int32_t of_block, std::int64_t index) {
        const std::int64_t blocks = (axis.frames + of_block - 1) / of_block;
        row = static_cast<std::int32_t>(index / blocks);
        first = static_cast<std::int32_t>(index % blocks) * of_block;
        frames = minimum(of_block, axis.frames - first);
    }
};

/// Which rows of spatial bins cover a row of pixels, at compile time so that loops need no test.
template <bool kAbove, bool kBelow>
struct Coverage {
    static constexpr bool above = kAbove;
    static constexpr bool below = kBelow;
};

/// Call visit(coverage, above, offset) for each row of pixels under a descriptor, from top to bottom. The row is
/// `offset` pixels, less than bin_size, below the center of the row of spatial bins `above`, which is -1 before the
/// first.
template <class Visit>
PREIMAGE_INLINE void for_each_row(std::int32_t bin_size, const Visit& visit) {
    for (std::int32_t offset = 1; offset < bin_size; ++offset) {
        visit(Coverage<false, true>{}, -1, offset);
    }
    for (std::int32_t above = 0; above < kSpatial - 1; ++above) {
        visit(Coverage<true, false>{}, above, 0);
        for (std::int32_t offset = 1; offset < bin_size; ++offset) {
            visit(Coverage<true, true>{}, above, offset);
        }
    }
    for (std::int32_t offset = 0; offset < bin_size; ++offset) {
        visit(Coverage<true, false>{}, kSpatial - 1, offset);
    }
}

/// Add the vote of a pixel to the 4 x 8 sums of its column, `pitch` apart, for the rows of bins above and below it.
template <class Rows>
PREIMAGE_INLINE void add_vote(Rows, std::int32_t bin_size, std::int32_t above, std::int32_t offset,
                              const Weights* weights, const Vote& vote, float* sums, std::int32_t pitch) {
    const BinOffsets slots(vote, pitch);
    const std::int32_t below = (above + 1) * kOrientations * pitch;
    if (Rows::above) {
        slots.add(weights[offset + bin_size - 1].of[above], vote, sums + (below - kOrientations * pitch));
    }
    if (Rows::below) {
        slots.add(weights[offset - 1].of[above + 1], vote, sums + below);
    }
}

/// Step 1 for the pixel column at x.
template <class Memory>
PREIMAGE_INLINE void sum_down(const Grid& grid, const Memory& memory, const Votes& votes, std::int32_t row,
                              std::int32_t x, std::uint32_t position) {
    float* sums = memory.columns + position;
    for (int slot = 0; slot < kSpatial * kOrientations; ++slot) {
        sums[slot * memory.pitch()] = 0.0f;
    }
    std::int32_t y = grid.y.first + row * grid.step - grid.bin_size + 1;
    const VoteColumn column(grid, votes, x);
    for_each_row(grid.bin_size, [&](auto coverage, std::int32_t above, std::int32_t offset) {
        add_vote(coverage, grid.bin_size, above, offset, memory.weights, column.at(inside(grid.y, y)), sums,
                 memory.pitch());
        ++y;
    });
}

/// Step 2 around one center, whose first tap is `column`: for the four bin rows, the sums of the spatial columns [bin,
/// bin + kBins) with this center.
template <int kBins>
struct Across {
    float sums[kSpatial][kBins];

    template <class Memory>
    PREIMAGE_HOST_DEVICE Across(std::int32_t taps, const Memory& memory, int orientation, std::int32_t column,
                                int bin) {
        for (int row = 0; row < kSpatial; ++row) {
            for (int i = 0; i < kBins; ++i) {
                sums[row][i] = 0.0f;
            }
        }
        const float* columns = memory.columns + orientation * memory.pitch();
        for (std::int32_t tap = 0; tap < taps; ++tap) {
            const Weights weights = memory.weights[tap];
            const std::uint32_t position = shared_column(column + tap);
            for (int row = 0; row < kSpatial; ++row) {
                const float value = columns[row * kOrientations * memory.pitch() + position];
                for (int i = 0; i < kBins; ++i) {
                    sums[row][i] += (kBins == 1 ? memory.weights[tap].of[bin] : weights.of[i]) * value;
                }
            }
        }
    }

    /// Store the sums of `frame` in spatial column `bin`.
    template <class Memory>
    PREIMAGE_HOST_DEVICE void store(const Memory& memory, int orientation, int bin, int i, std::int32_t frame) const {
        for (int row = 0; row < kSpatial; ++row) {
            memory.sum(channel_of(orientation, bin, row), frame) = sums[row][i];
        }
    }
};

/// Step 2 for the block: its threads divide the centers and orientations among them.
template <class Block, class Memory>
PREIMAGE_HOST_DEVICE void sum_across(const Grid& grid, const Memory& memory, const FrameRange& range, int thread) {
    if (grid.bin_size % grid.step == 0) {
        const std::int32_t frames_per_bin = grid.bin_size / grid.step;  // distance of spatial bins in descriptors
        const std::int32_t centers = range.frames + (kSpatial - 1) * frames_per_bin;
        for (std::int32_t item = thread; item < kOrientations * centers; item += Block::threads) {
            const int orientation = item / centers;
            const std::int32_t center = item % centers;
            const Across<kSpatial> across(taps_of(grid), memory, orientation, center * grid.step, 0);
            for (int bin = 0; bin < kSpatial; ++bin) {
                const std::int32_t frame = center - bin * frames_per_bin;
                if (frame >= 0 && frame < range.frames) {
                    across.store(memory, orientation, bin, bin, frame);
                }
            }
        }
        return;
    }
    for (std::int32_t item = thread; item < kSpatial * kOrientations * range.frames; item += Block::threads) {
        const std::int32_t frame = item % range.frames;
        const int orientation = item / range.frames % kOrientations;
        const int bin = item / range.frames / kOrientations;
        const Across<1> across(taps_of(grid), memory, orientation, frame * grid.step + bin * grid.bin_size, bin);
        across.store(memory, orientation, bin, 0, frame);
    }
}

/// Steps 1 and 2: the sums of block `index` of the image, (128, frames). Ends with a barrier.
template <class Block, class Memory>
PREIMAGE_HOST_DEVICE void sum_bins(Block& block, const BlockPlan& plan, const Memory& memory, const FrameRange& range,
                                   const Votes& votes) {
    const Grid& grid = plan.grid;
    block.each([&](int thread) {
        for (std::int32_t place_in_table = thread; place_in_table < taps_of(grid) * kSpatial;
             place_in_table += Block::threads) {
            memory.weights[place_in_table / kSpatial].of[place_in_table % kSpatial] = plan.weights[place_in_table];
        }
    });
    block.barrier();
    const std::int32_t under = (kSpatial + 1) * grid.bin_size - 1;  // pixel columns under one descriptor
    const std::int32_t columns = (range.frames - 1) * grid.step + under;
    const std::int32_t left = grid.x.first + range.first * grid.step - (grid.bin_size - 1);
    block.each([&](int thread) {
        for (std::int32_t column = thread; column < columns; column += Block::threads) {
            if (grid.step <= under || column % grid.step < under) {  // otherwise it is between two descriptors
                sum_down(grid, memory, votes, range.row, inside(grid.x, left + column), shared_column(column));
            }
        }
    });
    block.barrier();
    block.each([&](int thread) { sum_across<Block>(grid, memory, range, thread); });
    block.barrier();
}

// ---- Sizes ----

/// Return the shared memory of a block, in floats.
PREIMAGE_INLINE std::int64_t shared_floats(const BlockPlan& plan) {
    return static_cast<std::int64_t>(kSpatial) * taps_of(plan.grid) +
           static_cast<std::int64_t>(kSpatial * kOrientations) * plan.pitch +
           static_cast<std::int64_t>(kChannels) * plan.frame_pitch;
}

/// Return the number of blocks per image.
PREIMAGE_INLINE std::int64_t block_count(const BlockPlan& plan) {
    return static_cast<std::int64_t>(plan.grid.y.frames) * ((plan.grid.x.frames + plan.frames - 1) / plan.frames);
}

inline bool has_default_pitches(const BlockPlan& plan) {
    return plan.pitch == kDefaultPitch && plan.frame_pitch == kMaxFrames;
}

/// Return the plan for blocks of `frames` descriptors.
inline BlockPlan plan_of(const Grid& grid, std::int32_t frames, const float* weights) {
    const std::int64_t columns = static_cast<std::int64_t>(frames - 1) * grid.step + 5 * grid.bin_size - 1;
    const std::int64_t floats = (columns + columns / 32 + 31) / 32 * 32;
    // The limit is larger than any shared memory, and avoids overflow.
    const auto pitch = static_cast<std::int32_t>(std::min<std::int64_t>(floats, std::int64_t{1} << 24));
    return {grid, frames, pitch, frames, weights};
}

/// Return the plan used on the GPU: default pitches if 32 descriptors, or the whole row, fit. Otherwise as many
/// descriptors as fit into 48 KiB, so that several blocks share a multiprocessor. If these are few, which repeats much
/// work at their edges, up to 99 KiB. Throws std::invalid_argument if a single descriptor does not fit.
inline BlockPlan block_plan(const Grid& grid, const float* weights) {
    constexpr std::int64_t kPreferredBytes = 48 << 10;
    constexpr std::int64_t kMost = 99 << 10;  // available on every GPU since compute capability 8.0
    const std::int32_t wanted = minimum(grid.x.frames, kMaxFrames);
    BlockPlan defaults = plan_of(grid, wanted, weights);
    if (defaults.pitch <= kDefaultPitch) {
        defaults.pitch = kDefaultPitch;
        defaults.frame_pitch = kMaxFrames;
        return defaults;
    }
    const auto largest = [&](std::int64_t bytes) {
        std::int32_t frames = wanted;
        while (frames > 0 && shared_floats(plan_of(grid, frames, weights)) * 4 > bytes) {
            --frames;
        }
        return frames;
    };
    const std::int32_t preferred = largest(kPreferredBytes);
    const std::int32_t frames = preferred >= minimum(wanted, 16) ? preferred : largest(kMost);
    require(frames > 0, "the GPU's shared memory is too small for this bin_size: use at most 143, or the CPU");
    return plan_of(grid, frames, weights);
}

}  // namespace preimage::dense_sift
