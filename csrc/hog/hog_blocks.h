// HOG as a block program for the GPU (common/block_program.h): from a batch of images to the channels of their cells.
//
// A thread walks down a column of *blocks*, the squares between four cell centers. All pixels of a block vote for the
// same four cells, so each thread has separate sums. After each block row, the halves of each cell from two neighboring
// threads are added, and the cells of the row before, whose neighbors are known then, are normalized. The columns of
// all images of a batch lie side by side, so that narrow images keep all threads busy.
#pragma once

#include "common/block_program.h"
#include "common/image.h"
#include "hog/hog.h"
#include "hog/hog_block_math.h"
#include "hog/hog_block_votes.h"

namespace preimage::hog {

/// Inputs and outputs. Output: (B, 31, Hc, Wc). For the gradient instead, if `cells` is not null: cells (B, 18, Hc, Wc)
/// and energies (B, Hc, Wc).
struct Batch {
    Image image;  // the first one
    std::int64_t image_stride, images;
    std::int64_t cell_size, cell_rows, cell_columns;
    float* cells;
    float* energies;
    float* output;

    PREIMAGE_HOST_DEVICE Image at(std::int64_t index) const {
        Image chosen = image;
        chosen.pixels += index * image_stride;
        return chosen;
    }
};

/// Compute the four factors of a cell, upper left, upper right, lower left, lower right, from the energies of 3 x 3
/// cells, energy(0 ... 2, 0 ... 2).
template <class Energy>
PREIMAGE_INLINE void normalizers(const Energy& energy, float (&factors)[4]) {
    for (int square = 0; square < 4; ++square) {
        const int i = square / 2;
        const int j = square % 2;
        factors[square] = normalizer(energy(i, j), energy(i, j + 1), energy(i + 1, j), energy(i + 1, j + 1));
    }
}

/// Compute the four factors of a cell of image `number` from the energies in memory.
PREIMAGE_INLINE void cell_normalizers(const Batch& batch, std::int64_t number, std::int64_t row, std::int64_t column,
                                      float (&factors)[4]) {
    const std::int64_t columns = batch.cell_columns;
    const float* energies = batch.energies + number * batch.cell_rows * columns;
    const std::int64_t y[3] = {maximum(row - 1, 0), row, minimum(row + 1, batch.cell_rows - 1)};
    const std::int64_t x[3] = {maximum(column - 1, 0), column, minimum(column + 1, columns - 1)};
    normalizers([&](int i, int j) { return energies[y[i] * columns + x[j]]; }, factors);
}

/// Write the 31 channels, `plane` apart, of a cell with the histogram cell(0) to cell(17).
template <class Cell>
PREIMAGE_INLINE void write_channels(const Cell& cell, const float (&factors)[4], std::int64_t plane, float* output) {
    // Channels are halves of sums over four squares. Halving before that rounds the same way.
    constexpr float kHalfClip = 0.5f * kClip;
    const float halves[4] = {0.5f * factors[0], 0.5f * factors[1], 0.5f * factors[2], 0.5f * factors[3]};
    float textures[4] = {};
    float* outputs[3] = {output, output + kOrientations * plane, output + kBins * plane};
    PREIMAGE_UNROLL(1)  // one iteration has enough independent instructions
    for (int k = 0; k < kOrientations; ++k) {
        const float forward = cell(k);
        const float opposite = cell(k + kOrientations);
        const float values[3] = {forward, opposite, forward + opposite};
        for (int part = 0; part < 3; ++part) {
            float clipped[4];
            for (int square = 0; square < 4; ++square) {
                clipped[square] = clip_at(kHalfClip, values[part] * halves[square]);
            }
            outputs[part][0] = ((clipped[0] + clipped[1]) + clipped[2]) + clipped[3];
            for (int square = 0; part == 2 && square < 4; ++square) {
                textures[square] += clipped[square];
            }
        }
        for (float*& place : outputs) {
            place += plane;
        }
    }
    for (float texture : textures) {
        outputs[2][0] = 2.0f * kTextureScale * texture;
        outputs[2] += plane;
    }
}

/// `Votes` is RowVotes or PixelVotes.
template <class Votes>
struct StripProgram {
    static constexpr int kThreads = 64;
    // Cells that a block writes: the last column of blocks has no neighbor, and the first and last complete cells are
    // only there for the normalization of the others.
    static constexpr int kColumns = kThreads - 3;

    /// A column of blocks, and of the cells to their lower right.
    struct Place {
        int image;
        int column;  // -1 next to the batch
    };
    struct Shared {
        BlockSums<kThreads> sums;
        Place places[kThreads];          // in registers they would make others spill
        float waiting[kBins][kThreads];  // cells whose neighbors are not complete
        float energies[3][kThreads];     // of cell row % 3
    };

    /// Return strips for a device with this number of multiprocessors: long ones repeat less work at their ends, but
    /// the busiest multiprocessor should have little more to do than the others. Fewer blocks than kBusy take it as
    /// long as that many, because their threads wait (estimated from the number and latency of their instructions).
    static Strips strips(const Batch& batch, std::int64_t multiprocessors) {
        constexpr std::int64_t kBusy = 5;
        constexpr std::int64_t kRepeated = 3;  // block rows
        const std::int64_t columns = batch.images * (batch.cell_columns + 1);
        Strips best{batch.cell_rows, (columns + kColumns - 1) / kColumns, 1};
        std::int64_t least_work = INT64_MAX;
        for (std::int64_t rows = batch.cell_rows; rows >= 1; --rows) {
            const std::int64_t down = (batch.cell_rows + rows - 1) / rows;
            const std::int64_t busiest = (best.across * down + multiprocessors - 1) / multiprocessors;
            const std::int64_t work = maximum(busiest, kBusy) * (rows + kRepeated);
            if (work < least_work) {
                least_work = work;
                best.rows = rows;
                best.down = down;
            }
        }
        return best;
    }

    /// Compute the cells of strip `index`.
    template <class Block>
    PREIMAGE_HOST_DEVICE static void run(Block& block, const Batch& batch, const Strips& strips, std::int64_t index,
                                         Shared& shared) {
        const auto cell_size = static_cast<int>(batch.cell_size);
        const auto cell_rows = static_cast<int>(batch.cell_rows);
        const auto first_row = static_cast<int>(index / strips.across * strips.rows);
        const auto last_row = static_cast<int>(minimum(first_row + strips.rows, batch.cell_rows));
        const std::int64_t first_column = index % strips.across * kColumns - 1;
        const int first_block = maximum(first_row - 1, 0);
        typename Block::template PerThread<Votes> votes;
        block.each([&](int thread) {
            const Place place = place_of(batch, first_column + thread);
            shared.places[thread] = place;
            const int left =
                place.column >= 0 ? first_pixel(place.column, cell_size) : static_cast<int>(batch.image.width);
            votes[thread].start(batch.at(place.image), first_pixel(first_block, cell_size), left);
        });
        for (int row = first_block; row <= last_row + 1; ++row) {  // block row: votes for cell rows row - 1 and row
            if (row <= cell_rows) {
                block.each([&](int thread) {
                    const int lower = row & 1;
                    clear(shared, lower, thread);
                    votes[thread].block(batch.image, cell_size, first_pixel(row, cell_size), lower, thread,
                                        shared.sums);
                });
            }
            block.barrier();
            typename Block::template PerThread<Cell> complete;
            block.each([&](int thread) { complete[thread] = finish(row - 1, thread, shared); });
            block.barrier();
            block.each([&](int thread) {
                if (row - 2 >= first_row && thread >= 1 && thread <= kColumns) {
                    write(batch, row - 2, thread, shared);
                }
                for (int bin = 0; bin < kBins; ++bin) {
                    shared.waiting[bin][thread] = complete[thread].bins[bin];
                }
            });
        }
    }

private:
    struct Cell {
        float bins[kBins];
    };

    PREIMAGE_HOST_DEVICE static Place place_of(const Batch& batch, std::int64_t position) {
        const std::int64_t columns = batch.cell_columns + 1;
        if (position < 0 || position >= batch.images * columns) {
            return {0, -1};
        }
        return {static_cast<int>(position / columns), static_cast<int>(position % columns)};
    }

    /// Return the first row, or column, of a block.
    PREIMAGE_HOST_DEVICE static int first_pixel(int block, int cell_size) {
        return cell_size * (block - 1) + cell_size / 2;
    }

    /// Clear the sums of a new cell row, which replace those of two rows before.
    PREIMAGE_HOST_DEVICE static void clear(Shared& shared, int lower, int thread) {
        for (int slot = 0; slot < kSlots; ++slot) {
            shared.sums[slot][thread].of[lower][0] = 0.0f;
            shared.sums[slot][thread].of[lower][1] = 0.0f;
        }
    }

    /// Add the halves of a cell of `row`, -1 or more, and compute its energy. Without meaning above the first row of a
    /// strip, and below the image; not used there.
    PREIMAGE_HOST_DEVICE static Cell finish(int row, int thread, Shared& shared) {
        Cell cell{};
        if (thread == kThreads - 1) {
            return cell;
        }
        const auto sum = [&](int slot) {
            return shared.sums[slot][thread].of[row & 1][1] + shared.sums[slot][thread + 1].of[row & 1][0];
        };
        for (int bin = 0; bin < kBins; ++bin) {
            cell.bins[bin] = sum(bin);
        }
        cell.bins[0] += sum(kBins);
        float energy = 0.0f;
        for (int k = 0; k < kOrientations; ++k) {
            const float undirected = cell.bins[k] + cell.bins[k + kOrientations];
            energy = multiply_add(undirected, undirected, energy);
        }
        shared.energies[(row + 3) % 3][thread] = energy;
        return cell;
    }

    PREIMAGE_HOST_DEVICE static void write(const Batch& batch, int row, int thread, const Shared& shared) {
        const Place place = shared.places[thread];
        if (place.column < 0 || place.column >= batch.cell_columns) {
            return;
        }
        const std::int64_t plane = batch.cell_rows * batch.cell_columns;
        const std::int64_t position = row * batch.cell_columns + place.column;
        if (batch.cells != nullptr) {
            float* cells = batch.cells + std::int64_t{place.image} * kBins * plane + position;
            PREIMAGE_UNROLL(1)
            for (int bin = 0; bin < kBins; ++bin) {
                cells[bin * plane] = shared.waiting[bin][thread];
            }
            batch.energies[place.image * plane + position] = shared.energies[row % 3][thread];
            return;
        }
        const int above = (row > 0 ? row + 2 : row) % 3;
        const int below = (row + 1 < batch.cell_rows ? row + 1 : row) % 3;
        const int left = place.column > 0 ? thread - 1 : thread;
        const int right = place.column + 1 < batch.cell_columns ? thread + 1 : thread;
        const auto energy = [&](int i, int j) {
            return shared.energies[i == 0 ? above : i == 1 ? row % 3 : below][j == 0 ? left : j == 1 ? thread : right];
        };
        float factors[4];
        normalizers(energy, factors);
        const auto cell = [&](int bin) { return shared.waiting[bin][thread]; };
        write_channels(cell, factors, plane, batch.output + std::int64_t{place.image} * kChannels * plane + position);
    }
};

}  // namespace preimage::hog
