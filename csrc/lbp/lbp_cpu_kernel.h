// The CPU kernel: one source, compiled once per instruction set by a file that defines PREIMAGE_BAND and
// PREIMAGE_CODE_BAND.
//
// Whatever is here has internal linkage, and nothing of the standard library's templates is used: see
// host_device.h on what a linker could otherwise do. Loops over kLanes are written for the compiler to vectorise.
//
// Work goes down the image by *block rows*: the rows between two lines of cell centres. A block is the square
// between four cell centres, so all its pixels vote for the same four cells. Block row i lies between the cell
// rows i - 1 and i; once it is done, cell row i - 1 is complete.
#include <cstring>

#include "common/image_rows.h"
#include "lbp/lbp.h"
#include "lbp/lbp_math.h"

namespace preimage::lbp {
namespace {

constexpr int kTileBlocks = 4;  // blocks side by side that are worked on together
constexpr int kTile = kTileBlocks * kFastCell;
constexpr int kTileCodes = kTile + 2 * kLanes;  // a step of kLanes may begin or end outside the tile

// ---- Codes and labels ----

constexpr std::int32_t kNoCode = 256;      // of a pixel that does not vote
constexpr std::uint8_t kNobody = kLabels;  // the label it votes for in place of one

struct LabelTable {
    std::uint8_t of[kNoCode + 1];
};

constexpr LabelTable label_table(std::uint8_t of_no_code) {
    LabelTable table{};
    for (int code = 0; code < kNoCode; ++code) {
        table.of[code] = static_cast<std::uint8_t>(label_of(static_cast<std::uint32_t>(code)));
    }
    table.of[kNoCode] = of_no_code;
    return table;
}

constexpr LabelTable kLabelOf = label_table(kNobody);

/// Codes of the pixels [begin, end) of row y, begin >= 1, end < width, to codes[x - origin]; up to kLanes places
/// before and after may be overwritten.
PREIMAGE_INLINE void code_row(const ImageRows& lines, std::int64_t y, std::int64_t begin, std::int64_t end,
                              std::int64_t origin, std::int32_t* codes) {
    const float* later = lines.row_to_fetch(0, y);
    const float* above = lines.row(0, y - 1);
    const float* here = lines.row(0, y);
    const float* below = lines.row(0, y + 1);
    const std::int64_t last_start = lines.last_start();
    for (std::int64_t x = begin; x < end; x += kLanes) {
        const std::int64_t start = smaller(x, last_start);
        if (later != nullptr) {
            __builtin_prefetch(later + start, 0, 2);
        }
        std::int32_t* out = codes + (start - origin);
        for (int lane = 0; lane < kLanes; ++lane) {
            out[lane] = code_at(above + start + lane, here + start + lane, below + start + lane);
        }
    }
}

// ---- Block rows, cell size 16 ----

/// Votes for the four cells around a block, 16 bits each: upper left, upper right, lower left, lower right.
using Quad = std::uint64_t;

struct Weights {
    alignas(64) Quad of[kFastCell][kFastCell];
};

constexpr Weights block_weights() {
    Weights weights{};
    for (int y = 0; y < kFastCell; ++y) {
        for (int x = 0; x < kFastCell; ++x) {
            const auto right = static_cast<Quad>(2 * x + 1);
            const auto lower = static_cast<Quad>(2 * y + 1);
            const Quad left = 2 * kFastCell - right;
            const Quad upper = 2 * kFastCell - lower;
            weights.of[y][x] = (left * upper) | (right * upper) << 16 | (left * lower) << 32 | (right * lower) << 48;
        }
    }
    return weights;
}

constexpr Weights kWeights = block_weights();

/// Histograms of a block. Two, for even and odd columns: a corner's votes of all 256 pixels would reach 2^16, and
/// neighbouring pixels of equal label must not wait for each other's sums.
constexpr int kCopies = 2;
using Histograms = Quad[kCopies][kPaddedLabels];

template <int kBlocks>
PREIMAGE_INLINE void vote_row(const std::int32_t* codes, const Quad* weights, Histograms* histograms) {
    for (int x = 0; x < kFastCell; ++x) {
        const Quad weight = weights[x];
        for (int block = 0; block < kBlocks; ++block) {
            histograms[block][x % kCopies][kLabelOf.of[codes[block * kFastCell + x]]] += weight;
        }
    }
}

/// A block's sums, two of 32 bits: for the upper cell and, above it, for the lower one.
using Pair = std::uint64_t;

/// Completes the cell left of a block: with the block's votes, and those of the block before for its right cells.
/// Puts the cell's features in `features` where it is not null, and the lower cell's votes so far in `carried`.
PREIMAGE_INLINE void finish_cell(const Histograms& votes, const Pair* before, std::int32_t* carried, float* features,
                                 float root) {
    constexpr Pair kLow = 0x0000ffff0000ffff;
    Pair sums[kPaddedLabels];
    for (int label = 0; label < kPaddedLabels; ++label) {
        sums[label] = before[label] + ((votes[0][label] & kLow) + (votes[1][label] & kLow));
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

/// A block's votes for its right cells.
PREIMAGE_INLINE void keep_right(const Histograms& votes, Pair* kept) {
    constexpr Pair kLow = 0x0000ffff0000ffff;
    for (int label = 0; label < kPaddedLabels; ++label) {
        kept[label] = (votes[0][label] >> 16 & kLow) + (votes[1][label] >> 16 & kLow);
    }
}

void vote_tile(const ImageRows& lines, std::int64_t width, std::int64_t top, std::int64_t left, int first_row,
               int last_row, std::int64_t blocks, Histograms* histograms) {
    std::int32_t memory[kTileCodes];
    std::int32_t* codes = memory + kLanes;
    const std::int64_t begin = larger(left, 1);
    const std::int64_t end = smaller(left + kFastCell * blocks, width - 1);
    for (int row = first_row; row < last_row; ++row) {
        code_row(lines, top + row, begin, end, left, codes);
        for (std::int64_t x = 0; x < begin - left; ++x) {
            codes[x] = kNoCode;
        }
        for (std::int64_t x = larger(end - left, 0); x < kFastCell * blocks; ++x) {
            codes[x] = kNoCode;
        }
        const Quad* weights = kWeights.of[row];
        if (blocks == kTileBlocks) {
            vote_row<kTileBlocks>(codes, weights, histograms);
        } else {
            for (std::int64_t block = 0; block < blocks; ++block) {
                vote_row<1>(codes + block * kFastCell, weights, histograms + block);
            }
        }
    }
}

void write_row(const Band& band, const Scratch& scratch, std::int64_t row) {
    const std::int64_t columns = band.cell_columns;
    const std::int64_t plane = band.cell_rows * columns;
    float* output = band.output + row * columns;
    for (std::int64_t step = 0; step < columns; step += kLanes) {
        // The last step goes back to end with the row, so that it too writes whole chunks.
        const std::int64_t x = larger(smaller(step, columns - kLanes), 0);
        const auto count = static_cast<int>(smaller(columns, kLanes));
        const float* features = scratch.features + x * kPaddedLabels;
        for (int label = 0; label < kLabels; ++label) {
            float chunk[kLanes];
            for (int lane = 0; lane < count; ++lane) {
                chunk[lane] = features[lane * kPaddedLabels + label];
            }
            std::memcpy(output + label * plane + x, chunk, static_cast<std::size_t>(count) * sizeof(float));
        }
    }
}

/// The roots of the sums of a row's cells.
struct Roots {
    std::int64_t width, row_sum;

    Roots(const Band& band, std::int64_t row)
        : width(band.image.width),
          row_sum(weight_sum(row, band.cell_size, band.image.height)),
          cell_size_(band.cell_size) {}
    float operator()(std::int64_t column) const { return root_of_sum(row_sum * weight_sum(column, cell_size_, width)); }

private:
    std::int64_t cell_size_;
};

void add_block_row(const Band& band, const Scratch& scratch, ImageRows& lines, std::int64_t index) {
    const std::int64_t top = block_start(index, kFastCell);
    const auto first_row = static_cast<int>(larger(1 - top, 0));
    const auto last_row = static_cast<int>(smaller(band.image.height - 1 - top, kFastCell));
    lines.require(top - 1, top + kFastCell + 1);
    const bool complete = index > band.first_row;
    const Roots roots(band, index - 1);
    alignas(64) Histograms histograms[kTileBlocks];
    alignas(64) Pair right[kPaddedLabels];
    for (std::int64_t tile = 0; tile <= band.cell_columns; tile += kTileBlocks) {
        const std::int64_t blocks = smaller(band.cell_columns + 1 - tile, kTileBlocks);
        std::memset(histograms, 0, sizeof(histograms));
        vote_tile(lines, band.image.width, top, block_start(tile, kFastCell), first_row, last_row, blocks, histograms);
        for (std::int64_t block = 0; block < blocks; ++block) {
            const std::int64_t column = tile + block - 1;
            if (column >= 0) {
                finish_cell(histograms[block], right, scratch.carried + column * kPaddedLabels,
                            complete ? scratch.features + column * kPaddedLabels : nullptr, roots(column));
            }
            keep_right(histograms[block], right);
        }
    }
}

// ---- Block rows, any cell size ----

/// Votes of one cell row, from column -1 on: the blocks at the image's edge vote for cells outside, which are
/// dropped by never being read.
std::int64_t* votes_of(const Band& band, const Scratch& scratch, std::int64_t row) {
    return scratch.votes + (row + 2) % 2 * (band.cell_columns + 2) * kPaddedLabels;
}

void add_any_block_row(const Band& band, const Scratch& scratch, ImageRows& lines, std::int64_t index) {
    const std::int64_t cell = band.cell_size;
    const std::int64_t top = block_start(index, cell);
    const std::int64_t last_row = smaller(top + cell, band.image.height - 1);
    std::int64_t* lower_votes = votes_of(band, scratch, index);
    std::memset(lower_votes, 0, static_cast<std::size_t>((band.cell_columns + 2) * kPaddedLabels) * 8);
    for (std::int64_t y = larger(top, 1); y < last_row; ++y) {
        lines.require(y - 1, y + 2);
        code_row(lines, y, 1, band.image.width - 1, 0, scratch.codes);
        const std::int64_t lower = weight_after(y - top, cell);
        const std::int64_t upper = 2 * cell - lower;
        for (std::int64_t block = 0; block <= band.cell_columns; ++block) {
            const std::int64_t left = block_start(block, cell);
            const std::int64_t end = smaller(left + cell, band.image.width - 1);
            std::int64_t* above = votes_of(band, scratch, index - 1) + block * kPaddedLabels;
            std::int64_t* below = lower_votes + block * kPaddedLabels;
            for (std::int64_t x = larger(left, 1); x < end; ++x) {
                const int label = kLabelOf.of[scratch.codes[x]];
                const std::int64_t after = weight_after(x - left, cell);
                const std::int64_t before = 2 * cell - after;
                above[label] += before * upper;
                above[label + kPaddedLabels] += after * upper;
                below[label] += before * lower;
                below[label + kPaddedLabels] += after * lower;
            }
        }
    }
}

void finish_any_row(const Band& band, const Scratch& scratch, std::int64_t row) {
    const Roots roots(band, row);
    for (std::int64_t column = 0; column < band.cell_columns; ++column) {
        const std::int64_t* votes = votes_of(band, scratch, row) + (column + 1) * kPaddedLabels;
        float* features = scratch.features + column * kPaddedLabels;
        const float root = roots(column);
        for (int label = 0; label < kLabels; ++label) {
            features[label] = feature(votes[label], root);
        }
    }
}

}  // namespace

void PREIMAGE_BAND(const Band& band, const Scratch& scratch) {
    const bool fast = band.cell_size == kFastCell;
    // Rows that a block row of the fast path, or one row of the other, reads.
    ImageRows lines(band.image, 1, scratch.lines, scratch.line_pitch, fast ? kFastCell + 2 : 3);
    if (!fast) {
        std::memset(votes_of(band, scratch, band.first_row - 1), 0,
                    static_cast<std::size_t>((band.cell_columns + 2) * kPaddedLabels) * 8);
    }
    for (std::int64_t index = band.first_row; index <= band.last_row; ++index) {
        if (fast) {
            add_block_row(band, scratch, lines, index);
        } else {
            add_any_block_row(band, scratch, lines, index);
            if (index > band.first_row) {
                finish_any_row(band, scratch, index - 1);
            }
        }
        if (index > band.first_row) {
            write_row(band, scratch, index - 1);
        }
    }
}

void PREIMAGE_CODE_BAND(const CodeBand& band, const Scratch& scratch) {
    const std::int64_t height = band.image.height;
    const std::int64_t width = band.image.width;
    ImageRows lines(band.image, 1, scratch.lines, scratch.line_pitch, 3);
    for (std::int64_t y = band.first_row; y < band.last_row; ++y) {
        std::uint8_t* output = band.output + y * width;
        if (y == 0 || y == height - 1) {
            std::memset(output, kNoLabel, static_cast<std::size_t>(width));
            continue;
        }
        lines.require(y - 1, y + 2);
        code_row(lines, y, 1, width - 1, 0, scratch.codes);
        for (std::int64_t x = 1; x < width - 1; ++x) {
            output[x] = kLabelOf.of[scratch.codes[x]];
        }
        output[0] = kNoLabel;
        output[width - 1] = kNoLabel;
    }
}

}  // namespace preimage::lbp
