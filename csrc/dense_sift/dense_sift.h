// Dense SIFT as in VLFeat's `vl_dsift`, 128 channels: parameters, sizes and units.
//
// Images are (C, H, W), y down, values in [0, 1] (uint8 is divided by 255); three channels become luma. The gradient of
// a pixel votes with its length for the two nearest of 8 orientations. A descriptor has 4 x 4 spatial bins, bin_size
// pixels apart. Each bin sums the votes of every orientation within bin_size - 1 pixels of its center, weighted by a
// triangle and a window; outside the image, the votes at its edge are repeated. The 128 sums are scaled to unit length,
// clipped at 0.2, and scaled to unit length again. The first bin of the first descriptor is centered on (top, left);
// descriptors are `step` pixels apart. The arithmetic is in dense_sift_math.h.
#pragma once

#include <cstddef>
#include <cstdint>

#include "common/dispatch.h"
#include "common/image.h"
#include "tensor_view.h"

namespace preimage::dense_sift {

constexpr int kOrientations = 8;  // 45 degrees apart, the first along +x, towards +y
constexpr int kSpatial = 4;       // spatial bins along each axis
constexpr int kChannels = kOrientations * kSpatial * kSpatial;

enum class Window {
    gaussian,  // weights every pixel by its distance from the descriptor's center
    flat       // weights every spatial bin by the mean of the Gaussian over it
};

struct Parameters {
    std::int64_t step;      // pixels between descriptors, along both axes
    std::int64_t bin_size;  // pixels between the centers of spatial bins, along both axes
    Window window;
    float window_size;                      // the Gaussian's sigma in bins
    std::int64_t top, left, bottom, right;  // range of bin centers in pixels, inclusive
};

/// Return the index within a descriptor of an orientation, spatial column and spatial row.
PREIMAGE_INLINE constexpr int channel_of(int orientation, int column, int row) {
    return orientation + kOrientations * (column + kSpatial * row);
}

/// Return the number of pixels from a descriptor's first bin center to its last, along one axis.
PREIMAGE_INLINE constexpr std::int64_t extent(std::int64_t bin_size) { return (kSpatial - 1) * bin_size; }

/// Return the number of pixels that vote for one spatial bin along one axis, at offsets -(bin_size - 1) ... bin_size -
/// 1 from its center.
PREIMAGE_INLINE constexpr std::int64_t tap_count(std::int64_t bin_size) { return 2 * bin_size - 1; }

/// Return the number of descriptors along an axis whose bin centers are in first ... last, inclusive.
PREIMAGE_INLINE constexpr std::int64_t frame_count(std::int64_t first, std::int64_t last,
                                                   const Parameters& parameters) {
    const std::int64_t room = last - first - extent(parameters.bin_size);
    return room < 0 ? 0 : room / parameters.step + 1;
}

/// Return the divisor that turns the total of a descriptor's 128 sums into its norm.
PREIMAGE_INLINE constexpr float norm_divisor(std::int64_t bin_size) {
    const auto side = static_cast<float>(extent(bin_size) + 1);
    return side * side;
}

/// Rows of descriptors [first_row, last_row) of one image: the unit of work of a thread.
struct Band {
    Image image;
    Parameters parameters;
    std::int64_t rows, columns;  // descriptors of the whole image
    std::int64_t first_row, last_row;
    std::byte* features;  // (128, rows, columns) of the whole image
    ScalarType type;      // type of the features
    float* norms;         // (rows, columns) of the whole image
};

/// Compute dense SIFT: images (B, C, H, W), uint8 or float32, any strides -> features (B, 128, h, w), float32, float16,
/// bfloat16 or uint8 (512 times the value, rounded down, at most 255), and norms (B, 1, h, w), float32; both
/// contiguous.
///
/// h = frame_count(top, bottom), w = frame_count(left, right). The norm is the total of a descriptor's 128 sums before
/// normalization, divided by (3 * bin_size + 1)^2. A near-flat patch, whose squared sums add up to at most 1e-8, has a
/// descriptor of zeros. The result does not depend on `threads`, on the instruction set, or on the batch that an image
/// is in. A pixel that is not finite affects only the descriptors that it, or one of its four neighbors, votes for.
/// Throws std::invalid_argument if shapes, types or parameters do not fit.
void compute(const TensorView& images, const TensorView& features, const TensorView& norms,
             const Parameters& parameters, int threads);

/// Compute the gradient with respect to the images: grad_features (B, 128, h, w) and grad_norms (B, 1, h, w), float32
/// contiguous; images and parameters as for `compute` -> grad_images (B, C, H, W), float32 contiguous. The result does
/// not depend on `threads` or on the batch that an image is in. Throws std::invalid_argument if shapes, types or
/// parameters do not fit.
void compute_backward(const TensorView& grad_features, const TensorView& grad_norms, const TensorView& images,
                      const TensorView& grad_images, const Parameters& parameters, int threads);

/// Return the working memory on the device that a call needs, in floats. For larger batches it stops growing at some
/// hundred megabytes (or one image, if that needs more), and the batch is processed in parts.
std::int64_t cuda_scratch(const TensorView& images, const Parameters& parameters, bool backward);

/// As `compute`, on the images' device; sums have another order. `scratch` is contiguous float32 of
/// cuda_scratch(...) elements, uninitialized. Only launches kernels on `stream`, and never synchronizes. Throws
/// std::invalid_argument also if a descriptor does not fit into shared memory.
void compute_cuda(const TensorView& images, const TensorView& scratch, const TensorView& features,
                  const TensorView& norms, const Parameters& parameters, std::uintptr_t stream);

/// As `compute_backward`, likewise.
void compute_backward_cuda(const TensorView& grad_features, const TensorView& grad_norms, const TensorView& images,
                           const TensorView& scratch, const TensorView& grad_images, const Parameters& parameters,
                           std::uintptr_t stream);

}  // namespace preimage::dense_sift
