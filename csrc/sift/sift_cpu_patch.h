// Part of the CPU kernels (sift_cpu_kernel.cpp): orientations and descriptor of a keypoint.
//
// Both go through the window row by row: loops that vectorize compute the votes of a row, then the votes are added.
#pragma once

#include <cstring>

#include "common/host_device.h"
#include "common/simd.h"
#include "dense_sift/dense_sift_math.h"
#include "sift/sift.h"

namespace preimage::sift::PREIMAGE_ISA {
namespace {

/// exp(-25 / 256) to the powers 1, 2, 4 ... 32, and 1 minus the first.
constexpr float kPowers[6] = {0.906960618f, 0.822577562f, 0.676633846f, 0.457833361f, 0.209611387f, 0.0439369336f};
constexpr float kSlope = 0.0930393825f;

/// Return exp(-x), x >= 0, as VLFeat does: piecewise linear between points 25 / 256 apart, up to 0.1 % too large. From
/// 6.25 on, which only the corners of windows of a standard deviation below two bins reach, it is 0.002. The values at
/// the points are products of powers, one per bit of the index; a table would be slower.
PREIMAGE_INLINE float window_at(float x) {
    constexpr float most = 63.999996f;
    const float scaled = x * 10.24f;
    const float position = scaled < most ? scaled : most;
    const auto whole = static_cast<std::int32_t>(position);
    const float low = ((whole & 1) != 0 ? kPowers[0] : 1.0f) * ((whole & 2) != 0 ? kPowers[1] : 1.0f) *
                      ((whole & 4) != 0 ? kPowers[2] : 1.0f);
    const float high = ((whole & 8) != 0 ? kPowers[3] : 1.0f) * ((whole & 16) != 0 ? kPowers[4] : 1.0f) *
                       ((whole & 32) != 0 ? kPowers[5] : 1.0f);
    return low * high * (1.0f - (position - static_cast<float>(whole)) * kSlope);
}

/// Return the count rounded up to whole vectors: elements past the end of a row are computed but not used.
PREIMAGE_INLINE std::int64_t rounded_up(std::int64_t count) { return (count + 15) / 16 * 16; }

/// Per pixel of a row, the first of two adjacent directions, and the votes for both.
struct OrientationRow {
    std::int32_t bins[kPatchWidth];
    float first[kPatchWidth], second[kPatchWidth];
};

void orientation_row(const Patch& patch, std::int64_t position, std::int64_t count, float dx, float dy, float reach,
                     float factor, OrientationRow& row) {
    constexpr auto kBinsPerRadian = static_cast<float>(kOrientationBins / kTwoPi);
    const float* __restrict lengths = patch.lengths + position;
    const float* __restrict angles = patch.angles + position;
    for (std::int64_t k = 0; k < rounded_up(count); ++k) {
        const float x = dx + static_cast<float>(static_cast<std::int32_t>(k));
        const float square = x * x + dy * dy;
        const float counts = square < reach ? 1.0f : 0.0f;  // a factor, because a conditional would not vectorize
        const float length = lengths[k] * window_at(square * factor) * counts;
        const float bin = angles[k] * kBinsPerRadian + 0.5f;  // bin 0 is the one before the first
        const auto whole = static_cast<std::int32_t>(bin);
        const float share = bin - static_cast<float>(whole);
        row.bins[k] = whole;
        row.first[k] = (1.0f - share) * length;
        row.second[k] = share * length;
    }
}

/// Every pixel within a radius of three times 1.5 sigma votes for the two nearest directions.
void orientations(const Patch& patch, double* histogram) {
    const double sigma = 1.5 * patch.sigma;
    const auto floor_radius = static_cast<std::int64_t>(3.0 * sigma);
    const std::int64_t radius = maximum(floor_radius, 1);
    const auto column = static_cast<std::int64_t>(patch.x + 0.5);
    const auto center_row = static_cast<std::int64_t>(patch.y + 0.5);
    const std::int64_t left = maximum(column - radius, 0);
    const std::int64_t right = minimum(column + radius, patch.size.width - 1);
    const auto reach = static_cast<float>(radius * radius) + 0.6f;
    const auto factor = static_cast<float>(1.0 / (2.0 * sigma * sigma));
    double votes[kOrientationBins + 2] = {};  // with a copy of the last before the first, and vice versa
    OrientationRow row;
    for (std::int64_t y = maximum(center_row - radius, 0); y <= minimum(center_row + radius, patch.size.height - 1);
         ++y) {
        const auto dy = static_cast<float>(static_cast<double>(y) - patch.y);
        for (std::int64_t start = left; start <= right; start += kPatchWidth) {
            const auto dx = static_cast<float>(static_cast<double>(start) - patch.x);
            const std::int64_t count = minimum(right - start + 1, kPatchWidth);
            orientation_row(patch, y * patch.size.pitch + start, count, dx, dy, reach, factor, row);
            for (std::int64_t k = 0; k < count; ++k) {
                votes[row.bins[k]] += static_cast<double>(row.first[k]);
                votes[row.bins[k] + 1] += static_cast<double>(row.second[k]);
            }
        }
    }
    votes[kOrientationBins] += votes[0];
    votes[1] += votes[kOrientationBins + 1];
    for (int bin = 0; bin < kOrientationBins; ++bin) {
        histogram[bin] = votes[bin + 1];
    }
}

// ---- Descriptors ----

constexpr int kOrientations = 8;
constexpr int kSide = 6;  // four spatial bins, and one at either end whose votes are dropped

/// Orientations of a spatial bin that are added together: all eight, or as many as fit into a register (GCC would keep
/// wider vectors in memory).
constexpr int kPartSize = kVecSize < kOrientations ? kVecSize : kOrientations;
using Part = float __attribute__((vector_size(kPartSize * sizeof(float))));

struct DescriptorRow {
    std::int32_t cells[kPatchWidth];                // upper left of the four spatial bins voted for
    std::int32_t orientations[kPatchWidth];         // first of the two orientations voted for
    float first[kPatchWidth], second[kPatchWidth];  // votes for the two orientations
    float right[kPatchWidth], down[kPatchWidth];    // weights of the bins to the right and below
};

/// Axes of the window in units of spatial bins: nx = across_x * dx + across_y * dy, ny = across_x * dy - across_y * dx.
struct Axes {
    float across_x, across_y, angle, factor;
};

/// Return the value clamped to [0, 5).
PREIMAGE_INLINE float within(float position) {
    constexpr float most = 4.9999995f;
    const float low = position > 0.0f ? position : 0.0f;
    return low < most ? low : most;
}

void descriptor_row(const Patch& patch, std::int64_t position, std::int64_t count, float dx, float dy, const Axes& axes,
                    DescriptorRow& row) {
    constexpr auto kTwoPiFloat = static_cast<float>(kTwoPi);
    constexpr auto kBinsPerRadian = static_cast<float>(kOrientations / kTwoPi);
    const float* __restrict lengths = patch.lengths + position;
    const float* __restrict angles = patch.angles + position;
    for (std::int64_t k = 0; k < rounded_up(count); ++k) {
        const float x = dx + static_cast<float>(static_cast<std::int32_t>(k));
        const float nx = axes.across_x * x + axes.across_y * dy;
        const float ny = axes.across_x * dy - axes.across_y * x;
        const float farther = absolute(nx) > absolute(ny) ? absolute(nx) : absolute(ny);
        const float counts = farther < 2.5f ? 1.0f : 0.0f;  // a factor, because a conditional would not vectorize
        const float length = lengths[k] * window_at((nx * nx + ny * ny) * axes.factor) * counts;
        const float column = within(nx + 2.5f);
        const float line = within(ny + 2.5f);
        const auto whole_column = static_cast<std::int32_t>(column);
        const auto whole_line = static_cast<std::int32_t>(line);
        const float right = column - static_cast<float>(whole_column);
        const float down = line - static_cast<float>(whole_line);
        const float turned = angles[k] - axes.angle;
        const float bin = (turned + (turned < 0.0f ? kTwoPiFloat : 0.0f)) * kBinsPerRadian;
        const auto whole = static_cast<std::int32_t>(bin);  // 0 ... 8
        const float share = bin - static_cast<float>(whole);
        row.cells[k] = whole_line * kSide + whole_column;
        row.orientations[k] = whole;
        row.first[k] = (1.0f - share) * length;
        row.second[k] = share * length;
        row.right[k] = right;
        row.down[k] = down;
    }
}

/// Row k is 1 at orientation k mod 8, and 0 elsewhere.
struct Marks {
    alignas(32) float at[kOrientations + 2][kOrientations];
};

PREIMAGE_INLINE Part load_part(const float* from) {
    Part part;
    __builtin_memcpy(&part, from, sizeof(part));
    return part;
}

PREIMAGE_INLINE void add_part(float* to, Part part) {
    part += load_part(to);
    __builtin_memcpy(to, &part, sizeof(part));
}

void add_votes(const DescriptorRow& row, std::int64_t count, const Marks& marks, float* bins) {
    for (std::int64_t k = 0; k < count; ++k) {
        const float* const one = marks.at[row.orientations[k]];
        float* const here = bins + row.cells[k] * kOrientations;
        float* const below = here + kSide * kOrientations;
        for (int from = 0; from < kOrientations; from += kPartSize) {
            const Part given =
                load_part(one + from) * row.first[k] + load_part(one + kOrientations + from) * row.second[k];
            const Part down = given * row.down[k];
            const Part up = given - down;
            const Part up_right = up * row.right[k];
            const Part down_right = down * row.right[k];
            add_part(here + from, up - up_right);
            add_part(here + kOrientations + from, up_right);
            add_part(below + from, down - down_right);
            add_part(below + kOrientations + from, down_right);
        }
    }
}

/// Normalize as VLFeat does; return the length, infinity if it is not finite.
float normalize(float* descriptor) {
    float squares = 0.0f;
    for (int k = 0; k < kDescriptor; ++k) {
        squares += descriptor[k] * descriptor[k];
    }
    const float length = dense_sift::fast_sqrt(squares) + dense_sift::kEpsilon;
    for (int k = 0; k < kDescriptor; ++k) {
        descriptor[k] /= length;
    }
    return squares < 3.0e38f ? length : __builtin_inff();
}

/// Restrict the columns [first, last] of row dy to those within the window (|nx| and |ny| below 2.5), plus one at
/// either end.
void clip_row(const Axes& axes, float dy, float x, std::int64_t* first, std::int64_t* last) {
    const auto clip = [&](float slope, float offset) {
        if (absolute(slope) < 1e-6f) {
            return;
        }
        const float a = (-2.5f - offset) / slope;
        const float b = (2.5f - offset) / slope;
        const float low = x + (a < b ? a : b);
        const float high = x + (a < b ? b : a);
        // Skipped for NaN, and for values that an integer cannot hold.
        if (absolute(low) < 1e9f && absolute(high) < 1e9f) {
            *first = maximum(*first, static_cast<std::int64_t>(low) - 1);
            *last = minimum(*last, static_cast<std::int64_t>(high) + 1);
        }
    };
    clip(axes.across_x, axes.across_y * dy);
    clip(-axes.across_y, axes.across_x * dy);
}

bool describe(const Patch& patch, const Parameters& parameters, double angle, float* descriptor) {
    const double bin_size = parameters.magnification * patch.sigma;
    const auto radius = static_cast<std::int64_t>(1.4142135623730951 * bin_size * 2.5 + 0.5);
    const auto column = static_cast<std::int64_t>(patch.x + 0.5);
    const auto center_row = static_cast<std::int64_t>(patch.y + 0.5);
    const double window = parameters.window_size;
    const Axes axes{static_cast<float>(__builtin_cos(angle) / bin_size),
                    static_cast<float>(__builtin_sin(angle) / bin_size), static_cast<float>(angle),
                    static_cast<float>(0.5 / (window * window))};
    Marks marks = {};
    for (int k = 0; k < kOrientations + 2; ++k) {
        marks.at[k][k % kOrientations] = 1.0f;
    }
    alignas(32) float bins[kSide * kSide * kOrientations] = {};
    DescriptorRow row;
    for (std::int64_t y = maximum(center_row - radius, 1); y <= minimum(center_row + radius, patch.size.height - 2);
         ++y) {
        const auto dy = static_cast<float>(static_cast<double>(y) - patch.y);
        std::int64_t first = maximum(column - radius, 1);
        std::int64_t last = minimum(column + radius, patch.size.width - 2);
        clip_row(axes, dy, static_cast<float>(patch.x), &first, &last);
        for (std::int64_t start = first; start <= last; start += kPatchWidth) {
            const auto dx = static_cast<float>(static_cast<double>(start) - patch.x);
            const std::int64_t count = minimum(last - start + 1, kPatchWidth);
            descriptor_row(patch, y * patch.size.pitch + start, count, dx, dy, axes, row);
            add_votes(row, count, marks, bins);
        }
    }
    for (int line = 0; line < 4; ++line) {
        std::memcpy(descriptor + line * 4 * kOrientations, bins + ((line + 1) * kSide + 1) * kOrientations,
                    4 * kOrientations * sizeof(float));
    }
    const float length = normalize(descriptor);
    if (static_cast<double>(length) < parameters.norm_threshold) {
        std::memset(descriptor, 0, kDescriptor * sizeof(float));
        return true;
    }
    for (int k = 0; k < kDescriptor; ++k) {
        descriptor[k] = dense_sift::clip(descriptor[k]);
    }
    normalize(descriptor);
    return length < __builtin_inff();
}

}  // namespace
}  // namespace preimage::sift::PREIMAGE_ISA
