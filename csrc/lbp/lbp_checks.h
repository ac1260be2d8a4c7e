// Checks of the arguments of `compute` and `compute_codes`, for every device.
#pragma once

#include <algorithm>
#include <array>

#include "lbp/lbp.h"

namespace preimage::lbp {

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

}  // namespace preimage::lbp
