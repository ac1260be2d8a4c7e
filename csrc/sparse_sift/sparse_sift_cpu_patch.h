// Part of the CPU kernels (sparse_sift_cpu_kernel.h): what is summed up around a keypoint.
//
// Row by row of its window: first what every pixel gives, in plain loops that vectorise, then the votes.
#pragma once

#include <cstring>

#include "common/host_device.h"
#include "sift/sift_math.h"
#include "sparse_sift/sparse_sift.h"

namespace preimage::sparse_sift {
namespace {

/// exp(-x), x >= 0, from the table.
PREIMAGE_INLINE float window_at(const WindowTable& table, float x) {
    const float scaled = x * kWindowStep;
    const float place = scaled < kWindowSteps ? scaled : kWindowSteps;
    const auto entry = static_cast<std::int32_t>(place);
    return table.value[entry] + (place - static_cast<float>(entry)) * table.rise[entry];
}

/// Two of 36 directions, as an index, and what each gets.
struct OrientationRow {
    std::int32_t bins[kPatchWidth];
    float first[kPatchWidth], second[kPatchWidth];
};

void orientation_row(const Patch& patch, std::int64_t place, std::int64_t count, float dx, float dy, float reach,
                     float factor, OrientationRow& row) {
    constexpr auto kBinsPerRadian = static_cast<float>(kOrientationBins / kTurn);
    const float* __restrict lengths = patch.lengths + place;
    const float* __restrict angles = patch.angles + place;
    for (std::int64_t k = 0; k < count; ++k) {
        const float x = dx + static_cast<float>(static_cast<std::int32_t>(k));
        const float square = x * x + dy * dy;
        const float length = square < reach ? lengths[k] * window_at(*patch.window, square * factor) : 0.0f;
        const float bin = angles[k] * kBinsPerRadian + 0.5f;  // counted from the one before the first
        const auto whole = static_cast<std::int32_t>(bin);
        const float share = bin - static_cast<float>(whole);
        row.bins[k] = whole;
        row.first[k] = (1.0f - share) * length;
        row.second[k] = share * length;
    }
}

/// Every pixel in a circle of three times 1.5 sigma votes for the two nearest directions.
void orientations(const Patch& patch, double* histogram) {
    const double sigma = 1.5 * patch.sigma;
    const auto floor_radius = static_cast<std::int64_t>(3.0 * sigma);
    const std::int64_t radius = larger(floor_radius, 1);
    const auto column = static_cast<std::int64_t>(patch.x + 0.5);
    const auto centre_row = static_cast<std::int64_t>(patch.y + 0.5);
    const std::int64_t left = larger(column - radius, 0);
    const std::int64_t right = smaller(column + radius, patch.size.width - 1);
    const auto reach = static_cast<float>(radius * radius) + 0.6f;
    const auto factor = static_cast<float>(1.0 / (2.0 * sigma * sigma));
    double votes[kOrientationBins + 2] = {};  // the first and the last once more
    OrientationRow row;
    for (std::int64_t y = larger(centre_row - radius, 0);
         y <= smaller(centre_row + radius, patch.size.height - 1); ++y) {
        const auto dx = static_cast<float>(static_cast<double>(left) - patch.x);
        const auto dy = static_cast<float>(static_cast<double>(y) - patch.y);
        const std::int64_t count = right - left + 1;
        orientation_row(patch, y * patch.size.pitch + left, count, dx, dy, reach, factor, row);
        for (std::int64_t k = 0; k < count; ++k) {
            votes[row.bins[k]] += static_cast<double>(row.first[k]);
            votes[row.bins[k] + 1] += static_cast<double>(row.second[k]);
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
constexpr int kSide = 6;  // four spatial bins and one more at either end, whose votes are dropped

/// Two spatial bins side by side: 16 neighbouring numbers.
using Pair = float __attribute__((vector_size(2 * kOrientations * sizeof(float))));
using PairMask = std::int32_t __attribute__((vector_size(2 * kOrientations * sizeof(std::int32_t))));

struct alignas(64) DescriptorRow {
    std::int32_t cells[kPatchWidth];  // of kSide * kSide
    std::int32_t bins[kPatchWidth];
    float right[kPatchWidth], down[kPatchWidth];    // shares of the bins to the right and below
    float first[kPatchWidth], second[kPatchWidth];  // what two orientations get
};

/// The window's axes in units of spatial bins: nx = across_x * dx + across_y * dy, ny = across_x * dy - across_y * dx.
struct Axes {
    float across_x, across_y, angle, factor;
};

void descriptor_row(const Patch& patch, std::int64_t place, std::int64_t count, float dx, float dy, const Axes& axes,
                    DescriptorRow& row) {
    constexpr auto kTurnFloat = static_cast<float>(kTurn);
    constexpr auto kBinsPerRadian = static_cast<float>(kOrientations / kTurn);
    const float* __restrict lengths = patch.lengths + place;
    const float* __restrict angles = patch.angles + place;
    for (std::int64_t k = 0; k < count; ++k) {
        const float x = dx + static_cast<float>(static_cast<std::int32_t>(k));
        const float nx = axes.across_x * x + axes.across_y * dy;
        const float ny = axes.across_x * dy - axes.across_y * x;
        const bool inside = absolute(nx) < 2.5f && absolute(ny) < 2.5f;
        const float length = inside ? lengths[k] * window_at(*patch.window, (nx * nx + ny * ny) * axes.factor) : 0.0f;
        const float column = inside ? nx + 2.5f : 0.0f;  // in [0, 5]
        const float line = inside ? ny + 2.5f : 0.0f;
        const auto whole_column = static_cast<std::int32_t>(column < 4.9999995f ? column : 4.9999995f);
        const auto whole_line = static_cast<std::int32_t>(line < 4.9999995f ? line : 4.9999995f);
        row.cells[k] = whole_line * kSide + whole_column;
        row.right[k] = column - static_cast<float>(whole_column);
        row.down[k] = line - static_cast<float>(whole_line);
        const float turned = angles[k] - axes.angle;
        const float bin = (turned < 0.0f ? turned + kTurnFloat : turned) * kBinsPerRadian;
        const auto whole = static_cast<std::int32_t>(bin);  // 0 ... 8
        const float share = bin - static_cast<float>(whole);
        row.bins[k] = whole;
        row.first[k] = (1.0f - share) * length;
        row.second[k] = share * length;
    }
}

/// One at orientation k mod 8 of either bin.
struct alignas(64) Marks {
    float at[kOrientations + 2][2 * kOrientations];
};

PREIMAGE_INLINE Pair load_pair(const float* from) {
    Pair pair;
    __builtin_memcpy(&pair, from, sizeof(pair));
    return pair;
}

PREIMAGE_INLINE void add_pair(float* to, Pair pair) {
    pair += load_pair(to);
    __builtin_memcpy(to, &pair, sizeof(pair));
}

void add_votes(const DescriptorRow& row, std::int64_t count, const Marks& marks, float* bins) {
    const PairMask first_bin = {-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0};
    const Pair none = {};
    for (std::int64_t k = 0; k < count; ++k) {
        const std::int32_t bin = row.bins[k];
        const Pair given = load_pair(marks.at[bin]) * row.first[k] + load_pair(marks.at[bin + 1]) * row.second[k];
        const float right = row.right[k];
        const float down = row.down[k];
        const Pair split = given * (first_bin ? none + (1.0f - right) : none + right);
        float* to = bins + row.cells[k] * kOrientations;
        add_pair(to, split * (1.0f - down));
        add_pair(to + kSide * kOrientations, split * down);
    }
}

/// Divides by the length, as VLFeat does; false for what is not finite.
bool normalise(float* descriptor) {
    float squares = 0.0f;
    for (int k = 0; k < kDescriptor; ++k) {
        squares += descriptor[k] * descriptor[k];
    }
    const float length = sift::fast_sqrt(squares) + sift::kEpsilon;
    for (int k = 0; k < kDescriptor; ++k) {
        descriptor[k] /= length;
    }
    return squares < 3.0e38f;
}

/// The columns [first, last] of row dy that reach into the window, one more at either end: |nx| and |ny| below 2.5.
void clip_row(const Axes& axes, float dy, float x, std::int64_t* first, std::int64_t* last) {
    const auto clip = [&](float slope, float offset) {
        if (absolute(slope) < 1e-6f) {
            return;
        }
        const float a = (-2.5f - offset) / slope;
        const float b = (2.5f - offset) / slope;
        const float low = x + (a < b ? a : b);
        const float high = x + (a < b ? b : a);
        // Far outside what an integer holds, or not a number, nothing is clipped.
        if (absolute(low) < 1e9f && absolute(high) < 1e9f) {
            *first = larger(*first, static_cast<std::int64_t>(low) - 1);
            *last = smaller(*last, static_cast<std::int64_t>(high) + 1);
        }
    };
    clip(axes.across_x, axes.across_y * dy);
    clip(-axes.across_y, axes.across_x * dy);
}

bool describe(const Patch& patch, double angle, float* descriptor) {
    const double bin_size = 3.0 * patch.sigma;
    const auto radius = static_cast<std::int64_t>(1.4142135623730951 * bin_size * 2.5 + 0.5);
    const auto column = static_cast<std::int64_t>(patch.x + 0.5);
    const auto centre_row = static_cast<std::int64_t>(patch.y + 0.5);
    // Standard deviation of the window: two bins.
    const Axes axes{static_cast<float>(__builtin_cos(angle) / bin_size),
                    static_cast<float>(__builtin_sin(angle) / bin_size), static_cast<float>(angle), 0.125f};
    Marks marks = {};
    for (int k = 0; k < kOrientations + 2; ++k) {
        marks.at[k][k % kOrientations] = 1.0f;
        marks.at[k][k % kOrientations + kOrientations] = 1.0f;
    }
    alignas(64) float bins[kSide * kSide * kOrientations] = {};
    DescriptorRow row;
    for (std::int64_t y = larger(centre_row - radius, 1);
         y <= smaller(centre_row + radius, patch.size.height - 2); ++y) {
        const auto dy = static_cast<float>(static_cast<double>(y) - patch.y);
        std::int64_t first = larger(column - radius, 1);
        std::int64_t last = smaller(column + radius, patch.size.width - 2);
        clip_row(axes, dy, static_cast<float>(patch.x), &first, &last);
        if (first <= last) {
            const auto dx = static_cast<float>(static_cast<double>(first) - patch.x);
            descriptor_row(patch, y * patch.size.pitch + first, last - first + 1, dx, dy, axes, row);
            add_votes(row, last - first + 1, marks, bins);
        }
    }
    for (int line = 0; line < 4; ++line) {
        std::memcpy(descriptor + line * 4 * kOrientations, bins + ((line + 1) * kSide + 1) * kOrientations,
                    4 * kOrientations * sizeof(float));
    }
    const bool finite = normalise(descriptor);
    for (int k = 0; k < kDescriptor; ++k) {
        descriptor[k] = sift::clip(descriptor[k]);
    }
    normalise(descriptor);
    return finite;
}

}  // namespace
}  // namespace preimage::sparse_sift
