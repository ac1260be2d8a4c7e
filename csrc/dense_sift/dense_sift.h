// Dense SIFT in VLFeat's form, 128 channels: parameters, sizes and units.
//
// Images are (C, H, W), y down, values in [0, 1] (uint8 is divided by 255); three channels become luma. A pixel's
// gradient votes with its length for the two orientations next to its direction. A descriptor is 4 x 4 spatial bins,
// bin_size pixels apart, of 8 orientations: each sums the votes within bin_size - 1 pixels of its center, weighted by
// a triangle and a window; votes outside the image repeat those at its edge. Then: unit length, clipped at 0.2, unit
// length again. The first descriptor's first bin is centerd on (top, left), the others `step` pixels apart. The
// arithmetic is in dense_sift_math.h.
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
    gaussian,  // every pixel weighted by its distance from the descriptor's center
    flat       // every spatial bin weighted by the Gaussian's mean over it
};

struct Parameters {
    std::int64_t step;      // pixels between descriptors, along both axes
    std::int64_t bin_size;  // pixels between the centers of spatial bins, along both axes
    Window window;
    float window_size;                      // the Gaussian's sigma in bins
    std::int64_t top, left, bottom, right;  // pixels that bin centers may lie on, inclusive
};

/// Where in a descriptor: orientation, spatial column, spatial row.
PREIMAGE_INLINE constexpr int channel_of(int orientation, int column, int row) {
    return orientation + kOrientations * (column + kSpatial * row);
}

/// Pixels along an axis from a descriptor's first bin center to its last.
PREIMAGE_INLINE constexpr std::int64_t extent(std::int64_t bin_size) { return (kSpatial - 1) * bin_size; }

/// Pixels along an axis that vote for one spatial bin; offsets -(bin_size - 1) ... bin_size - 1 from its center.
PREIMAGE_INLINE constexpr std::int64_t tap_count(std::int64_t bin_size) { return 2 * bin_size - 1; }

/// Descriptors along an axis whose bin centers lie in first ... last, inclusive.
PREIMAGE_INLINE constexpr std::int64_t frame_count(std::int64_t first, std::int64_t last,
                                                   const Parameters& parameters) {
    const std::int64_t room = last - first - extent(parameters.bin_size);
    return room < 0 ? 0 : room / parameters.step + 1;
}

/// What a descriptor's 128 sums together are divided by to make its norm.
PREIMAGE_INLINE constexpr float norm_divisor(std::int64_t bin_size) {
    const auto side = static_cast<float>(extent(bin_size) + 1);
    return side * side;
}

/// One image's rows of descriptors [first_row, last_row), the unit of work of a thread.
struct Band {
    Image image;
    Parameters parameters;
    std::int64_t rows, columns;  // descriptors of the whole image
    std::int64_t first_row, last_row;
    std::byte* features;  // (128, rows, columns) of the whole image
    ScalarType type;      // of the features
    float* norms;         // (rows, columns) of the whole image
};

/// images (B, C, H, W), uint8 or float32, any strides -> features (B, 128, h, w), float32, float16, bfloat16 or uint8
/// (512 times the value, rounded down, at most 255), and norms (B, 1, h, w), float32; both contiguous.
/// h = frame_count(top, bottom), w = frame_count(left, right). The norm is the sum of a descriptor's 128 sums before
/// normalizing, divided by (3 * bin_size + 1)^2. A near-flat patch, whose sums squared add up to at most 1e-8, gets
/// a descriptor of zeros.
/// The numbers do not depend on `threads`, on the instruction set, or on the batch an image is in. A pixel that is
/// not finite spoils the descriptors that it, or one of its four neighbors, votes for, and no others.
/// Throws std::invalid_argument when shapes, types or parameters do not fit.
void compute(const TensorView& images, const TensorView& features, const TensorView& norms,
             const Parameters& parameters, int threads);

}  // namespace preimage::dense_sift
