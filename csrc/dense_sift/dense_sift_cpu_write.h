// Part of the CPU kernel (dense_sift_cpu_kernel.cpp): normalizes the sums of a row and stores them in the requested
// type.
#pragma once

#include <cstring>

#include "common/simd.h"
#include "dense_sift/dense_sift_cpu.h"
#include "dense_sift/dense_sift_cpu_sums.h"
#include "dense_sift/dense_sift_math.h"

namespace preimage::dense_sift::PREIMAGE_ISA {
namespace {

using ByteVec = std::uint8_t __attribute__((vector_size(kVecSize)));

using preimage::store_as;
/// `to_byte` for all lanes.
PREIMAGE_INLINE void store_as(std::uint8_t* out, FloatVec values) {
    const FloatVec scaled = 512.0f * values;
    const FloatVec limited = scaled < 255.0f ? scaled : zeros() + 255.0f;
    const auto rounded = __builtin_convertvector(__builtin_convertvector(limited, IntVec), ByteVec);
    __builtin_memcpy(out, &rounded, sizeof(rounded));
}

/// `clip` for all lanes.
PREIMAGE_INLINE FloatVec clipped_at(FloatVec value) { return kClip < value ? zeros() + kClip : value; }

constexpr std::size_t kCacheLine = 64;  // bytes

/// Replace the squares and totals of a strip by its two normalization factors, and write `count` norms.
void finish_norms(const Plan& plan, const Scratch& scratch, float divisor, std::int64_t count, float* norms) {
    float* __restrict squares = scratch.squares;
    float* __restrict totals = scratch.totals;
    for (std::int64_t index = 0; index < count; ++index) {
        norms[index] = totals[index] / divisor;
    }
    for (std::int64_t start = 0; start < plan.strip; start += kVecSize) {
        float first[kVecSize];
        for (int lane = 0; lane < kVecSize; ++lane) {
            first[lane] = normalizer(squares[start + lane]);
        }
        const FloatVec factor = load(first);
        FloatVec clipped[4] = {zeros(), zeros(), zeros(),
                               zeros()};  // four, so that no addition waits for the previous one
        for (int channel = 0; channel < kChannels; channel += 4) {
            for (int k = 0; k < 4; ++k) {
                const FloatVec value = clipped_at(load(scratch.raw + (channel + k) * plan.strip + start) * factor);
                clipped[k] += value * value;
            }
        }
        store(squares + start, factor);
        store(totals + start, (clipped[0] + clipped[1]) + (clipped[2] + clipped[3]));
    }
    for (std::int64_t index = 0; index < plan.strip; ++index) {
        totals[index] = normalizer(totals[index]);
    }
}

template <class Stored>
void write_features(const Band& band, const Plan& plan, const Scratch& scratch, std::int64_t row, std::int64_t column,
                    std::int64_t count) {
    constexpr auto kLine = static_cast<std::int64_t>(kCacheLine / sizeof(Stored));
    const std::int64_t plane = band.rows * band.columns;
    auto* out = reinterpret_cast<Stored*>(band.features) + row * band.columns + column;
    const float* raw = scratch.raw;
    for (int channel = 0; channel < kChannels; ++channel, out += plane, raw += plan.strip) {
        const auto values_at = [&](std::int64_t start) {
            return clipped_at(load(raw + start) * load(scratch.squares + start)) * load(scratch.totals + start);
        };
        for (std::int64_t start = 0; channel + 2 < kChannels && start < count; start += kLine) {
            __builtin_prefetch(out + 2 * plane + start, 1);  // the hardware does not predict jumps between planes
        }
        if (count < kVecSize) {
            Stored values[kVecSize];
            store_as(values, values_at(0));
            std::memcpy(out, values, static_cast<std::size_t>(count) * sizeof(Stored));
            continue;
        }
        for (std::int64_t start = 0; start < count; start += kVecSize) {
            // The last step moves back so that it ends with the row: it too writes whole vectors.
            const std::int64_t index = minimum(start, count - kVecSize);
            store_as(out + index, values_at(index));
        }
    }
}

/// Normalize the sums in `raw` and write `count` descriptors of the row, starting at `column`.
void write_row(const Band& band, const Plan& plan, const Scratch& scratch, std::int64_t row, std::int64_t column,
               std::int64_t count) {
    float* norms = band.norms + row * band.columns + column;
    finish_norms(plan, scratch, norm_divisor(band.parameters.bin_size), count, norms);
    switch (band.type) {
        case ScalarType::uint8:
            return write_features<std::uint8_t>(band, plan, scratch, row, column, count);
        case ScalarType::float16:
            return write_features<Half>(band, plan, scratch, row, column, count);
        case ScalarType::bfloat16:
            return write_features<Bfloat16>(band, plan, scratch, row, column, count);
        default:
            return write_features<float>(band, plan, scratch, row, column, count);
    }
}

}  // namespace
}  // namespace preimage::dense_sift::PREIMAGE_ISA
