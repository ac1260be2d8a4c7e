// Arithmetic of one pixel and of one cell, without branches so that compilers vectorize it.
//
// Compile with -ffp-contract=off: fused multiply-adds would change which of two nearly equal directions wins.
#pragma once

#include <cstdint>

#include "common/host_device.h"

namespace preimage::hog {

constexpr float kClip = 0.2f;
constexpr float kEpsilon = 1e-4f;                   // added to the energy of 2x2 cells before the square root
constexpr float kTextureScale = 0.23570226039552f;  // 1 / sqrt(18)

/// Return the scalar product with the unit vector at k * 20 degrees, k = 0 ... 4; the other directions are mirror
/// images.
template <int k>
PREIMAGE_INLINE float score(float across, float down) {
    constexpr float kCosine[5] = {1.0f, 0.9396926164627075f, 0.7660444378852844f, 0.5f, 0.1736481785774231f};
    constexpr float kSine[5] = {0.0f, 0.3420201539993286f, 0.6427876353263855f, 0.8660253882408142f,
                                0.9848077297210693f};
    constexpr float cosine = kCosine[k];
    constexpr float sine = kSine[k];
    return across * cosine + down * sine;
}

/// The directed bin, 0 ... 17, whose unit vector at bin * 20 degrees has the largest scalar product with (gx, gy).
///
/// VLFeat tries k = 0 ... 8 in turn, takes the absolute value of the product (bin k + 9 if negative) and keeps the
/// first of equals. By symmetry, the five directions of the first quadrant suffice: along them the scores rise, then
/// fall, so the number of rises is the position of the maximum. Equal scores are frequent (a vertical gradient lies
/// between 80 and 100 degrees). In the mirrored quadrants VLFeat meets the steep directions first, so the steeper of
/// two equals wins, except against k = 0, which always comes first.
PREIMAGE_INLINE std::int32_t orientation_bin(float gx, float gy) {
    const float across = absolute(gx);
    const float down = absolute(gy);
    const float s0 = score<0>(across, down);
    const float s1 = score<1>(across, down);
    const float s2 = score<2>(across, down);
    const float s3 = score<3>(across, down);
    const float s4 = score<4>(across, down);
    const std::int32_t up = gy < 0.0f;
    const std::int32_t left = gx < 0.0f;
    const std::int32_t right = gx > 0.0f;
    const std::int32_t mirrored = up ? right : left;
    std::int32_t steps = s1 > s0;
    steps += (s2 > s1) | (mirrored & (s2 == s1));
    steps += (s3 > s2) | (mirrored & (s3 == s2));
    steps += (s4 > s3) | (mirrored & (s4 == s3));
    const std::int32_t half_turns = up + mirrored;  // the axis to count from: 0, 180 or 360 degrees
    const std::int32_t bin = half_turns * 9 + (mirrored ? -steps : steps);
    return bin == 18 ? 0 : bin;
}

/// Return whether another channel's gradient replaces the best one so far. The first of equals stays. NaN wins and
/// stays, so that it reaches the output.
PREIMAGE_INLINE bool is_stronger(float energy, float best) { return (energy > best) | (energy != energy); }

/// Return the value clipped at 0.2; NaN stays NaN.
PREIMAGE_INLINE float clip(float value) { return kClip < value ? kClip : value; }

#ifdef __CUDA_ARCH__
/// Within two ulps, at a tenth of the cost of a correctly rounded one.
PREIMAGE_INLINE float inverse_root(float value) {
    float root;
    asm("rsqrt.approx.ftz.f32 %0, %1;" : "=f"(root) : "f"(value));
    return root;
}
#else
PREIMAGE_INLINE float inverse_root(float value) { return 1.0f / square_root(value); }
#endif

/// Return 1 / length of four cells with these energies.
PREIMAGE_INLINE float normalizer(float a, float b, float c, float d) {
    return inverse_root((a + b) + (c + d) + kEpsilon);
}

/// Return the cell whose center is at or before a pixel; -1 before the first center.
PREIMAGE_INLINE std::int64_t cell_before(std::int64_t position, std::int64_t cell_size) {
    if (cell_size == 8) {  // without a division
        return ((position + 4) >> 3) - 1;
    }
    return (position + cell_size - cell_size / 2) / cell_size - 1;
}

/// Return the distance to that center in cells, rounded as in VLFeat: the weight of the following cell.
PREIMAGE_INLINE float weight_after(std::int64_t position, std::int64_t cell_size) {
    if (cell_size == 8) {
        return static_cast<float>(2 * ((position + 4) & 7) + 1) * 0.0625f;
    }
    const double distance = (static_cast<double>(position) + 0.5) / static_cast<double>(cell_size) - 0.5;
    return static_cast<float>(distance) - static_cast<float>(cell_before(position, cell_size));
}

/// A pixel's gradient, and the plane it comes from.
struct Gradient {
    float gx, gy;
    int plane;
};

/// Return the longest gradient among the planes. `read(plane, dy, dx)` returns a neighbor of the pixel.
template <int kPlanes, class Read>
PREIMAGE_INLINE Gradient strongest_gradient(const Read& read) {
    Gradient best{read(0, 0, 1) - read(0, 0, -1), read(0, 1, 0) - read(0, -1, 0), 0};
    float energy = best.gx * best.gx + best.gy * best.gy;
    for (int plane = 1; plane < kPlanes; ++plane) {
        const float gx = read(plane, 0, 1) - read(plane, 0, -1);
        const float gy = read(plane, 1, 0) - read(plane, -1, 0);
        const float other = gx * gx + gy * gy;
        if (is_stronger(other, energy)) {
            best = {gx, gy, plane};
            energy = other;
        }
    }
    return best;
}

PREIMAGE_INLINE float length(const Gradient& gradient) {
    return square_root(gradient.gx * gradient.gx + gradient.gy * gradient.gy);
}

}  // namespace preimage::hog
