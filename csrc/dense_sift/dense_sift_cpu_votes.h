// Part of the CPU kernel (dense_sift_cpu_kernel.cpp): from a row of pixels to a row of votes, by phase.
#pragma once

#include <cstring>

#include "common/image_rows.h"
#include "common/simd.h"
#include "dense_sift/dense_sift_cpu.h"
#include "dense_sift/dense_sift_math.h"

namespace preimage::dense_sift::PREIMAGE_ISA {
namespace {

/// The pixels under a strip's descriptors, [begin, begin + span) along x, and those of them inside the image.
struct StripColumns {
    std::int64_t begin, span;
    std::int64_t first, last;  // inside the image, last exclusive
};

/// Compute the gradient of a pixel in the first or last column of the image; its only neighbor along x is `beside`
/// columns away.
PREIMAGE_INLINE void border_gradient(const float* here, const float* above, const float* below, int beside,
                                     bool inside_rows, float* direction_out, float* length_out) {
    const float gx = beside > 0 ? here[1] - here[0] : here[0] - here[-1];
    const float gy = difference(above[0], below[0], inside_rows);
    *direction_out = direction(gx, gy);
    *length_out = gradient_length(gx, gy);
}

/// Compute the gradients of row y into directions[x - columns.begin] and lengths[...]; outside the image the values at
/// its edge are repeated. The columns of `lines` start at `origin`.
void gradient_row(const ImageRows& lines, std::int64_t origin, std::int64_t y, const Image& image,
                  const StripColumns& columns, float* __restrict directions, float* __restrict lengths) {
    const float* here = lines.row(0, y);
    const float* above = lines.row(0, maximum(y - 1, 0));
    const float* below = lines.row(0, minimum(y + 1, image.height - 1));
    const bool inside_rows = y > 0 && y < image.height - 1;
    const std::int64_t begin = maximum(columns.first, 1) - origin;
    const std::int64_t end = minimum(columns.last, image.width - 1) - origin;
    const std::int64_t to_place = origin - columns.begin;
    const std::int64_t last_start = lines.last_start();
    const float vertical = inside_rows ? 0.5f : 1.0f;
    for (std::int64_t x = begin; x < end; x += kChunk) {
        const std::int64_t start = minimum(x, last_start);
        for (int lane = 0; lane < kChunk; ++lane) {
            const float gx = 0.5f * (here[start + lane + 1] - here[start + lane - 1]);
            const float gy = vertical * (below[start + lane] - above[start + lane]);
            directions[start + to_place + lane] = direction(gx, gy);
            lengths[start + to_place + lane] = gradient_length(gx, gy);
        }
    }
    // The last step may have gone past the end, so the edges are written after it.
    const auto repeat_border = [&](std::int64_t x, int beside, std::int64_t from, std::int64_t to) {
        float edge_direction = 0.0f;
        float edge_length = 0.0f;
        border_gradient(here + x, above + x, below + x, beside, inside_rows, &edge_direction, &edge_length);
        for (std::int64_t position = from; position < to; ++position) {
            directions[position] = edge_direction;
            lengths[position] = edge_length;
        }
    };
    if (columns.first == 0) {
        repeat_border(0, 1, 0, 1 - columns.begin);
    }
    if (columns.last == image.width) {
        repeat_border(image.width - 1 - origin, -1, image.width - 1 - columns.begin, columns.span);
    }
}

/// out[r * pitch + m] = in[m * kStep + r]
template <int kStep>
PREIMAGE_INLINE void split_phases(const float* __restrict in, std::int64_t count, float* __restrict out,
                                  std::int64_t pitch) {
    for (std::int64_t m = 0; m < count; ++m) {
        for (int phase = 0; phase < kStep; ++phase) {
            out[phase * pitch + m] = in[m * kStep + phase];
        }
    }
}

void to_phases(const float* in, std::int64_t span, const Plan& plan, std::int64_t step, float* out) {
    const std::int64_t whole = span / step;
    std::int64_t done = 0;
    switch (plan.phases == step ? step : 0) {
        case 1:
            std::memcpy(out, in, static_cast<std::size_t>(span) * sizeof(float));
            return;
        case 2:
            split_phases<2>(in, whole, out, plan.phase_pitch);
            done = whole;
            break;
        case 4:
            split_phases<4>(in, whole, out, plan.phase_pitch);
            done = whole;
            break;
        case 8:
            split_phases<8>(in, whole, out, plan.phase_pitch);
            done = whole;
            break;
        default:
            break;
    }
    for (std::int64_t phase = 0; phase < plan.phases; ++phase) {
        float* row = out + phase * plan.phase_pitch;
        for (std::int64_t m = done; m * step + phase < span; ++m) {
            row[m] = in[m * step + phase];
        }
    }
}

/// Split every length between the two orientations nearest to its direction. Loops of unknown length, because
/// compilers unroll short loops of known length before they can vectorize them.
void split_votes(const float* __restrict directions, const float* __restrict lengths, std::int64_t count,
                 std::int32_t* __restrict bins, float* __restrict first, float* __restrict second) {
    for (std::int64_t position = 0; position < count; ++position) {
        const Vote given = split_vote(directions[position], lengths[position]);
        bins[position] = given.bin;
        first[position] = given.first;
        second[position] = given.second;
    }
}

/// Write the planes of votes of all orientations, `count` apart.
void spread_votes(const std::int32_t* bins, const float* first, const float* second, std::int64_t count, float* votes) {
    for (std::int64_t position = 0; position < count; position += kVecSize) {
        IntVec bin;
        __builtin_memcpy(&bin, bins + position, sizeof(bin));
        const FloatVec to_first = load(first + position);
        const FloatVec to_next = load(second + position);
        for (int orientation = 0; orientation < kOrientations; ++orientation) {
            const std::int32_t before = (orientation + kOrientations - 1) % kOrientations;
            const FloatVec next_votes = bin == before ? to_next : zeros();
            store(votes + orientation * count + position, bin == orientation ? to_first : next_votes);
        }
    }
}

}  // namespace
}  // namespace preimage::dense_sift::PREIMAGE_ISA
