// LBP with cells of any size, and the map of labels, as block programs for the GPU.
#pragma once

#include "common/block_program.h"
#include "lbp/lbp_tile.h"

namespace preimage::lbp {

/// One cell of any size: visits every pixel that votes for it.
struct CellProgram {
    static constexpr int kThreads = 128;
    static constexpr int kCopies = 8;
    static constexpr std::int64_t kMaxSingleSum = 152;  // 4 * 152^4 is below 2^31: a single sum holds all rows

    struct Shared {
        std::int32_t votes[kLabels][kCopies];
        std::int32_t labels[256];
    };

    /// Compute cell `index` of the batch, in row-major order.
    template <class Block>
    PREIMAGE_HOST_DEVICE static void run(Block& block, const Batch& batch, std::int64_t index, Shared& shared) {
        const std::int64_t column = index % batch.cell_columns;
        const std::int64_t row = index / batch.cell_columns % batch.cell_rows;
        const std::int64_t number = index / (batch.cell_columns * batch.cell_rows);
        const Image image = batch.at(number);
        const std::int64_t cell = batch.cell_size;
        const std::int64_t top = maximum(block_start(row, cell), 1);
        const std::int64_t bottom = minimum(block_start(row, cell) + 2 * cell, image.height - 1);
        const std::int64_t rows = cell <= kMaxSingleSum ? bottom - top : 1;  // whose votes are added to one sum
        typename Block::template PerThread<std::int64_t> totals;
        block.each([&](int thread) {
            totals[thread] = 0;
            for (int code = thread; code < 256; code += kThreads) {
                shared.labels[code] = label_of(static_cast<std::uint32_t>(code));
            }
            take_votes(shared, thread);
        });
        block.barrier();
        for (std::int64_t y = top; y < bottom; y += rows) {
            block.each([&](int thread) { vote(block, image, cell, row, column, y, rows, thread, shared); });
            block.barrier();
            block.each([&](int thread) {
                const std::int64_t weight = cell <= kMaxSingleSum ? 1 : weight_at(y, row, cell);
                totals[thread] += take_votes(shared, thread) * weight;
            });
            block.barrier();
        }
        block.each([&](int thread) {
            if (thread < kLabels) {
                const float root =
                    root_of_sum(weight_sum(row, cell, image.height) * weight_sum(column, cell, image.width));
                const std::int64_t plane = batch.cell_rows * batch.cell_columns;
                batch.output[(number * kLabels + thread) * plane + row * batch.cell_columns + column] =
                    feature(totals[thread], root);
            }
        });
    }

private:
    /// Return the votes for a label, and reset them.
    PREIMAGE_HOST_DEVICE static std::int64_t take_votes(Shared& shared, int label) {
        std::int64_t sum = 0;
        for (int copy = 0; copy < kCopies && label < kLabels; ++copy) {
            sum += shared.votes[label][copy];
            shared.votes[label][copy] = 0;
        }
        return sum;
    }

    template <class Block>
    PREIMAGE_HOST_DEVICE static void vote(Block& block, const Image& image, std::int64_t cell, std::int64_t row,
                                          std::int64_t column, std::int64_t top, std::int64_t rows, int thread,
                                          Shared& shared) {
        const std::int64_t left = maximum(block_start(column, cell), 1);
        const std::int64_t right = minimum(block_start(column, cell) + 2 * cell, image.width - 1);
        const auto width = static_cast<int>(right - left);
        for (int pixel = thread; pixel < static_cast<int>(rows) * width; pixel += kThreads) {
            const std::int64_t y = top + pixel / width;
            const std::int64_t x = left + pixel % width;
            float around[3][3];
            for (int position = 0; position < 9; ++position) {
                around[position / 3][position % 3] = pixel_at(image, 1, 0, y - 1 + position / 3, x - 1 + position % 3);
            }
            const std::int32_t label = shared.labels[code_at(&around[0][1], &around[1][1], &around[2][1])];
            const std::int64_t down = cell <= kMaxSingleSum ? weight_at(y, row, cell) : 1;
            block.add(&shared.votes[label][thread % kCopies],
                      static_cast<std::int32_t>(weight_at(x, column, cell) * down));
        }
    }
};

/// A tile of the map of labels.
template <class Format>
struct CodeProgram {
    using Shared = Tile<Format>;
    static constexpr int kThreads = Shared::kThreads;

    static std::int64_t across(const Batch& batch) { return (batch.image.width + Shared::kWidth - 1) / Shared::kWidth; }
    static std::int64_t down(const Batch& batch) {
        return (batch.image.height + Shared::kHeight - 1) / Shared::kHeight;
    }

    template <class Block>
    PREIMAGE_HOST_DEVICE static void run(Block& block, const Batch& batch, std::int64_t across, std::int64_t down,
                                         std::int64_t index, Shared& shared) {
        const std::int64_t number = index / (across * down);
        const Image image = batch.at(number);
        const auto top = static_cast<int>(index / across % down) * Shared::kHeight;
        const auto left = static_cast<int>(index % across) * Shared::kWidth;
        block.each([&](int thread) {
            shared.begin(image, top, left, thread);
            shared.store(Shared::fetch(image, top, left, thread), thread);
        });
        block.barrier();
        block.each([&](int thread) {
            const int group = thread % Shared::kAcross;
            const int x = left + group * kGroup;
            for (int row = thread / Shared::kAcross; row < Shared::kHeight; row += Shared::kStep) {
                const int y = top + row;
                if (y < image.height) {
                    const bool inside = y > 0 && y < image.height - 1;
                    std::uint8_t* labels = batch.labels + (number * image.height + y) * image.width + x;
                    typename Shared::Row rows[3];
                    for (int step = 0; step < 3; ++step) {
                        shared.read(row - 1 + step, group, rows[step]);
                    }
                    for (int k = 0; k < kGroup && x + k < image.width; ++k) {
                        const bool has_label = inside && Shared::has_neighbors(image, x, k);
                        labels[k] = has_label ? static_cast<std::uint8_t>(shared.label(rows[0], rows[1], rows[2], k))
                                              : kNoLabel;
                    }
                }
            }
        });
    }
};

}  // namespace preimage::lbp
