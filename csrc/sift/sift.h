// Sparse SIFT as in VLFeat's `vl_sift`: keypoints at extrema of a difference-of-Gaussians scale space, and their
// descriptors. Parameters, units, and the kernels compiled for every instruction set.
//
// An octave is a stack of `levels` + 3 images of one size, levels s = -1 ... levels + 1, blurred with sigma = 1.6 *
// 2^((s + 1) / levels) of its pixels. Pixel x of octave o is pixel x * 2^o of the image. Coordinates are relative to
// the center of the upper left pixel, y down; angles are in radians from +x towards +y.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "common/dispatch.h"
#include "common/image.h"
#include "tensor_view.h"

namespace preimage::sift {

constexpr int kDescriptor = 128;  // orientation + 8 * column + 32 * row
constexpr int kFrame = 5;         // x, y, scale, angle, response
constexpr int kGivenFrame = 4;    // x, y, scale, angle
constexpr int kMaxLevels = 32;
constexpr double kTwoPi = 6.283185307179586;

struct Parameters {
    int levels;        // scales per octave
    int first_octave;  // -1 doubles the image, n > 0 keeps every 2^n-th pixel
    double peak_threshold, edge_threshold;
    int octaves = -1;             // number of octaves; -1 for a last one with a shorter side of 16 to 31 pixels
    double magnification = 3.0;   // size of a spatial bin in scales
    double window_size = 2.0;     // standard deviation of the descriptor's window in bins
    double norm_threshold = 0.0;  // descriptors with a smaller norm before normalization are 0
};

/// Frames to describe instead of extrema.
struct GivenFrames {
    TensorView frames;  // (1, 1, N, kGivenFrame) float32, contiguous
    bool orient;        // compute angles, up to four for each frame, instead of using those given
};

/// Keypoints of one image, ordered by octave, level, row and column; given frames by octave and their given order.
struct Keypoints {
    std::vector<float> frames;       // (N, kFrame)
    std::vector<float> descriptors;  // (N, kDescriptor)
};

/// Detect keypoints: images (B, C, H, W), uint8 or float32, any strides -> the keypoints of each image. The result does
/// not depend on `threads` or on the batch that an image is in. Throws std::invalid_argument if an argument does not
/// fit.
///
/// With `given` frames of a single image, these are described, in the octave and level nearest to their scale.
/// Descriptors of frames outside the image are 0, as are those that are not finite; if directions are computed, such
/// frames are left out.
std::vector<Keypoints> compute(const TensorView& images, const Parameters& parameters, int threads,
                               const std::optional<GivenFrames>& given = std::nullopt);

/// Size of a plane of an octave: rows of `width` floats, `pitch` apart, with padding that may be read.
struct Size {
    std::int64_t width, height, pitch;
};

/// Weights of a Gaussian, 2 * radius + 1 of them.
struct Filter {
    const float* weights;
    std::int64_t radius;
};

constexpr std::int64_t kPatchWidth = 512;  // pixels of a row of the window that are processed at once

/// The gradients of a keypoint's level, and its position and scale in pixels of the octave.
struct Patch {
    const float* lengths;
    const float* angles;  // in [0, 2 pi]
    Size size;
    double x, y, sigma;
};

constexpr int kOrientationBins = 36;

/// The kernels of one instruction set.
struct Kernels {
    /// Read row y as float32, three channels as luma.
    void (*read_row)(const Image& image, std::int64_t y, float* row);

    /// Blur along both axes, with the edges repeated; difference = out - in, unless null. `line`: size.pitch + 2 *
    /// filter.radius floats.
    void (*smooth)(const float* in, const Size& size, const Filter& filter, float* line, float* out, float* difference);

    /// Compute the gradients of a level: central differences, one-sided at the border.
    void (*gradients)(const float* level, const Size& size, float* lengths, float* angles);

    /// Write the columns of row y where `here` is above or below all 26 neighbors in the three planes; return their
    /// number. `work`: 5 * size.pitch floats. 1 <= y < height - 1.
    std::int64_t (*extrema)(const float* below, const float* here, const float* above, const Size& size, std::int64_t y,
                            float* work, std::int32_t* columns);

    /// Accumulate the gradients around a keypoint into 36 directions.
    void (*orientations)(const Patch& patch, double* histogram);

    /// Compute the descriptor in the frame rotated by `angle`; return false if it is not finite.
    bool (*describe)(const Patch& patch, const Parameters& parameters, double angle, float* descriptor);
};

PREIMAGE_DECLARE_KERNEL(Kernels kernels());

}  // namespace preimage::sift
