// The gradient of dense SIFT with respect to the image: element-wise steps shared by CPU and GPU.
//
// The steps follow the chain rule from the descriptors back to the image. Each gathers what it needs, so that sums have
// a fixed order and threads share none:
//   1. descriptors: through both normalizations to the gradient of the 128 sums, (rows, 128, columns);
//   2. down: for every row of pixels, the gradient with respect to the votes of a pixel column in each column of
//      descriptors, (pixel rows, 4 spatial columns x 8 orientations, columns);
//   3. pixels: from the two orientations that a pixel votes for, through its vote to gx and gy;
//   4. image: through the differences to the pixels, and through luma to three channels.
// Sub-gradients: a clipped value passes its gradient if it is at most 0.2; the weight of an orientation is linear
// within each octant; pixels in the dead zone and near-flat patches have none. Square roots are differentiated exactly,
// although the forward pass approximates them; the polynomial that approximates the direction is differentiated as it
// is.
#pragma once

#include <cstdint>

#include "common/host_device.h"
#include "dense_sift/dense_sift_grid.h"
#include "dense_sift/dense_sift_math.h"

namespace preimage::dense_sift {

/// Check the arguments and return the grid.
Grid checked_backward(const TensorView& grad_features, const TensorView& grad_norms, const TensorView& images,
                      const TensorView& grad_images, const Parameters& parameters);

// ---- 1. Normalization ----

/// Scaling to unit length multiplies each value by `factor`. The gradient of a value is that of its result times
/// `factor`, minus the value times `projection` times the scalar product of all values and gradients.
struct UnitLength {
    float factor, projection;

    PREIMAGE_HOST_DEVICE float backward(float value, float gradient, float dot) const {
        return gradient * factor - value * (projection * dot);
    }
};

/// Return the scaling of values with this sum of squares; zeros for near-flat patches.
PREIMAGE_INLINE UnitLength unit_length(float squares) {
    const float factor = normalizer(squares);
    return {factor, squares <= kDeadZone ? 0.0f : factor * factor / fast_sqrt(squares)};
}

/// Return the gradient of a value before clipping.
PREIMAGE_INLINE float clip_backward(float value, float gradient) { return value <= kClip ? gradient : 0.0f; }

// ---- 2. and 3. Contributions of a pixel ----

/// Weight of a row (or column) of pixels in one spatial bin of a descriptor, along one axis.
struct Contribution {
    std::uint32_t frame_and_bin;  // 4 * frame + bin
    float weight;

    PREIMAGE_HOST_DEVICE std::int64_t frame() const { return frame_and_bin / kSpatial; }
    PREIMAGE_HOST_DEVICE std::int64_t bin() const { return frame_and_bin % kSpatial; }
};

/// Return the maximum number of contributions of a pixel along an axis.
PREIMAGE_INLINE std::int32_t max_contributions(const Grid& grid) {
    return kSpatial * ((2 * grid.bin_size - 2) / grid.step + 1);
}

/// Contributions of every pixel along an axis: contributions[n * pixels + position], n < counts[position].
struct ContributionTable {
    Contribution* contributions;
    std::int32_t* counts;
    std::int32_t pixels;
};

/// Return the weight of a tap at this pixel, plus, at the border, those of the taps outside the image that repeat it.
PREIMAGE_INLINE float total_weight(const Grid& grid, const Axis& axis, const float* weights, int bin,
                                   std::int32_t position, std::int32_t tap) {
    const std::int32_t from = position == 0 ? 0 : tap;
    const std::int32_t to = position == axis.pixels - 1 ? taps_of(grid) - 1 : tap;
    float weight = 0.0f;
    for (std::int32_t one = from; one <= to; ++one) {
        weight += weights[one * kSpatial + bin];
    }
    return weight;
}

/// Fill the table for one position, in the order of bins and descriptors. `weights` (taps, 4).
PREIMAGE_INLINE void list_contributions(const Grid& grid, const Axis& axis, const float* weights, std::int32_t position,
                                        const ContributionTable& table) {
    std::int32_t count = 0;
    for (int bin = 0; bin < kSpatial; ++bin) {
        // The bin of descriptor f is centered f * step after `offset` = 0, and covers bin_size - 1 pixels on both
        // sides.
        const std::int32_t offset = position - axis.first - bin * grid.bin_size;
        const std::int32_t last = offset + grid.bin_size - 1;
        const std::int32_t before = last - taps_of(grid);  // the last center that is too far back
        if (last < 0) {
            continue;
        }
        std::int32_t frame = before < 0 ? 0 : before / grid.step + 1;
        for (const std::int32_t end = minimum(last / grid.step + 1, axis.frames); frame < end; ++frame) {
            const float weight = total_weight(grid, axis, weights, bin, position, last - frame * grid.step);
            const auto which = kSpatial * static_cast<std::uint32_t>(frame) + static_cast<std::uint32_t>(bin);
            table.contributions[std::int64_t{count} * table.pixels + position] = {which, weight};
            ++count;
        }
    }
    table.counts[position] = count;
}

/// Step 2 for row y: kCount of its 32 * columns elements, starting at `element`. `sums`: (rows, 128, columns).
template <int kCount>
PREIMAGE_INLINE void gather_down(const Grid& grid, const ContributionTable& table, const float* sums, std::int32_t y,
                                 std::int64_t element, float* out) {
    const std::int64_t bin_pitch = std::int64_t{kSpatial * kOrientations} * grid.x.frames;
    float totals[kCount] = {};
    for (std::int32_t n = 0; n < table.counts[y]; ++n) {
        const Contribution one = table.contributions[std::int64_t{n} * table.pixels + y];
        const float* from = sums + (one.frame() * kSpatial + one.bin()) * bin_pitch + element;
        for (int lane = 0; lane < kCount; ++lane) {
            totals[lane] += one.weight * from[lane];
        }
    }
    for (int lane = 0; lane < kCount; ++lane) {
        out[lane] = totals[lane];
    }
}

/// The gradients with respect to the two parts of a vote.
struct VoteGradient {
    float first, second;
};

/// Return those of pixel x of a row, which votes for `bin` and the next one. `rows`: (32, columns) from step 2.
PREIMAGE_INLINE VoteGradient gather_vote_gradient(const Grid& grid, const ContributionTable& table, const float* rows,
                                                  std::int32_t x, std::int32_t bin) {
    const std::int64_t columns = grid.x.frames;
    const float* first = rows + bin * columns;
    const float* second = rows + (bin + 1) % kOrientations * columns;
    VoteGradient total{};
    for (std::int32_t n = 0; n < table.counts[x]; ++n) {
        const Contribution one = table.contributions[std::int64_t{n} * table.pixels + x];
        const std::int64_t at = one.bin() * kOrientations * columns + one.frame();
        total.first += one.weight * first[at];
        total.second += one.weight * second[at];
    }
    return total;
}

// ---- 3. Through a pixel's vote ----

/// The gradient with respect to the two differences of a pixel, gx and gy.
struct DifferenceGradient {
    float x, y;
};

/// Return it from the gradients with respect to the two parts of the vote.
PREIMAGE_INLINE DifferenceGradient vote_backward(float gx, float gy, const VoteGradient& vote_gradient) {
    const float length = gradient_length(gx, gy);
    const bool dead = gx * gx + gy * gy <= kDeadZone;
    const float octants = direction(gx, gy);
    const float share = octants - static_cast<float>(static_cast<std::int32_t>(octants));
    const float along = ((1.0f - share) * vote_gradient.first + share * vote_gradient.second) / length;
    // The direction is c(ratio) with ratio = (gx -+ down) / (|gx| + down). Its derivatives with respect to gx and gy
    // are c'(ratio) * 2 down / (|gx| + down)^2 with the sign of gy, and -c'(ratio) * 2 gx / (|gx| + down)^2.
    const float down = absolute(gy) + kEpsilon;
    const float both = absolute(gx) + down;
    const float ratio = (gx < 0.0f ? gx + down : gx - down) / both;
    constexpr float kOctantsPerRadian = 1.27323954473516f;  // 8 / (2 pi)
    const float cubic = 3.0f * 0.1821f * ratio * ratio - 0.9675f;
    const float turning =
        length * (vote_gradient.second - vote_gradient.first) * (kOctantsPerRadian * 2.0f * cubic / (both * both));
    const float x = along * gx + turning * (gy < 0.0f ? -down : down);
    const float y = along * gy - turning * gx;
    return {dead ? 0.0f : x, dead ? 0.0f : y};
}

/// Step 3 for pixel (y, x), read from the image in place.
PREIMAGE_INLINE DifferenceGradient difference_gradient(const Image& image, const Grid& grid,
                                                       const ContributionTable& table, const float* rows,
                                                       std::int32_t y, std::int32_t x) {
    const auto luma_at = [&](std::int32_t row, std::int32_t column) {
        return pixel_at(image, 1, 0, inside(grid.y, row), inside(grid.x, column));
    };
    const float gx = difference(luma_at(y, x - 1), luma_at(y, x + 1), x > 0 && x < grid.x.pixels - 1);
    const float gy = difference(luma_at(y - 1, x), luma_at(y + 1, x), y > 0 && y < grid.y.pixels - 1);
    return vote_backward(gx, gy,
                         gather_vote_gradient(grid, table, rows, x, static_cast<std::int32_t>(direction(gx, gy))));
}

// ---- 4. Through the differences ----

/// Return the gradient of a pixel from those of the differences along one axis, `pitch` apart; `difference_gradients`
/// points to the pixel's own.
PREIMAGE_INLINE float differences_backward(const float* difference_gradients, std::int64_t pitch, std::int32_t position,
                                           std::int32_t pixels) {
    float sum = 0.0f;
    if (position > 0) {
        sum += (position > 1 ? 0.5f : 1.0f) * difference_gradients[-pitch];
    } else {
        sum -= difference_gradients[0];
    }
    if (position < pixels - 1) {
        sum -= (position < pixels - 2 ? 0.5f : 1.0f) * difference_gradients[pitch];
    } else {
        sum += difference_gradients[0];
    }
    return sum;
}

/// Step 4 for a pixel: `difference_gradients` is (2, height, width), `gradient` (channels, height, width).
PREIMAGE_INLINE void gather_image(const Grid& grid, int channels, const float* difference_gradients, std::int32_t y,
                                  std::int32_t x, float* gradient) {
    const std::int64_t width = grid.x.pixels;
    const std::int64_t plane = width * grid.y.pixels;
    const std::int64_t here = y * width + x;
    const float value = differences_backward(difference_gradients + here, 1, x, grid.x.pixels) +
                        differences_backward(difference_gradients + plane + here, width, y, grid.y.pixels);
    if (channels == 1) {
        gradient[here] = value;
        return;
    }
    gradient[here] = 0.299f * value;  // as in `luma` (common/image.h)
    gradient[here + plane] = 0.587f * value;
    gradient[here + 2 * plane] = 0.114f * value;
}

}  // namespace preimage::dense_sift
