// Local binary patterns as VLFeat's `vl_lbp` counts them, 58 labels: parameters, sizes and units.
//
// Images are (C, H, W), y down; three channels become luma. A pixel's code has one bit for each of its eight
// neighbors, set where the neighbor is greater; a table gives the code one of 58 labels, and the pixel votes for
// its label in the four nearest cells, bilinearly. Border pixels do not vote. A cell's features are the roots of
// its shares. Every vote is a whole number, so the sums are exact in any order. The arithmetic is in lbp_math.h.
#pragma once

#include <cstddef>
#include <cstdint>

#include "common/dispatch.h"
#include "common/image.h"
#include "tensor_view.h"

namespace preimage::lbp {

constexpr int kLabels = 58;
constexpr int kFlatLabel = 56;   // no neighbor is greater, or all are
constexpr int kMixedLabel = 57;  // the greater neighbors are in several runs
constexpr std::uint8_t kNoLabel = 255;
constexpr int kPaddedLabels = 64;  // what a cell's labels take in the CPU's working memory
constexpr int kFastCell = 16;      // the cell size with a fast path

/// Votes are counted in units of 1 / (2 cell_size)^2; a cell's sum is at most 4 cell_size^4, here 2^62.
constexpr std::int64_t kMaxCellSize = std::int64_t{1} << 15;

/// One image's cell rows [first_row, last_row), the unit of work of a thread.
struct Band {
    Image image;
    std::int64_t cell_size;
    std::int64_t cell_rows, cell_columns;  // of the whole image
    std::int64_t first_row, last_row;
    std::byte* output;  // (58, cell_rows, cell_columns) of the whole image, of this type:
    ScalarType type;    // float32 or float16
};

/// One image's pixel rows [first_row, last_row) of the map of labels.
struct CodeBand {
    Image image;
    std::int64_t first_row, last_row;
    std::uint8_t* output;  // (height, width) of the whole image
};

/// A thread's working memory; nothing in it needs to be set beforehand.
struct Scratch {
    float* lines;  // (ring of rows, line_pitch): rows as float, where the image itself cannot be read so
    std::int64_t line_pitch;
    std::uint32_t* codes;   // (line_pitch): one row of codes
    float* features;        // (cell_columns, kPaddedLabels)
    std::int32_t* carried;  // (cell_columns, kPaddedLabels): votes so far of the cell row below; cells of 16 only
    std::int64_t* votes;    // (2 cell rows, cell_columns + 2, kPaddedLabels); other cell sizes only
};

/// images (B, C, H, W), uint8 or float32, any strides -> output (B, 58, H / cell_size, W / cell_size),
/// contiguous, float32 or float16 (rounded from it). The numbers do not depend on `threads`, on the instruction set, or
/// on the batch an image is in.
/// Throws std::invalid_argument when shapes or types do not fit.
void compute(const TensorView& images, const TensorView& output, std::int64_t cell_size, int threads);

/// images -> output (B, 1, H, W), uint8, contiguous: every pixel's label, kNoLabel on the image's border.
void compute_codes(const TensorView& images, const TensorView& output, int threads);

/// The same two on the CUDA device where images and output lie, features always float32, queued on the stream with this
/// address.
void compute_cuda(const TensorView& images, const TensorView& output, std::int64_t cell_size, std::uintptr_t stream);
void compute_codes_cuda(const TensorView& images, const TensorView& output, std::uintptr_t stream);

PREIMAGE_DECLARE_KERNEL(void band(const Band& band, const Scratch& scratch));
PREIMAGE_DECLARE_KERNEL(void code_band(const CodeBand& band, const Scratch& scratch));

}  // namespace preimage::lbp
