// Sparse SIFT as VLFeat's `vl_sift` computes it: keypoints at extrema of a difference-of-Gaussians scale space, and
// their descriptors. Parameters, units, and what is compiled for every instruction set.
//
// An octave is a stack of `levels` + 3 images of one size, level s = -1 ... levels + 1, blurred with
// sigma = 1.6 * 2^((s + 1) / levels) of its pixels; pixel x of octave o is pixel x * 2^o of the image. Coordinates
// count from the center of the upper left pixel, y down; angles are in radians from +x towards +y.
#pragma once

#include <cstdint>
#include <vector>

#include "common/dispatch.h"
#include "common/image.h"
#include "tensor_view.h"

namespace preimage::sift {

constexpr int kDescriptor = 128;  // orientation + 8 * column + 32 * row
constexpr int kFrame = 5;         // x, y, scale, angle, response
constexpr int kMaxLevels = 32;
constexpr double kTwoPi = 6.283185307179586;

struct Parameters {
    int levels;        // scales an octave
    int first_octave;  // -1 doubles the image, n > 0 keeps every 2^n-th pixel
    double peak_threshold, edge_threshold;
};

/// What was found in one image, octave by octave, then level by level, down and across.
struct Keypoints {
    std::vector<float> frames;       // (N, kFrame)
    std::vector<float> descriptors;  // (N, kDescriptor)
};

/// images (B, C, H, W), uint8 or float32, any strides -> the keypoints of each. The numbers do not depend on
/// `threads`, nor on the batch an image is in. Throws std::invalid_argument when something does not fit.
std::vector<Keypoints> compute(const TensorView& images, const Parameters& parameters, int threads);

/// One plane of an octave in memory: rows of `width` floats, `pitch` apart, with room to read on past the end.
struct Size {
    std::int64_t width, height, pitch;
};

/// A Gaussian's weights, 2 * radius + 1 of them.
struct Filter {
    const float* weights;
    std::int64_t radius;
};

constexpr std::int64_t kPatchWidth = 512;  // of the widest window, in pixels

/// A keypoint's surroundings: the gradients of its level, and where and how large it is, in the octave's pixels.
struct Patch {
    const float* lengths;
    const float* angles;  // in [0, 2 pi]
    Size size;
    double x, y, sigma;
};

constexpr int kOrientationBins = 36;

/// The functions compiled for an instruction set.
struct Kernels {
    /// Row y as floats, three channels as luma.
    void (*read_row)(const Image& image, std::int64_t y, float* row);

    /// out = in, blurred along both axes, its edges repeated; difference = out - in, unless null.
    /// `line`: size.pitch + 2 * filter.radius floats.
    void (*smooth)(const float* in, const Size& size, const Filter& filter, float* line, float* out, float* difference);

    /// A level's gradients: central differences, one-sided ones at the border.
    void (*gradients)(const float* level, const Size& size, float* lengths, float* angles);

    /// The columns of row y where `here` is above all 26 neighbors in the three planes, or below them all; how many.
    /// `work`: 5 * size.pitch floats. 1 <= y < height - 1.
    std::int64_t (*extrema)(const float* below, const float* here, const float* above, const Size& size, std::int64_t y,
                            float* work, std::int32_t* columns);

    /// Votes of the gradients around a keypoint for 36 directions.
    void (*orientations)(const Patch& patch, double* histogram);

    /// The descriptor in the frame turned by `angle`; false where it is not finite.
    bool (*describe)(const Patch& patch, double angle, float* descriptor);
};

PREIMAGE_DECLARE_KERNEL(Kernels kernels());

}  // namespace preimage::sift
