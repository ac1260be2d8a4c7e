// The orientations that gradients vote for: where one ends and the next begins.
#pragma once

#include <cmath>
#include <cstdint>

#include "common/host_device.h"

namespace preimage::dalal_triggs {

constexpr int kMaxOrientations = 180;
constexpr double kDegrees = 180.0 / 3.14159265358979323846;  // of a radian

/// Orientation k is [degrees[k], degrees[k + 1]).
struct Directions {
    int count;
    float degrees[kMaxOrientations + 1];  // float32, as in scikit-image: the last one is not always 180
    float cosine[kMaxOrientations];
    float sine[kMaxOrientations];
    std::int32_t vertical[2];     // bin of a vertical gradient, down and up
    std::int32_t diagonal[2][2];  // bin of (gx, gy) = (1, 1), (-1, 1), (1, -1), (-1, -1), in this order
};

/// Return the angle of a gradient modulo 180 degrees, as Python's `%` rounds it: that of a tiny negative angle is 180.
PREIMAGE_INLINE double undirected_degrees(double down, double across) {
    const double degrees = atan2(down, across) * kDegrees;
    if (degrees < 0.0) {
        return degrees <= -180.0 ? 0.0 : degrees + 180.0;
    }
    return degrees >= 180.0 ? 0.0 : degrees;
}

/// Return the bin of an angle; `count`, if it votes for no orientation; `count` + 1, if it is NaN, which votes for all.
PREIMAGE_INLINE std::int32_t bin_of(const Directions& directions, double degrees) {
    if (degrees != degrees) {
        return directions.count + 1;
    }
    std::int32_t bin = 0;
    while (bin < directions.count && degrees >= static_cast<double>(directions.degrees[bin + 1])) {
        ++bin;
    }
    return bin;
}

inline Directions make_directions(int count) {
    Directions directions{};
    directions.count = count;
    const auto width = static_cast<float>(180.0 / count);
    for (int k = 0; k <= count; ++k) {
        directions.degrees[k] = width * static_cast<float>(k);
    }
    for (int k = 0; k < count; ++k) {
        const double angle = static_cast<double>(directions.degrees[k]) / kDegrees;
        directions.cosine[k] = static_cast<float>(std::cos(angle));
        directions.sine[k] = static_cast<float>(std::sin(angle));
    }
    for (int up = 0; up < 2; ++up) {
        const double down = up != 0 ? -1.0 : 1.0;
        directions.vertical[up] = bin_of(directions, undirected_degrees(down, 0.0));
        directions.diagonal[up][0] = bin_of(directions, undirected_degrees(down, 1.0));
        directions.diagonal[up][1] = bin_of(directions, undirected_degrees(down, -1.0));
    }
    return directions;
}

}  // namespace preimage::dalal_triggs
