// Local binary patterns as in VLFeat's `vl_lbp`, 58 labels: parameters, sizes and units.
//
// Images are (C, H, W), y down; three channels become luma. A pixel's code has one bit per neighbor, set where the
// neighbor is greater. A table maps codes to 58 labels, and the pixel votes for its label, bilinearly for the four
// nearest cells; border pixels do not vote. The features of a cell are the square roots of its normalized votes. Votes
// are integers, so sums are exact in any order. The arithmetic is in lbp_math.h.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "common/dispatch.h"
#include "common/image.h"
#include "tensor_view.h"

namespace preimage::lbp {

constexpr int kLabels = 58;
constexpr int kFlatLabel = 56;   // no neighbor is greater, or all are
constexpr int kMixedLabel = 57;  // the greater neighbors form several runs
constexpr std::uint8_t kNoLabel = 255;
constexpr int kPaddedLabels = 64;  // labels per cell in the CPU's working memory
constexpr int kFastCell = 16;      // the cell size with a fast path

/// Votes are integers in units of 1 / (2 cell_size)^2; the sum of a cell is at most 4 cell_size^4, here 2^62.
constexpr std::int64_t kMaxCellSize = std::int64_t{1} << 15;

/// Cell rows [first_row, last_row) of one image: the unit of work of a thread.
struct Band {
    Image image;
    std::int64_t cell_size;
    std::int64_t cell_rows, cell_columns;  // of the whole image
    std::int64_t first_row, last_row;
    std::byte* output;  // (58, cell_rows, cell_columns) of the whole image
    ScalarType type;    // type of the output: float32 or float16
};

/// Rows [first_row, last_row) of one image's map of labels.
struct CodeBand {
    Image image;
    std::int64_t first_row, last_row;
    std::uint8_t* output;  // (height, width) of the whole image
};

/// Working memory of one thread, uninitialized.
struct Scratch {
    float* lines;  // (ring of rows, line_pitch): converted rows (ImageRows)
    std::int64_t line_pitch;
    std::uint32_t* codes;   // (line_pitch): one row of codes
    float* features;        // (cell_columns, kPaddedLabels)
    std::int32_t* carried;  // (cell_columns, kPaddedLabels): votes so far for the next cell row; cells of 16 only
    std::int64_t* votes;    // (2 cell rows, cell_columns + 2, kPaddedLabels); other cell sizes only
};

/// Return the first image as one band. Throws std::invalid_argument if images, output and cell size do not fit.
inline Band whole_image(const TensorView& images, const TensorView& output, std::int64_t cell_size) {
    require(cell_size >= 1 && cell_size <= kMaxCellSize, "cell_size must be at least 1 and at most 32768");
    Band band{};
    band.image = first_image(images);
    band.cell_size = cell_size;
    band.cell_rows = band.image.height / cell_size;
    band.cell_columns = band.image.width / cell_size;
    band.last_row = band.cell_rows;
    require(band.cell_rows > 0 && band.cell_columns > 0, "the image is smaller than a cell");
    const std::array<std::int64_t, 4> expected{images.shape[0], kLabels, band.cell_rows, band.cell_columns};
    const bool known = output.type == ScalarType::float32 || output.type == ScalarType::float16;
    require(known && output.shape == expected && output.is_contiguous(),
            "the output must be contiguous float32 or float16 of shape (B, 58, H / cell_size, W / cell_size)");
    band.output = output.data;
    band.type = output.type;
    return band;
}

/// Return the first image, for the map of labels.
inline Image checked_image(const TensorView& images, const TensorView& output) {
    const Image image = first_image(images);
    const std::array<std::int64_t, 4> expected{images.shape[0], 1, image.height, image.width};
    require(output.type == ScalarType::uint8 && output.shape == expected && output.is_contiguous(),
            "the output must be contiguous uint8 of shape (B, 1, H, W)");
    return image;
}

/// Compute LBP: images (B, C, H, W), uint8 or float32, any strides -> output (B, 58, H / cell_size, W / cell_size),
/// contiguous, float32 or float16 (rounded from float32). The result does not depend on `threads`, on the instruction
/// set, or on the batch that an image is in. Throws std::invalid_argument if shapes or types do not fit.
void compute(const TensorView& images, const TensorView& output, std::int64_t cell_size, int threads);

/// Compute every pixel's label: images -> output (B, 1, H, W), uint8, contiguous; kNoLabel on the border.
void compute_codes(const TensorView& images, const TensorView& output, int threads);

/// The same on the CUDA device of images and output, with float32 features, on the stream at this address.
void compute_cuda(const TensorView& images, const TensorView& output, std::int64_t cell_size, std::uintptr_t stream);
void compute_codes_cuda(const TensorView& images, const TensorView& output, std::uintptr_t stream);

PREIMAGE_DECLARE_KERNEL(void band(const Band& band, const Scratch& scratch));
PREIMAGE_DECLARE_KERNEL(void code_band(const CodeBand& band, const Scratch& scratch));

}  // namespace preimage::lbp
