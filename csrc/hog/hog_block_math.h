// Part of HOG's block programs (hog_blocks.h): arithmetic that takes fewer instructions on a GPU. It rounds differently
// from the CPU's in places where that does not decide which direction wins.
#pragma once

#include <cstdint>

#include "common/host_device.h"
#include "hog/hog.h"
#include "hog/hog_math.h"

namespace preimage::hog {

#ifdef __CUDA_ARCH__
PREIMAGE_INLINE float least(float a, float b) { return fminf(a, b); }
PREIMAGE_INLINE std::uint32_t sign_bit(float value) { return __float_as_uint(value) >> 31; }
/// Return the square root within an ulp, at a tenth of the cost of a correctly rounded one.
PREIMAGE_INLINE float quick_root(float value) {
    float root;
    asm("sqrt.approx.ftz.f32 %0, %1;" : "=f"(root) : "f"(value));
    return root;
}
/// Return the smaller value, or NaN if `value` is NaN.
PREIMAGE_INLINE float clip_at(float limit, float value) {
    float clipped;
    asm("min.NaN.f32 %0, %1, %2;" : "=f"(clipped) : "f"(limit), "f"(value));
    return clipped;
}
#else
PREIMAGE_INLINE float least(float a, float b) { return __builtin_fminf(a, b); }
PREIMAGE_INLINE std::uint32_t sign_bit(float value) {
    std::uint32_t bits;
    __builtin_memcpy(&bits, &value, sizeof(bits));
    return bits >> 31;
}
PREIMAGE_INLINE float quick_root(float value) { return square_root(value); }
PREIMAGE_INLINE float clip_at(float limit, float value) { return limit < value ? limit : value; }
#endif

/// Return the length of a gradient's vote.
PREIMAGE_INLINE float quick_length(float gx, float gy) { return quick_root(multiply_add(gx, gx, gy * gy)); }

/// A bin chosen by `quick_bin`.
struct QuickBin {
    std::int32_t bin;  // 0 ... 18, where 18 is bin 0 again
    bool certain;
};

/// Choose `orientation_bin` with a third of its instructions, or find that the gradient is too close to the border
/// between two bins. `length` is the gradient's, as it votes. If that is zero, the bin does not matter and may differ.
///
/// The gradient is turned into the upper half plane. There bins 0 to 4 mirror 9 to 5, so that four borders, at 10, 30,
/// 50 and 70 degrees, decide: each distance below is negative (positive, if mirrored) once its border is crossed. The
/// two sums that `orientation_bin` compares differ by 2 sin(10 degrees) times the gradient's distance from the border,
/// and rounding changes each by at most 3 * 2^-24 of the length. So distances above 18 * 2^-24 of it are decided the
/// same way; here they are up to 1.31 times larger.
PREIMAGE_INLINE QuickBin quick_bin(float gx, float gy, float length) {
    constexpr float kTangent10 = 0.17632698f, kTangent30 = 0.57735027f;
    constexpr float kCotangent50 = 0.83909963f, kCotangent70 = 0.36397023f;
    constexpr float kMargin = 0x1p-18f;
    const bool turned = gy < 0.0f;
    const float x = turned ? -gx : gx;
    const float y = absolute(gy);
    const bool mirrored = x < 0.0f;
    const float signed_y = mirrored ? y : -y;
    const float distances[4] = {multiply_add(x, kTangent10, signed_y), multiply_add(x, kTangent30, signed_y),
                                multiply_add(signed_y, kCotangent50, x), multiply_add(signed_y, kCotangent70, x)};
    const float smallest = least(least(absolute(distances[0]), absolute(distances[1])),
                                 least(absolute(distances[2]), absolute(distances[3])));
    std::uint32_t bin = (turned ? kOrientations : 0) + (mirrored ? 5 : 0);
    for (float distance : distances) {
        bin += sign_bit(distance);
    }
    // NaN, which also comes of infinity, is never certain; zero always is.
    return {static_cast<std::int32_t>(bin), multiply_add(-kMargin, length, smallest) >= 0.0f};
}

}  // namespace preimage::hog
