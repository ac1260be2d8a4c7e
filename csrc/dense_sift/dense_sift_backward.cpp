// The gradient of dense SIFT on the CPU: the steps of dense_sift_backward.h, in parallel over rows or images.
#include "dense_sift/dense_sift_backward.h"

#include <algorithm>
#include <vector>

#include "common/memory.h"
#include "common/parallel.h"
#include "dense_sift/dense_sift_backward_rows.h"

namespace preimage::dense_sift {
namespace {

constexpr std::int64_t kPixelsPerThread = 1 << 14;  // several times the cost of starting threads for five steps

/// `for_each(count, body)` calls body(index, worker) for every index.
template <class ForEach>
void run_image(const Task& task, const ImageTask& one, float* memory, const ForEach& for_each) {
    const Grid& grid = task.grid;
    const auto of_worker = [&](int worker) { return memory + worker * worker_floats(grid); };
    for_each(grid.y.pixels, [&](std::int64_t y, int) { luma_row(one, y); });
    for_each(grid.y.pixels, [&](std::int64_t y, int) { vote_row(task, one, static_cast<std::int32_t>(y)); });
    for_each(grid.y.frames, [&](std::int64_t row, int worker) {
        descriptor_row(task, one, static_cast<std::int32_t>(row), of_worker(worker));
    });
    for_each(grid.y.pixels, [&](std::int64_t y, int worker) {
        difference_gradient_row(task, one, static_cast<std::int32_t>(y), of_worker(worker));
    });
    for_each(grid.y.pixels, [&](std::int64_t y, int) {
        for (std::int32_t x = 0; x < grid.x.pixels; ++x) {
            gather_image(grid, task.channels, one.votes, static_cast<std::int32_t>(y), x, one.gradient);
        }
    });
}

/// A table of contributions that owns its memory.
struct AxisContributions {
    std::vector<Contribution> contributions;
    std::vector<std::int32_t> counts;
    ContributionTable table;

    AxisContributions(const Grid& grid, const Axis& axis, const float* weights)
        : contributions(static_cast<std::size_t>(std::int64_t{max_contributions(grid)} * axis.pixels)),
          counts(static_cast<std::size_t>(axis.pixels)),
          table{contributions.data(), counts.data(), axis.pixels} {
        for (std::int32_t position = 0; position < axis.pixels; ++position) {
            list_contributions(grid, axis, weights, position, table);
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
    const AlignedFloats weights = aligned_floats(taps_of(grid), kSpatial);
    fill_weights(parameters, weights.get());
    const AxisContributions down(grid, grid.y, weights.get());
    const AxisContributions across(grid, grid.x, weights.get());
    const Image image = first_image(images);
    const Task task{grid, image.channels, norm_divisor(parameters.bin_size), weights.get(), down.table, across.table};

    const std::int64_t pixels = image.height * image.width;
    const std::int64_t frames = std::int64_t{grid.y.frames} * grid.x.frames;
    const auto workers = static_cast<int>(
        std::clamp<std::int64_t>(threads, 1, std::max<std::int64_t>(1, batch * pixels / kPixelsPerThread)));
    const bool by_image = batch % workers == 0 || batch / 4 >= workers;  // else by rows
    const AlignedFloats images_memory = aligned_floats(image_floats(grid), by_image ? workers : 1);
    const AlignedFloats memory = aligned_floats(worker_floats(grid), workers);
    const auto image_task = [&](std::int64_t index, float* own) {
        ImageTask one{};
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
            const ImageTask one = image_task(index, images_memory.get() + image_floats(grid) * worker);
            run_image(task, one, memory.get() + worker_floats(grid) * worker, alone);
        });
        return;
    }
    for (std::int64_t index = 0; index < batch; ++index) {
        run_image(task, image_task(index, images_memory.get()), memory.get(),
                  [&](std::int64_t count, const auto& body) { parallel_for(count, workers, body); });
    }
}

}  // namespace preimage::dense_sift
