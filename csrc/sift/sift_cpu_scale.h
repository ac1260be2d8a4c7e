// Part of the CPU kernels (sift_cpu_kernel.cpp): smoothing, gradients and extrema of whole planes.
#pragma once

#include <cstring>

#include "common/host_device.h"
#include "common/simd.h"
#include "dense_sift/dense_sift_math.h"
#include "sift/sift.h"

namespace preimage::sift::PREIMAGE_ISA {
namespace {

constexpr int kVecsPerStep = 4;  // independent vectors, so that no addition waits for another

/// Compute kCount vectors of out[x] = sum of weights[tap] * row(tap)[x], from the first tap to the last, which is
/// VLFeat's order.
template <int kCount, class Row>
PREIMAGE_INLINE void convolve(const Filter& filter, const Row& row, std::int64_t x, float* out) {
    FloatVec sums[kCount] = {};
    for (std::int64_t tap = 0; tap <= 2 * filter.radius; ++tap) {
        const float* from = row(tap) + x;
        const float weight = filter.weights[tap];
        for (int k = 0; k < kCount; ++k) {
            sums[k] += load(from + k * kVecSize) * weight;
        }
    }
    __builtin_memcpy(out + x, sums, sizeof(sums));
}

/// Filter a whole row, up to the next multiple of kVecSize, for which the pitch has room.
template <class Row>
PREIMAGE_INLINE void convolve_row(const Filter& filter, const Row& row, std::int64_t width, float* out) {
    std::int64_t x = 0;
    for (; x + (kVecsPerStep - 1) * kVecSize < width; x += kVecsPerStep * kVecSize) {
        convolve<kVecsPerStep>(filter, row, x, out);
    }
    for (; x < width; x += kVecSize) {
        convolve<1>(filter, row, x, out);
    }
}

/// Filter along y, then along x, row by row.
void smooth(const float* in, const Size& size, const Filter& filter, float* line, float* out, float* difference) {
    const std::int64_t radius = filter.radius;
    for (std::int64_t y = 0; y < size.height; ++y) {
        const auto row_at = [&](std::int64_t tap) {
            return in + minimum(maximum(y + tap - radius, 0), size.height - 1) * size.pitch;
        };
        convolve_row(filter, row_at, size.width, line + radius);
        for (std::int64_t x = 0; x < radius; ++x) {
            line[x] = line[radius];
        }
        const float last = line[radius + size.width - 1];
        for (std::int64_t x = 0; x < radius; ++x) {
            line[radius + size.width + x] = last;
        }
        float* row = out + y * size.pitch;
        convolve_row(filter, [&](std::int64_t tap) { return line + tap; }, size.width, row);
        if (difference != nullptr) {
            const float* before = in + y * size.pitch;
            float* __restrict difference_row = difference + y * size.pitch;
            for (std::int64_t x = 0; x < size.width; ++x) {
                difference_row[x] = row[x] - before[x];
            }
        }
    }
}

/// Return VLFeat's approximation of atan2(gy, gx) in [0, 2 pi] (as float32); 0 for NaN.
PREIMAGE_INLINE float angle_of(float gx, float gy) {
    constexpr float kQuarterPi = 0.785398163397448f;
    constexpr float kThreeQuartersPi = 2.35619449019234f;
    constexpr auto kTwoPiFloat = static_cast<float>(kTwoPi);
    const float down = absolute(gy) + dense_sift::kEpsilon;
    const bool left = gx < 0.0f;
    const float ratio = (left ? gx + down : gx - down) / (left ? down - gx : gx + down);
    float angle = (left ? kThreeQuartersPi : kQuarterPi) + (0.1821f * ratio * ratio - 0.9675f) * ratio;
    angle = gy < 0.0f ? -angle : angle;
    angle = static_cast<float>(static_cast<double>(angle) + kTwoPi);
    angle = angle > kTwoPiFloat ? angle - kTwoPiFloat : angle;
    return angle >= 0.0f && angle <= kTwoPiFloat ? angle : 0.0f;
}

PREIMAGE_INLINE void gradient_at(float gx, float gy, float* length, float* angle) {
    *length = dense_sift::gradient_length(gx, gy);
    *angle = angle_of(gx, gy);
}

void gradients(const float* level, const Size& size, float* lengths, float* angles) {
    const std::int64_t last = size.width - 1;
    for (std::int64_t y = 0; y < size.height; ++y) {
        const float* here = level + y * size.pitch;
        const float* above = y > 0 ? here - size.pitch : here;
        const float* below = y < size.height - 1 ? here + size.pitch : here;
        const float half = y > 0 && y < size.height - 1 ? 0.5f : 1.0f;
        float* __restrict length = lengths + y * size.pitch;
        float* __restrict angle = angles + y * size.pitch;
        for (std::int64_t x = 1; x < last; ++x) {
            const float gx = 0.5f * (here[x + 1] - here[x - 1]);
            const float gy = half * (below[x] - above[x]);
            gradient_at(gx, gy, length + x, angle + x);
        }
        for (std::int64_t x = size.width; x < size.pitch; ++x) {  // read but not used
            length[x] = 0.0f;
            angle[x] = 0.0f;
        }
        gradient_at(here[1] - here[0], half * (below[0] - above[0]), length, angle);
        gradient_at(here[last] - here[last - 1], half * (below[last] - above[last]), length + last, angle + last);
    }
}

/// Computes, per column of row y, maximum and minimum of the nine values around it in three planes, and of the eight
/// without the center. `__restrict` works on parameters only, and without it the loop does not vectorize.
PREIMAGE_INLINE void column_bounds(const float* __restrict below, const float* __restrict here,
                                   const float* __restrict above, const Size& size, float* __restrict maxima,
                                   float* __restrict minima, float* __restrict maxima_around,
                                   float* __restrict minima_around) {
    const std::int64_t pitch = size.pitch;
    for (std::int64_t x = 0; x < size.width; ++x) {
        float upper = maximum(here[x - pitch], here[x + pitch]);
        float lower = minimum(here[x - pitch], here[x + pitch]);
        for (std::int64_t row = -1; row <= 1; ++row) {
            upper = maximum(upper, maximum(below[x + row * pitch], above[x + row * pitch]));
            lower = minimum(lower, minimum(below[x + row * pitch], above[x + row * pitch]));
        }
        maxima_around[x] = upper;
        minima_around[x] = lower;
        maxima[x] = maximum(upper, here[x]);
        minima[x] = minimum(lower, here[x]);
    }
}

/// Set flags[x] to 1 where the center of column x is above or below all its neighbors, else to 0.
PREIMAGE_INLINE void mark_extrema(const float* __restrict center, std::int64_t width, const float* __restrict maxima,
                                  const float* __restrict minima, const float* __restrict maxima_around,
                                  const float* __restrict minima_around, std::uint8_t* __restrict flags) {
    for (std::int64_t x = 1; x < width - 1; ++x) {
        const float upper = maximum(maximum(maxima[x - 1], maxima[x + 1]), maxima_around[x]);
        const float lower = minimum(minimum(minima[x - 1], minima[x + 1]), minima_around[x]);
        const int above = center[x] > upper ? 1 : 0;
        flags[x] = static_cast<std::uint8_t>(center[x] < lower ? 1 : above);
    }
}

std::int64_t extrema(const float* below, const float* here, const float* above, const Size& size, std::int64_t y,
                     float* work, std::int32_t* columns) {
    const std::int64_t start = y * size.pitch;
    float* const maxima = work;
    float* const minima = work + size.pitch;
    float* const maxima_around = work + 2 * size.pitch;
    float* const minima_around = work + 3 * size.pitch;
    auto* flags = reinterpret_cast<std::uint8_t*>(work + 4 * size.pitch);
    column_bounds(below + start, here + start, above + start, size, maxima, minima, maxima_around, minima_around);
    mark_extrema(here + start, size.width, maxima, minima, maxima_around, minima_around, flags);
    std::int64_t count = 0;
    for (std::int64_t x = 1; x < size.width - 1;) {
        std::uint64_t eight = 0;
        if (x + 8 < size.width) {
            __builtin_memcpy(&eight, flags + x, sizeof(eight));
            if (eight == 0) {  // the usual case
                x += 8;
                continue;
            }
        }
        if (flags[x] != 0) {
            columns[count++] = static_cast<std::int32_t>(x);
        }
        ++x;
    }
    return count;
}

}  // namespace
}  // namespace preimage::sift::PREIMAGE_ISA
