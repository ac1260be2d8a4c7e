// Strips of cells that a GPU's blocks of threads walk down.
#pragma once

#include <cstdint>

namespace preimage {

struct Strips {
    std::int64_t rows;          // cell rows of a strip
    std::int64_t across, down;  // strips of an image
};

/// Strips `columns` cells wide for a batch of images. Long ones repeat less at their ends; short ones keep the device
/// busy with few images: they are halved until there are `enough`.
inline Strips cut_strips(std::int64_t images, std::int64_t cell_rows, std::int64_t cell_columns, std::int64_t columns,
                         std::int64_t enough) {
    const std::int64_t across = (cell_columns + columns - 1) / columns;
    std::int64_t rows = 32;
    while (rows > 2 && images * across * ((cell_rows + rows - 1) / rows) < enough) {
        rows /= 2;
    }
    return {rows, across, (cell_rows + rows - 1) / rows};
}

}  // namespace preimage
