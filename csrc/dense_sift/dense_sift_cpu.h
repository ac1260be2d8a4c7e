// What the CPU kernel is given beside the band: a plan of the sums, made once a call, and a thread's memory.
//
// Columns. A descriptor at column m sums around pixels m * step + q, q < positions, counted from the first bin's first
// tap. Rows of votes are therefore kept by phase, q mod step: then what neighboring descriptors need lies side by
// side, and a vector's lanes are descriptors. A *unit* is one sum along x for every descriptor column: with the
// Gaussian window one per spatial bin, each with its own weights; with the flat one, whose weights are the same
// triangle for all, one per phase that a bin begins at: bins in the same phase are the same sums some columns on.
//
// Columns are worked on in strips, so that what a strip's rows need stays in the caches.
#pragma once

#include <cstdint>

#include "common/host_device.h"
#include "dense_sift/dense_sift.h"

namespace preimage::dense_sift {

constexpr int kChunk = 16;  // descriptors worked on together: a power of two, one cache line of float32

struct Plan {
    std::int64_t strip;          // descriptors in a strip, a multiple of kChunk
    std::int64_t positions;      // 5 * bin_size - 1: pixels along an axis that a descriptor sums over
    std::int64_t phases;         // min(step, positions)
    std::int64_t phase_pitch;    // floats from one phase of a row of votes to the next
    std::int64_t span;           // pixels of a strip's row
    int units;                   // 1 ... 4
    std::int64_t unit_first[4];  // a unit's first tap among the positions of its column
    int unit_of[4];              // of a spatial bin
    std::int64_t shift_of[4];    // columns from a descriptor to its sum in that unit
    std::int64_t sums;           // columns of a unit's sums, a multiple of kChunk: strip and the largest shift
    float means[4];              // flat: a bin's factor along one axis
    const float* weights;        // (4, tap_count) Gaussian; (1, tap_count) flat: the triangle
    const std::int64_t* at;      // (positions): where a position lies in a row of votes, in floats
};

/// A thread's working memory; nothing in it needs to be set beforehand.
struct Scratch {
    float* lines;  // (3, line_pitch): rows as float, where the image itself cannot be read so
    std::int64_t line_pitch;
    float* directions;         // (span_pitch): of a row's gradients, in eighths of a turn
    float* lengths;            // (span_pitch)
    float* phased_directions;  // (phases, phase_pitch): the same by phase
    float* phased_lengths;     // (phases, phase_pitch)
    std::int32_t* bins;        // (phases, phase_pitch): a vote's first orientation
    float* first;              // (phases, phase_pitch): what that gets
    float* second;             // (phases, phase_pitch): what the next one gets
    float* votes;              // (8, phases, phase_pitch)
    float* across;             // (units, sums / kChunk, positions, 8, kChunk): ring of rows of sums along x
    float* down;               // flat: (3 * bin_size + 1, units, 8, down_pitch): ring of rows of sums along both axes
    std::int64_t* ready;       // (3 * bin_size + 1): the row that a place in `down` holds
    std::int64_t down_pitch;
    std::int64_t* slots;  // (positions): where a position's row lies in `across`, in floats
    float* raw;           // (128, strip): sums of one row of descriptors
    float* squares;       // (strip)
    float* totals;        // (strip)
};

constexpr std::int64_t kMargin = 16;  // floats before and after directions and lengths that may be overwritten

PREIMAGE_DECLARE_KERNEL(void band(const Band& band, const Plan& plan, const Scratch& scratch));

}  // namespace preimage::dense_sift
