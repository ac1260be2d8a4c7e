// Inputs of the CPU kernel besides the band: a plan of the sums, made once per call, and working memory per thread.
//
// A descriptor at column m sums over pixels m * step + q, q < positions, counted from the first tap of the first bin.
// Rows of votes are therefore stored by phase, q mod step: the inputs of neighboring descriptors are then adjacent, and
// the lanes of a vector are descriptors. A *unit* is one sum along x for every descriptor column. With the Gaussian
// window there is one per spatial bin, each with its own weights. With the flat window all bins have the same
// triangular weights, and there is one unit per phase at which a bin begins: bins of one phase are the same sums,
// shifted by some columns.
//
// Columns are processed in strips, so that the working memory of a strip stays in the caches.
#pragma once

#include <cstdint>

#include "common/host_device.h"
#include "common/simd.h"
#include "dense_sift/dense_sift.h"

namespace preimage::dense_sift {

struct Plan {
    std::int64_t strip;          // descriptors in a strip, a multiple of kChunk
    std::int64_t positions;      // 5 * bin_size - 1: pixels along an axis that a descriptor sums over
    std::int64_t phases;         // min(step, positions)
    std::int64_t phase_pitch;    // floats from one phase of a row of votes to the next
    std::int64_t span;           // pixels of a strip's row
    int units;                   // 1 ... 4
    std::int64_t unit_first[4];  // first tap of a unit, as a position of its column
    int unit_of[4];              // unit of a spatial bin
    std::int64_t shift_of[4];    // columns from a descriptor to its sum in that unit
    std::int64_t sums;           // columns of sums per unit, a multiple of kChunk: strip plus the largest shift
    float means[4];              // flat window: factor of a bin along one axis
    const float* weights;        // (4, tap_count) for the Gaussian window, (1, tap_count) for the flat one
    const std::int64_t* at;      // (positions): offset of a position in a row of votes, in floats
};

/// Working memory of one thread, uninitialized.
struct Scratch {
    float* lines;  // (3, line_pitch): converted rows (ImageRows)
    std::int64_t line_pitch;
    float* directions;         // (span_pitch): directions of a row's gradients, in octants
    float* lengths;            // (span_pitch)
    float* phased_directions;  // (phases, phase_pitch): the same, by phase
    float* phased_lengths;     // (phases, phase_pitch)
    std::int32_t* bins;        // (phases, phase_pitch): first orientation of a vote
    float* first;              // (phases, phase_pitch): vote for that orientation
    float* second;             // (phases, phase_pitch): vote for the next orientation
    float* votes;              // (8, phases, phase_pitch)
    float* across;             // (units, sums / kChunk, positions, 8, kChunk): ring of rows of sums along x
    float* down;               // flat: (3 * bin_size + 1, units, 8, down_pitch): ring of rows of sums along both axes
    std::int64_t* ready;       // (3 * bin_size + 1): row stored at each index of `down`
    std::int64_t down_pitch;
    std::int64_t* slots;  // (positions): offset of a position's row in `across`, in floats
    float* raw;           // (128, strip): sums of one row of descriptors
    float* squares;       // (strip)
    float* totals;        // (strip)
};

constexpr std::int64_t kMargin = 16;  // floats before and after directions and lengths that may be overwritten

PREIMAGE_DECLARE_KERNEL(void band(const Band& band, const Plan& plan, const Scratch& scratch));

}  // namespace preimage::dense_sift
