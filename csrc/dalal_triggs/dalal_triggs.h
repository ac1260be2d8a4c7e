// HOG of Dalal and Triggs as scikit-image computes it: parameters, sizes and units.
//
// Images are (C, H, W), y down, values as they are: uint8 is not divided by 255. The gradient of a pixel is a plain
// difference, not halved; across the image border it is zero. Its length votes for one of N undirected orientations of
// the cell that contains the pixel; a cell's histogram is the mean over its pixels. Every block of cells, one per
// position, is normalized by its L1 or L2 norm. The arithmetic is in dalal_triggs_math.h.
#pragma once

#include <cstddef>
#include <cstdint>

#include "common/color.h"
#include "common/dispatch.h"
#include "common/image.h"
#include "dalal_triggs/dalal_triggs_directions.h"
#include "tensor_view.h"

namespace preimage::dalal_triggs {

enum class Norm { l1, l1_sqrt, l2, l2_hys };

struct Parameters {
    std::int64_t cell_height, cell_width;    // pixels
    std::int64_t block_height, block_width;  // cells
    int orientations;                        // at most kMaxOrientations
    Color color;                             // ignored for one channel
    Norm norm;
    bool square_root;  // of the values, before anything else

    PREIMAGE_HOST_DEVICE std::int64_t channels() const { return block_height * block_width * orientations; }
};

/// Number of cells and of blocks of an image.
struct Grid {
    std::int64_t cell_rows, cell_columns;
    std::int64_t block_rows, block_columns;

    PREIMAGE_HOST_DEVICE std::int64_t cells() const { return cell_rows * cell_columns; }
    PREIMAGE_HOST_DEVICE std::int64_t blocks() const { return block_rows * block_columns; }
};

/// Return whether float32 holds all values and their differences exactly.
PREIMAGE_INLINE bool is_exact(const Image& image, const Parameters& parameters) {
    return image.type == ScalarType::uint8 && !parameters.square_root &&
           planes_of(image, parameters.color) == image.channels;
}

/// Block rows [first_row, last_row) of one image: the unit of work of a thread.
struct Band {
    Image image;
    Parameters parameters;
    const Directions* directions;
    Grid grid;
    std::int64_t first_row, last_row;  // cell rows if `raw`
    std::byte* output;  // of the whole image: (channels, block_rows, block_columns), or if `raw`, histograms (N, ...)
    ScalarType type;    // type of the output: float32 or float16
    bool raw;           // write histograms before normalization, as double
};

/// Working memory of one thread, uninitialized.
struct Scratch {
    std::byte* lines;         // (planes, ring of 3 rows, line_pitch) float or double: converted rows
    std::byte* zeros;         // (line_pitch) float or double: the row next to a border row
    std::int64_t line_pitch;  // elements
    float* lengths;           // (line_pitch): votes of one row
    std::int32_t* bins;       // (line_pitch)
    double* sums;             // (cell_columns, kCopies, slots): votes of one cell row
    double* cells;            // (ring of block_height rows, N, cell_pitch): histograms
    double* norms;            // (ring of block_height rows, cell_pitch): sums or sums of squares of histograms
    std::int64_t cell_pitch;
};

constexpr int kCopies = 4;  // sums per cell, so that neighboring pixels do not wait for each other's

/// Return the grid of an image of this size. Throws std::invalid_argument unless it has at least one block.
inline Grid checked_grid(const Image& image, const Parameters& parameters) {
    constexpr std::int64_t kMost = std::int64_t{1} << 30;
    for (const std::int64_t size :
         {parameters.cell_height, parameters.cell_width, parameters.block_height, parameters.block_width}) {
        require(size >= 1 && size < kMost, "cell_size and block_size must be at least 1 and below 2^30");
    }
    require(parameters.orientations >= 1 && parameters.orientations <= kMaxOrientations,
            "orientations must be between 1 and 180");
    Grid grid{};
    grid.cell_rows = image.height / parameters.cell_height;
    grid.cell_columns = image.width / parameters.cell_width;
    grid.block_rows = grid.cell_rows - parameters.block_height + 1;
    grid.block_columns = grid.cell_columns - parameters.block_width + 1;
    require(grid.block_rows > 0 && grid.block_columns > 0, "the image is smaller than a block");
    return grid;
}

/// Return the first image of a batch of uint8, float32 or float64.
inline Image checked_image(const TensorView& images) { return first_image(images, true); }

/// Throw std::invalid_argument with this message unless features are contiguous and of this shape.
inline void check_features(const TensorView& features, std::int64_t batch, const Parameters& parameters,
                           const Grid& grid, const char* problem) {
    const std::array<std::int64_t, 4> expected{batch, parameters.channels(), grid.block_rows, grid.block_columns};
    require(features.shape == expected && features.is_contiguous(), problem);
}

/// Compute HOG: images (B, C, H, W), uint8, float32 or float64, any strides -> output (B, block_height * block_width *
/// N, Hb, Wb), contiguous, float32 or float16; channels in the order (row, column, orientation).
///
/// The choice of orientation and channel is that of scikit-image in double precision. The result does not depend on
/// `threads`, on the instruction set, or on the batch that an image is in. A pixel that is not finite affects the cells
/// of its four neighbors and their blocks; all others keep exactly the same values. Throws std::invalid_argument if
/// shapes or types do not fit.
void compute(const TensorView& images, const TensorView& output, const Parameters& parameters, int threads);

/// Compute an image's histograms (N, Hc, Wc), as `compute` has them before normalization.
void histograms(const Image& image, const Parameters& parameters, const Directions& directions, double* cells,
                int threads);

/// Compute the gradient with respect to the images from `output`, the gradient with respect to HOG -> `gradients`
/// (B, C, H, W), per unit of image values. Both are contiguous float32. See dalal_triggs_backward.h on sub-gradients.
void compute_backward(const TensorView& output, const TensorView& images, const TensorView& gradients,
                      const Parameters& parameters, int threads);

/// The same on a CUDA device, with float32 features, on the stream at this address. Never synchronizes. `scratch` is
/// (1, 1, 1, N) float64, N from `cuda_scratch` and `backward_cuda_scratch`.
void compute_cuda(const TensorView& images, const TensorView& scratch, const TensorView& output,
                  const Parameters& parameters, std::uintptr_t stream);
void compute_backward_cuda(const TensorView& output, const TensorView& images, const TensorView& scratch,
                           const TensorView& gradients, const Parameters& parameters, std::uintptr_t stream);
std::int64_t cuda_scratch(const TensorView& images, const Parameters& parameters);
std::int64_t backward_cuda_scratch(const TensorView& images, const Parameters& parameters);

PREIMAGE_DECLARE_KERNEL(void band(const Band& band, const Scratch& scratch));

}  // namespace preimage::dalal_triggs
