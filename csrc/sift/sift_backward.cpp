// The gradient of dense SIFT on the CPU: the steps of sift_backward.h, each shared out by rows.
#include "sift/sift_backward.h"

#include <algorithm>
#include <vector>

#include "common/aligned.h"
#include "common/image_rows.h"
#include "common/parallel.h"
#include "sift/sift_block_sums.h"

namespace preimage::sift {
namespace {

constexpr int kChunk = 16;                          // descriptors whose normalisation is worked on together
constexpr int kSlots = kSpatial * kOrientations;    // sums of a pixel column
constexpr std::int64_t kPixelsPerThread = 1 << 14;  // several times what starting the threads of five steps costs

using Chunk = float[kChannels][kChunk];

/// What is the same for all images.
struct Task {
    Grid grid;
    int channels;
    float norm_divisor;
    const float* weights;  // (taps, 4)
    ShareTable down, across;
};

/// One image: what comes in, what goes out, and what its steps leave for each other.
struct OneImage {
    Image image;
    const float* grad_features;  // (128, rows, columns)
    const float* grad_norms;     // (rows, columns)
    float* gradient;             // (channels, height, width)
    float* luma;                 // (height, width)
    float* votes;                // (2, height, width): lengths and directions; later the slopes
    float* sums;                 // (rows, 128, columns): their gradient
};

std::int64_t image_floats(const Grid& grid) {
    const std::int64_t pixels = std::int64_t{grid.y.pixels} * grid.x.pixels;
    return 3 * pixels + std::int64_t{kChannels} * grid.y.frames * grid.x.frames;
}

/// A thread's columns of sums, or its row of gathered gradients.
std::int64_t worker_floats(const Grid& grid) { return std::int64_t{kSlots} * grid.x.pixels; }

void luma_row(const OneImage& one, std::int64_t y) {
    float* out = one.luma + y * one.image.width;
    if (one.image.type == ScalarType::uint8) {
        convert_row<std::uint8_t>(one.image, 1, y, one.image.width, out);
    } else {
        convert_row<float>(one.image, 1, y, one.image.width, out);
    }
}

/// The rows of luma above, at and below row y, and its gradients.
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

    /// Calls visit(x, gx, gy) for every pixel of the row; inside it, in a loop that compilers vectorise.
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

void vote_row(const Task& task, const OneImage& one, std::int32_t y) {
    float* lengths = one.votes + std::int64_t{y} * task.grid.x.pixels;
    float* directions = lengths + std::int64_t{task.grid.y.pixels} * task.grid.x.pixels;
    Gradients(task.grid, one.luma, y).each([=](std::int32_t x, float gx, float gy) {
        lengths[x] = gradient_length(gx, gy);
        directions[x] = direction(gx, gy);
    });
}

/// The sums of up to kChunk descriptors of a row, from its columns of sums: in the GPU's order of adding.
void sum_chunk(const Task& task, const float* columns, std::int64_t first, int count, Chunk& sums) {
    const Grid& grid = task.grid;
    for (int lane = 0; lane < count; ++lane) {
        const auto start = static_cast<std::int32_t>(grid.x.first + (first + lane) * grid.step) - (grid.bin_size - 1);
        for (int bin = 0; bin < kSpatial; ++bin) {
            float total[kSlots] = {};
            for (std::int32_t tap = 0; tap < taps_of(grid); ++tap) {
                const float weight = task.weights[tap * kSpatial + bin];
                const float* column =
                    columns + std::int64_t{kSlots} * inside(grid.x, start + bin * grid.bin_size + tap);
                for (int slot = 0; slot < kSlots; ++slot) {
                    total[slot] += weight * column[slot];
                }
            }
            for (int slot = 0; slot < kSlots; ++slot) {
                sums[channel_of(slot % kOrientations, bin, slot / kOrientations)][lane] = total[slot];
            }
        }
    }
}

/// Per descriptor, the scalar product of two chunks' values: over each orientation, then all.
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

/// Step 1 for a chunk: `gradient` with respect to the descriptors becomes that with respect to the sums.
void through_normalisation(const Chunk& sums, Chunk& gradient) {
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
            const float back = second[lane].back(clipped[channel][lane], gradient[channel][lane], products[lane]);
            gradient[channel][lane] = through_clip(sums[channel][lane] * first[lane].factor, back);
        }
    }
    dot(sums, gradient, products);
    for (int channel = 0; channel < kChannels; ++channel) {
        for (int lane = 0; lane < kChunk; ++lane) {
            gradient[channel][lane] = first[lane].back(sums[channel][lane], gradient[channel][lane], products[lane]);
        }
    }
}

void descriptor_row(const Task& task, const OneImage& one, std::int32_t row, float* columns) {
    const Grid& grid = task.grid;
    BlockPlan plan{};
    plan.grid = grid;
    plan.pitch = 1;
    const std::int32_t reach = grid.bin_size - 1;
    const std::int32_t end = grid.x.first + (grid.x.frames - 1) * grid.step + 3 * grid.bin_size + reach;
    for (std::int32_t x = inside(grid.x, grid.x.first - reach); x <= inside(grid.x, end); ++x) {
        sum_down(plan, reinterpret_cast<const Weights*>(task.weights), one.votes, row, x,
                 columns + std::int64_t{kSlots} * x);
    }
    const std::int64_t plane = std::int64_t{grid.y.frames} * grid.x.frames;
    for (std::int64_t first = 0; first < grid.x.frames; first += kChunk) {
        const auto count = static_cast<int>(std::min<std::int64_t>(kChunk, grid.x.frames - first));
        const std::int64_t here = std::int64_t{row} * grid.x.frames + first;
        alignas(64) Chunk sums = {};
        alignas(64) Chunk gradient = {};
        sum_chunk(task, columns, first, count, sums);
        for (int channel = 0; channel < kChannels; ++channel) {
            std::copy_n(one.grad_features + channel * plane + here, count, gradient[channel]);
        }
        through_normalisation(sums, gradient);
        for (int channel = 0; channel < kChannels; ++channel) {
            float* out = one.sums + (std::int64_t{row} * kChannels + channel) * grid.x.frames + first;
            for (int lane = 0; lane < count; ++lane) {
                out[lane] = gradient[channel][lane] + one.grad_norms[here + lane] / task.norm_divisor;
            }
        }
    }
}

void slope_row(const Task& task, const OneImage& one, std::int32_t y, float* rows) {
    const Grid& grid = task.grid;
    for (std::int64_t element = 0; element < std::int64_t{kSlots} * grid.x.frames; element += kChunk) {
        gather_down<kChunk>(grid, task.down, one.sums, y, element, rows + element);
    }
    float* across = one.votes + std::int64_t{y} * grid.x.pixels;
    float* down = across + std::int64_t{grid.y.pixels} * grid.x.pixels;
    Gradients(grid, one.luma, y).each([&](std::int32_t x, float gx, float gy) {
        const Slopes slopes = gather_pixel(grid, task.across, rows, x, gx, gy);
        across[x] = slopes.x;
        down[x] = slopes.y;
    });
}

/// `share_out(count, body)` calls body(index, worker) for every index.
template <class ShareOut>
void one_image(const Task& task, const OneImage& one, float* memory, const ShareOut& share_out) {
    const Grid& grid = task.grid;
    const auto of_worker = [&](int worker) { return memory + worker * worker_floats(grid); };
    share_out(grid.y.pixels, [&](std::int64_t y, int) { luma_row(one, y); });
    share_out(grid.y.pixels, [&](std::int64_t y, int) { vote_row(task, one, static_cast<std::int32_t>(y)); });
    share_out(grid.y.frames, [&](std::int64_t row, int worker) {
        descriptor_row(task, one, static_cast<std::int32_t>(row), of_worker(worker));
    });
    share_out(grid.y.pixels, [&](std::int64_t y, int worker) {
        slope_row(task, one, static_cast<std::int32_t>(y), of_worker(worker));
    });
    share_out(grid.y.pixels, [&](std::int64_t y, int) {
        for (std::int32_t x = 0; x < grid.x.pixels; ++x) {
            gather_image(grid, task.channels, one.votes, static_cast<std::int32_t>(y), x, one.gradient);
        }
    });
}

/// A table of shares in memory of its own.
struct Shares {
    std::vector<Share> shares;
    std::vector<std::int32_t> counts;
    ShareTable table;

    Shares(const Grid& grid, const Axis& axis, const float* weights)
        : shares(static_cast<std::size_t>(std::int64_t{most_shares(grid)} * axis.pixels)),
          counts(static_cast<std::size_t>(axis.pixels)),
          table{shares.data(), counts.data(), axis.pixels} {
        for (std::int32_t position = 0; position < axis.pixels; ++position) {
            list_shares(grid, axis, weights, position, table);
        }
    }
};

void check_tensors(const TensorView& grad_features, const TensorView& grad_norms, const TensorView& images,
                   const TensorView& grad_images, const Grid& grid) {
    const std::int64_t batch = images.shape[0];
    require(grad_features.type == ScalarType::float32, "the features' gradient must be float32");
    require_descriptors(grad_features, batch, kChannels, grid,
                        "the features' gradient must be contiguous (B, 128, h, w)");
    require(grad_norms.type == ScalarType::float32, "the norms' gradient must be float32");
    require_descriptors(grad_norms, batch, 1, grid, "the norms' gradient must be contiguous (B, 1, h, w)");
    require(grad_images.type == ScalarType::float32 && grad_images.shape == images.shape && grad_images.is_contiguous(),
            "the images' gradient must be contiguous float32 of their shape");
}

}  // namespace

Grid checked_backward(const TensorView& grad_features, const TensorView& grad_norms, const TensorView& images,
                      const TensorView& grad_images, const Parameters& parameters) {
    const Grid grid = checked_grid(first_image(images), parameters);
    check_tensors(grad_features, grad_norms, images, grad_images, grid);
    return grid;
}

void compute_backward(const TensorView& grad_features, const TensorView& grad_norms, const TensorView& images,
                      const TensorView& grad_images, const Parameters& parameters, int threads) {
    for (const TensorView* tensor : {&grad_features, &grad_norms, &images, &grad_images}) {
        tensor->require_device(-1);
    }
    const Grid grid = checked_backward(grad_features, grad_norms, images, grad_images, parameters);
    const std::int64_t batch = images.shape[0];
    const AlignedFloats weights = aligned_floats(std::int64_t{taps_of(grid)} * kSpatial);
    fill_weights(parameters, weights.get());
    const Shares down(grid, grid.y, weights.get());
    const Shares across(grid, grid.x, weights.get());
    const Image image = first_image(images);
    const Task task{grid, image.channels, norm_divisor(parameters.bin_size), weights.get(), down.table, across.table};

    const std::int64_t pixels = image.height * image.width;
    const std::int64_t frames = std::int64_t{grid.y.frames} * grid.x.frames;
    const auto workers = static_cast<int>(
        std::clamp<std::int64_t>(threads, 1, std::max<std::int64_t>(1, batch * pixels / kPixelsPerThread)));
    const bool by_image = batch % workers == 0 || batch >= 4 * workers;  // else every image by rows
    const AlignedFloats images_memory = aligned_floats(image_floats(grid) * (by_image ? workers : 1));
    const AlignedFloats memory = aligned_floats(worker_floats(grid) * workers);
    const auto numbered = [&](std::int64_t index, float* own) {
        OneImage one{};
        one.image = image;
        one.image.pixels = images.data + index * images.strides[0];
        one.grad_features = reinterpret_cast<const float*>(grad_features.data) + index * kChannels * frames;
        one.grad_norms = reinterpret_cast<const float*>(grad_norms.data) + index * frames;
        one.gradient = reinterpret_cast<float*>(grad_images.data) + index * image.channels * pixels;
        one.luma = own;
        one.votes = own + pixels;
        one.sums = own + 3 * pixels;
        return one;
    };
    if (by_image) {
        parallel_for(batch, workers, [&](std::int64_t index, int worker) {
            const auto alone = [](std::int64_t count, const auto& body) {
                for (std::int64_t item = 0; item < count; ++item) {
                    body(item, 0);
                }
            };
            const OneImage one = numbered(index, images_memory.get() + image_floats(grid) * worker);
            one_image(task, one, memory.get() + worker_floats(grid) * worker, alone);
        });
        return;
    }
    for (std::int64_t index = 0; index < batch; ++index) {
        one_image(task, numbered(index, images_memory.get()), memory.get(),
                  [&](std::int64_t count, const auto& body) { parallel_for(count, workers, body); });
    }
}

}  // namespace preimage::sift
