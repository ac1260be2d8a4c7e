// A grid of cells with at most one keypoint each, drawn at random from a sparse set.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "tensor_view.h"

namespace preimage::sift {

constexpr int kGridChannels = 133;  // descriptor (128), position (2), sine, cosine, log scale
constexpr int kColors = 3;          // further channels of keypoints with colors: red, green, blue, minus kGray
constexpr float kGray = 0.5f;

/// Keypoints of a batch: image i has offsets[i] ... offsets[i + 1]. Contiguous float32: (1, 1, 1, N), (1, 1, N, 128)
/// and, if there are colors, (1, 1, N, 3) in [0, 1]; NaN in a row of colors is a keypoint without one.
struct GridInput {
    TensorView x, y, scale, angle, descriptors;
    std::optional<TensorView> colors;
    std::vector<std::int64_t> offsets;

    int channels() const { return kGridChannels + (colors ? kColors : 0); }
};

struct GridParameters {
    std::int64_t height, width, cell;  // pixels
    std::uint64_t seed;
    float descriptor_scale;
};

/// Draw keypoints -> output (B, 133, ceil(height / cell), ceil(width / cell)), or 136 channels with colors, contiguous,
/// float32 or float16 (rounded from float32). Of the keypoints in a cell, the one whose index within its image has the
/// largest `draw_key` is kept. Throws std::invalid_argument if an argument does not fit or a keypoint is not finite.
void draw_grid(const GridInput& keypoints, const GridParameters& parameters, const TensorView& output, int threads);

/// Return output number `index` of the splitmix64 generator started at `seed`. Different indices give different keys.
inline std::uint64_t draw_key(std::uint64_t seed, std::uint64_t index) {
    std::uint64_t state = seed + (index + 1) * 0x9E3779B97F4A7C15u;
    state = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9u;
    state = (state ^ (state >> 27)) * 0x94D049BB133111EBu;
    return state ^ (state >> 31);
}

}  // namespace preimage::sift
