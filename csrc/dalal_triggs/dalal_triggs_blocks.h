// Histograms of cells as a block program for the GPU.
#pragma once

#include "common/block_program.h"
#include "dalal_triggs/dalal_triggs_batch.h"

namespace preimage::dalal_triggs {

/// A row of neighboring cells. Every cell has some threads, each of which adds up the votes of some rows of its pixels.
template <int kPlanes>
struct CellProgram {
    static constexpr int kThreads = 128;
    static constexpr int kSlices = 8;  // threads per cell
    static constexpr int kCells = kThreads / kSlices;
    static constexpr int kBins = 16;  // orientations whose sums are kept at once; more need several passes

    struct Shared {
        double sums[kBins + 1][kThreads];  // the last is the votes for all orientations
    };

    static std::int64_t across(const Batch& batch) { return (batch.grid.cell_columns + kCells - 1) / kCells; }
    static std::int64_t blocks(const Batch& batch) { return batch.images * batch.grid.cell_rows * across(batch); }

    template <class Block>
    PREIMAGE_HOST_DEVICE static void run(Block& block, const Batch& batch, std::int64_t across, std::int64_t index,
                                         Shared& shared) {
        const std::int64_t number = index / (batch.grid.cell_rows * across);
        const std::int64_t row = index / across % batch.grid.cell_rows;
        const std::int64_t first_column = index % across * kCells;
        for (int first_bin = 0; first_bin < batch.parameters.orientations; first_bin += kBins) {
            block.each([&](int thread) { vote(batch, number, row, first_column, first_bin, thread, shared); });
            block.barrier();
            block.each([&](int thread) { write(batch, number, row, first_column, first_bin, thread, shared); });
            block.barrier();
        }
    }

private:
    PREIMAGE_HOST_DEVICE static void vote(const Batch& batch, std::int64_t number, std::int64_t row,
                                          std::int64_t first_column, int first_bin, int thread, Shared& shared) {
        for (int slot = 0; slot <= kBins; ++slot) {
            shared.sums[slot][thread] = 0.0;
        }
        const std::int64_t column = first_column + thread / kSlices;
        if (column >= batch.grid.cell_columns) {
            return;
        }
        const std::int64_t left = column * batch.parameters.cell_width;
        const std::int64_t top = row * batch.parameters.cell_height;
        for (std::int64_t dy = thread % kSlices; dy < batch.parameters.cell_height; dy += kSlices) {
            PREIMAGE_UNROLL(1)
            for (std::int64_t dx = 0; dx < batch.parameters.cell_width; ++dx) {
                const Gradient gradient = gradient_at<kPlanes>(batch, number, top + dy, left + dx);
                const Vote vote = vote_of(batch.directions, gradient.down, gradient.across);
                const int slot = vote.bin > batch.parameters.orientations ? kBins : vote.bin - first_bin;
                const bool counts = slot == kBins
                                        ? vote.bin > batch.parameters.orientations
                                        : slot >= 0 && slot < kBins && vote.bin < batch.parameters.orientations;
                if (counts) {
                    shared.sums[slot][thread] += static_cast<double>(vote.length);
                }
            }
        }
    }

    PREIMAGE_HOST_DEVICE static void write(const Batch& batch, std::int64_t number, std::int64_t row,
                                           std::int64_t first_column, int first_bin, int thread, Shared& shared) {
        const std::int64_t column = first_column + thread % kCells;
        if (column >= batch.grid.cell_columns) {
            return;
        }
        const double area = static_cast<double>(batch.parameters.cell_height * batch.parameters.cell_width);
        const auto sum = [&](int slot) {
            double total = 0.0;
            for (int slice = 0; slice < kSlices; ++slice) {
                total += shared.sums[slot][thread % kCells * kSlices + slice];
            }
            return total;
        };
        const double every = sum(kBins);
        const int count = minimum(batch.parameters.orientations - first_bin, kBins);
        double* cell = batch.cells + (number * batch.parameters.orientations + first_bin) * batch.grid.cells() +
                       row * batch.grid.cell_columns + column;
        for (int bin = thread / kCells; bin < count; bin += kThreads / kCells) {
            cell[bin * batch.grid.cells()] = (sum(bin) + every) / area;
        }
    }
};

}  // namespace preimage::dalal_triggs
