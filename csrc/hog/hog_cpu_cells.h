// Part of the CPU kernel (hog_cpu_kernel.cpp): ring buffers of cell rows and their energies, and the 31 channels.
#pragma once

#include <cstring>

#include "common/image_rows.h"
#include "common/simd.h"
#include "hog/hog.h"
#include "hog/hog_math.h"

namespace preimage::hog::PREIMAGE_ISA {
namespace {

/// Ring buffers of three cell rows. Columns start at -1, because blocks at the edge also vote for cells outside the
/// image; these are never read.
class Cells {
public:
    Cells(const Band& band, const Scratch& scratch) : band_(band), scratch_(scratch) {}

    /// Return bin 0 of cell (row, -1); bins are `pitch()` apart. row >= -1.
    float* row(std::int64_t row) const { return scratch_.cells + (row + 3) % 3 * kBins * scratch_.cell_pitch; }
    std::int64_t pitch() const { return scratch_.cell_pitch; }

    void clear(std::int64_t index) const {
        std::memset(row(index), 0, static_cast<std::size_t>(kBins * scratch_.cell_pitch) * sizeof(float));
    }

    /// Return the energies from column -1 on; columns -1 and Wc repeat their neighbors.
    float* norms(std::int64_t row) const { return scratch_.norms + (row + 3) % 3 * scratch_.cell_pitch; }

    void finish_norms(std::int64_t index) const {
        const float* cells = row(index);
        float* energies = norms(index);
        for (std::int64_t x = 0; x < pitch(); x += kChunk) {
            float sum[kChunk] = {};
            for (int k = 0; k < kOrientations; ++k) {
                const float* forward = cells + k * pitch() + x;
                const float* opposite = forward + kOrientations * pitch();
                for (int lane = 0; lane < kChunk; ++lane) {
                    const float undirected = forward[lane] + opposite[lane];
                    sum[lane] += undirected * undirected;
                }
            }
            std::memcpy(energies + x, sum, sizeof(sum));
        }
        energies[0] = energies[1];
        energies[band_.cell_columns + 1] = energies[band_.cell_columns];
    }

    void write_row(std::int64_t index) const;

private:
    void write_raw(std::int64_t index) const;
    template <class Stored>
    void write_features(std::int64_t index) const;

    const Band& band_;
    const Scratch& scratch_;
};

using Chunk = float[kChunk];

/// Compute the 31 channels of kChunk cells. `cells` and the three rows of energies point to the first cell's column.
PREIMAGE_INLINE void normalize(const float* cells, std::int64_t pitch, const float* above, const float* here,
                               const float* below, Chunk (&out)[kChannels]) {
    Chunk factors[4];
    for (int lane = 0; lane < kChunk; ++lane) {
        factors[0][lane] = normalizer(above[lane - 1], above[lane], here[lane - 1], here[lane]);
        factors[1][lane] = normalizer(above[lane], above[lane + 1], here[lane], here[lane + 1]);
        factors[2][lane] = normalizer(here[lane - 1], here[lane], below[lane - 1], below[lane]);
        factors[3][lane] = normalizer(here[lane], here[lane + 1], below[lane], below[lane + 1]);
    }
    Chunk textures[4] = {};
    for (int k = 0; k < kOrientations; ++k) {
        const float* forward = cells + k * pitch;
        const float* opposite = forward + kOrientations * pitch;
        for (int lane = 0; lane < kChunk; ++lane) {
            float sum_forward = 0.0f;
            float sum_opposite = 0.0f;
            float sum_undirected = 0.0f;
            for (int block = 0; block < 4; ++block) {
                const float scaled_forward = forward[lane] * factors[block][lane];
                const float scaled_opposite = opposite[lane] * factors[block][lane];
                const float undirected = clip(scaled_forward + scaled_opposite);
                sum_forward += clip(scaled_forward);
                sum_opposite += clip(scaled_opposite);
                sum_undirected += undirected;
                textures[block][lane] += undirected;
            }
            out[k][lane] = 0.5f * sum_forward;
            out[kOrientations + k][lane] = 0.5f * sum_opposite;
            out[kBins + k][lane] = 0.5f * sum_undirected;
        }
    }
    for (int block = 0; block < 4; ++block) {
        for (int lane = 0; lane < kChunk; ++lane) {
            out[kBins + kOrientations + block][lane] = kTextureScale * textures[block][lane];
        }
    }
}

void Cells::write_raw(std::int64_t index) const {
    auto* output = reinterpret_cast<float*>(band_.output);
    for (int bin = 0; bin < kBins; ++bin) {
        std::memcpy(output + (bin * band_.cell_rows + index) * band_.cell_columns, row(index) + bin * pitch() + 1,
                    static_cast<std::size_t>(band_.cell_columns) * sizeof(float));
    }
}

template <class Stored>
void Cells::write_features(std::int64_t index) const {
    const float* above = norms(maximum(index - 1, 0)) + 1;
    const float* here = norms(index) + 1;
    const float* below = norms(minimum(index + 1, band_.cell_rows - 1)) + 1;
    const float* cells = row(index) + 1;
    const std::int64_t columns = band_.cell_columns;
    const std::int64_t plane = band_.cell_rows * columns;
    auto* output = reinterpret_cast<Stored*>(band_.output) + index * columns;
    alignas(64) Chunk chunk[kChannels];
    for (std::int64_t step = 0; step < columns; step += kChunk) {
        // The last step moves back so that it ends with the row: it too writes whole chunks.
        const std::int64_t x = maximum(minimum(step, columns - kChunk), 0);
        normalize(cells + x, pitch(), above + x, here + x, below + x, chunk);
        for (int channel = 0; channel < kChannels; ++channel) {
            if (columns >= kChunk) {
                store_all(output + channel * plane + x, chunk[channel]);
            } else {
                Stored partial[kChunk];
                store_all(partial, chunk[channel]);
                std::memcpy(output + channel * plane, partial, static_cast<std::size_t>(columns) * sizeof(Stored));
            }
        }
    }
}

void Cells::write_row(std::int64_t index) const {
    if (band_.raw) {
        write_raw(index);
    } else if (band_.type == ScalarType::float16) {
        write_features<Half>(index);
    } else {
        write_features<float>(index);
    }
}

}  // namespace
}  // namespace preimage::hog::PREIMAGE_ISA
