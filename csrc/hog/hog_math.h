// The arithmetic of one pixel and of one cell, written without branches so that compilers vectorise it.
//
// Compile with -ffp-contract=off: a fused multiply-add would turn near-ties between directions.
#pragma once

#include <cstdint>

#include "common/host_device.h"

namespace preimage::hog {

// Directions are unit vectors at k * 20 degrees, k = 0 ... 4, in float32; the others are their mirror images.
constexpr float kCosine[5] = {1.0f, 0.9396926164627075f, 0.7660444378852844f, 0.5f, 0.1736481785774231f};
constexpr float kSine[5] = {0.0f, 0.3420201539993286f, 0.6427876353263855f, 0.8660253882408142f, 0.9848077297210693f};

constexpr float kClip = 0.2f;
constexpr float kEpsilon = 1e-4f;                   // added to the energy of 2x2 cells, under the root
constexpr float kTextureScale = 0.23570226039552f;  // 1 / sqrt(18)

PREIMAGE_INLINE float score(float across, float down, int k) { return across * kCosine[k] + down * kSine[k]; }

/// The directed bin, 0 ... 17, whose unit vector at bin * 20 degrees has the largest scalar product with (gx, gy).
///
/// VLFeat tries k = 0 ... 8 in turn, takes the product's absolute value (negative: bin k + 9) and keeps the first
/// of equals. By symmetry the five directions of the first quadrant decide; along them the scores rise, then fall,
/// so that counting the rises finds the top. Equal scores are frequent (a vertical gradient lies between 80 and
/// 100 degrees), hence the care: in the mirrored quadrants VLFeat meets the steep directions first, so there the
/// steeper of two equals wins, except against k = 0, which always comes first.
PREIMAGE_INLINE std::int32_t orientation_bin(float gx, float gy) {
    const float across = absolute(gx);
    const float down = absolute(gy);
    const float s0 = score(across, down, 0);
    const float s1 = score(across, down, 1);
    const float s2 = score(across, down, 2);
    const float s3 = score(across, down, 3);
    const float s4 = score(across, down, 4);
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

/// Is a second channel's gradient to be taken instead? The first of equals stays; what is not a number wins, and
/// stays, so that it reaches the output instead of vanishing.
PREIMAGE_INLINE bool takes_over(float energy, float best) { return (energy > best) | (energy != energy); }

/// The smaller of the clipping level and a value; not a number stays so.
PREIMAGE_INLINE float clip(float value) { return kClip < value ? kClip : value; }

/// 1 / length of the 2x2 cells with these energies.
PREIMAGE_INLINE float normaliser(float a, float b, float c, float d) {
    return 1.0f / square_root((a + b) + (c + d) + kEpsilon);
}

}  // namespace preimage::hog
