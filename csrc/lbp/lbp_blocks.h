// LBP with cells of 16 as a block program for the GPU (common/block_program.h). Other sizes: lbp_generic_blocks.h.
//
// A thread block walks down a strip of *blocks*, the squares between four cell centers, so that all pixels of one block
// vote for the same four cells. Votes are added in shared memory as integers, whose order does not matter. After each
// block row, the sums of neighboring blocks are added, which completes a row of cells.
#pragma once

#include "common/block_program.h"
#include "lbp/lbp_math.h"
#include "lbp/lbp_tile.h"

namespace preimage::lbp {

template <class PixelFormat>
struct StripProgram {
    static constexpr int kThreads = 256;
    static constexpr int kBlocks = 8;
    static constexpr int kColumns = kBlocks - 1;  // complete cells; the last block has no neighbor on the right
    static constexpr int kWidth = kBlocks * kFastCell;
    static constexpr int kRows = kFastCell * kWidth / kThreads;  // of a block that one thread processes

    // Sums of a label for the left cell and, in the upper 16 bits, for the right one. Every fourth column has its own
    // copy: neighbors often have the same label, and the 2^16 of a single sum over 256 pixels would not fit.
    static constexpr int kCopies = 4;
    struct alignas(16) Sums {
        std::int32_t of[kCopies];
    };
    struct Histogram {
        Sums upper[kLabels];
        Sums lower[kLabels];
        Sums unused;  // offsets neighboring blocks by 20 banks
    };
    using Pixels = Tile<PixelFormat, kFastCell, kWidth, kThreads>;
    struct Shared {
        Histogram histograms[kBlocks];
        std::int32_t carried[kColumns][kLabels];  // votes so far for the next cell row
        float roots[kColumns];
        Pixels tile;
    };

    static Strips strips(const Batch& batch) {
        return make_strips(batch.images, batch.cell_rows, batch.cell_columns, kColumns, 1024);
    }

    /// Compute the cells of strip `index`.
    template <class Block>
    PREIMAGE_HOST_DEVICE static void run(Block& block, const Batch& batch, const Strips& strips, std::int64_t index,
                                         Shared& shared) {
        const auto position = static_cast<std::uint32_t>(index);  // a launch has fewer than 2^31 blocks
        const auto across = static_cast<std::uint32_t>(strips.across);
        const auto down = static_cast<std::uint32_t>(strips.down);
        const std::int64_t number = position / (across * down);
        const Image image = batch.at(number);
        const auto first_column = static_cast<int>(position % across) * kColumns;
        const auto first_row = static_cast<int>(position / across % down) * static_cast<int>(strips.rows);
        const auto last_row = static_cast<int>(minimum(first_row + strips.rows, batch.cell_rows));
        const int left = first_column * kFastCell - kFastCell / 2;
        typename Block::template PerThread<typename Pixels::Fetched> fetched;  // one block row ahead
        block.each([&](int thread) {
            shared.tile.prepare(thread);
            fetched[thread] = Pixels::fetch(image, first_row * kFastCell - kFastCell / 2, left, thread);
        });
        for (int row = first_row; row <= last_row; ++row) {  // block row: votes for the cell rows row - 1 and row
            const int top = row * kFastCell - kFastCell / 2;
            block.each([&](int thread) {
                shared.tile.store(fetched[thread], thread);
                clear(shared, thread);
                if (thread < kColumns) {
                    const auto height = static_cast<int>(image.height);
                    const auto width = static_cast<int>(image.width);
                    shared.roots[thread] = root_of_sum(weight_sum(row - 1, kFastCell, height) *
                                                       weight_sum(first_column + thread, kFastCell, width));
                }
            });
            block.barrier();
            block.each([&](int thread) {
                if (row < last_row) {
                    fetched[thread] = Pixels::fetch(image, top + kFastCell, left, thread);
                }
                if (Pixels::rows_inside(image, top)) {
                    vote<true>(block, image, top, left, thread, shared);
                } else {
                    vote<false>(block, image, top, left, thread, shared);
                }
            });
            block.barrier();
            block.each([&](int thread) { finish(batch, number, row, row > first_row, first_column, thread, shared); });
            block.barrier();
        }
    }

private:
    PREIMAGE_HOST_DEVICE static void clear(Shared& shared, int thread) {
        Sums* sums = shared.histograms[0].upper;
        constexpr int kCount = kBlocks * (2 * kLabels + 1);
        static_assert(sizeof(shared.histograms) == kCount * sizeof(Sums), "histograms must consist of sums only");
        for (int position = thread; position < kCount; position += kThreads) {
            sums[position] = Sums{};
        }
    }

    /// Count a column of half a block. With `kInside` all its pixels have a row before and after.
    template <bool kInside, class Block>
    PREIMAGE_HOST_DEVICE static void vote(Block& block, const Image& image, int top, int left, int thread,
                                          Shared& shared) {
        const int column = thread % kWidth;
        if (left + column < 1 || left + column >= image.width - 1) {
            return;
        }
        const int x = column % kFastCell;
        const int first = thread / kWidth * kRows;
        const auto right = static_cast<std::int32_t>(weight_after(x, kFastCell));
        const std::int32_t across = (2 * kFastCell - right) | right << 16;
        const auto height = static_cast<int>(image.height);
        Histogram& histogram = shared.histograms[column / kFastCell];
        float rows[3][3];  // the pixel and its neighbors, each read once
        shared.tile.read(first - 1, column, rows[0]);
        shared.tile.read(first, column, rows[1]);
#ifdef __CUDA_ARCH__
#pragma unroll
#endif
        for (int step = 0; step < kRows; ++step) {
            const int y = first + step;
            shared.tile.read(y + 1, column, rows[(step + 2) % 3]);
            const std::int32_t label = shared.tile.label(rows[step % 3], rows[(step + 1) % 3], rows[(step + 2) % 3]);
            const bool votes = kInside || (top + y >= 1 && top + y < height - 1);
            const std::int32_t weight = votes ? across : 0;
            const std::int32_t below = weight_after(y, kFastCell);
            block.add(&histogram.upper[label].of[x % kCopies], weight * (2 * kFastCell - below));
            block.add(&histogram.lower[label].of[x % kCopies], weight * below);
        }
    }

    // The sum of two copies still fits into 16 bits.
    PREIMAGE_HOST_DEVICE static std::int32_t for_left(const Sums& sums) {
        return static_cast<std::int32_t>((first_two(sums) & 0xffff) + (last_two(sums) & 0xffff));
    }
    PREIMAGE_HOST_DEVICE static std::int32_t for_right(const Sums& sums) {
        return static_cast<std::int32_t>((first_two(sums) >> 16) + (last_two(sums) >> 16));
    }
    PREIMAGE_HOST_DEVICE static std::uint32_t first_two(const Sums& sums) {
        return static_cast<std::uint32_t>(sums.of[0]) + static_cast<std::uint32_t>(sums.of[1]);
    }
    PREIMAGE_HOST_DEVICE static std::uint32_t last_two(const Sums& sums) {
        return static_cast<std::uint32_t>(sums.of[2]) + static_cast<std::uint32_t>(sums.of[3]);
    }

    /// Write the cells of row - 1 between the strip's blocks, if they are complete, and keep the votes for the next
    /// row.
    PREIMAGE_HOST_DEVICE static void finish(const Batch& batch, std::int64_t number, int row, bool complete,
                                            int first_column, int thread, Shared& shared) {
        const std::int64_t plane = batch.cell_rows * batch.cell_columns;
        float* output = batch.output + number * kLabels * plane + (row - 1) * batch.cell_columns + first_column;
        const int column = thread % kBlocks;
        if (column >= minimum(batch.cell_columns - first_column, kColumns)) {
            return;
        }
        const Histogram& before = shared.histograms[column];
        const Histogram& after = shared.histograms[column + 1];
        const float root = shared.roots[column];
        for (int label = thread / kBlocks; label < kLabels; label += kThreads / kBlocks) {
            std::int32_t& carried = shared.carried[column][label];
            if (complete) {
                const std::int32_t votes = carried + for_right(before.upper[label]) + for_left(after.upper[label]);
                output[label * plane + column] = feature(votes, root);
            }
            carried = for_right(before.lower[label]) + for_left(after.lower[label]);
        }
    }
};

}  // namespace preimage::lbp
