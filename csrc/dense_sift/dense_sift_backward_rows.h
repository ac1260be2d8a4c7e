// Part of the gradient on the CPU (dense_sift_backward.cpp): the steps of dense_sift_backward.h for a row of an image.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "common/image_rows.h"
#include "dense_sift/dense_sift_backward.h"

namespace preimage::dense_sift {
namespace {

constexpr int kSlots = kSpatial * kOrientations;  // sums of a pixel column
constexpr std::int32_t kColumnsAtOnce = 64;       // pixel columns summed together

using Chunk = float[kChannels][kChunk];

/// Parameters and tables shared by all images.
struct Task {
    Grid grid;
    int channels;
    float norm_divisor;
    const float* weights;  // (taps, 4)
    ContributionTable down, across;
};

/// Inputs, output and intermediate buffers of one image.
struct ImageTask {
    Image image;
    const float* grad_features;  // (128, rows, columns)
    const float* grad_norms;     // (rows, columns)
    float* gradient;             // (channels, height, width)
    float* luma;                 // (height, width)
    float* votes;  // (2, height, width): lengths and directions; later gradients with respect to gx and gy
    float* sums;   // (rows, 128, columns): gradient with respect to the sums
};

std::int64_t image_floats(const Grid& grid) {
    const std::int64_t pixels = std::int64_t{grid.y.pixels} * grid.x.pixels;
    return 3 * pixels + std::int64_t{kChannels} * grid.y.frames * grid.x.frames;
}

/// Return the size of a thread's buffer, for column sums or for a row of gathered gradients.
std::int64_t worker_floats(const Grid& grid) { return std::int64_t{kSlots} * grid.x.pixels; }

void luma_row(const ImageTask& one, std::int64_t y) {
    float* out = one.luma + y * one.image.width;
    if (one.image.type == ScalarType::uint8) {
        convert_row<std::uint8_t>(one.image, 1, y, one.image.width, out);
    } else {
        convert_row<float>(one.image, 1, y, one.image.width, out);
    }
}

/// Gradients of the pixels of row y, from the rows of luma above, at and below it.
class Gradients {
public:
    Gradients(const Grid& grid, const float* luma, std::int32_t y)
        : width_(grid.x.pixels),
          here_(luma + std::int64_t{y} * width_),
          above_(luma + std::int64_t{inside(grid.y, y - 1)} * width_),
          below_(luma + std::int64_t{inside(grid.y, y + 1)} * width_),
          inside_(y > 0 && y < grid.y.pixels - 1) {}

    float across(std::int32_t x) const {
        const bool within = x > 0 && x < width_ - 1;
        return difference(here_[x > 0 ? x - 1 : x], here_[x < width_ - 1 ? x + 1 : x], within);
    }
    float down(std::int32_t x) const { return difference(above_[x], below_[x], inside_); }

    /// Call visit(x, gx, gy) for every pixel of the row. The loop over the inner pixels vectorizes.
    template <class Visit>
    void each(const Visit& visit) const {
        visit(0, across(0), down(0));
        for (std::int32_t x = 1; x < width_ - 1; ++x) {
            visit(x, difference(here_[x - 1], here_[x + 1], true), down(x));
        }
        visit(width_ - 1, across(width_ - 1), down(width_ - 1));
    }

private:
    const std::int32_t width_;
    const float* const here_;
    const float* const above_;
    const float* const below_;
    const bool inside_;
};

void vote_row(const Task& task, const ImageTask& one, std::int32_t y) {
    float* lengths = one.votes + std::int64_t{y} * task.grid.x.pixels;
    float* directions = lengths + std::int64_t{task.grid.y.pixels} * task.grid.x.pixels;
    Gradients(task.grid, one.luma, y).each([=](std::int32_t x, float gx, float gy) {
        lengths[x] = gradient_length(gx, gy);
        directions[x] = direction(gx, gy);
    });
}

using Four = float __attribute__((vector_size(16)));

/// Compute the sums of up to kChunk descriptors of a row from column sums, in the same order as on the GPU.
void sum_chunk(const Task& task, const float* columns, std::int64_t first, int count, Chunk& sums) {
    const Grid& grid = task.grid;
    for (int lane = 0; lane < count; ++lane) {
        const auto start = static_cast<std::int32_t>(grid.x.first + (first + lane) * grid.step) - (grid.bin_size - 1);
        for (int bin = 0; bin < kSpatial; ++bin) {
            Four total[kSlots / 4] = {};
            for (std::int32_t tap = 0; tap < taps_of(grid); ++tap) {
                const float weight = task.weights[tap * kSpatial + bin];
                const std::int32_t x = inside(grid.x, start + bin * grid.bin_size + tap);
                Four column[kSlots / 4];
                std::memcpy(column, columns + std::int64_t{kSlots} * x, sizeof(column));
                for (int part = 0; part < kSlots / 4; ++part) {
                    total[part] += weight * column[part];
                }
            }
            for (int slot = 0; slot < kSlots; ++slot) {
                const int channel = channel_of(slot % kOrientations, bin, slot / kOrientations);
                sums[channel][lane] = total[slot / 4][slot % 4];
            }
        }
    }
}

/// Computes, per descriptor, the scalar product of two chunks: over each orientation first, then in total.
void dot(const Chunk& a, const Chunk& b, float (&total)[kChunk]) {
    std::fill_n(total, kChunk, 0.0f);
    for (int orientation = 0; orientation < kOrientations; ++orientation) {
        float part[kChunk] = {};
        for (int channel = orientation; channel < kChannels; channel += kOrientations) {
            for (int lane = 0; lane < kChunk; ++lane) {
                part[lane] += a[channel][lane] * b[channel][lane];
            }
        }
        for (int lane = 0; lane < kChunk; ++lane) {
            total[lane] += part[lane];
        }
    }
}

using Units = UnitLength[kChunk];

void unit_lengths(const Chunk& values, Units& units) {
    float squares[kChunk];
    dot(values, values, squares);
    for (int lane = 0; lane < kChunk; ++lane) {
        units[lane] = unit_length(squares[lane]);
    }
}

/// Step 1 for a chunk: replaces the gradient with respect to the descriptors by that with respect to the sums.
void normalize_backward(const Chunk& sums, Chunk& gradient) {
    Chunk clipped;
    Units first;
    Units second;
    float products[kChunk];
    unit_lengths(sums, first);
    for (int channel = 0; channel < kChannels; ++channel) {
        for (int lane = 0; lane < kChunk; ++lane) {
            clipped[channel][lane] = clip(sums[channel][lane] * first[lane].factor);
        }
    }
    unit_lengths(clipped, second);
    dot(clipped, gradient, products);
    for (int channel = 0; channel < kChannels; ++channel) {
        for (int lane = 0; lane < kChunk; ++lane) {
            const float result = second[lane].backward(clipped[channel][lane], gradient[channel][lane], products[lane]);
            gradient[channel][lane] = clip_backward(sums[channel][lane] * first[lane].factor, result);
        }
    }
    dot(sums, gradient, products);
    for (int channel = 0; channel < kChannels; ++channel) {
        for (int lane = 0; lane < kChunk; ++lane) {
            gradient[channel][lane] =
                first[lane].backward(sums[channel][lane], gradient[channel][lane], products[lane]);
        }
    }
}

/// Add the votes of a row of pixels [begin, end) to the 4 x 8 sums of their columns, in the row of bins `bin`.
void add_votes(const Task& task, const float* lengths, int bin, std::int32_t tap, std::int32_t begin, std::int32_t end,
               float* columns) {
    const float* directions = lengths + std::int64_t{task.grid.y.pixels} * task.grid.x.pixels;
    const float weight = task.weights[tap * kSpatial + bin];
    for (std::int32_t x = begin; x < end; ++x) {
        const Vote vote = split_vote(directions[x], lengths[x]);
        float* sums = columns + std::int64_t{kSlots} * x + bin * kOrientations;
        sums[vote.bin] += weight * vote.first;
        sums[(vote.bin + 1) % kOrientations] += weight * vote.second;
    }
}

/// Compute the 4 x 8 sums of pixel columns [begin, end) under a row of descriptors, in the same order as on the GPU.
/// Called with few enough columns to stay in the level 1 cache.
void sum_columns(const Task& task, const float* votes, std::int32_t row, std::int32_t begin, std::int32_t end,
                 float* columns) {
    const Grid& grid = task.grid;
    std::fill(columns + std::int64_t{kSlots} * begin, columns + std::int64_t{kSlots} * end, 0.0f);
    const std::int32_t top = grid.y.first + row * grid.step - (grid.bin_size - 1);
    for (int bin = 0; bin < kSpatial; ++bin) {
        for (std::int32_t tap = 0; tap < taps_of(grid); ++tap) {
            const std::int32_t y = inside(grid.y, top + bin * grid.bin_size + tap);
            add_votes(task, votes + std::int64_t{y} * grid.x.pixels, bin, tap, begin, end, columns);
        }
    }
}

void descriptor_row(const Task& task, const ImageTask& one, std::int32_t row, float* columns) {
    const Grid& grid = task.grid;
    const std::int32_t reach = grid.bin_size - 1;
    const std::int32_t begin = inside(grid.x, grid.x.first - reach);
    const std::int32_t end =
        inside(grid.x, grid.x.first + (grid.x.frames - 1) * grid.step + 3 * grid.bin_size + reach) + 1;
    for (std::int32_t x = begin; x < end; x += kColumnsAtOnce) {
        sum_columns(task, one.votes, row, x, std::min(x + kColumnsAtOnce, end), columns);
    }
    // The gradient of the descriptors is copied here by whole rows, then processed in place.
    const std::int64_t width = grid.x.frames;
    const std::int64_t plane = grid.y.frames * width;
    float* own = one.sums + std::int64_t{row} * kChannels * width;
    for (int channel = 0; channel < kChannels; ++channel) {
        std::copy_n(one.grad_features + channel * plane + row * width, width, own + channel * width);
    }
    for (std::int64_t first = 0; first < width; first += kChunk) {
        const auto count = static_cast<int>(std::min<std::int64_t>(kChunk, width - first));
        alignas(64) Chunk sums = {};
        alignas(64) Chunk gradient = {};
        sum_chunk(task, columns, first, count, sums);
        for (int channel = 0; channel < kChannels; ++channel) {
            std::copy_n(own + channel * width + first, count, gradient[channel]);
        }
        normalize_backward(sums, gradient);
        float more[kChunk] = {};
        for (int lane = 0; lane < count; ++lane) {
            more[lane] = one.grad_norms[row * width + first + lane] / task.norm_divisor;
        }
        for (int channel = 0; channel < kChannels; ++channel) {
            for (int lane = 0; lane < count; ++lane) {
                own[channel * width + first + lane] = gradient[channel][lane] + more[lane];
            }
        }
    }
}

void difference_gradient_row(const Task& task, const ImageTask& one, std::int32_t y, float* rows) {
    const Grid& grid = task.grid;
    for (std::int64_t element = 0; element < std::int64_t{kSlots} * grid.x.frames; element += kChunk) {
        gather_down<kChunk>(grid, task.down, one.sums, y, element, rows + element);
    }
    // The votes of this row are not needed any more, so the gradients replace them.
    float* across = one.votes + std::int64_t{y} * grid.x.pixels;
    float* down = across + std::int64_t{grid.y.pixels} * grid.x.pixels;
    for (std::int32_t x = 0; x < grid.x.pixels; ++x) {
        const VoteGradient vote_gradient =
            gather_vote_gradient(grid, task.across, rows, x, static_cast<std::int32_t>(down[x]));
        across[x] = vote_gradient.first;
        down[x] = vote_gradient.second;
    }
    Gradients(grid, one.luma, y).each([=](std::int32_t x, float gx, float gy) {
        const DifferenceGradient difference_gradients = vote_backward(gx, gy, {across[x], down[x]});
        across[x] = difference_gradients.x;
        down[x] = difference_gradients.y;
    });
}

}  // namespace
}  // namespace preimage::dense_sift
