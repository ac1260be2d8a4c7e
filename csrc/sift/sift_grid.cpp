#include "sift/sift_grid.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <stdexcept>
#include <string>

#include "common/float16.h"
#include "common/image.h"
#include "common/memory.h"
#include "common/parallel.h"
#include "sift/sift.h"

namespace preimage::sift {
namespace {

void store_one(float* out, float value) { *out = value; }
void store_one(Half* out, float value) { out->bits = to_half(value); }

const float* floats_of(const TensorView& tensor) { return reinterpret_cast<const float*>(tensor.data); }

/// The keypoint drawn for a cell, if any.
struct Candidate {
    std::int64_t keypoint = -1;
    std::uint64_t key = 0;
};

struct Winner {
    std::int64_t cell, keypoint;
};

class Grid {
public:
    Grid(const GridInput& keypoints, const GridParameters& parameters)
        : keypoints_(keypoints),
          parameters_(parameters),
          columns_((parameters.width + parameters.cell - 1) / parameters.cell),
          rows_((parameters.height + parameters.cell - 1) / parameters.cell),
          x_(floats_of(keypoints.x)),
          y_(floats_of(keypoints.y)) {}

    std::int64_t cells() const { return rows_ * columns_; }

    /// Draw one image, channel by channel, so that a channel's cells are in the cache when its keypoints are written.
    template <class Stored>
    void draw(std::int64_t image, Stored* out) const {
        const std::vector<Winner> winners = winners_of(image);
        const float* descriptors = floats_of(keypoints_.descriptors);
        const auto value = [&](const Winner& winner, int channel) {
            if (channel < kDescriptor) {
                return descriptors[winner.keypoint * kDescriptor + channel] * parameters_.descriptor_scale;
            }
            return channel < kGridChannels ? pose(winner, channel - kDescriptor)
                                           : color(winner.keypoint, channel - kGridChannels);
        };
        for (int channel = 0; channel < keypoints_.channels(); ++channel, out += cells()) {
            std::memset(out, 0, static_cast<std::size_t>(cells()) * sizeof(Stored));
            for (const Winner& winner : winners) {
                store_one(out + winner.cell, value(winner, channel));
            }
        }
    }

private:
    /// Return the coordinate relative to the image's corner, half a pixel before the center of its first pixel.
    static float from_corner(float position) { return position + 0.5f; }

    std::vector<Winner> winners_of(std::int64_t image) const {
        std::vector<Candidate> candidates(static_cast<std::size_t>(cells()));
        const auto begin = keypoints_.offsets[static_cast<std::size_t>(image)];
        const auto end = keypoints_.offsets[static_cast<std::size_t>(image) + 1];
        for (std::int64_t keypoint = begin; keypoint < end; ++keypoint) {
            const float right = from_corner(x_[keypoint]);
            const float down = from_corner(y_[keypoint]);
            if (!(right >= 0.0f && right < static_cast<float>(parameters_.width) && down >= 0.0f &&
                  down < static_cast<float>(parameters_.height))) {
                continue;
            }
            const std::int64_t column = static_cast<std::int64_t>(right) / parameters_.cell;
            const std::int64_t row = static_cast<std::int64_t>(down) / parameters_.cell;
            Candidate& best = candidates[static_cast<std::size_t>(row * columns_ + column)];
            const std::uint64_t key = draw_key(parameters_.seed, static_cast<std::uint64_t>(keypoint - begin));
            if (best.keypoint < 0 || key > best.key) {
                best = {keypoint, key};
            }
        }
        std::vector<Winner> winners;
        for (std::int64_t cell = 0; cell < cells(); ++cell) {
            const std::int64_t keypoint = candidates[static_cast<std::size_t>(cell)].keypoint;
            if (keypoint >= 0) {
                winners.push_back({cell, keypoint});
            }
        }
        return winners;
    }

    float pose(const Winner& winner, int channel) const {
        const std::int64_t keypoint = winner.keypoint;
        const auto in_cell = [this](float position, std::int64_t cell) {
            return from_corner(position) - static_cast<float>(cell * parameters_.cell);
        };
        switch (channel) {
            case 0:
                return in_cell(x_[keypoint], winner.cell % columns_);
            case 1:
                return in_cell(y_[keypoint], winner.cell / columns_);
            case 2:
                return std::sin(floats_of(keypoints_.angle)[keypoint]);
            case 3:
                return std::cos(floats_of(keypoints_.angle)[keypoint]);
            default:
                return std::log(floats_of(keypoints_.scale)[keypoint]);
        }
    }

    /// Return a color minus gray, and 0 if any of the keypoint's three is unknown.
    float color(std::int64_t keypoint, int channel) const {
        const float* colors = floats_of(*keypoints_.colors) + keypoint * kColors;
        const bool known = !std::isnan(colors[0]) && !std::isnan(colors[1]) && !std::isnan(colors[2]);
        return known ? colors[channel] - kGray : 0.0f;
    }

    const GridInput& keypoints_;
    const GridParameters& parameters_;
    const std::int64_t columns_, rows_;
    const float *x_, *y_;
};

void check_values(const TensorView& tensor, const char* name, bool above_zero) {
    for (std::int64_t k = 0; k < tensor.shape[3]; ++k) {
        const float value = floats_of(tensor)[k];
        if (!std::isfinite(value) || (above_zero && value <= 0.0f)) {
            throw std::invalid_argument("keypoints must have finite x, y and angle, and a finite scale above 0; " +
                                        std::string(name) + " of keypoint " + std::to_string(k) + " is " +
                                        std::to_string(value));
        }
    }
}

/// Check a field of N contiguous rows of float32.
void check_field(const TensorView& tensor, const std::array<std::int64_t, 4>& expected) {
    tensor.require_device(-1);
    require(tensor.type == ScalarType::float32 && tensor.shape == expected && tensor.is_contiguous(),
            "keypoints must be contiguous float32, N each of x, y, scale and angle, (N, 128), and (N, 3) colors");
}

void check_colors(const TensorView& colors) {
    for (std::int64_t k = 0; k < colors.shape[2] * kColors; ++k) {
        const float value = floats_of(colors)[k];
        if (value < 0.0f || value > 1.0f) {
            throw std::invalid_argument("colors must be in [0, 1], or NaN where unknown; keypoint " +
                                        std::to_string(k / kColors) + " has " + std::to_string(value));
        }
    }
}

void check(const GridInput& input, const GridParameters& parameters, const TensorView& output) {
    constexpr std::int64_t limit = std::int64_t{1} << 30;
    require(std::min({parameters.height, parameters.width, parameters.cell}) >= 1 &&
                std::max({parameters.height, parameters.width, parameters.cell}) < limit,
            "the image's sides and the cell must be at least 1 and below 2^30");
    const std::int64_t count = input.descriptors.shape[2];
    for (const TensorView* tensor : {&input.x, &input.y, &input.scale, &input.angle, &input.descriptors}) {
        const bool described = tensor == &input.descriptors;
        check_field(*tensor, {1, 1, described ? count : 1, described ? kDescriptor : count});
    }
    if (input.colors) {
        check_field(*input.colors, {1, 1, count, kColors});
        check_colors(*input.colors);
    }
    const std::vector<std::int64_t>& offsets = input.offsets;
    require(!offsets.empty() && offsets.front() == 0 && offsets.back() == count &&
                std::is_sorted(offsets.begin(), offsets.end()),
            "offsets must rise from 0 to the number of keypoints");
    const std::array<std::int64_t, 4> expected{static_cast<std::int64_t>(offsets.size()) - 1, input.channels(),
                                               (parameters.height + parameters.cell - 1) / parameters.cell,
                                               (parameters.width + parameters.cell - 1) / parameters.cell};
    output.require_device(-1);
    const bool known = output.type == ScalarType::float32 || output.type == ScalarType::float16;
    require(known && output.shape == expected && output.is_contiguous(),
            "the grid must be contiguous float32 or float16 (B, 133, rows, columns), or 136 channels with colors");
    check_values(input.x, "x", false);
    check_values(input.y, "y", false);
    check_values(input.angle, "angle", false);
    check_values(input.scale, "scale", true);
}

}  // namespace

void draw_grid(const GridInput& keypoints, const GridParameters& parameters, const TensorView& output, int threads) {
    check(keypoints, parameters, output);
    const Grid grid(keypoints, parameters);
    const std::int64_t batch = output.shape[0];
    const std::int64_t elements = keypoints.channels() * grid.cells();
    prefer_large_pages(output.data, batch * elements * output.element_size());
    const int workers = static_cast<int>(std::clamp<std::int64_t>(threads, 1, std::max<std::int64_t>(batch, 1)));
    const auto draw_all = [&](auto* out) {
        parallel_for(batch, workers, [&](std::int64_t image, int) { grid.draw(image, out + image * elements); });
    };
    if (output.type == ScalarType::float16) {
        draw_all(reinterpret_cast<Half*>(output.data));
    } else {
        draw_all(reinterpret_cast<float*>(output.data));
    }
}

}  // namespace preimage::sift
