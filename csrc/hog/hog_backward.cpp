// The gradient of HOG on the CPU: histograms from the forward kernel, then each step of hog_backward.h for all
// elements.
#include "hog/hog_backward.h"

#include "common/memory.h"
#include "common/parallel.h"

namespace preimage::hog {
namespace {

void finish_energies(const Batch& batch, std::int64_t plane) {
    for (std::int64_t cell = 0; cell < plane; ++cell) {
        float energy = 0.0f;
        for (int k = 0; k < kOrientations; ++k) {
            const float undirected = batch.cells[k * plane + cell] + batch.cells[(k + kOrientations) * plane + cell];
            energy += undirected * undirected;
        }
        batch.energies[cell] = energy;
    }
}

/// Compute the gradient of one image.
void run(const Backward& backward, int workers) {
    const Batch& batch = backward.batch;
    finish_energies(batch, backward.plane());
    const std::int64_t height = batch.image.height;
    const std::int64_t width = batch.image.width;
    for_each_element(batch.cell_rows + 1, batch.cell_columns + 1, workers,
                     [&](auto number, auto row, auto column) { square_gradient(backward, number, row, column); });
    for_each_element(batch.cell_rows, batch.cell_columns, workers,
                     [&](auto number, auto row, auto column) { cell_gradient(backward, number, row, column); });
    if (backward.planes == 1) {
        for_each_element(height, width, workers,
                         [&](auto number, auto y, auto x) { vote_gradient<1>(backward, number, y, x); });
        for_each_element(height, width, workers,
                         [&](auto number, auto y, auto x) { image_gradient<1>(backward, number, y, x); });
    } else {
        for_each_element(height, width, workers,
                         [&](auto number, auto y, auto x) { vote_gradient<3>(backward, number, y, x); });
        for_each_element(height, width, workers,
                         [&](auto number, auto y, auto x) { image_gradient<3>(backward, number, y, x); });
    }
}

}  // namespace

void compute_backward(const TensorView& output, const TensorView& images, const TensorView& gradients,
                      const Parameters& parameters, int threads) {
    for (const TensorView* view : {&output, &images, &gradients}) {
        view->require_device(-1);
    }
    const Backward whole = whole_backward(output, images, gradients, parameters);
    const std::int64_t batch = images.shape[0];
    const std::int64_t plane = whole.plane();
    const std::int64_t pixels = whole.pixels();
    const std::int64_t needed = backward_scratch(whole);
    const int workers = split_images(batch, pixels, whole.batch.image.height, 16, threads).workers;
    const int side_by_side = batch >= workers ? workers : 1;  // images in parallel; with 1, rows in parallel

    const AlignedFloats memory = aligned_floats(needed, side_by_side);
    parallel_for(batch, side_by_side, [&](std::int64_t index, int worker) {
        Backward backward = whole;
        backward.batch.image.pixels += index * images.strides[0];
        backward.batch.images = 1;
        backward.output += index * kChannels * plane;
        backward.images += index * gradients.shape[1] * pixels;
        place_scratch(backward, memory.get() + worker * needed);
        histograms(backward.batch.image, parameters, backward.batch.cells, workers / side_by_side);
        run(backward, workers / side_by_side);
    });
}

}  // namespace preimage::hog
