// Part of the CPU kernel (dalal_triggs_cpu_kernel.cpp): rows of the image, and the votes of a row of pixels.
#pragma once

#include <cstring>
#include <type_traits>

#include "common/image_rows.h"
#include "common/simd.h"
#include "dalal_triggs/dalal_triggs.h"
#include "dalal_triggs/dalal_triggs_math.h"

namespace preimage::dalal_triggs::PREIMAGE_ISA {
namespace {

constexpr std::int32_t kUncertain = -1;  // bin of a pixel whose vote has to be computed exactly

/// Values of pixels as they are, float or double.
template <class Real>
struct PlainValues {
    using Value = Real;
    template <class Pixel>
    PREIMAGE_INLINE Real value(Pixel pixel) {
        return static_cast<Real>(pixel);
    }
    PREIMAGE_INLINE Real combined(Real red, Real green, Real blue) {
        return static_cast<Real>(luma(static_cast<double>(red), static_cast<double>(green), static_cast<double>(blue)));
    }
};

/// Ring buffer of three converted rows per plane. A row has kChunk more elements at either end.
template <class Real>
class Lines {
public:
    Lines(const Band& band, const Scratch& scratch)
        : band_(band),
          planes_(planes_of(band.image, band.parameters.color)),
          pitch_(scratch.line_pitch),
          memory_(reinterpret_cast<Real*>(scratch.lines)),
          zeros_(reinterpret_cast<Real*>(scratch.zeros)) {
        std::memset(memory_, 0, static_cast<std::size_t>(3 * planes_ * pitch_) * sizeof(Real));
        std::memset(zeros_, 0, static_cast<std::size_t>(pitch_) * sizeof(Real));
    }

    /// Make row y and its neighbors readable. Successive calls go down the image.
    void require(std::int64_t y) {
        for (next_ = maximum(next_, maximum(y - 1, 0)); next_ < minimum(y + 2, band_.image.height); ++next_) {
            Real* out = memory_ + next_ % 3 * pitch_ + kChunk;
            convert(out);
            const bool single = is_single(band_.image, planes_);
            for (int plane = 0; plane < planes_ && band_.parameters.square_root; ++plane) {
                Real* row = out + plane * 3 * pitch_;
                for (std::int64_t x = 0; x < band_.image.width; ++x) {
                    row[x] = static_cast<Real>(rounded(single, square_root(static_cast<double>(row[x]))));
                }
            }
        }
    }

    const Real* row(int plane, std::int64_t y) const { return memory_ + (plane * 3 + y % 3) * pitch_ + kChunk; }
    /// Return a row whose neighbors above and below are equal, so that there is no gradient across the border.
    const Real* zeros() const { return zeros_ + kChunk; }

private:
    void convert(Real* out) {
        const std::int64_t plane_pitch = 3 * pitch_;
        if (band_.image.type == ScalarType::uint8) {
            convert_row<std::uint8_t, PlainValues<Real>>(band_.image, planes_, next_, plane_pitch, out);
        } else if constexpr (std::is_same_v<Real, double>) {
            if (band_.image.type == ScalarType::float32) {
                convert_row<float, PlainValues<Real>>(band_.image, planes_, next_, plane_pitch, out);
            } else {
                convert_row<double, PlainValues<Real>>(band_.image, planes_, next_, plane_pitch, out);
            }
        }
    }

    const Band& band_;
    const int planes_;
    const std::int64_t pitch_;
    Real* const memory_;
    Real* const zeros_;
    std::int64_t next_ = 0;
};

/// Per plane, the rows above, at and below the current one.
template <class Real>
struct Rows {
    const Real* above[3];
    const Real* here[3];
    const Real* below[3];
};

/// Gradients of kChunk pixels in the upper half plane, as float32.
struct Gradients {
    alignas(64) float x[kChunk];
    alignas(64) float y[kChunk];
    // Least length at which the direction is certain as far as it depends on the angles 0 and 180; negative if the
    // gradient has to be computed exactly.
    alignas(64) float nearest[kChunk];
};

template <class Real, int kPlanes>
PREIMAGE_INLINE void find_gradients(const Rows<Real>& rows, bool single, std::int64_t x, Gradients& out) {
    const auto difference_of = [single](Real a, Real b) {
        if constexpr (std::is_same_v<Real, double>) {
            return rounded(single, a - b);
        } else {
            return a - b;
        }
    };
    for (int lane = 0; lane < kChunk; ++lane) {
        const std::int64_t at = x + lane;
        Real across = difference_of(rows.here[0][at + 1], rows.here[0][at - 1]);
        Real down = difference_of(rows.below[0][at], rows.above[0][at]);
        bool certain = true;
        if constexpr (kPlanes > 1) {
            Real energy = across * across + down * down;
            for (int plane = 1; plane < kPlanes; ++plane) {
                const Real other_across = difference_of(rows.here[plane][at + 1], rows.here[plane][at - 1]);
                const Real other_down = difference_of(rows.below[plane][at], rows.above[plane][at]);
                const Real other_energy = other_across * other_across + other_down * other_down;
                if constexpr (std::is_same_v<Real, double>) {  // float32 is exact
                    const double difference = other_energy - energy;
                    const bool equal = (other_across == across) & (other_down == down);
                    const double near = single ? kNearSingleEnergy : kNearEnergy;
                    certain = certain & (equal | (difference > near * other_energy) | (-difference > near * energy));
                }
                const bool other = other_energy > energy;
                across = other ? other_across : across;
                down = other ? other_down : down;
                energy = other ? other_energy : energy;
            }
        }
        const bool flipped = (down < Real{0}) | ((down == Real{0}) & (across < Real{0}));
        const auto upper_x = static_cast<float>(flipped ? -across : across);
        const auto upper_y = static_cast<float>(flipped ? -down : down);
        // No gradient: a vote of length zero for any bin.
        const bool none = (down == Real{0}) & (across == Real{0});
        const float nearest = down == Real{0} ? absolute(upper_x) : upper_y;
        out.x[lane] = upper_x;
        out.y[lane] = upper_y;
        out.nearest[lane] = certain ? (none ? 1.0f : nearest) : -1.0f;
    }
}

/// Choose the bins of kChunk pixels, kUncertain if they are not certain.
PREIMAGE_INLINE void find_votes(const Directions& directions, const Gradients& gradients, float* lengths,
                                std::int32_t* bins) {
    for (int start = 0; start < kChunk; start += kVecSize) {
        const FloatVec x = load(gradients.x + start);
        const FloatVec y = load(gradients.y + start);
        FloatVec nearest = load(gradients.nearest + start);
        IntVec bin{};
        for (int k = 1; k < directions.count; ++k) {
            const FloatVec cross = y * directions.cosine[k] - x * directions.sine[k];
            const auto size = reinterpret_cast<FloatVec>(reinterpret_cast<IntVec>(cross) & 0x7fffffff);
            bin -= cross >= 0.0f;
            nearest = size < nearest ? size : nearest;
        }
        const FloatVec energy = x * x + y * y;
        alignas(64) float roots[kVecSize];
        store(roots, energy);
        for (float& root : roots) {
            root = preimage::square_root(root);
        }
        const FloatVec length = load(roots);
        const IntVec none = (x == 0.0f) & (y == 0.0f) & (load(gradients.nearest + start) == 1.0f);
        const IntVec certain =
            ((nearest > kMargin * length) & (energy >= kLeastEnergy) & (energy <= kMostEnergy)) | none;
        store(lengths + start, length);
        bin = certain ? bin : IntVec{} + kUncertain;
        __builtin_memcpy(bins + start, &bin, sizeof(bin));
    }
}

/// Compute the votes of all pixels of row y; up to kChunk elements after them may be overwritten.
template <class Real, int kPlanes>
void vote_row(const Band& band, const Lines<Real>& lines, std::int64_t y, float* lengths, std::int32_t* bins) {
    const std::int64_t width = band.image.width;
    const bool border_row = y == 0 || y == band.image.height - 1;
    const bool single = is_single(band.image, kPlanes);
    Rows<Real> rows;
    for (int plane = 0; plane < kPlanes; ++plane) {
        rows.here[plane] = lines.row(plane, y);
        rows.above[plane] = border_row ? lines.zeros() : lines.row(plane, y - 1);
        rows.below[plane] = border_row ? lines.zeros() : lines.row(plane, y + 1);
    }
    const auto vote_exactly = [&](std::int64_t x) {
        const bool border_column = x == 0 || x == width - 1;
        const auto gradient = strongest_gradient<kPlanes>(
            single, border_row, border_column, [&](int plane, std::int64_t dy, std::int64_t dx) {
                const Real* row = dy < 0 ? rows.above[plane] : dy > 0 ? rows.below[plane] : rows.here[plane];
                return static_cast<double>(row[x + dx]);
            });
        const Vote vote = vote_of(*band.directions, gradient.down, gradient.across);
        lengths[x] = vote.length;
        bins[x] = vote.bin;
    };
    Gradients gradients;
    for (std::int64_t x = 0; x < width; x += kChunk) {
        find_gradients<Real, kPlanes>(rows, single, x, gradients);
        find_votes(*band.directions, gradients, lengths + x, bins + x);
        const std::int64_t end = minimum(x + kChunk, width);
        std::int32_t all = 0;
        for (std::int64_t at = x; at < x + kChunk; ++at) {
            all |= bins[at];
        }
        for (std::int64_t at = x; all < 0 && at < end; ++at) {
            if (bins[at] == kUncertain) {
                vote_exactly(at);
            }
        }
    }
    vote_exactly(0);
    vote_exactly(width - 1);
}

}  // namespace
}  // namespace preimage::dalal_triggs::PREIMAGE_ISA
