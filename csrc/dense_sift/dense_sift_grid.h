// Positions of descriptors on an image and weights of their bins, for the GPU kernels and the gradient.
#pragma once

#include <array>
#include <cstdint>

#include "dense_sift/dense_sift.h"
#include "dense_sift/dense_sift_math.h"

namespace preimage::dense_sift {

/// One axis of the grid: the first bin of the first descriptor is centered on pixel `first`.
struct Axis {
    std::int32_t pixels, frames, first;
};

struct Grid {
    Axis y, x;
    std::int32_t step, bin_size;
};

/// Throw std::invalid_argument unless the parameters fit the image and leave at least one descriptor.
inline Grid checked_grid(const Image& image, const Parameters& parameters) {
    constexpr std::int64_t limit = std::int64_t{1} << 30;
    require(parameters.step >= 1 && parameters.step < limit, "step must be at least 1 and below 2^30");
    require(parameters.bin_size >= 1 && parameters.bin_size < limit, "bin_size must be at least 1 and below 2^30");
    require(parameters.window_size > 0.0f && parameters.window_size < 1e30f, "window_size must be above 0");
    require(parameters.top >= 0 && parameters.top <= parameters.bottom && parameters.bottom < image.height &&
                parameters.left >= 0 && parameters.left <= parameters.right && parameters.right < image.width,
            "the bounds must lie inside the image");
    const auto axis = [&parameters](std::int64_t pixels, std::int64_t first, std::int64_t last) {
        const std::int64_t frames = frame_count(first, last, parameters);
        require(frames > 0, "the bounds are too small for a descriptor");
        return Axis{static_cast<std::int32_t>(pixels), static_cast<std::int32_t>(frames),
                    static_cast<std::int32_t>(first)};
    };
    return {axis(image.height, parameters.top, parameters.bottom), axis(image.width, parameters.left, parameters.right),
            static_cast<std::int32_t>(parameters.step), static_cast<std::int32_t>(parameters.bin_size)};
}

/// Throw std::invalid_argument unless this is a contiguous tensor (batch, channels, rows, columns) of descriptors.
inline void require_descriptors(const TensorView& tensor, std::int64_t batch, std::int64_t channels, const Grid& grid,
                                const char* problem) {
    const std::array<std::int64_t, 4> expected{batch, channels, grid.y.frames, grid.x.frames};
    require(tensor.shape == expected && tensor.is_contiguous(), problem);
    require(tensor.type != ScalarType::float64, "descriptors and norms must be float32 or smaller, got float64");
}

PREIMAGE_INLINE std::int32_t taps_of(const Grid& grid) { return 2 * grid.bin_size - 1; }

/// Return the pixel whose votes are used at this position: outside the image, those at its edge.
PREIMAGE_INLINE std::int32_t inside(const Axis& axis, std::int32_t position) {
    return minimum(maximum(position, 0), axis.pixels - 1);
}

/// Fill (taps, 4): the weight along one axis of every pixel around a bin's center, for each of the four bins.
inline void fill_weights(const Parameters& parameters, float* weights) {
    for (int bin = 0; bin < kSpatial; ++bin) {
        const float mean = window_mean(bin, parameters.bin_size, parameters.window_size);
        for (std::int64_t tap = 0; tap < tap_count(parameters.bin_size); ++tap) {
            const std::int64_t offset = tap - (parameters.bin_size - 1);
            const float window = parameters.window == Window::flat
                                     ? mean
                                     : window_at(offset, bin, parameters.bin_size, parameters.window_size);
            weights[tap * kSpatial + bin] = triangle_at(offset, parameters.bin_size) * window;
        }
    }
}

}  // namespace preimage::dense_sift
