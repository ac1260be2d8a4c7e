// Refinement of an extremum to a keypoint: sub-pixel position and scale, and directions.
//
// Computed in double precision from float32 differences, operation by operation as in VLFeat.
#pragma once

#include <cmath>
#include <cstdint>
#include <utility>

#include "sift/sift.h"

namespace preimage::sift {

/// Solve a symmetric 3 x 3 system by Gaussian elimination with pivoting; zeros if it is singular.
struct Offset {
    double value[3];
};

inline Offset solve(double (&matrix)[3][3], double (&right)[3]) {
    for (int column = 0; column < 3; ++column) {
        int pivot = -1;
        double largest = 0.0;
        for (int row = column; row < 3; ++row) {
            if (std::abs(matrix[row][column]) > largest) {
                largest = std::abs(matrix[row][column]);
                pivot = row;
            }
        }
        if (pivot < 0 || largest < static_cast<double>(1e-10f)) {
            return {{0.0, 0.0, 0.0}};
        }
        const double pivot_value = matrix[pivot][column];
        for (int k = column; k < 3; ++k) {
            std::swap(matrix[pivot][k], matrix[column][k]);
            matrix[column][k] /= pivot_value;
        }
        std::swap(right[pivot], right[column]);
        right[column] /= pivot_value;
        for (int row = column + 1; row < 3; ++row) {
            const double factor = matrix[row][column];
            for (int k = column; k < 3; ++k) {
                matrix[row][k] -= factor * matrix[column][k];
            }
            right[row] -= factor * right[column];
        }
    }
    for (int column = 2; column > 0; --column) {
        for (int row = column - 1; row >= 0; --row) {
            right[row] -= right[column] * matrix[row][column];
        }
    }
    return {{right[0], right[1], right[2]}};
}

/// The quadratic fitted to a pixel's neighbors in three planes of differences.
struct Quadratic {
    double gradient[3];
    double xx, yy, ss, xy, xs, ys;

    /// `at`: the pixel in the middle plane; planes are `plane` floats apart.
    Quadratic(const float* at, std::int64_t pitch, std::int64_t plane) {
        const auto value = [=](int x, int y, int s) { return at[x + y * pitch + s * plane]; };
        const double twice = 2.0 * static_cast<double>(at[0]);
        const auto first_derivative = [](float after, float before) {
            return 0.5 * static_cast<double>(after - before);
        };
        const auto second_derivative = [=](float after, float before) {
            return static_cast<double>(after + before) - twice;
        };
        const auto mixed_derivative = [](float a, float b, float c, float d) {
            return 0.25 * static_cast<double>(a + b - c - d);
        };
        gradient[0] = first_derivative(value(1, 0, 0), value(-1, 0, 0));
        gradient[1] = first_derivative(value(0, 1, 0), value(0, -1, 0));
        gradient[2] = first_derivative(value(0, 0, 1), value(0, 0, -1));
        xx = second_derivative(value(1, 0, 0), value(-1, 0, 0));
        yy = second_derivative(value(0, 1, 0), value(0, -1, 0));
        ss = second_derivative(value(0, 0, 1), value(0, 0, -1));
        xy = mixed_derivative(value(1, 1, 0), value(-1, -1, 0), value(-1, 1, 0), value(1, -1, 0));
        xs = mixed_derivative(value(1, 0, 1), value(-1, 0, -1), value(-1, 0, 1), value(1, 0, -1));
        ys = mixed_derivative(value(0, 1, 1), value(0, -1, -1), value(0, -1, 1), value(0, 1, -1));
    }

    /// Return the offset from the pixel to the stationary point: x, y, level.
    Offset offset() const {
        double matrix[3][3] = {{xx, xy, xs}, {xy, yy, ys}, {xs, ys, ss}};
        double right[3] = {-gradient[0], -gradient[1], -gradient[2]};
        return solve(matrix, right);
    }
};

/// Position in pixels and levels of the octave.
struct Extremum {
    double x, y, level, value;
};

/// Refine the extremum at pixel (x, y) of plane `here` of `level`. Returns false if it is rejected: too weak, on an
/// edge, or too far from the pixel.
inline bool refine(const float* here, const Size& size, std::int64_t plane, std::int64_t x, std::int64_t y, int level,
                   const Parameters& parameters, Extremum* result) {
    const auto step_toward = [](double offset, std::int64_t position, std::int64_t count) {
        return offset > 0.6 && position < count - 2 ? 1 : offset < -0.6 && position > 1 ? -1 : 0;
    };
    for (int round = 0;; ++round) {
        const float* at = here + y * size.pitch + x;
        const Quadratic fit(at, size.pitch, plane);
        const Offset offset = fit.offset();
        const auto& [dx, dy, ds] = offset.value;
        const int step_x = step_toward(dx, x, size.width);
        const int step_y = step_toward(dy, y, size.height);
        if (round < 4 && (step_x != 0 || step_y != 0)) {
            x += step_x;
            y += step_y;
            continue;
        }
        const double value =
            static_cast<double>(at[0]) + 0.5 * (fit.gradient[0] * dx + fit.gradient[1] * dy + fit.gradient[2] * ds);
        const double score = (fit.xx + fit.yy) * (fit.xx + fit.yy) / (fit.xx * fit.yy - fit.xy * fit.xy);
        const double edge = parameters.edge_threshold;
        *result = {static_cast<double>(x) + dx, static_cast<double>(y) + dy, level + ds, value};
        return std::abs(value) > parameters.peak_threshold && score < (edge + 1.0) * (edge + 1.0) / edge &&
               score >= 0.0 && std::abs(dx) < 1.5 && std::abs(dy) < 1.5 && std::abs(ds) < 1.5 && result->x >= 0.0 &&
               result->x <= static_cast<double>(size.width - 1) && result->y >= 0.0 &&
               result->y <= static_cast<double>(size.height - 1) && result->level >= -1.0 &&
               result->level <= parameters.levels + 1;
    }
}

/// Smooth the histogram and find its peaks in radians: at most four, above 0.8 of the highest. Returns their number.
inline int peaks(double (&histogram)[kOrientationBins], double (&angles)[4]) {
    constexpr int count = kOrientationBins;
    for (int pass = 0; pass < 6; ++pass) {
        double before = histogram[count - 1];
        const double first = histogram[0];
        for (int bin = 0; bin < count; ++bin) {
            const double after = bin + 1 < count ? histogram[bin + 1] : first;
            const double smoothed = (before + histogram[bin] + after) / 3.0;
            before = histogram[bin];
            histogram[bin] = smoothed;
        }
    }
    double highest = 0.0;
    for (const double height : histogram) {
        highest = height > highest ? height : highest;
    }
    int found = 0;
    for (int bin = 0; bin < count && found < 4; ++bin) {
        const double height = histogram[bin];
        const double before = histogram[(bin + count - 1) % count];
        const double after = histogram[(bin + 1) % count];
        if (height > 0.8 * highest && height > before && height > after) {
            const double shift = -0.5 * (after - before) / (after + before - 2.0 * height);
            angles[found++] = kTwoPi * (bin + shift + 0.5) / count;
        }
    }
    return found;
}

}  // namespace preimage::sift
