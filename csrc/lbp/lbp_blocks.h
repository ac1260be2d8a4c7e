// LBP for the GPU, written once for device and host (common/block_program.h).
//
// Cells of 16: a block of threads walks down a strip of *blocks*, the squares between four cell centres, so that all
// pixels of one vote for the same four cells. Votes are added in shared memory as whole numbers, whose order does not
// matter. After each block row the sums of neighbouring blocks are put together, and a row of cells is complete.
// Other cell sizes: a block of threads gathers one cell.
#pragma once

#include "common/block_program.h"
#include "common/image.h"
#include "lbp/lbp.h"
#include "lbp/lbp_math.h"

namespace preimage::lbp {

/// What the kernels read and write. Output: (B, 58, Hc, Wc); labels: (B, H, W).
struct Batch {
    Image image;  // the first one
    std::int64_t image_stride, images;
    std::int64_t cell_size, cell_rows, cell_columns;
    float* output;
    std::uint8_t* labels;

    PREIMAGE_HOST_DEVICE Image at(std::int64_t index) const {
        Image chosen = image;
        chosen.pixels += index * image_stride;
        return chosen;
    }
};

/// A piece of an image in shared memory with one pixel more on every side, and what every code's label is.
template <int kRows, int kWidth, int kThreads>
struct Tile {
    float pixels[kRows + 2][kWidth + 2];
    std::int32_t labels[256];

    PREIMAGE_HOST_DEVICE void prepare(int thread) {
        for (int code = thread; code < 256; code += kThreads) {
            labels[code] = label_of(static_cast<std::uint32_t>(code));
        }
    }

    /// The pixels from (top, left) on and those around them; where the image has none nothing is read later.
    PREIMAGE_HOST_DEVICE void load(const Image& image, std::int64_t top, std::int64_t left, int thread) {
        if (image.channels == 3) {
            load_by(image, top, left, thread,
                    [&](const std::byte*, std::int64_t y, std::int64_t x) { return pixel_at(image, 1, 0, y, x); });
        } else if (image.type == ScalarType::uint8) {  // only the order counts: no need to divide by 255
            load_by(image, top, left, thread, [](const std::byte* at, std::int64_t, std::int64_t) {
                return static_cast<float>(*reinterpret_cast<const std::uint8_t*>(at));
            });
        } else {
            load_by(image, top, left, thread, [](const std::byte* at, std::int64_t, std::int64_t) {
                return *reinterpret_cast<const float*>(at);
            });
        }
    }

    /// The code of the pixel at (y, x) of the piece.
    PREIMAGE_HOST_DEVICE std::uint32_t code(int y, int x) const {
        return code_at(&pixels[y][x + 1], &pixels[y + 1][x + 1], &pixels[y + 2][x + 1]);
    }

private:
    template <class Read>
    PREIMAGE_HOST_DEVICE void load_by(const Image& image, std::int64_t top, std::int64_t left, int thread,
                                      const Read& read) {
        constexpr int kStep = kThreads / kWidth;  // rows that all threads load together
        const auto load_one = [&](int row, int column) {
            const std::int64_t y = top - 1 + row;
            const std::int64_t x = left - 1 + column;
            if (y >= 0 && y < image.height && x >= 0 && x < image.width) {
                pixels[row][column] = read(image.pixels + y * image.row_stride + x * image.column_stride, y, x);
            }
        };
        for (int row = thread / kWidth; row < kRows + 2; row += kStep) {
            load_one(row, thread % kWidth);
        }
        if (thread < 2 * (kRows + 2)) {
            load_one(thread / 2, kWidth + thread % 2);
        }
    }
};

/// Strips of cells that blocks of threads walk down.
struct Strips {
    std::int64_t rows;          // cell rows of a strip
    std::int64_t across, down;  // strips of an image
};

struct StripProgram {
    static constexpr int kThreads = 256;
    static constexpr int kBlocks = 8;
    static constexpr int kColumns = kBlocks - 1;  // complete cells; the last block has no neighbour on the right
    static constexpr int kWidth = kBlocks * kFastCell;
    static constexpr int kRows = kFastCell * kWidth / kThreads;  // of a block that one thread counts

    // Sums of a label for the left cell and, 16 bits above it, for the right one. Four of them for every fourth
    // column, because neighbours often have the same label, and a single one would not fit: 256 pixels give 2^16.
    static constexpr int kCopies = 4;
    struct alignas(16) Sums {
        std::int32_t of[kCopies];
    };
    struct Histogram {
        Sums upper[kLabels];
        Sums lower[kLabels];
        Sums unused;  // sets neighbouring blocks apart by 20 banks
    };
    struct Shared {
        Histogram histograms[kBlocks];
        std::int32_t carried[kColumns][kLabels];  // votes so far of the cell row below
        float roots[kColumns];
        Tile<kFastCell, kWidth, kThreads> tile;
    };

    static Strips strips(const Batch& batch) {
        // Long strips repeat less at their ends; short ones keep the device busy with few images.
        constexpr std::int64_t kEnough = 1024;
        const std::int64_t across = (batch.cell_columns + kColumns - 1) / kColumns;
        std::int64_t rows = 32;
        while (rows > 2 && batch.images * across * ((batch.cell_rows + rows - 1) / rows) < kEnough) {
            rows /= 2;
        }
        return {rows, across, (batch.cell_rows + rows - 1) / rows};
    }

    /// The cells of strip `index`.
    template <class Block>
    PREIMAGE_HOST_DEVICE static void run(Block& block, const Batch& batch, const Strips& strips, std::int64_t index,
                                         Shared& shared) {
        const std::int64_t in_image = index % (strips.across * strips.down);
        const std::int64_t number = index / (strips.across * strips.down);
        const Image image = batch.at(number);
        const std::int64_t first_column = in_image % strips.across * kColumns;
        const std::int64_t first_row = in_image / strips.across * strips.rows;
        const std::int64_t last_row = smaller(first_row + strips.rows, batch.cell_rows);
        block.each([&](int thread) { shared.tile.prepare(thread); });
        for (std::int64_t row = first_row; row <= last_row; ++row) {  // block row: votes for cell rows row - 1 and row
            const std::int64_t top = block_start(row, kFastCell);
            const std::int64_t left = block_start(first_column, kFastCell);
            block.each([&](int thread) {
                shared.tile.load(image, top, left, thread);
                clear(shared, thread);
                if (thread < kColumns) {
                    shared.roots[thread] = root_of_sum(weight_sum(row - 1, kFastCell, image.height) *
                                                       weight_sum(first_column + thread, kFastCell, image.width));
                }
            });
            block.barrier();
            block.each([&](int thread) { vote(block, image, top, left, thread, shared); });
            block.barrier();
            block.each([&](int thread) {
                for (int task = thread; task < kColumns * kLabels; task += kThreads) {
                    const int column = task % kColumns;
                    if (first_column + column < batch.cell_columns) {
                        finish(batch, number, row > first_row ? row - 1 : -1, first_column, column, task / kColumns,
                               shared);
                    }
                }
            });
            block.barrier();
        }
    }

private:
    PREIMAGE_HOST_DEVICE static void clear(Shared& shared, int thread) {
        Sums* sums = shared.histograms[0].upper;
        constexpr int kCount = kBlocks * (2 * kLabels + 1);
        static_assert(sizeof(shared.histograms) == kCount * sizeof(Sums), "histograms are nothing but sums");
        for (int place = thread; place < kCount; place += kThreads) {
            sums[place] = Sums{};
        }
    }

    /// A thread counts a column of half a block.
    template <class Block>
    PREIMAGE_HOST_DEVICE static void vote(Block& block, const Image& image, std::int64_t top, std::int64_t left,
                                          int thread, Shared& shared) {
        const int column = thread % kWidth;
        if (left + column < 1 || left + column >= image.width - 1) {
            return;
        }
        const int x = column % kFastCell;
        const int first = thread / kWidth * kRows;
        const auto begin = static_cast<int>(larger(1 - top, first));
        const auto end = static_cast<int>(smaller(image.height - 1 - top, first + kRows));
        Histogram& histogram = shared.histograms[column / kFastCell];
        const auto right = static_cast<std::int32_t>(weight_after(x, kFastCell));
        const std::int32_t across = (2 * kFastCell - right) | right << 16;
#ifdef __CUDA_ARCH__
#pragma unroll
#endif
        for (int step = 0; step < kRows; ++step) {
            const int y = first + step;
            if (y >= begin && y < end) {
                const std::int32_t label = shared.tile.labels[shared.tile.code(y, column)];
                const auto below = static_cast<std::int32_t>(weight_after(y, kFastCell));
                block.add(&histogram.upper[label].of[x % kCopies], across * (2 * kFastCell - below));
                block.add(&histogram.lower[label].of[x % kCopies], across * below);
            }
        }
    }

    PREIMAGE_HOST_DEVICE static std::int32_t for_left(const Sums& sums) {
        std::int32_t total = 0;
        for (int copy = 0; copy < kCopies; ++copy) {
            total += sums.of[copy] & 0xffff;
        }
        return total;
    }
    PREIMAGE_HOST_DEVICE static std::int32_t for_right(const Sums& sums) {
        std::int32_t total = 0;
        for (int copy = 0; copy < kCopies; ++copy) {
            total += sums.of[copy] >> 16;
        }
        return total;
    }

    /// One label of the cell between the blocks `column` and `column` + 1 of a strip: the cell in `row`, which is
    /// complete unless negative, and the one below.
    PREIMAGE_HOST_DEVICE static void finish(const Batch& batch, std::int64_t number, std::int64_t row,
                                            std::int64_t first_column, int column, int label, Shared& shared) {
        const Histogram& before = shared.histograms[column];
        const Histogram& after = shared.histograms[column + 1];
        std::int32_t& carried = shared.carried[column][label];
        if (row >= 0) {
            const std::int32_t votes = carried + for_right(before.upper[label]) + for_left(after.upper[label]);
            const std::int64_t place =
                ((number * kLabels + label) * batch.cell_rows + row) * batch.cell_columns + first_column + column;
            batch.output[place] = feature(votes, shared.roots[column]);
        }
        carried = for_right(before.lower[label]) + for_left(after.lower[label]);
    }
};

/// One cell of any size: every pixel in its reach is looked at.
struct CellProgram {
    static constexpr int kThreads = 128;
    static constexpr int kCopies = 8;
    static constexpr std::int64_t kLargestAtOnce = 152;  // 4 * 152^4 is below 2^31: sums of all rows fit together

    struct Shared {
        std::int32_t votes[kLabels][kCopies];
        std::int32_t labels[256];
    };

    /// Cell `index` of the batch, counted along rows.
    template <class Block>
    PREIMAGE_HOST_DEVICE static void run(Block& block, const Batch& batch, std::int64_t index, Shared& shared) {
        const std::int64_t column = index % batch.cell_columns;
        const std::int64_t row = index / batch.cell_columns % batch.cell_rows;
        const std::int64_t number = index / (batch.cell_columns * batch.cell_rows);
        const Image image = batch.at(number);
        const std::int64_t cell = batch.cell_size;
        const std::int64_t top = larger(block_start(row, cell), 1);
        const std::int64_t bottom = smaller(block_start(row, cell) + 2 * cell, image.height - 1);
        const std::int64_t rows = cell <= kLargestAtOnce ? bottom - top : 1;  // whose votes are added up at once
        typename Block::template PerThread<std::int64_t> totals;
        block.each([&](int thread) {
            totals[thread] = 0;
            for (int code = thread; code < 256; code += kThreads) {
                shared.labels[code] = label_of(static_cast<std::uint32_t>(code));
            }
            take(shared, thread);
        });
        block.barrier();
        for (std::int64_t y = top; y < bottom; y += rows) {
            block.each([&](int thread) { vote(block, image, cell, row, column, y, rows, thread, shared); });
            block.barrier();
            block.each([&](int thread) {
                const std::int64_t weight = cell <= kLargestAtOnce ? 1 : weight_at(y, row, cell);
                totals[thread] += take(shared, thread) * weight;
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
    /// A label's votes, which are then zero.
    PREIMAGE_HOST_DEVICE static std::int64_t take(Shared& shared, int label) {
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
        const std::int64_t left = larger(block_start(column, cell), 1);
        const std::int64_t right = smaller(block_start(column, cell) + 2 * cell, image.width - 1);
        const auto width = static_cast<int>(right - left);
        for (int pixel = thread; pixel < static_cast<int>(rows) * width; pixel += kThreads) {
            const std::int64_t y = top + pixel / width;
            const std::int64_t x = left + pixel % width;
            float around[3][3];
            for (int place = 0; place < 9; ++place) {
                around[place / 3][place % 3] = pixel_at(image, 1, 0, y - 1 + place / 3, x - 1 + place % 3);
            }
            const std::int32_t label = shared.labels[code_at(&around[0][1], &around[1][1], &around[2][1])];
            const std::int64_t down = cell <= kLargestAtOnce ? weight_at(y, row, cell) : 1;
            block.add(&shared.votes[label][thread % kCopies],
                      static_cast<std::int32_t>(weight_at(x, column, cell) * down));
        }
    }
};

/// A piece of the map of labels.
struct CodeProgram {
    static constexpr int kThreads = 256;
    static constexpr int kWidth = 64;
    static constexpr int kRows = 16;
    using Shared = Tile<kRows, kWidth, kThreads>;

    static std::int64_t across(const Batch& batch) { return (batch.image.width + kWidth - 1) / kWidth; }
    static std::int64_t down(const Batch& batch) { return (batch.image.height + kRows - 1) / kRows; }

    template <class Block>
    PREIMAGE_HOST_DEVICE static void run(Block& block, const Batch& batch, std::int64_t across, std::int64_t down,
                                         std::int64_t index, Shared& shared) {
        const std::int64_t number = index / (across * down);
        const Image image = batch.at(number);
        const std::int64_t top = index / across % down * kRows;
        const std::int64_t left = index % across * kWidth;
        block.each([&](int thread) {
            shared.prepare(thread);
            shared.load(image, top, left, thread);
        });
        block.barrier();
        block.each([&](int thread) {
            for (int pixel = thread; pixel < kRows * kWidth; pixel += kThreads) {
                const std::int64_t y = top + pixel / kWidth;
                const std::int64_t x = left + pixel % kWidth;
                if (y < image.height && x < image.width) {
                    const bool border = y == 0 || y == image.height - 1 || x == 0 || x == image.width - 1;
                    batch.labels[(number * image.height + y) * image.width + x] =
                        border ? kNoLabel
                               : static_cast<std::uint8_t>(shared.labels[shared.code(pixel / kWidth, pixel % kWidth)]);
                }
            }
        });
    }
};

}  // namespace preimage::lbp
