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

template <class Format>
struct StripProgram {
    using Pixels = Tile<Format>;
    static constexpr int kThreads = Pixels::kThreads;
    static constexpr int kBlocks = Pixels::kWidth / kFastCell;
    static constexpr int kLabelStep = kThreads / kBlocks;  // labels that all threads finish together
    static constexpr int kEach = (kLabels + kLabelStep - 1) / kLabelStep;
    static_assert(Pixels::kHeight == kFastCell && kFastCell == 2 * kGroup, "groups must be halves of a block's rows");

    /// Votes of the left and of the right half of a block for one label: for the left cell and, in the upper 16 bits,
    /// for the right one. They are at most 192 * 256. Those of both halves together would not fit.
    struct alignas(8) Halves {
        std::uint32_t of[2];
    };
    static constexpr int kLabelWords = 4 * kBlocks;
    struct Shared {
        // For the upper and the lower cells. Each lane of a warp counts a half of its own, in a bank of its own, so
        // that no lane waits for another.
        Halves votes[kLabels][2][kBlocks];
        std::int32_t carried[kLabels][kBlocks];  // votes so far for the next cell row
        Pixels tile;
    };

    /// Whether an image is one strip that begins at its first pixel. It then has kBlocks cells: the left half of its
    /// first block and the right half of the one after the last are outside, and the other halves share their place.
    PREIMAGE_HOST_DEVICE static bool is_single(const Batch& batch) {
        return batch.cell_columns == kBlocks && batch.image.width <= Pixels::kWidth + 1;
    }
    /// Complete cells of a strip. In other images the last block has no neighbor on the right.
    PREIMAGE_HOST_DEVICE static int columns(const Batch& batch) { return is_single(batch) ? kBlocks : kBlocks - 1; }

    static Strips strips(const Batch& batch) {
        Strips strips = make_strips(batch.images, batch.cell_rows, batch.cell_columns, columns(batch), 512);
        strips.rows = (batch.cell_rows + strips.down - 1) / strips.down;  // equal parts
        strips.down = (batch.cell_rows + strips.rows - 1) / strips.rows;
        return strips;
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
        const auto first_column = static_cast<int>(position % across) * columns(batch);
        const auto first_row = static_cast<int>(position / across % down) * static_cast<int>(strips.rows);
        const auto last_row = static_cast<int>(minimum(first_row + strips.rows, batch.cell_rows));
        const int left = is_single(batch) ? 0 : first_column * kFastCell - kFastCell / 2;
        typename Block::template PerThread<typename Pixels::Fetched> fetched;  // one block row ahead
        typename Block::template PerThread<typename Pixels::Quad> kept;
        typename Block::template PerThread<float*> output;  // the next cell of the thread's column, first label
        block.each([&](int thread) {
            const int top = first_row * kFastCell - kFastCell / 2;
            shared.tile.begin(image, top, left, thread);
            fetched[thread] = Pixels::fetch(image, top, left, thread);
            const std::int64_t plane = number * kLabels + thread / kBlocks;
            output[thread] = batch.output + (plane * batch.cell_rows + first_row) * batch.cell_columns + first_column +
                             thread % kBlocks;
        });
        for (int row = first_row; row <= last_row; ++row) {  // block row: votes for the cell rows row - 1 and row
            const int top = row * kFastCell - kFastCell / 2;
            block.each([&](int thread) {
                if (row > first_row) {
                    shared.tile.write_first_rows(kept[thread], thread);
                }
                shared.tile.store(fetched[thread], thread);
                clear(shared, thread);
            });
            block.barrier();
            block.each([&](int thread) {
                if (row < last_row) {
                    fetched[thread] = Pixels::fetch(image, top + kFastCell, left, thread);
                }
                vote(block, image, top, left, thread, shared);
            });
            block.barrier();
            block.each([&](int thread) {
                kept[thread] = shared.tile.read_last_rows(thread);
                finish(batch, output[thread], row - 1, row > first_row, first_column, thread, shared);
            });
            block.barrier();
        }
    }

private:
    PREIMAGE_HOST_DEVICE static void clear(Shared& shared, int thread) {
        struct alignas(16) Two {
            Halves of[2];
        };
        constexpr int kCount = kLabels * kBlocks;
        auto* sums = reinterpret_cast<Two*>(shared.votes);
        for (int index = 0; index < kCount; index += kThreads) {
            if (index + kThreads <= kCount || index + thread < kCount) {
                sums[index + thread] = Two{};
            }
        }
    }

    /// Count the pixels of some groups.
    template <class Block>
    PREIMAGE_HOST_DEVICE static void vote(Block& block, const Image& image, int top, int left, int thread,
                                          Shared& shared) {
        const int group = thread % Pixels::kAcross;
        const int x = left + group * kGroup;
        const auto height = static_cast<int>(image.height);
        if (x < 0 || x >= static_cast<int>(image.width)) {
            return;
        }
        const int place = group + (left % kFastCell == 0 ? 1 : 0);  // in halves of blocks
        std::uint32_t* votes = &shared.votes[0][0][place / 2 % kBlocks].of[place % 2];
        const std::uint32_t right = weight_after(place % 2 * kGroup, kFastCell);
        const int first = thread / Pixels::kAcross * Pixels::kEach;
        typename Pixels::Row rows[3];
        shared.tile.read(first - 1, group, rows[0]);
        shared.tile.read(first, group, rows[1]);
        for (int step = 0; step < Pixels::kEach; ++step) {
            const int y = first + step;
            shared.tile.read(y + 1, group, rows[(step + 2) % 3]);
            // The weights of a pixel for the left and right cell. From pixel to pixel they change by -2 and 2.
            const bool inside = top + y >= 1 && top + y < height - 1;
            const std::uint32_t across = inside ? (2 * kFastCell - right) + (right << 16) : 0;
            const std::uint32_t change = inside ? (2 << 16) - 2 : 0;
            const std::uint32_t below = weight_after(y, kFastCell);
            for (int k = 0; k < kGroup; ++k) {
                const std::int32_t label =
                    shared.tile.label(rows[step % 3], rows[(step + 1) % 3], rows[(step + 2) % 3], k);
                if (Pixels::has_neighbors(image, x, k)) {
                    std::uint32_t* sums = votes + label * kLabelWords;
                    block.add(sums, (across + k * change) * (2 * kFastCell - below));
                    block.add(sums + kLabelWords / 2, (across + k * change) * below);
                }
            }
        }
    }

    /// Return `feature` without what takes a GPU longer and is frequent: the root of 0, and a division by the root of a
    /// cell that all of its pixels vote for.
    PREIMAGE_HOST_DEVICE static float quick_feature(std::int32_t votes, float root) {
        constexpr float kWholeRoot = 2 * kFastCell * kFastCell;  // a power of two
        const std::int32_t some = maximum(votes, 1);
        const float result = root == kWholeRoot ? feature(some, kWholeRoot) : feature(some, root);
        return votes > 0 ? result : 0.0f;
    }

    /// Write the cells of a row at `output` between the strip's blocks, if they are complete, and keep the votes for
    /// the next row.
    PREIMAGE_HOST_DEVICE static void finish(const Batch& batch, float*& output, int row, bool complete,
                                            int first_column, int thread, Shared& shared) {
        const int column = thread % kBlocks;
        const auto cell_columns = static_cast<int>(batch.cell_columns);
        if (column >= minimum(cell_columns - first_column, columns(batch))) {
            return;
        }
        // In a single strip, the outer halves of the first and last cell are outside, and their place has other votes.
        const bool single = is_single(batch);
        const std::uint32_t mask =
            (single && column == 0 ? 0 : 0xffff0000) | (single && column == kBlocks - 1 ? 0 : 0xffff);
        const auto sum = [&](int label, int lower) {
            const Halves before = shared.votes[label][lower][column];
            const Halves after = shared.votes[label][lower][(column + 1) % kBlocks];
            return static_cast<std::int32_t>(((before.of[0] & mask) >> 16) + (before.of[1] >> 16) +
                                             (after.of[0] & 0xffff) + (after.of[1] & mask & 0xffff));
        };
        const float root =
            root_of_sum(weight_sum(row, kFastCell, static_cast<int>(batch.image.height)) *
                        weight_sum(first_column + column, kFastCell, static_cast<int>(batch.image.width)));
        const std::int64_t step = kLabelStep * batch.cell_rows * batch.cell_columns;
        for (int index = 0; index < kEach; ++index) {
            const int label = thread / kBlocks + index * kLabelStep;
            if ((index + 1) * kLabelStep > kLabels && label >= kLabels) {
                break;
            }
            if (complete) {
                const std::int32_t votes = shared.carried[label][column] + sum(label, 0);
                output[index * step] = quick_feature(votes, root);
            }
            shared.carried[label][column] = sum(label, 1);
        }
        if (complete) {
            output += batch.cell_columns;
        }
    }
};

}  // namespace preimage::lbp
