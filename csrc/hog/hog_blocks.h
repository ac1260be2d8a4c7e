// HOG as block programs for the GPU (common/block_program.h): from a batch of images to histograms of cells, and from
// these to channels.
//
// A thread walks down a column of *blocks*, the squares between four cell centers. All pixels of a block vote for the
// same four cells, so each thread has separate sums. After each block row, the halves of each cell from
// two neighboring threads are added.
#pragma once

#include "common/block_program.h"
#include "common/image.h"
#include "hog/hog.h"
#include "hog/hog_math.h"

namespace preimage::hog {

/// Inputs and outputs. Cells: (B, 18, Hc, Wc); energies: (B, Hc, Wc); output: (B, 31, Hc, Wc).
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

template <int kPlanes>
struct StripProgram {
    static constexpr int kThreads = kPlanes == 1 ? 64 : 32;
    static constexpr int kColumns = kThreads - 1;  // complete cells: the last column of blocks has no neighbor
    static constexpr int kCell = 8;                // the cell size whose pixels go through shared memory
    static constexpr int kTileRows = 4;
    // Column p of a tile is stored at (p % 8) * kPitch + p / 8, so that threads 8 pixels apart, and neighbors, use
    // different banks.
    static constexpr int kPitch = kThreads + 4;

    struct alignas(16) CornerSums {
        float of[2][2];  // [cell row % 2][left, right]
    };
    struct Shared {
        CornerSums sums[kBins][kThreads];
        float tile[kPlanes][kTileRows + 2][kCell * kPitch];
    };

    static Strips strips(const Batch& batch) {
        return make_strips(batch.images, batch.cell_rows, batch.cell_columns, kColumns, 2048);
    }

    /// Compute cells and energies of strip `index`.
    template <class Block>
    PREIMAGE_HOST_DEVICE static void run(Block& block, const Batch& batch, const Strips& strips, std::int64_t index,
                                         Shared& shared) {
        const std::int64_t in_image = index % (strips.across * strips.down);
        const std::int64_t number = index / (strips.across * strips.down);
        const Image image = batch.at(number);
        const std::int64_t first_column = in_image % strips.across * kColumns;
        const std::int64_t first_row = in_image / strips.across * strips.rows;
        const std::int64_t last_row = minimum(first_row + strips.rows, batch.cell_rows);
        block.each([&](int thread) {
            for (int bin = 0; bin < kBins; ++bin) {
                shared.sums[bin][thread] = CornerSums{};
            }
        });
        for (std::int64_t row = first_row; row <= last_row; ++row) {  // block row: votes for cell rows row - 1 and row
            const int lower = static_cast<int>(row & 1);
            if (batch.cell_size == kCell) {
                tile_votes(block, image, first_column, row, lower, shared);
            } else {
                block.each([&](int thread) {
                    clear_row(shared, lower, thread);
                    generic_votes(image, batch.cell_size, first_column + thread, row, lower, thread, shared);
                });
            }
            block.barrier();
            if (row > first_row) {
                block.each([&](int thread) {
                    const std::int64_t column = first_column + thread;
                    if (thread < kColumns && column < batch.cell_columns) {
                        finish_cell(batch, number, row - 1, column, thread, shared);
                    }
                });
            }
            block.barrier();
        }
    }

private:
    /// Clear the sums of a new cell row, which replace those of two rows before.
    PREIMAGE_HOST_DEVICE static void clear_row(Shared& shared, int lower, int thread) {
        for (int bin = 0; bin < kBins; ++bin) {
            shared.sums[bin][thread].of[lower][0] = 0.0f;
            shared.sums[bin][thread].of[lower][1] = 0.0f;
        }
    }

    PREIMAGE_HOST_DEVICE static void add(Shared& shared, const Gradient& gradient, float right, float below, int lower,
                                         int thread) {
        CornerSums& sums = shared.sums[orientation_bin(gradient.gx, gradient.gy)][thread];
        const float vote = length(gradient);
        const float weight_0 = lower == 0 ? below : 1.0f - below;  // for the cell row stored at index 0
        const float weight_1 = lower == 0 ? 1.0f - below : below;
        CornerSums changed = sums;
        changed.of[0][0] += vote * ((1.0f - right) * weight_0);
        changed.of[0][1] += vote * (right * weight_0);
        changed.of[1][0] += vote * ((1.0f - right) * weight_1);
        changed.of[1][1] += vote * (right * weight_1);
        sums = changed;
    }

    PREIMAGE_HOST_DEVICE static int position(int column) { return (column & 7) * kPitch + (column >> 3); }

    template <class Block>
    PREIMAGE_HOST_DEVICE static void tile_votes(Block& block, const Image& image, std::int64_t first_column,
                                                std::int64_t row, int lower, Shared& shared) {
        const std::int64_t left = kCell * first_column - kCell / 2;  // of the strip's first block
        for (int half = 0; half < kCell; half += kTileRows) {
            const std::int64_t top = kCell * row - kCell / 2 + half;
            block.each([&](int thread) { load_tile(image, top - 1, left - 1, thread, shared); });
            block.barrier();
            block.each([&](int thread) {
                if (half == 0) {
                    clear_row(shared, lower, thread);
                }
                for (int y = 0; y < kTileRows; ++y) {
                    if (top + y >= 1 && top + y < image.height - 1) {
                        row_votes(image, left + kCell * thread, half, y, lower, thread, shared);
                    }
                }
            });
            block.barrier();
        }
    }

    PREIMAGE_HOST_DEVICE static void row_votes(const Image& image, std::int64_t left, int half, int y, int lower,
                                               int thread, Shared& shared) {
        const float below = (static_cast<float>(half + y) + 0.5f) / kCell;
#ifdef __CUDA_ARCH__
#pragma unroll
#endif
        for (int x = 0; x < kCell; ++x) {
            if (left + x < 1 || left + x >= image.width - 1) {
                continue;
            }
            const auto read = [&](int plane, int dy, int dx) {
                return shared.tile[plane][y + 1 + dy][position(x + 1 + dx) + thread];
            };
            const float right = (static_cast<float>(x) + 0.5f) / kCell;
            add(shared, strongest_gradient<kPlanes>(read), right, below, lower, thread);
        }
    }

    /// Load pixels from (top, left) on. Positions outside the image stay undefined and are not read.
    PREIMAGE_HOST_DEVICE static void load_tile(const Image& image, std::int64_t top, std::int64_t left, int thread,
                                               Shared& shared) {
        constexpr int kWidth = kCell * kThreads + 2;
        for (int plane = 0; plane < kPlanes; ++plane) {
            for (int y = 0; y < kTileRows + 2; ++y) {
                const bool inside = top + y >= 0 && top + y < image.height;
                for (int column = thread; column < kWidth; column += kThreads) {
                    if (inside && left + column >= 0 && left + column < image.width) {
                        shared.tile[plane][y][position(column)] =
                            pixel_at(image, kPlanes, plane, top + y, left + column);
                    }
                }
            }
        }
    }

    PREIMAGE_HOST_DEVICE static void generic_votes(const Image& image, std::int64_t cell_size,
                                                   std::int64_t block_column, std::int64_t row, int lower, int thread,
                                                   Shared& shared) {
        const std::int64_t top = cell_size * (row - 1) + cell_size / 2;
        const std::int64_t left = cell_size * (block_column - 1) + cell_size / 2;
        for (std::int64_t y = maximum(top, 1); y < minimum(top + cell_size, image.height - 1); ++y) {
            const float below = weight_after(y, cell_size);
            for (std::int64_t x = maximum(left, 1); x < minimum(left + cell_size, image.width - 1); ++x) {
                const auto read = [&](int plane, int dy, int dx) {
                    return pixel_at(image, kPlanes, plane, y + dy, x + dx);
                };
                add(shared, strongest_gradient<kPlanes>(read), weight_after(x, cell_size), below, lower, thread);
            }
        }
    }

    PREIMAGE_HOST_DEVICE static void finish_cell(const Batch& batch, std::int64_t number, std::int64_t row,
                                                 std::int64_t column, int thread, const Shared& shared) {
        const std::int64_t plane = batch.cell_rows * batch.cell_columns;
        const std::int64_t cell = row * batch.cell_columns + column;
        const int position = static_cast<int>(row & 1);
        float* cells = batch.cells + number * kBins * plane + cell;
        float energy = 0.0f;
        for (int k = 0; k < kOrientations; ++k) {
            const auto sum = [&](int bin) {
                return shared.sums[bin][thread].of[position][1] + shared.sums[bin][thread + 1].of[position][0];
            };
            const float forward = sum(k);
            const float opposite = sum(k + kOrientations);
            cells[k * plane] = forward;
            cells[(k + kOrientations) * plane] = opposite;
            energy += (forward + opposite) * (forward + opposite);
        }
        batch.energies[number * plane + cell] = energy;
    }
};

/// Compute the four factors of a cell: upper left, upper right, lower left, lower right.
PREIMAGE_INLINE void normalizers(const float* energies, std::int64_t rows, std::int64_t columns, std::int64_t row,
                                 std::int64_t column, float (&factors)[4]) {
    const std::int64_t y[3] = {maximum(row - 1, 0), row, minimum(row + 1, rows - 1)};
    const std::int64_t x[3] = {maximum(column - 1, 0), column, minimum(column + 1, columns - 1)};
    const auto energy = [&](int i, int j) { return energies[y[i] * columns + x[j]]; };
    for (int square = 0; square < 4; ++square) {
        const int i = square / 2;
        const int j = square % 2;
        factors[square] = normalizer(energy(i, j), energy(i, j + 1), energy(i + 1, j), energy(i + 1, j + 1));
    }
}

/// Compute the 31 channels of a cell of image `number`.
PREIMAGE_INLINE void normalize_cell(const Batch& batch, std::int64_t number, std::int64_t row, std::int64_t column) {
    const std::int64_t plane = batch.cell_rows * batch.cell_columns;
    const std::int64_t cell = row * batch.cell_columns + column;
    float factors[4];
    normalizers(batch.energies + number * plane, batch.cell_rows, batch.cell_columns, row, column, factors);
    const float* cells = batch.cells + number * kBins * plane + cell;
    float* output = batch.output + number * kChannels * plane + cell;
    float textures[4] = {};
    for (int k = 0; k < kOrientations; ++k) {
        const float forward = cells[k * plane];
        const float opposite = cells[(k + kOrientations) * plane];
        float sum_forward = 0.0f;
        float sum_opposite = 0.0f;
        float sum_undirected = 0.0f;
        for (int square = 0; square < 4; ++square) {
            const float scaled_forward = forward * factors[square];
            const float scaled_opposite = opposite * factors[square];
            const float undirected = clip(scaled_forward + scaled_opposite);
            sum_forward += clip(scaled_forward);
            sum_opposite += clip(scaled_opposite);
            sum_undirected += undirected;
            textures[square] += undirected;
        }
        output[k * plane] = 0.5f * sum_forward;
        output[(k + kOrientations) * plane] = 0.5f * sum_opposite;
        output[(k + kBins) * plane] = 0.5f * sum_undirected;
    }
    for (int square = 0; square < 4; ++square) {
        output[(kBins + kOrientations + square) * plane] = kTextureScale * textures[square];
    }
}

}  // namespace preimage::hog
