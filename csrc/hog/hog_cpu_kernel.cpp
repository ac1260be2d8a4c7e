// The CPU kernel of HOG, compiled once per instruction set (CMakeLists.txt).
//
// Everything here has internal linkage and uses no templates of the standard library: host_device.h explains why. Loops
// over kChunk are written for the compiler to vectorize.
//
// The kernel goes down the image by *block rows*, the rows of pixels between two lines of cell centers. A block is the
// square between four cell centers, so that all its pixels vote for the same four cells. Block row i lies between the
// cell rows i - 1 and i; after it, cell row i - 1 is complete. Three cell rows are kept in a ring buffer. Every cell
// receives its votes in the same order, however the image is divided into bands.
#include <cstring>

#include "common/image_rows.h"
#include "hog/hog.h"
#include "hog/hog_cpu_cells.h"
#include "hog/hog_math.h"

namespace preimage::hog::PREIMAGE_ISA {
namespace {

constexpr int kFastCell = 8;                    // the cell size with a fast path
constexpr int kTile = 64;                       // pixels of a row processed together: 8 rows of votes fit into L1
constexpr int kTilePitch = kTile + 2 * kChunk;  // a step of kChunk may begin or end outside the tile

using Float4 = float __attribute__((vector_size(16)));
using Float2 = float __attribute__((vector_size(8)));

// ---- Votes: length and directed bin of every pixel's gradient ----

/// Per plane, the rows above, at and below the current one.
struct Rows {
    const float* above[3];
    const float* here[3];
    const float* below[3];
};

template <int kPlanes>
PREIMAGE_INLINE void vote_step(const Rows& rows, std::int64_t x, float* __restrict lengths,
                               std::int32_t* __restrict bins) {
    const float* above[kPlanes];
    const float* here[kPlanes];
    const float* below[kPlanes];
    for (int plane = 0; plane < kPlanes; ++plane) {
        above[plane] = rows.above[plane] + x;
        here[plane] = rows.here[plane] + x;
        below[plane] = rows.below[plane] + x;
    }
    for (int lane = 0; lane < kChunk; ++lane) {
        float gx = here[0][lane + 1] - here[0][lane - 1];
        float gy = below[0][lane] - above[0][lane];
        float energy = gx * gx + gy * gy;
        for (int plane = 1; plane < kPlanes; ++plane) {
            const float other_gx = here[plane][lane + 1] - here[plane][lane - 1];
            const float other_gy = below[plane][lane] - above[plane][lane];
            const float other_energy = other_gx * other_gx + other_gy * other_gy;
            const bool other = is_stronger(other_energy, energy);
            gx = other ? other_gx : gx;
            gy = other ? other_gy : gy;
            energy = other ? other_energy : energy;
        }
        lengths[lane] = square_root(energy);
        bins[lane] = orientation_bin(gx, gy);
    }
}

/// Compute the votes of pixels [begin, end) of row y into lengths[x - origin], bins[x - origin]; up to kChunk elements
/// before and after may be overwritten.
template <int kPlanes>
PREIMAGE_INLINE void vote_row(const ImageRows& lines, std::int64_t y, std::int64_t begin, std::int64_t end,
                              std::int64_t origin, float* lengths, std::int32_t* bins) {
    Rows rows;
    const float* to_prefetch[kPlanes];
    for (int plane = 0; plane < kPlanes; ++plane) {
        to_prefetch[plane] = lines.row_to_prefetch(plane, y);
        rows.above[plane] = lines.row(plane, y - 1);
        rows.here[plane] = lines.row(plane, y);
        rows.below[plane] = lines.row(plane, y + 1);
    }
    const std::int64_t last_start = lines.last_start();
    for (std::int64_t x = begin; x < end; x += kChunk) {
        const std::int64_t start = minimum(x, last_start);
        for (int plane = 0; plane < kPlanes && to_prefetch[plane] != nullptr; ++plane) {
            __builtin_prefetch(to_prefetch[plane] + start, 0, 2);
        }
        vote_step<kPlanes>(rows, start, lengths + (start - origin), bins + (start - origin));
    }
}

// ---- Block rows, cell size 8 ----

/// Weights of a pixel of a block for the four cells: upper left, upper right, lower left, lower right.
struct BlockWeights {
    alignas(64) float of[kFastCell][kFastCell][4];
};

constexpr BlockWeights block_weights() {
    BlockWeights weights{};
    for (int y = 0; y < kFastCell; ++y) {
        for (int x = 0; x < kFastCell; ++x) {
            const float right = (static_cast<float>(x) + 0.5f) / kFastCell;
            const float lower = (static_cast<float>(y) + 0.5f) / kFastCell;
            weights.of[y][x][0] = (1.0f - right) * (1.0f - lower);
            weights.of[y][x][1] = right * (1.0f - lower);
            weights.of[y][x][2] = (1.0f - right) * lower;
            weights.of[y][x][3] = right * lower;
        }
    }
    return weights;
}

constexpr BlockWeights kBlockWeights = block_weights();

constexpr int kCopies = 4;  // histograms per block, so that neighboring pixels do not wait for each other's sums

/// The votes of the 8 rows of a tile.
struct Tile {
    alignas(64) float lengths[kFastCell][kTilePitch];
    alignas(64) std::int32_t bins[kFastCell][kTilePitch];
};

/// Add the votes of one block to the four cells. `upper` and `lower` point to bin 0 of the left cells.
PREIMAGE_INLINE void add_block(const Tile& tile, int offset, int first_row, int last_row, float* upper, float* lower,
                               std::int64_t pitch) {
    Float4 histograms[kCopies][kBins];
    std::memset(histograms, 0, sizeof(histograms));
    for (int row = first_row; row < last_row; ++row) {
        const float* lengths = tile.lengths[row] + offset;
        const std::int32_t* bins = tile.bins[row] + offset;
        for (int x = 0; x < kFastCell; ++x) {
            Float4 weights;
            std::memcpy(&weights, kBlockWeights.of[row][x], sizeof(weights));
            Float4& sum = histograms[x % kCopies][bins[x]];
            sum = sum + weights * lengths[x];
        }
    }
    for (int bin = 0; bin < kBins; ++bin) {
        const Float4 sum = (histograms[0][bin] + histograms[1][bin]) + (histograms[2][bin] + histograms[3][bin]);
        Float2 pair;
        std::memcpy(&pair, upper + bin * pitch, sizeof(pair));
        pair = pair + Float2{sum[0], sum[1]};
        std::memcpy(upper + bin * pitch, &pair, sizeof(pair));
        std::memcpy(&pair, lower + bin * pitch, sizeof(pair));
        pair = pair + Float2{sum[2], sum[3]};
        std::memcpy(lower + bin * pitch, &pair, sizeof(pair));
    }
}

template <int kPlanes>
void add_block_row(const Band& band, ImageRows& lines, const Cells& cells, std::int64_t index) {
    const std::int64_t top = kFastCell * index - kFastCell / 2;  // first pixel row of the block row
    const auto first_row = static_cast<int>(maximum(1 - top, 0));
    const auto last_row = static_cast<int>(minimum(band.image.height - 1 - top, kFastCell));
    lines.require(top - 1, top + kFastCell + 1);
    const std::int64_t blocks = band.cell_columns + 1;
    constexpr int kTileBlocks = kTile / kFastCell;
    Tile tile;
    for (std::int64_t block = 0; block < blocks; block += kTileBlocks) {
        const std::int64_t left = kFastCell * block - kFastCell / 2;
        const std::int64_t count = minimum(blocks - block, kTileBlocks);
        const std::int64_t begin = maximum(left, 1);
        const std::int64_t end = minimum(left + kFastCell * count, band.image.width - 1);
        for (int row = first_row; row < last_row; ++row) {
            float* lengths = tile.lengths[row] + kChunk;
            std::int32_t* bins = tile.bins[row] + kChunk;
            vote_row<kPlanes>(lines, top + row, begin, end, left, lengths, bins);
            for (std::int64_t x = 0; x < begin - left; ++x) {
                lengths[x] = 0.0f;
                bins[x] = 0;
            }
            for (std::int64_t x = maximum(end - left, 0); x < kFastCell * count; ++x) {
                lengths[x] = 0.0f;
                bins[x] = 0;
            }
        }
        for (std::int64_t k = 0; k < count; ++k) {
            add_block(tile, static_cast<int>(kChunk + kFastCell * k), first_row, last_row,
                      cells.row(index - 1) + block + k, cells.row(index) + block + k, cells.pitch());
        }
    }
}

// ---- Block rows, any cell size ----

void prepare_columns(const Band& band, const Scratch& scratch) {
    for (std::int64_t x = 0; x < band.image.width; ++x) {
        scratch.left_cells[x] = static_cast<std::int32_t>(cell_before(x, band.parameters.cell_size));
        scratch.right_weights[x] = weight_after(x, band.parameters.cell_size);
    }
}

template <int kPlanes>
void add_generic_block_row(const Band& band, const Scratch& scratch, ImageRows& lines, const Cells& cells,
                           std::int64_t index) {
    const std::int64_t cell_size = band.parameters.cell_size;
    const std::int64_t top = cell_size * (index - 1) + cell_size / 2;
    const std::int64_t last_row = minimum(top + cell_size, band.image.height - 1);
    for (std::int64_t y = maximum(top, 1); y < last_row; ++y) {
        lines.require(y - 1, y + 2);
        vote_row<kPlanes>(lines, y, 1, band.image.width - 1, 0, scratch.lengths, scratch.bins);
        const float lower_weight = weight_after(y, cell_size);
        for (std::int64_t x = 1; x < band.image.width - 1; ++x) {
            const std::int64_t column = scratch.bins[x] * cells.pitch() + scratch.left_cells[x] + 1;
            const float right = scratch.right_weights[x] * scratch.lengths[x];
            const float left = (1.0f - scratch.right_weights[x]) * scratch.lengths[x];
            float* upper = cells.row(index - 1) + column;
            float* lower = cells.row(index) + column;
            upper[0] += left * (1.0f - lower_weight);
            upper[1] += right * (1.0f - lower_weight);
            lower[0] += left * lower_weight;
            lower[1] += right * lower_weight;
        }
    }
}

// ---- A band ----

template <int kPlanes>
void run_band(const Band& band, const Scratch& scratch, ImageRows& lines) {
    const Cells cells(band, scratch);
    const bool fast = band.parameters.cell_size == kFastCell;
    if (!fast) {
        prepare_columns(band, scratch);
    }
    // Normalization also needs the norms of the cell rows before and after the band.
    const std::int64_t first_block_row = maximum(band.first_row - 1, 0);
    const std::int64_t last_block_row = minimum(band.last_row, band.cell_rows - 1) + 1;
    cells.clear(first_block_row - 1);
    for (std::int64_t index = first_block_row; index <= last_block_row; ++index) {
        cells.clear(index);
        if (fast) {
            add_block_row<kPlanes>(band, lines, cells, index);
        } else {
            add_generic_block_row<kPlanes>(band, scratch, lines, cells, index);
        }
        if (index > first_block_row) {
            cells.finish_norms(index - 1);
        }
        if (index - 2 >= band.first_row) {
            cells.write_row(index - 2);
        }
    }
    if (band.last_row == band.cell_rows) {
        cells.write_row(band.cell_rows - 1);
    }
}

}  // namespace

void band(const Band& band, const Scratch& scratch) {
    // Rows that one block row (fast path) or one row of pixels reads.
    const std::int64_t ring = band.parameters.cell_size == kFastCell ? kFastCell + 2 : 3;
    ImageRows lines(band.image, planes_of(band.image, band.parameters.color), scratch.lines, scratch.line_pitch, ring);
    if (lines.planes() == 3) {
        run_band<3>(band, scratch, lines);
    } else {
        run_band<1>(band, scratch, lines);
    }
}

}  // namespace preimage::hog::PREIMAGE_ISA
