// Part of the CPU kernel (dalal_triggs_cpu_kernel.cpp): histograms of a cell row, and the normalization of blocks.
#pragma once

#include <cstring>

#include "common/simd.h"
#include "dalal_triggs/dalal_triggs.h"
#include "dalal_triggs/dalal_triggs_math.h"

namespace preimage::dalal_triggs::PREIMAGE_ISA {
namespace {

using Doubles = double[kChunk];

/// Sums of votes of one cell row, and a ring buffer of finished cell rows.
class Cells {
public:
    Cells(const Band& band, const Scratch& scratch)
        : band_(band),
          scratch_(scratch),
          bins_(band.parameters.orientations),
          slots_(bins_ + 2),  // also those of `bin_of` that are no orientation
          pitch_(scratch.cell_pitch) {}

    void clear() const {
        std::memset(scratch_.sums, 0,
                    static_cast<std::size_t>(band_.grid.cell_columns * kCopies * slots_) * sizeof(double));
    }

    void add_row(const float* lengths, const std::int32_t* bins) const {
        const std::int64_t width = band_.parameters.cell_width;
        for (std::int64_t column = 0; column < band_.grid.cell_columns; ++column) {
            double* sums = scratch_.sums + column * kCopies * slots_;
            for (std::int64_t x = 0; x < width; ++x) {
                sums[x % kCopies * slots_ + bins[x]] += static_cast<double>(lengths[x]);
            }
            lengths += width;
            bins += width;
        }
    }

    void finish(std::int64_t row) const {
        double* cells = cell_row(row);
        double* norms = norm_row(row);
        const double area = static_cast<double>(band_.parameters.cell_height * band_.parameters.cell_width);
        const bool l1 = is_l1(band_.parameters.norm);
        for (std::int64_t column = 0; column < band_.grid.cell_columns; ++column) {
            const double* sums = scratch_.sums + column * kCopies * slots_;
            const auto sum = [&](int slot) {
                return (sums[slot] + sums[slots_ + slot]) + (sums[2 * slots_ + slot] + sums[3 * slots_ + slot]);
            };
            const double every = sum(bins_ + 1);
            double norm = 0.0;
            for (int bin = 0; bin < bins_; ++bin) {
                const double value = (sum(bin) + every) / area;
                cells[bin * pitch_ + column] = value;
                norm += norm_term(l1, value);
            }
            norms[column] = norm;
        }
    }

    /// Write the histograms of a cell row as double.
    void write_raw(std::int64_t row) const {
        auto* output = reinterpret_cast<double*>(band_.output);
        for (int bin = 0; bin < bins_; ++bin) {
            std::memcpy(output + (bin * band_.grid.cell_rows + row) * band_.grid.cell_columns,
                        cell_row(row) + bin * pitch_,
                        static_cast<std::size_t>(band_.grid.cell_columns) * sizeof(double));
        }
    }

    /// Write the blocks whose first cell row is `row`.
    void write_blocks(std::int64_t row) const {
        const std::int64_t columns = band_.grid.block_columns;
        for (std::int64_t x = 0; x < columns; x += kChunk) {
            const auto count = static_cast<int>(minimum(columns - x, kChunk));
            if (band_.type == ScalarType::float16) {
                write_chunk<Half>(row, x, count);
            } else {
                write_chunk<float>(row, x, count);
            }
        }
    }

private:
    double* cell_row(std::int64_t row) const {
        return scratch_.cells + row % band_.parameters.block_height * bins_ * pitch_;
    }
    double* norm_row(std::int64_t row) const { return scratch_.norms + row % band_.parameters.block_height * pitch_; }

    /// Call step(channel, values of kChunk columns) for every channel of the blocks that begin at (row, x).
    template <class Step>
    PREIMAGE_INLINE void for_channels(const Cells& cells, std::int64_t row, std::int64_t x, const Step& step) {
        std::int64_t channel = 0;
        for (std::int64_t i = 0; i < cells.band_.parameters.block_height; ++i) {
            const double* of_row = cells.cell_row(row + i) + x;
            for (std::int64_t j = 0; j < cells.band_.parameters.block_width; ++j) {
                for (int bin = 0; bin < cells.bins_; ++bin, ++channel) {
                    step(channel, of_row + bin * cells.pitch_ + j);
                }
            }
        }
    }

    /// Compute the blocks of kChunk columns and write the first `count`.
    template <class Stored>
    void write_chunk(std::int64_t row, std::int64_t x, int count) const {
        const Norm norm = band_.parameters.norm;
        alignas(64) Doubles factors = {};
        for (std::int64_t i = 0; i < band_.parameters.block_height; ++i) {
            for (std::int64_t j = 0; j < band_.parameters.block_width; ++j) {
                const double* norms = norm_row(row + i) + x + j;
                for (int lane = 0; lane < kChunk; ++lane) {
                    factors[lane] += norms[lane];
                }
            }
        }
        for (double& factor : factors) {
            factor = block_factor(is_l1(norm), factor);
        }
        const std::int64_t plane = band_.grid.block_rows * band_.grid.block_columns;
        Stored* output = reinterpret_cast<Stored*>(band_.output) + row * band_.grid.block_columns + x;
        const auto write = [&](std::int64_t channel, const float (&values)[kChunk]) {
            if (count == kChunk) {
                store_all(output + channel * plane, values);
            } else {
                Stored partial[kChunk];
                store_all(partial, values);
                std::memcpy(output + channel * plane, partial, static_cast<std::size_t>(count) * sizeof(Stored));
            }
        };
        alignas(64) float values[kChunk];
        if (norm == Norm::l1_sqrt) {
            for_channels(*this, row, x, [&](std::int64_t channel, const double* cells) {
                for (int lane = 0; lane < kChunk; ++lane) {
                    values[lane] = static_cast<float>(square_root(cells[lane] * factors[lane]));
                }
                write(channel, values);
            });
        } else if (norm == Norm::l2_hys) {
            alignas(64) Doubles sums = {};
            for_channels(*this, row, x, [&](std::int64_t, const double* cells) {
                for (int lane = 0; lane < kChunk; ++lane) {
                    const double clipped = clip(cells[lane] * factors[lane]);
                    sums[lane] += clipped * clipped;
                }
            });
            for (double& sum : sums) {
                sum = block_factor(false, sum);
            }
            for_channels(*this, row, x, [&](std::int64_t channel, const double* cells) {
                for (int lane = 0; lane < kChunk; ++lane) {
                    values[lane] = static_cast<float>(clip(cells[lane] * factors[lane]) * sums[lane]);
                }
                write(channel, values);
            });
        } else {
            for_channels(*this, row, x, [&](std::int64_t channel, const double* cells) {
                for (int lane = 0; lane < kChunk; ++lane) {
                    values[lane] = static_cast<float>(cells[lane] * factors[lane]);
                }
                write(channel, values);
            });
        }
    }

    const Band& band_;
    const Scratch& scratch_;
    const int bins_;
    const int slots_;
    const std::int64_t pitch_;
};

}  // namespace
}  // namespace preimage::dalal_triggs::PREIMAGE_ISA
