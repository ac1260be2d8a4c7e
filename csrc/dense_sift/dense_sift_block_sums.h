// Part of the block programs (dense_sift_blocks.h): from votes to the 128 sums of the descriptors of a block.
//   1. Down: every pixel column under the descriptors is summed, weighted, into 4 x 8 numbers, for the four rows of
//      spatial bins and the eight orientations. A thread owns a column. With the default grid it may do so for two rows
//      of descriptors, which share 15 of their 19 rows of pixels.
//   2. Across: a thread sums the columns under one orientation of one descriptor, weighted, into its 4 x 4 bins.
// Between the two lies shared memory.
#pragma once

#include <cstdint>
#include <type_traits>

#include "common/block_program.h"
#include "dense_sift/dense_sift.h"
#include "dense_sift/dense_sift_block_plan.h"
#include "dense_sift/dense_sift_block_votes.h"
#include "dense_sift/dense_sift_grid.h"

namespace preimage::dense_sift {

/// Step 1 for the pixel column at x, whose place in shared memory is `place`.
template <class Shape>
PREIMAGE_INLINE void sum_down(const BlockMemory<Shape>& memory, const Votes& votes, std::int32_t row, std::int32_t x,
                              std::int32_t place) {
    constexpr int kRows = Shape::kRows;
    const Grid& grid = memory.plan.grid;
    const std::int32_t bin_size = memory.bin_size();
    const VoteColumn column(grid, votes, x);
    float sums[kRows][kSpatial][kOrientations] = {};
    std::int32_t y = grid.y.first + row * memory.step() - bin_size + 1;
    // The pixel is `offset` below the center of the row of bins segment - 1; `centered`: std::true_type if that is 0.
    const auto add_pixel = [&](int segment, std::int32_t offset, auto centered) {
        constexpr bool kCentered = decltype(centered)::value;
        const Votes::Polar vote = column.at(inside(grid.y, y++));
        float above[kRows] = {};  // the length, weighted, for the rows of bins whose centers are above and below
        float below[kRows] = {};
        for (int of_block = 0; of_block < kRows; ++of_block) {
            const int bin = segment - of_block;
            if (0 < bin && bin <= kSpatial) {
                above[of_block] = memory.weight(offset + bin_size - 1, bin - 1) * vote.length;
            }
            if (0 <= bin && bin < kSpatial && !kCentered) {
                below[of_block] = memory.weight(offset - 1, bin) * vote.length;
            }
        }
        PREIMAGE_UNROLL(kOrientations)
        for (int orientation = 0; orientation < kOrientations; ++orientation) {
            const float share = share_of(orientation, vote.octants);
            for (int of_block = 0; of_block < kRows; ++of_block) {
                const int bin = segment - of_block;
                if (0 < bin && bin <= kSpatial) {
                    float& sum = sums[of_block][bin - 1][orientation];
                    sum = multiply_add(above[of_block], share, sum);
                }
                if (0 <= bin && bin < kSpatial && !kCentered) {
                    float& sum = sums[of_block][bin][orientation];
                    sum = multiply_add(below[of_block], share, sum);
                }
            }
        }
    };
    PREIMAGE_UNROLL(kSpatial + kRows)
    for (int segment = 0; segment < kSpatial + kRows; ++segment) {
        if (segment > 0) {
            add_pixel(segment, 0, std::true_type{});
        }
        PREIMAGE_UNROLL(Shape::kDefaultGrid ? kDefaultSize : 1)
        for (std::int32_t offset = 1; offset < bin_size; ++offset) {
            add_pixel(segment, offset, std::false_type{});
        }
        for (int of_block = 0; of_block < kRows; ++of_block) {
            const int complete = segment - of_block;  // rows of bins
            for (int pair = 0; pair < kPairs; ++pair) {
                for (int orientation = 0; complete == 2 * pair + 2 && orientation < kOrientations; ++orientation) {
                    memory.columns_of(of_block, pair, orientation)[place] = {sums[of_block][2 * pair][orientation],
                                                                             sums[of_block][2 * pair + 1][orientation]};
                }
            }
        }
    }
}

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
            total = multiply_add(of[bin], other.of[bin], total);
        }
        return total;
    }
    /// Add the sums of a pixel column to the bins of a spatial column.
    PREIMAGE_HOST_DEVICE void add(int bin, float weight, const ColumnSums (&column)[kPairs]) {
        for (int row = 0; row < kSpatial; ++row) {
            float& sum = of[row * kSpatial + bin];
            sum = multiply_add(weight, column[row / 2].of[row % 2], sum);
        }
    }
};

/// Step 2 for one orientation of descriptor `frame` in row `row` of the block.
template <class Shape>
PREIMAGE_INLINE OrientationBins sum_across(const BlockMemory<Shape>& memory, int row, std::int32_t frame,
                                           int orientation) {
    const ColumnLayout layout = memory.layout();
    const std::int32_t bin_size = memory.bin_size();
    const std::int32_t place = frame * (Shape::kDefaultGrid ? 1 : memory.step() / layout.interleave);
    ColumnCursor<ColumnSums> cursor(memory.columns_of(row, 0, orientation) + place, layout);
    const std::int32_t pair_pitch = kOrientations * layout.size();
    OrientationBins sums;
    sums.load([](int) { return 0.0f; });
    // The column is `offset` right of the center of the bins segment - 1; `centered`: std::true_type if that is 0.
    const auto add_column = [&](int segment, std::int32_t offset, auto centered) {
        constexpr bool kCentered = decltype(centered)::value;
        const ColumnSums* at = cursor.next();
        const ColumnSums column[kPairs] = {at[0], at[pair_pitch]};
        if (segment > 0) {
            sums.add(segment - 1, memory.weight(offset + bin_size - 1, segment - 1), column);
        }
        if (segment < kSpatial && !kCentered) {
            sums.add(segment, memory.weight(offset - 1, segment), column);
        }
    };
    PREIMAGE_UNROLL(kSpatial + 1)
    for (int segment = 0; segment <= kSpatial; ++segment) {
        if (segment > 0) {
            add_column(segment, 0, std::true_type{});
        }
        PREIMAGE_UNROLL(Shape::kDefaultGrid ? kDefaultSize : 1)
        for (std::int32_t offset = 1; offset < bin_size; ++offset) {
            add_column(segment, offset, std::false_type{});
        }
    }
    return sums;
}

/// Step 1 for all columns of a block. Ends with a barrier.
template <class Shape, class Block>
PREIMAGE_HOST_DEVICE void sum_columns(Block& block, const BlockMemory<Shape>& memory, const FrameRange& range,
                                      const Votes& votes) {
    const Grid& grid = memory.plan.grid;
    if (!Shape::kDefaultGrid) {
        block.each([&](int thread) {
            for (std::int32_t at = thread; at < taps_of(grid) * kSpatial; at += Block::threads) {
                memory.weights[at] = memory.plan.weights[at];
            }
        });
        block.barrier();
    }
    const std::int32_t under = pixels_under(grid);
    const std::int32_t columns = (range.frames - 1) * memory.step() + under;
    const std::int32_t left = grid.x.first + range.first * memory.step() - (memory.bin_size() - 1);
    block.each([&](int thread) {
        for (std::int32_t column = thread; column < columns; column += Block::threads) {
            if (Shape::kDefaultGrid || grid.step <= under ||
                column % grid.step < under) {  // else it is between two descriptors
                sum_down(memory, votes, range.row, inside(grid.x, left + column), memory.layout().place(column));
            }
        }
    });
    block.barrier();
}

}  // namespace preimage::dense_sift
