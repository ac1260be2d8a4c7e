// Part of the CPU kernel (dense_sift_cpu_kernel.cpp): weighted sums along x and y. Lanes are neighboring descriptors.
#pragma once

#include <cstring>

#include "common/host_device.h"
#include "common/simd.h"
#include "dense_sift/dense_sift_cpu.h"

namespace preimage::dense_sift::PREIMAGE_ISA {
namespace {

// Four sums at once of kPlanes planes, for one axis of the Gaussian window. Sum n covers the positions n * bin_size ...
// n * bin_size + 2 * bin_size - 2, so every position belongs to one or two sums and is loaded once.
#if defined(__AVX512F__)
constexpr int kPlanes = 4;
#else
constexpr int kPlanes = 2;  // half as many registers hold eight sums
#endif

using FourSums = FloatVec[kSpatial][kPlanes];

/// Add the positions where the weights of sum n rise and those of sum n - 1 fall.
template <int n>
PREIMAGE_INLINE void add_segment(const float* in, const std::int64_t* at, std::int64_t plane, const float* weights,
                                 std::int64_t bin_size, FourSums& sums) {
    const std::int64_t taps = tap_count(bin_size);
    const float* rising = weights + (n < kSpatial ? n : 0) * taps;
    const float* falling = weights + (n > 0 ? (n - 1) * taps + bin_size : 0);
    at += n * bin_size;
    if (n < kSpatial) {
        for (int p = 0; p < kPlanes; ++p) {
            sums[n % kSpatial][p] = zeros();
        }
    }
    for (std::int64_t k = 0; k < bin_size - 1; ++k) {
        for (int p = 0; p < kPlanes; ++p) {
            const FloatVec value = load(in + at[k] + p * plane);
            if (n < kSpatial) {
                sums[n % kSpatial][p] += rising[k] * value;
            }
            if (n > 0) {
                sums[n > 0 ? n - 1 : 0][p] += falling[k] * value;
            }
        }
    }
    for (int p = 0; n < kSpatial && p < kPlanes; ++p) {
        sums[n % kSpatial][p] += rising[bin_size - 1] * load(in + at[bin_size - 1] + p * plane);
    }
}

/// Compute four sums; `in + at[q]` points to position q of kPlanes planes, `plane` floats apart.
PREIMAGE_INLINE void four_sums(const float* in, const std::int64_t* at, std::int64_t plane, const float* weights,
                               std::int64_t bin_size, FourSums& sums) {
    add_segment<0>(in, at, plane, weights, bin_size, sums);
    add_segment<1>(in, at, plane, weights, bin_size, sums);
    add_segment<2>(in, at, plane, weights, bin_size, sums);
    add_segment<3>(in, at, plane, weights, bin_size, sums);
    add_segment<4>(in, at, plane, weights, bin_size, sums);
}

/// Compute one sum of kOrientations planes over `taps` positions.
PREIMAGE_INLINE void one_sum(const float* in, const std::int64_t* at, std::int64_t plane, const float* weights,
                             std::int64_t taps, FloatVec (&sums)[kOrientations]) {
    for (int p = 0; p < kOrientations; ++p) {
        sums[p] = weights[0] * load(in + at[0] + p * plane);
    }
    for (std::int64_t k = 1; k < taps; ++k) {
        for (int p = 0; p < kOrientations; ++p) {
            sums[p] = sums[p] + weights[k] * load(in + at[k] + p * plane);
        }
    }
}

/// Return the sums of a unit and chunk of columns in `across`: (positions, 8, kChunk).
PREIMAGE_INLINE float* tile_of(const Plan& plan, const Scratch& scratch, int unit, std::int64_t chunk) {
    const std::int64_t chunks = plan.sums / kChunk;
    return scratch.across + (unit * chunks + chunk) * plan.positions * kOrientations * kChunk;
}

/// Sum a row of votes along x into slot `slot` of the ring buffer `across`.
void sum_across(const Band& band, const Plan& plan, const Scratch& scratch, std::int64_t slot) {
    const std::int64_t plane = plan.phases * plan.phase_pitch;
    const std::int64_t bin_size = band.parameters.bin_size;
    const std::int64_t taps = tap_count(bin_size);
    const std::int64_t position = slot * kOrientations * kChunk;
    for (std::int64_t chunk = 0; chunk < plan.sums / kChunk; ++chunk) {
        for (int part = 0; part < kChunk; part += kVecSize) {
            const float* in = scratch.votes + chunk * kChunk + part;
            if (band.parameters.window == Window::gaussian) {
                for (int first = 0; first < kOrientations; first += kPlanes) {
                    FourSums sums;
                    four_sums(in + first * plane, plan.at, plane, plan.weights, bin_size, sums);
                    for (int n = 0; n < kSpatial; ++n) {
                        float* out = tile_of(plan, scratch, n, chunk) + position + first * kChunk + part;
                        for (int p = 0; p < kPlanes; ++p) {
                            store(out + p * kChunk, sums[n][p]);
                        }
                    }
                }
                continue;
            }
            for (int unit = 0; unit < plan.units; ++unit) {
                FloatVec sums[kOrientations];
                one_sum(in, plan.at + plan.unit_first[unit], plane, plan.weights, taps, sums);
                float* out = tile_of(plan, scratch, unit, chunk) + position + part;
                for (int p = 0; p < kOrientations; ++p) {
                    store(out + p * kChunk, sums[p]);
                }
            }
        }
    }
}

/// Sums over a descriptor's channels and their squares. Even and odd orientations are separate, so that no addition
/// waits for the previous one.
struct Norms {
    FloatVec totals[2] = {zeros(), zeros()};
    FloatVec squares[2] = {zeros(), zeros()};

    __attribute__((always_inline)) void add(int orientation, FloatVec value) {
        totals[orientation % 2] += value;
        squares[orientation % 2] += value * value;
    }
    __attribute__((always_inline)) void keep(const Scratch& scratch, std::int64_t column) const {
        store(scratch.totals + column, totals[0] + totals[1]);
        store(scratch.squares + column, squares[0] + squares[1]);
    }
};

/// Gaussian window: sums along y into `raw` (128, strip). `slots` are the offsets of the rows under this row of
/// descriptors.
void sum_down(const Band& band, const Plan& plan, const Scratch& scratch) {
    for (std::int64_t chunk = 0; chunk < plan.strip / kChunk; ++chunk) {
        for (int part = 0; part < kChunk; part += kVecSize) {
            const std::int64_t column = chunk * kChunk + part;
            Norms norms;
            for (int i = 0; i < kSpatial; ++i) {
                const float* in = tile_of(plan, scratch, i, chunk) + part;
                for (int first = 0; first < kOrientations; first += kPlanes) {
                    FourSums sums;
                    four_sums(in + first * kChunk, scratch.slots, kChunk, plan.weights, band.parameters.bin_size, sums);
                    for (int j = 0; j < kSpatial; ++j) {
                        float* out = scratch.raw + channel_of(first, i, j) * plan.strip + column;
                        for (int p = 0; p < kPlanes; ++p) {
                            store(out + p * plan.strip, sums[j][p]);
                        }
                    }
                    // In pairs of planes, so that the order does not depend on kPlanes.
                    for (int p = 0; p < kPlanes; p += 2) {
                        for (int j = 0; j < kSpatial; ++j) {
                            norms.add(p, sums[j][p]);
                            norms.add(p + 1, sums[j][p + 1]);
                        }
                    }
                }
            }
            norms.keep(scratch, column);
        }
    }
}

/// Flat window: sums of all units around one row, along y, into `out` (units, 8, down_pitch). `slots` starts at the
/// row's taps.
void sum_row_down(const Band& band, const Plan& plan, const Scratch& scratch, const std::int64_t* slots, float* out) {
    const std::int64_t taps = tap_count(band.parameters.bin_size);
    for (int unit = 0; unit < plan.units; ++unit) {
        for (std::int64_t column = 0; column < plan.sums; column += kVecSize) {
            const float* in = tile_of(plan, scratch, unit, column / kChunk) + column % kChunk;
            FloatVec sums[kOrientations];
            one_sum(in, slots, kChunk, plan.weights, taps, sums);
            for (int p = 0; p < kOrientations; ++p) {
                store(out + (unit * kOrientations + p) * scratch.down_pitch + column, sums[p]);
            }
        }
    }
}

/// Flat window: assembles the sums of a row of descriptors in `raw`. Neighboring descriptors share sums.
void gather_shared(const Band& band, const Plan& plan, const Scratch& scratch, std::int64_t first_position) {
    const std::int64_t bin_size = band.parameters.bin_size;
    const std::int64_t ring = extent(bin_size) + 1;
    const float* rows[kSpatial];
    for (int j = 0; j < kSpatial; ++j) {
        const std::int64_t row = first_position + j * bin_size;
        const std::int64_t position = row % ring;
        float* out = scratch.down + position * plan.units * kOrientations * scratch.down_pitch;
        if (scratch.ready[position] != row) {
            sum_row_down(band, plan, scratch, scratch.slots + j * bin_size, out);
            scratch.ready[position] = row;
        }
        rows[j] = out;
    }
    for (std::int64_t column = 0; column < plan.strip; column += kVecSize) {
        Norms norms;
        for (int j = 0; j < kSpatial; ++j) {
            for (int i = 0; i < kSpatial; ++i) {
                const float factor = plan.means[j] * plan.means[i];
                const float* in =
                    rows[j] + plan.unit_of[i] * kOrientations * scratch.down_pitch + column + plan.shift_of[i];
                float* out = scratch.raw + channel_of(0, i, j) * plan.strip + column;
                for (int p = 0; p < kOrientations; ++p) {
                    const FloatVec value = factor * load(in + p * scratch.down_pitch);
                    store(out + p * plan.strip, value);
                    norms.add(p, value);
                }
            }
        }
        norms.keep(scratch, column);
    }
}

}  // namespace
}  // namespace preimage::dense_sift::PREIMAGE_ISA
