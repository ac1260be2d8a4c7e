// The CPU kernel of LBP, compiled once per instruction set (CMakeLists.txt).
//
// Everything here has internal linkage and uses no templates of the standard library: host_device.h explains why. Loops
// over kChunk are written for the compiler to vectorize.
//
// The kernel goes down the image by *block rows*, the rows of pixels between two lines of cell centers. A block is the
// square between four cell centers, so that all its pixels vote for the same four cells. Block row i lies between the
// cell rows i - 1 and i; after it, cell row i - 1 is complete.
#include <cstring>

#include "common/image_rows.h"
#include "common/simd.h"
#include "lbp/lbp.h"
#include "lbp/lbp_cpu_codes.h"
#include "lbp/lbp_math.h"

namespace preimage::lbp::PREIMAGE_ISA {
namespace {

// ---- Block rows, cell size 16 ----

// Blocks processed together, pixel by pixel in turn: enough that none waits for its sums of the previous pixel, which
// often has the same label.
constexpr int kTileBlocks = 9;
constexpr int kTileCodes = kTileBlocks * kFastCell + 2 * kChunk;  // a step of kChunk may begin or end outside the tile

/// Votes for the four cells around a block, 16 bits each: upper left, upper right, lower left, lower right.
using Quad = std::uint64_t;
using Histogram = Quad[kPaddedLabels];

constexpr Quad pixel_votes(int x, int y) {
    const auto right = static_cast<Quad>(2 * x + 1);
    const auto lower = static_cast<Quad>(2 * y + 1);
    const Quad left = 2 * kFastCell - right;
    const Quad upper = 2 * kFastCell - lower;
    return (left * upper) | (right * upper) << 16 | (left * lower) << 32 | (right * lower) << 48;
}

constexpr int kLast = kFastCell - 1;

struct Weights {
    alignas(64) Quad of[kFastCell][kFastCell];
};

/// The votes of all 256 pixels for one corner sum to 2^16, one more than 16 bits hold. So the last pixel of a block has
/// no weight here and is added later.
constexpr Weights block_weights() {
    Weights weights{};
    for (int y = 0; y < kFastCell; ++y) {
        for (int x = 0; x < kFastCell; ++x) {
            weights.of[y][x] = x == kLast && y == kLast ? 0 : pixel_votes(x, y);
        }
    }
    return weights;
}

constexpr Weights kWeights = block_weights();

/// `blocks` is a compile-time constant wherever speed matters.
PREIMAGE_INLINE void vote_row(const std::uint32_t* codes, const Quad* weights, int blocks, Histogram* histograms) {
    for (int x = 0; x < kFastCell; ++x) {
        const Quad weight = weights[x];
        for (int block = 0; block < blocks; ++block) {
            histograms[block][kLabelOf.of[codes[block * kFastCell + x]]] += weight;
        }
    }
}

/// The voting rows of one block row, and the blocks processed together.
struct Tile {
    std::int64_t top, left;   // of the first block, in the image
    int first_row, last_row;  // from the top
    int blocks;
};

/// Leaves the codes of the last row in `codes`.
PREIMAGE_INLINE void vote_tile(const ImageRows& lines, std::int64_t width, const Tile& tile, std::uint32_t* codes,
                               Histogram* histograms) {
    const int columns = kFastCell * tile.blocks;
    const std::int64_t begin = maximum(tile.left, 1);
    const std::int64_t end = minimum(tile.left + columns, width - 1);
    std::memset(histograms, 0, static_cast<std::size_t>(tile.blocks) * sizeof(Histogram));
    for (int row = tile.first_row; row < tile.last_row; ++row) {
        code_row(lines, tile.top + row, begin, end, tile.left, codes);
        for (std::int64_t x = 0; x < begin - tile.left; ++x) {
            codes[x] = kNoCode;
        }
        for (std::int64_t x = maximum(end - tile.left, 0); x < columns; ++x) {
            codes[x] = kNoCode;
        }
        if (tile.blocks == kTileBlocks) {
            vote_row(codes, kWeights.of[row], kTileBlocks, histograms);
        } else if (tile.blocks == kTileBlocks - 1) {
            vote_row(codes, kWeights.of[row], kTileBlocks - 1, histograms);
        } else {
            vote_row(codes, kWeights.of[row], tile.blocks, histograms);
        }
    }
}

/// Votes of one label for the upper cell and, in the upper 32 bits, for the lower cell.
using Pair = std::uint64_t;

PREIMAGE_INLINE Pair left_pair(Quad votes) { return votes & 0x0000ffff0000ffff; }
PREIMAGE_INLINE Pair right_pair(Quad votes) { return votes >> 16 & 0x0000ffff0000ffff; }

/// Split the votes of a block into those for its left and right cells. `last_code` is the code of its last pixel.
PREIMAGE_INLINE void split(const Histogram& votes, std::uint32_t last_code, Pair* left, Pair* right) {
    for (int label = 0; label < kPaddedLabels; ++label) {
        left[label] = left_pair(votes[label]);
        right[label] = right_pair(votes[label]);
    }
    constexpr Quad last = pixel_votes(kLast, kLast);
    left[kLabelOf.of[last_code]] += left_pair(last);
    right[kLabelOf.of[last_code]] += right_pair(last);
}

/// Complete a cell from the votes of the blocks on its left and right, unless `features` is null, and leave the votes
/// for the lower cell in `carried`.
PREIMAGE_INLINE void finish_cell(const Pair* from_left, const Pair* from_right, std::int32_t* carried, float* features,
                                 float root) {
    Pair sums[kPaddedLabels];
    for (int label = 0; label < kPaddedLabels; ++label) {
        sums[label] = from_left[label] + from_right[label];
    }
    if (features != nullptr) {
        for (int label = 0; label < kPaddedLabels; ++label) {
            features[label] = feature(carried[label] + static_cast<std::int32_t>(sums[label]), root);
        }
    }
    for (int label = 0; label < kPaddedLabels; ++label) {
        carried[label] = static_cast<std::int32_t>(sums[label] >> 32);
    }
}

/// Square roots of the total votes of the cells of a row.
class Roots {
public:
    Roots(const Band& band, std::int64_t row)
        : band_(band), row_sum_(weight_sum(row, band.cell_size, band.image.height)) {}

    float of(std::int64_t column) const {
        return root_of_sum(row_sum_ * weight_sum(column, band_.cell_size, band_.image.width));
    }

private:
    const Band& band_;
    const std::int64_t row_sum_;
};

void add_block_row(const Band& band, const Scratch& scratch, ImageRows& lines, std::int64_t index) {
    Tile tile{};
    tile.top = block_start<std::int64_t>(index, kFastCell);
    tile.first_row = static_cast<int>(maximum(1 - tile.top, 0));
    tile.last_row = static_cast<int>(minimum(band.image.height - 1 - tile.top, kFastCell));
    lines.require(tile.top - 1, tile.top + kFastCell + 1);
    const bool completes = index > band.first_row;
    const Roots roots(band, index - 1);
    alignas(64) Histogram histograms[kTileBlocks];
    alignas(64) Pair sides[3][kPaddedLabels] = {};
    Pair* from_left = sides[0];
    Pair* next = sides[1];
    alignas(64) std::uint32_t memory[kTileCodes];
    std::uint32_t* codes = memory + kChunk;
    const std::int64_t blocks = band.cell_columns + 1;
    const std::int64_t tiles = (blocks + kTileBlocks - 1) / kTileBlocks;
    for (std::int64_t part = 0; part < tiles; ++part) {
        const std::int64_t first = blocks * part / tiles;
        tile.left = block_start<std::int64_t>(first, kFastCell);
        tile.blocks = static_cast<int>(blocks * (part + 1) / tiles - first);
        vote_tile(lines, band.image.width, tile, codes, histograms);
        for (int block = 0; block < tile.blocks; ++block) {
            const std::uint32_t last_code = tile.last_row == kFastCell ? codes[block * kFastCell + kLast] : kNoCode;
            split(histograms[block], last_code, sides[2], next);
            const std::int64_t column = first + block - 1;
            if (column >= 0) {
                const std::int64_t position = column * kPaddedLabels;
                finish_cell(from_left, sides[2], scratch.carried + position,
                            completes ? scratch.features + position : nullptr, roots.of(column));
            }
            Pair* swapped = from_left;
            from_left = next;
            next = swapped;
        }
    }
}

// ---- Block rows, any cell size ----

/// Return the votes of one cell row from column -1 on: blocks at the edge also vote for cells outside the image, which
/// are never read.
std::int64_t* votes_of(const Band& band, const Scratch& scratch, std::int64_t row) {
    return scratch.votes + (row + 2) % 2 * (band.cell_columns + 2) * kPaddedLabels;
}

void clear_votes(const Band& band, const Scratch& scratch, std::int64_t row) {
    const auto count = static_cast<std::size_t>((band.cell_columns + 2) * kPaddedLabels);
    std::memset(votes_of(band, scratch, row), 0, count * sizeof(std::int64_t));
}

/// Add the votes of one row of a block. `upper` and `lower` are the row's weights for the cells above and below,
/// `above` and `below` the votes of the left ones of these.
PREIMAGE_INLINE void vote_generic(const Band& band, const std::uint32_t* codes, std::int64_t block, std::int64_t upper,
                                  std::int64_t lower, std::int64_t* above, std::int64_t* below) {
    const std::int64_t left = block_start(block, band.cell_size);
    const std::int64_t end = minimum(left + band.cell_size, band.image.width - 1);
    for (std::int64_t x = maximum(left, 1); x < end; ++x) {
        const int label = kLabelOf.of[codes[x]];
        const std::int64_t after = weight_after(x - left, band.cell_size);
        const std::int64_t before = 2 * band.cell_size - after;
        above[label] += before * upper;
        above[label + kPaddedLabels] += after * upper;
        below[label] += before * lower;
        below[label + kPaddedLabels] += after * lower;
    }
}

void add_generic_block_row(const Band& band, const Scratch& scratch, ImageRows& lines, std::int64_t index) {
    const std::int64_t top = block_start(index, band.cell_size);
    const std::int64_t last_row = minimum(top + band.cell_size, band.image.height - 1);
    clear_votes(band, scratch, index);
    for (std::int64_t y = maximum(top, 1); y < last_row; ++y) {
        lines.require(y - 1, y + 2);
        code_row(lines, y, 1, band.image.width - 1, 0, scratch.codes);
        const std::int64_t lower = weight_after(y - top, band.cell_size);
        for (std::int64_t block = 0; block <= band.cell_columns; ++block) {
            vote_generic(band, scratch.codes, block, 2 * band.cell_size - lower, lower,
                         votes_of(band, scratch, index - 1) + block * kPaddedLabels,
                         votes_of(band, scratch, index) + block * kPaddedLabels);
        }
    }
}

void finish_generic_row(const Band& band, const Scratch& scratch, std::int64_t row) {
    const Roots roots(band, row);
    for (std::int64_t column = 0; column < band.cell_columns; ++column) {
        const std::int64_t* votes = votes_of(band, scratch, row) + (column + 1) * kPaddedLabels;
        const float root = roots.of(column);
        for (int label = 0; label < kLabels; ++label) {
            scratch.features[column * kPaddedLabels + label] = feature(votes[label], root);
        }
    }
}

// ---- A band ----

template <class Stored>
void write_features(const Band& band, const Scratch& scratch, std::int64_t row) {
    const std::int64_t columns = band.cell_columns;
    const std::int64_t plane = band.cell_rows * columns;
    auto* output = reinterpret_cast<Stored*>(band.output) + row * columns;
    for (std::int64_t step = 0; step < columns; step += kChunk) {
        // The last step moves back so that it ends with the row: it too writes whole chunks.
        const std::int64_t x = maximum(minimum(step, columns - kChunk), 0);
        const std::int64_t count = minimum(columns, kChunk);
        const float* features = scratch.features + x * kPaddedLabels;
        for (int label = 0; label < kLabels; ++label) {
            float chunk[kChunk] = {};
            if (count == kChunk) {
                for (int lane = 0; lane < kChunk; ++lane) {
                    chunk[lane] = features[lane * kPaddedLabels + label];
                }
                store_all(output + label * plane + x, chunk);
            } else {
                for (std::int64_t lane = 0; lane < count; ++lane) {
                    chunk[lane] = features[lane * kPaddedLabels + label];
                }
                Stored partial[kChunk];
                store_all(partial, chunk);
                std::memcpy(output + label * plane, partial, static_cast<std::size_t>(count) * sizeof(Stored));
            }
        }
    }
}

void write_row(const Band& band, const Scratch& scratch, std::int64_t row) {
    if (band.type == ScalarType::float16) {
        write_features<Half>(band, scratch, row);
    } else {
        write_features<float>(band, scratch, row);
    }
}

}  // namespace

void band(const Band& band, const Scratch& scratch) {
    const bool fast = band.cell_size == kFastCell;
    // Rows that one block row (fast path) or one row of pixels reads.
    ImageRows lines(band.image, 1, scratch.lines, scratch.line_pitch, fast ? kFastCell + 2 : 3);
    if (!fast) {
        clear_votes(band, scratch, band.first_row - 1);
    }
    for (std::int64_t index = band.first_row; index <= band.last_row; ++index) {
        if (fast) {
            add_block_row(band, scratch, lines, index);
        } else {
            add_generic_block_row(band, scratch, lines, index);
        }
        if (index > band.first_row) {
            if (!fast) {
                finish_generic_row(band, scratch, index - 1);
            }
            write_row(band, scratch, index - 1);
        }
    }
}

}  // namespace preimage::lbp::PREIMAGE_ISA
