// Part of HOG's block programs (hog_blocks.h): the votes of one thread, which walks down a column of blocks.
#pragma once

#include "common/image.h"
#include "hog/hog_block_math.h"
#include "hog/hog_block_rows.h"

namespace preimage::hog {

constexpr int kSlots = kBins + 1;  // the last one is bin 0 again, see QuickBin

/// Sums of one bin of a block for the four cells around it.
struct alignas(16) CornerSums {
    float of[2][2];  // [cell row % 2][left, right]
};

/// Sums of all threads. Each has its own, so that no votes collide.
template <int kThreads>
using BlockSums = CornerSums[kSlots][kThreads];

/// Weights of a row of pixels for the cell rows stored at index 0 and 1.
struct RowWeights {
    float of[2];
};

/// `below` is the weight for the lower of the two cell rows, which is stored at index `lower`.
PREIMAGE_INLINE RowWeights row_weights(float below, int lower) {
    return lower == 0 ? RowWeights{{below, 1.0f - below}} : RowWeights{{1.0f - below, below}};
}

PREIMAGE_INLINE void add_vote(CornerSums& sums, float vote, float right, const RowWeights& weights) {
    const float for_left = vote * (1.0f - right);
    const float for_right = vote * right;
    CornerSums changed = sums;
    changed.of[0][0] = multiply_add(for_left, weights.of[0], changed.of[0][0]);
    changed.of[0][1] = multiply_add(for_right, weights.of[0], changed.of[0][1]);
    changed.of[1][0] = multiply_add(for_left, weights.of[1], changed.of[1][0]);
    changed.of[1][1] = multiply_add(for_right, weights.of[1], changed.of[1][1]);
    sums = changed;
}

/// Votes of cells of 8 pixels. A thread keeps the rows around the current one in registers, so that it reads each pixel
/// once (and the columns of its neighbors from the cache), one row ahead.
template <class Format, int kPlanes>
class RowVotes {
    static constexpr int kCell = kRowPixels;

public:
    /// Begin at pixel (top, left) of `image`.
    PREIMAGE_HOST_DEVICE void start(const Image& image, int top, int left) {
        rows_.start(image, top - 1, left);
        rows_.next(image, top - 1, above_);
        rows_.next(image, top, here_);
    }

    /// Add the votes of the next 8 rows, from row `top` on.
    template <int kThreads>
    PREIMAGE_HOST_DEVICE void block(const Image& image, int, int top, int lower, int thread,
                                    BlockSums<kThreads>& sums) {
        constexpr int kUnrolled = 4;  // so that rows seldom move from register to register
        PREIMAGE_UNROLL(1)
        for (int start = 0; start < kCell; start += kUnrolled) {
            const float first_weight = (static_cast<float>(start) + 0.5f) / kCell;
            PREIMAGE_UNROLL(kUnrolled)
            for (int step = 0; step < kUnrolled; ++step) {
                const int y = top + start + step;
                PixelRow<kPlanes> below;
                rows_.next(image, y + 1, below);
                if (y >= 1 && y < static_cast<int>(image.height) - 1) {
                    const float weight = first_weight + static_cast<float>(step) / kCell;
                    row(image, below, row_weights(weight, lower), thread, sums);
                }
                above_ = here_;
                here_ = below;
            }
        }
    }

private:
    /// All bins and lengths come before the sums, whose changes wait for one another.
    template <int kThreads>
    PREIMAGE_HOST_DEVICE void row(const Image& image, const PixelRow<kPlanes>& below, const RowWeights& weights,
                                  int thread, BlockSums<kThreads>& sums) const {
        float gx[kCell];
        float gy[kCell];
        float lengths[kCell];
        std::int32_t bins[kCell];
        bool certain = true;
        PREIMAGE_UNROLL(kCell)
        for (int k = 0; k < kCell; ++k) {
            const auto read = [&](int plane, int dy, int dx) {
                const PixelRow<kPlanes>& row = dy < 0 ? above_ : dy > 0 ? below : here_;
                return row.values[plane][k + 1 + dx];
            };
            const Gradient gradient = strongest_gradient<kPlanes>(read);
            gx[k] = gradient.gx;
            gy[k] = gradient.gy;
            lengths[k] = quick_length(gx[k], gy[k]);
            const QuickBin quick = quick_bin(gx[k], gy[k], lengths[k]);
            bins[k] = quick.bin;
            certain &= quick.certain;
        }
        if (!certain) {
            choose_exactly(gx, gy, bins);
        }
        const int first = 1 - rows_.left();  // pixels at the image's border do not vote
        const int last = static_cast<int>(image.width) - 1 - rows_.left();
        if (first > 0 || last < kCell) {
            for (int k = 0; k < kCell; ++k) {
                lengths[k] = k >= first && k < last ? lengths[k] : 0.0f;
            }
        }
        PREIMAGE_UNROLL(kCell)
        for (int k = 0; k < kCell; ++k) {
            add_vote(sums[bins[k]][thread], lengths[k], (static_cast<float>(k) + 0.5f) / kCell, weights);
        }
    }

    /// Choose the bins exactly: seldom necessary, so in a loop, which is short rather than fast. The arrays turn past
    /// it, because those that are indexed by a variable are not kept in registers.
    PREIMAGE_HOST_DEVICE static void choose_exactly(float (&gx)[kCell], float (&gy)[kCell],
                                                    std::int32_t (&bins)[kCell]) {
        PREIMAGE_UNROLL(1)
        for (int count = 0; count < kCell; ++count) {
            const std::int32_t bin = orientation_bin(gx[0], gy[0]);
            PREIMAGE_UNROLL(kCell - 1)
            for (int k = 0; k + 1 < kCell; ++k) {
                gx[k] = gx[k + 1];
                gy[k] = gy[k + 1];
                bins[k] = bins[k + 1];
            }
            bins[kCell - 1] = bin;
        }
    }

    RowReader<Format, kPlanes> rows_;
    PixelRow<kPlanes> above_, here_;
};

/// Votes of cells of any size, pixel by pixel.
template <int kPlanes>
class PixelVotes {
public:
    PREIMAGE_HOST_DEVICE void start(const Image& image, int, int left) {
        pixels_ = image.pixels;
        left_ = left;
    }

    template <int kThreads>
    PREIMAGE_HOST_DEVICE void block(const Image& first_image, int cell_size, int top, int lower, int thread,
                                    BlockSums<kThreads>& sums) const {
        Image image = first_image;
        image.pixels = pixels_;
        const int bottom = static_cast<int>(minimum(std::int64_t{top} + cell_size, image.height - 1));
        const int right = static_cast<int>(minimum(std::int64_t{left_} + cell_size, image.width - 1));
        for (int y = maximum(top, 1); y < bottom; ++y) {
            const RowWeights weights = row_weights(weight_after(y, cell_size), lower);
            for (int x = maximum(left_, 1); x < right; ++x) {
                const auto read = [&](int plane, int dy, int dx) {
                    return pixel_at(image, kPlanes, plane, y + dy, x + dx);
                };
                const Gradient gradient = strongest_gradient<kPlanes>(read);
                add_vote(sums[orientation_bin(gradient.gx, gradient.gy)][thread], length(gradient),
                         weight_after(x, cell_size), weights);
            }
        }
    }

private:
    const std::byte* pixels_;
    int left_;
};

}  // namespace preimage::hog
