// Part of the CPU kernels (sift_cpu_kernel.h): whole planes of an octave.
#pragma once

#include <cstring>

#include "common/host_device.h"
#include "common/lanes.h"
#include "dense_sift/dense_sift_math.h"
#include "sift/sift.h"

namespace preimage::sift {
namespace {

constexpr int kTogether = 4;  // vectors summed side by side, so that one's additions do not wait for another's

/// out[x ...] = the sum of weights[tap] * row(tap)[x ...] for kCount vectors, from the first tap to the last: VLFeat's
/// order, to the bit.
template <int kCount, class Row>
PREIMAGE_INLINE void weigh(const Filter& filter, const Row& row, std::int64_t x, float* out) {
    Lanes sums[kCount] = {};
    for (std::int64_t tap = 0; tap <= 2 * filter.radius; ++tap) {
        const float* from = row(tap) + x;
        const float weight = filter.weights[tap];
        for (int k = 0; k < kCount; ++k) {
            sums[k] += load(from + k * kWidth) * weight;
        }
    }
    __builtin_memcpy(out + x, sums, sizeof(sums));
}

/// The same for a whole row, up to the next multiple of kWidth, which the pitch has room for.
template <class Row>
PREIMAGE_INLINE void weigh_row(const Filter& filter, const Row& row, std::int64_t width, float* out) {
    std::int64_t x = 0;
    for (; x + (kTogether - 1) * kWidth < width; x += kTogether * kWidth) {
        weigh<kTogether>(filter, row, x, out);
    }
    for (; x < width; x += kWidth) {
        weigh<1>(filter, row, x, out);
    }
}

/// Down and then across, row by row.
void smooth(const float* in, const Size& size, const Filter& filter, float* line, float* out, float* difference) {
    const std::int64_t radius = filter.radius;
    for (std::int64_t y = 0; y < size.height; ++y) {
        const auto row_at = [&](std::int64_t tap) {
            return in + smaller(larger(y + tap - radius, 0), size.height - 1) * size.pitch;
        };
        weigh_row(filter, row_at, size.width, line + radius);
        for (std::int64_t x = 0; x < radius; ++x) {
            line[x] = line[radius];
        }
        const float last = line[radius + size.width - 1];
        for (std::int64_t x = 0; x < radius; ++x) {
            line[radius + size.width + x] = last;
        }
        float* row = out + y * size.pitch;
        weigh_row(filter, [&](std::int64_t tap) { return line + tap; }, size.width, row);
        if (difference != nullptr) {
            const float* before = in + y * size.pitch;
            float* __restrict rise = difference + y * size.pitch;
            for (std::int64_t x = 0; x < size.width; ++x) {
                rise[x] = row[x] - before[x];
            }
        }
    }
}

/// VLFeat's arc tangent of gy / gx, in [0, 2 pi] as floats have it; 0 for what is not a number.
PREIMAGE_INLINE float angle_of(float gx, float gy) {
    constexpr float kQuarterPi = 0.785398163397448f;
    constexpr float kThreeQuartersPi = 2.35619449019234f;
    constexpr auto kTurnFloat = static_cast<float>(kTurn);
    const float down = absolute(gy) + dense_sift::kEpsilon;
    const bool left = gx < 0.0f;
    const float ratio = (left ? gx + down : gx - down) / (left ? down - gx : gx + down);
    float angle = (left ? kThreeQuartersPi : kQuarterPi) + (0.1821f * ratio * ratio - 0.9675f) * ratio;
    angle = gy < 0.0f ? -angle : angle;
    angle = static_cast<float>(static_cast<double>(angle) + kTurn);
    angle = angle > kTurnFloat ? angle - kTurnFloat : angle;
    return angle >= 0.0f && angle <= kTurnFloat ? angle : 0.0f;
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
        for (std::int64_t x = size.width; x < size.pitch; ++x) {  // read, not used
            length[x] = 0.0f;
            angle[x] = 0.0f;
        }
        gradient_at(here[1] - here[0], half * (below[0] - above[0]), length, angle);
        gradient_at(here[last] - here[last - 1], half * (below[last] - above[last]), length + last, angle + last);
    }
}

PREIMAGE_INLINE float most_of(float a, float b) { return a > b ? a : b; }
PREIMAGE_INLINE float least_of(float a, float b) { return a < b ? a : b; }

/// Row y in three planes -> the largest and smallest of every column of nine, and of the eight without its centre.
/// (Parameters, because elsewhere compilers do not believe that outputs and inputs lie apart, and do not vectorise.)
PREIMAGE_INLINE void column_bounds(const float* __restrict below, const float* __restrict here,
                                   const float* __restrict above, const Size& size, float* __restrict most,
                                   float* __restrict least, float* __restrict most_around,
                                   float* __restrict least_around) {
    const std::int64_t pitch = size.pitch;
    for (std::int64_t x = 0; x < size.width; ++x) {
        float upper = most_of(here[x - pitch], here[x + pitch]);
        float lower = least_of(here[x - pitch], here[x + pitch]);
        for (std::int64_t row = -1; row <= 1; ++row) {
            upper = most_of(upper, most_of(below[x + row * pitch], above[x + row * pitch]));
            lower = least_of(lower, least_of(below[x + row * pitch], above[x + row * pitch]));
        }
        most_around[x] = upper;
        least_around[x] = lower;
        most[x] = most_of(upper, here[x]);
        least[x] = least_of(lower, here[x]);
    }
}

/// flags[x] = 1 where the centre of column x is above or below all around it, else 0.
PREIMAGE_INLINE void mark_extrema(const float* __restrict centre, std::int64_t width, const float* __restrict most,
                                  const float* __restrict least, const float* __restrict most_around,
                                  const float* __restrict least_around, std::uint8_t* __restrict flags) {
    for (std::int64_t x = 1; x < width - 1; ++x) {
        const float upper = most_of(most_of(most[x - 1], most[x + 1]), most_around[x]);
        const float lower = least_of(least_of(least[x - 1], least[x + 1]), least_around[x]);
        const int above = centre[x] > upper ? 1 : 0;
        flags[x] = static_cast<std::uint8_t>(centre[x] < lower ? 1 : above);
    }
}

std::int64_t extrema(const float* below, const float* here, const float* above, const Size& size, std::int64_t y,
                     float* work, std::int32_t* columns) {
    const std::int64_t start = y * size.pitch;
    float* const most = work;
    float* const least = work + size.pitch;
    float* const most_around = work + 2 * size.pitch;
    float* const least_around = work + 3 * size.pitch;
    auto* flags = reinterpret_cast<std::uint8_t*>(work + 4 * size.pitch);
    column_bounds(below + start, here + start, above + start, size, most, least, most_around, least_around);
    mark_extrema(here + start, size.width, most, least, most_around, least_around, flags);
    std::int64_t count = 0;
    for (std::int64_t x = 1; x < size.width - 1;) {
        std::uint64_t eight = 0;
        if (x + 8 < size.width) {
            __builtin_memcpy(&eight, flags + x, sizeof(eight));
            if (eight == 0) {  // nearly always
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
}  // namespace preimage::sift
