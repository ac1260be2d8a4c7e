// HOG in VLFeat's UoCTTI form, 31 channels: parameters, sizes and units.
//
// Images are (C, H, W), y down, values in [0, 1] (uint8 is divided by 255). The gradient of a pixel is a plain
// difference, not halved. It votes with its length for one of 18 directions, bilinearly for the four nearest cells;
// border pixels do not vote. Each cell is normalized by the four 2x2 squares of cells that contain it and clipped at
// 0.2, which gives 18 directed, 9 undirected and 4 texture channels. The arithmetic is in hog_math.h.
#pragma once

#include <cstddef>
#include <cstdint>

#include "common/color.h"
#include "common/dispatch.h"
#include "common/image.h"
#include "tensor_view.h"

namespace preimage::hog {

constexpr int kOrientations = 9;          // undirected, 20 degrees apart
constexpr int kBins = 2 * kOrientations;  // directed
constexpr int kChannels = 3 * kOrientations + 4;

struct Parameters {
    std::int64_t cell_size;  // pixels
    Color color;             // ignored for one channel
};

/// Cell rows [first_row, last_row) of one image: the unit of work of a thread.
struct Band {
    Image image;
    Parameters parameters;
    std::int64_t cell_rows, cell_columns;  // of the whole image
    std::int64_t first_row, last_row;
    std::byte* output;  // of the whole image: (31, cell_rows, cell_columns), or if `raw`, histograms (18, ...)
    ScalarType type;    // type of the output: float32 or float16; float32 if `raw`
    bool raw;           // write histograms before normalization
};

/// Working memory of one thread, uninitialized.
struct Scratch {
    float* lines;  // (planes, ring of rows, line_pitch): converted rows (ImageRows)
    std::int64_t line_pitch;
    float* cells;  // (ring of 3 cell rows, 18, cell_pitch): histograms
    float* norms;  // (ring of 3 cell rows, cell_pitch): energies
    std::int64_t cell_pitch;
    float* lengths;            // (line_pitch): one row of votes; only for cell sizes other than 8
    std::int32_t* bins;        // (line_pitch)
    float* right_weights;      // (line_pitch): weight of each pixel's vote for the cell on the right
    std::int32_t* left_cells;  // (line_pitch)
};

/// Return the number of cells along a side of `pixels`: one per full cell, and one for a remainder of half a cell or
/// more.
constexpr std::int64_t cell_count(std::int64_t pixels, std::int64_t cell_size) {
    return (pixels + cell_size / 2) / cell_size;
}

/// Return the first image of a batch. Throws std::invalid_argument unless it has at least one cell.
inline Image checked_image(const TensorView& images, const Parameters& parameters) {
    require(parameters.cell_size >= 1 && parameters.cell_size < (std::int64_t{1} << 30),
            "cell_size must be at least 1 and below 2^30");
    const Image image = first_image(images);
    require(cell_count(image.height, parameters.cell_size) > 0 && cell_count(image.width, parameters.cell_size) > 0,
            "the image is smaller than a cell");
    return image;
}

/// Throw std::invalid_argument with this message unless features are contiguous and of this shape.
inline void check_features(const TensorView& features, std::int64_t batch, std::int64_t rows, std::int64_t columns,
                           const char* problem, int channels = kChannels) {
    const std::array<std::int64_t, 4> expected{batch, channels, rows, columns};
    require(features.shape == expected && features.is_contiguous(), problem);
}

/// Check float32 features, or their gradient.
inline void check_float_features(const TensorView& features, std::int64_t batch, std::int64_t rows,
                                 std::int64_t columns, const char* problem, int channels = kChannels) {
    require(features.type == ScalarType::float32, problem);
    check_features(features, batch, rows, columns, problem, channels);
}

/// Compute HOG: images (B, C, H, W), uint8 or float32, any strides -> output (B, 31, Hc, Wc), contiguous, float32 or
/// float16 (rounded from float32).
///
/// The result does not depend on `threads`, on the instruction set, or on the batch that an image is in. A pixel that
/// is not finite affects the cells that its four neighbors vote for and, through normalization, the cells adjacent to
/// those; all others keep their values to the bit. Throws std::invalid_argument if shapes or types do not fit.
void compute(const TensorView& images, const TensorView& output, const Parameters& parameters, int threads);

/// Compute images' histograms: images (B, C, H, W), as for `compute` -> output (B, 18, Hc, Wc), contiguous float32, as
/// `compute` has them before normalization. Throws std::invalid_argument if shapes or types do not fit.
void compute_histograms(const TensorView& images, const TensorView& output, const Parameters& parameters, int threads);

/// The same of one image, whose shape and type have been checked.
void histograms(const Image& image, const Parameters& parameters, float* cells, int threads);

/// Compute the gradient with respect to the images from `output`, the gradient with respect to HOG (B, 31, Hc, Wc) ->
/// `gradients` (B, C, H, W), per unit of image values in [0, 1]. Both are contiguous float32. See hog_backward.h on
/// sub-gradients.
void compute_backward(const TensorView& output, const TensorView& images, const TensorView& gradients,
                      const Parameters& parameters, int threads);

/// The same on a CUDA device, with float32 features, on the stream at this address. Never synchronizes. `scratch` is
/// (1, 1, 1, N) float32, N from `backward_cuda_scratch`.
void compute_cuda(const TensorView& images, const TensorView& output, const Parameters& parameters,
                  std::uintptr_t stream);
void compute_backward_cuda(const TensorView& output, const TensorView& images, const TensorView& scratch,
                           const TensorView& gradients, const Parameters& parameters, std::uintptr_t stream);
std::int64_t backward_cuda_scratch(const TensorView& images, const Parameters& parameters);

PREIMAGE_DECLARE_KERNEL(void band(const Band& band, const Scratch& scratch));

}  // namespace preimage::hog
