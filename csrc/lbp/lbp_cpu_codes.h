// Part of the CPU kernel (lbp_cpu_kernel.cpp): codes of pixels, their labels, and the map of labels.
#pragma once

#include <cstring>

#include "common/image_rows.h"
#include "lbp/lbp.h"
#include "lbp/lbp_math.h"

namespace preimage::lbp::PREIMAGE_ISA {
namespace {

constexpr std::uint32_t kNoCode = 256;          // code of a pixel that does not vote
constexpr std::uint8_t kUnusedLabel = kLabels;  // the label that such a pixel votes for

struct LabelTable {
    std::uint8_t of[kNoCode + 1];
};

constexpr LabelTable label_table() {
    LabelTable table{};
    for (std::uint32_t code = 0; code < kNoCode; ++code) {
        table.of[code] = static_cast<std::uint8_t>(label_of(code));
    }
    table.of[kNoCode] = kUnusedLabel;
    return table;
}

constexpr LabelTable kLabelOf = label_table();

/// Compute the codes of pixels [begin, end) of row y, begin >= 1, end < width, into codes[x - origin]; up to kChunk
/// elements before and after may be overwritten.
PREIMAGE_INLINE void code_row(const ImageRows& lines, std::int64_t y, std::int64_t begin, std::int64_t end,
                              std::int64_t origin, std::uint32_t* codes) {
    const float* to_prefetch = lines.row_to_prefetch(0, y, kFastCell + 1);
    const float* above = lines.row(0, y - 1);
    const float* here = lines.row(0, y);
    const float* below = lines.row(0, y + 1);
    const std::int64_t last_start = lines.last_start();
    for (std::int64_t x = begin; x < end; x += kChunk) {
        const std::int64_t start = minimum(x, last_start);
        if (to_prefetch != nullptr) {
            __builtin_prefetch(to_prefetch + start, 0, 2);
        }
        std::uint32_t* out = codes + (start - origin);
        for (int lane = 0; lane < kChunk; ++lane) {
            out[lane] = code_at(above + start + lane, here + start + lane, below + start + lane);
        }
    }
}

void write_label_row(const ImageRows& lines, std::int64_t y, std::int64_t width, std::uint32_t* codes,
                     std::uint8_t* output) {
    code_row(lines, y, 1, width - 1, 0, codes);
    for (std::int64_t x = 1; x < width - 1; ++x) {
        output[x] = kLabelOf.of[codes[x]];
    }
    output[0] = kNoLabel;
    output[width - 1] = kNoLabel;
}

}  // namespace

void code_band(const CodeBand& band, const Scratch& scratch) {
    const std::int64_t width = band.image.width;
    ImageRows lines(band.image, 1, scratch.lines, scratch.line_pitch, 3);
    for (std::int64_t y = band.first_row; y < band.last_row; ++y) {
        std::uint8_t* output = band.output + y * width;
        if (y == 0 || y == band.image.height - 1) {
            std::memset(output, kNoLabel, static_cast<std::size_t>(width));
        } else {
            lines.require(y - 1, y + 2);
            write_label_row(lines, y, width, scratch.codes, output);
        }
    }
}

}  // namespace preimage::lbp::PREIMAGE_ISA
