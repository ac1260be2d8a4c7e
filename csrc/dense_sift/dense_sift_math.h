// Arithmetic of dense SIFT, shared by host and device: vote of a pixel, window functions, normalization.
//
// Without branches, so that compilers vectorize it. Compile with -ffp-contract=off (-fmad=false).
#pragma once

#include <cstdint>

#include "common/float16.h"
#include "common/host_device.h"
#include "common/image.h"

namespace preimage::dense_sift {

constexpr float kClip = 0.2f;
constexpr float kEpsilon = 1.19209290e-7f;  // FLT_EPSILON: added to |gy| and to a descriptor's length
constexpr float kDeadZone = 1e-8f;          // squares up to this have the root 0

#ifdef __CUDA_ARCH__
PREIMAGE_INLINE float exponential(float value) { return expf(value); }
#else
PREIMAGE_INLINE float exponential(float value) { return __builtin_expf(value); }
#endif

/// Return VLFeat's approximate square root: a guess of the reciprocal root from the bits and two Newton steps (relative
/// error at most 5e-6), and 0 for squares up to 1e-8. VLFeat compares with the double 1e-8, which is above the float:
/// hence <=.
PREIMAGE_INLINE float fast_sqrt(float square) {
    const float half = 0.5f * square;
    float root = float_from_bits(0x5f3759df - (float_bits(square) >> 1));
    root = root * (1.5f - half * root * root);
    root = root * (1.5f - half * root * root);
    return square <= kDeadZone ? 0.0f : square * root;
}

/// Return a pixel's difference along one axis: central and halved inside, one-sided and not halved at the image's
/// border. `before` and `after` are its neighbors, or itself where it has none.
PREIMAGE_INLINE float difference(float before, float after, bool inside) {
    return (inside ? 0.5f : 1.0f) * (after - before);
}

/// Return the direction of (gx, gy) in octants (units of 45 degrees), [0, 8), y down; 0 for NaN. VLFeat approximates
/// the arc tangent by a polynomial, with an error of up to 0.0061 rad, which is part of the definition.
PREIMAGE_INLINE float direction(float gx, float gy) {
    constexpr float kQuarterPi = 0.785398163397448f;
    constexpr float kThreeQuartersPi = 2.35619449019234f;
    constexpr float kTurn = 6.28318530717959f;
    constexpr float kOctantsPerRadian = 1.27323954473516f;  // 8 / (2 pi)
    const float down = absolute(gy) + kEpsilon;
    const float ratio = (gx < 0.0f ? gx + down : gx - down) / (absolute(gx) + down);  // in [-1, 1]
    float angle = (gx < 0.0f ? kThreeQuartersPi : kQuarterPi) + (0.1821f * ratio * ratio - 0.9675f) * ratio;
    angle = gy < 0.0f ? -angle : angle;
    angle = angle < 0.0f ? angle + kTurn : angle;
    const float octants = angle * kOctantsPerRadian;
    return octants < 8.0f ? octants : 0.0f;
}

/// The votes of a pixel for two adjacent orientation bins: `first` for `bin`, `second` for (bin + 1) mod 8. Their sum
/// is the gradient's length. If the gradient is not finite, at least one of them is not.
struct Vote {
    std::int32_t bin;  // 0 ... 7
    float first, second;
};

PREIMAGE_INLINE Vote split_vote(float octants, float length) {
    const auto bin = static_cast<std::int32_t>(octants);
    const float share = octants - static_cast<float>(bin);
    return {bin, (1.0f - share) * length, share * length};
}

PREIMAGE_INLINE float gradient_length(float gx, float gy) { return fast_sqrt(gx * gx + gy * gy); }

PREIMAGE_INLINE Vote vote(float gx, float gy) { return split_vote(direction(gx, gy), gradient_length(gx, gy)); }

/// Return the Gaussian window along one axis, at `offset` pixels from the center of spatial bin `index` (0 ... 3),
/// which is bin_size * (index - 1.5) from the descriptor's center. sigma = bin_size * window_size pixels.
PREIMAGE_INLINE float window_at(std::int64_t offset, int index, std::int64_t bin_size, float window_size) {
    const auto size = static_cast<float>(bin_size);
    const float z = (static_cast<float>(offset) + size * (static_cast<float>(index) - 1.5f)) / (size * window_size);
    return exponential(-0.5f * z * z);
}

/// Return the triangular weight of a pixel at `offset` in a spatial bin, -bin_size < offset < bin_size, along one axis.
PREIMAGE_INLINE float triangle_at(std::int64_t offset, std::int64_t bin_size) {
    return 1.0f - static_cast<float>(offset < 0 ? -offset : offset) / static_cast<float>(bin_size);
}

/// Return the flat window's factor per spatial bin and axis: the mean of the Gaussian over the bin's 2 * bin_size - 1
/// pixels.
PREIMAGE_INLINE float window_mean(int index, std::int64_t bin_size, float window_size) {
    float sum = 0.0f;
    for (std::int64_t offset = 1 - bin_size; offset < bin_size; ++offset) {
        sum += window_at(-offset, index, bin_size, window_size);  // VLFeat's summation order
    }
    return sum / static_cast<float>(2 * bin_size - 1);
}

/// Return 1 / length of a descriptor with this sum of squares; 0 for near-flat patches, whose descriptors are therefore
/// zeros (VLFeat divides by 1.2e-7 and returns noise).
PREIMAGE_INLINE float normalizer(float squares) {
    return squares <= kDeadZone ? 0.0f : 1.0f / (fast_sqrt(squares) + kEpsilon);
}

/// Return the value clipped at 0.2; NaN stays NaN.
PREIMAGE_INLINE float clip(float value) { return kClip < value ? kClip : value; }

/// Return a value of a descriptor as VLFeat stores it in a byte.
PREIMAGE_INLINE std::uint8_t to_byte(float value) {
    const float scaled = 512.0f * value;
    return static_cast<std::uint8_t>(scaled < 255.0f ? static_cast<std::int32_t>(scaled) : 255);
}

}  // namespace preimage::dense_sift
