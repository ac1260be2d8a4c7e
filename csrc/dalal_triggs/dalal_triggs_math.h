// Arithmetic of one pixel and of one block.
//
// A pixel's orientation is chosen twice. The quick choice compares float32 cross products with all boundaries and
// reports whether it is certain; the exact one, for the few gradients next to a boundary, is scikit-image's in double
// precision. Compile with -ffp-contract=off.
#pragma once

#include <cmath>
#include <cstdint>

#include "common/host_device.h"
#include "dalal_triggs/dalal_triggs.h"

namespace preimage::dalal_triggs {

constexpr double kClip = 0.2;
constexpr double kEpsilon = 1e-5;

// Distance to a boundary, as a share of the gradient's length, from which the quick choice is certain. The rounding
// errors of a cross product add up to 4e-7.
constexpr float kMargin = 2e-6f;
// Squared lengths outside this range are not computed quickly, because they lose precision or overflow.
constexpr float kLeastEnergy = 1e-30f;
constexpr float kMostEnergy = 1e30f;
// Relative difference of squared lengths of channels below which their roots are compared, in either precision.
constexpr double kNearEnergy = 1e-13;
constexpr double kNearSingleEnergy = 1e-6;

// ---- Values ----

PREIMAGE_INLINE double luma(double red, double green, double blue) {
    return (0.299 * red + 0.587 * green) + 0.114 * blue;
}

#ifdef __CUDA_ARCH__
PREIMAGE_INLINE double square_root(double value) { return __dsqrt_rn(value); }
#else
PREIMAGE_INLINE double square_root(double value) { return __builtin_sqrt(value); }
#endif

/// Return whether pixels and gradients have single precision, as scikit-image computes them for float32 images.
PREIMAGE_INLINE bool is_single(const Image& image, int planes) {
    return image.type == ScalarType::float32 && planes == image.channels;
}

PREIMAGE_INLINE double rounded(bool single, double value) {
    return single ? static_cast<double>(static_cast<float>(value)) : value;
}

/// Return one pixel of one plane; `planes` is 1 for luma of three channels.
PREIMAGE_INLINE double value_at(const Image& image, const Parameters& parameters, int planes, int plane, std::int64_t y,
                                std::int64_t x) {
    const std::byte* at = image.pixels + plane * image.channel_stride + y * image.row_stride + x * image.column_stride;
    const auto value = [&image](const std::byte* address) {
        switch (image.type) {
            case ScalarType::uint8:
                return static_cast<double>(*reinterpret_cast<const std::uint8_t*>(address));
            case ScalarType::float32:
                return static_cast<double>(*reinterpret_cast<const float*>(address));
            default:
                return *reinterpret_cast<const double*>(address);
        }
    };
    const double result = planes == image.channels
                              ? value(at)
                              : luma(value(at), value(at + image.channel_stride), value(at + 2 * image.channel_stride));
    return parameters.square_root ? rounded(is_single(image, planes), square_root(result)) : result;
}

// ---- Gradients ----

/// A pixel's gradient, and the plane it comes from.
struct Gradient {
    double down, across;
    int plane;
};

/// Return whether another channel's gradient replaces the best one so far: it is longer, or the first NaN. Lengths are
/// compared as `hypot` rounds them.
PREIMAGE_INLINE bool is_stronger(bool single, double down, double across, const Gradient& best) {
    const double other_energy = down * down + across * across;
    const double energy = best.down * best.down + best.across * best.across;
    const double difference = other_energy - energy;
    const double near = single ? kNearSingleEnergy : kNearEnergy;
    if (difference > near * other_energy || -difference > near * energy) {
        return difference > 0.0;
    }
    const double length = rounded(single, hypot(best.down, best.across));
    const double other = rounded(single, hypot(down, across));
    return other > length || (other != other && length == length);
}

/// Return the longest gradient among the planes of a pixel. `read(plane, dy, dx)` returns a neighbor.
template <int kPlanes, class Read>
PREIMAGE_INLINE Gradient strongest_gradient(bool single, bool border_row, bool border_column, const Read& read) {
    Gradient best{};
    for (int plane = 0; plane < kPlanes; ++plane) {
        const double down = border_row ? 0.0 : rounded(single, read(plane, 1, 0) - read(plane, -1, 0));
        const double across = border_column ? 0.0 : rounded(single, read(plane, 0, 1) - read(plane, 0, -1));
        if (plane == 0 || is_stronger(single, down, across, best)) {
            best = {down, across, plane};
        }
    }
    return best;
}

// ---- Votes ----

/// Length and bin of a gradient; see `bin_of` for bins that are no orientation.
struct Vote {
    float length;
    std::int32_t bin;
};

PREIMAGE_INLINE Vote exact_vote(const Directions& directions, double down, double across) {
    const auto length = static_cast<float>(hypot(down, across));
    if (across == 0.0 && down != 0.0) {
        return {length, directions.vertical[down < 0.0]};
    }
    if (down == across || down == -across) {
        return {length, down == 0.0 ? 0 : directions.diagonal[down < 0.0][across < 0.0]};
    }
    return {length, bin_of(directions, undirected_degrees(down, across))};
}

/// Return the vote of one pixel.
PREIMAGE_INLINE Vote vote_of(const Directions& directions, double down, double across) {
    const bool flipped = down < 0.0 || (down == 0.0 && across < 0.0);
    const auto y = static_cast<float>(flipped ? -down : down);
    const auto x = static_cast<float>(flipped ? -across : across);
    const float energy = x * x + y * y;
    if (energy >= kLeastEnergy && energy <= kMostEnergy) {
        const float length = preimage::square_root(energy);
        // An angle of exactly zero is certain.
        float nearest = down == 0.0 ? length : y;
        std::int32_t bin = 0;
        PREIMAGE_UNROLL(1)
        for (int k = 1; k < directions.count; ++k) {
            const float cross = y * directions.cosine[k] - x * directions.sine[k];
            bin += cross >= 0.0f;
            nearest = minimum(nearest, absolute(cross));
        }
        if (nearest > kMargin * length) {
            return {length, bin};
        }
    }
    return exact_vote(directions, down, across);
}

// ---- Blocks ----

PREIMAGE_INLINE bool is_l1(Norm norm) { return norm == Norm::l1 || norm == Norm::l1_sqrt; }

/// Return what a histogram's value adds to the norm of its cell.
PREIMAGE_INLINE double norm_term(bool l1, double value) { return l1 ? value : value * value; }

/// Return the factor of a block from the sum of its norm's terms.
PREIMAGE_INLINE double block_factor(bool l1, double sum) {
    return 1.0 / (l1 ? sum + kEpsilon : square_root(sum + kEpsilon * kEpsilon));
}

/// Return the value clipped at 0.2; NaN stays NaN.
PREIMAGE_INLINE double clip(double value) { return kClip < value ? kClip : value; }

}  // namespace preimage::dalal_triggs
