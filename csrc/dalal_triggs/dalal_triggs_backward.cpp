// The gradient of Dalal and Triggs's HOG on the CPU: histograms from the forward kernel, then each step of
// dalal_triggs_backward.h for all elements.
#include "dalal_triggs/dalal_triggs_backward.h"

#include "common/memory.h"
#include "common/parallel.h"

namespace preimage::dalal_triggs {
namespace {

/// Compute the gradient of one image from its histograms.
template <int kPlanes>
void run(const Backward& backward, int workers) {
    const Batch& batch = backward.batch;
    const Grid& grid = batch.grid;
    for_each_element(grid.cell_rows, grid.cell_columns, workers,
                     [&](auto number, auto row, auto column) { norm_step(batch, number, row, column); });
    for_each_element(grid.block_rows, grid.block_columns, workers,
                     [&](auto number, auto row, auto column) { block_gradient(backward, number, row, column); });
    for_each_element(grid.cell_rows, grid.cell_columns, workers,
                     [&](auto number, auto row, auto column) { cell_gradient(backward, number, row, column); });
    for_each_element(batch.image.height, batch.image.width, workers,
                     [&](auto number, auto y, auto x) { vote_gradient<kPlanes>(backward, number, y, x); });
    for_each_element(batch.image.height, batch.image.width, workers,
                     [&](auto number, auto y, auto x) { image_gradient<kPlanes>(backward, number, y, x); });
}

}  // namespace

void compute_backward(const TensorView& output, const TensorView& images, const TensorView& gradients,
                      const Parameters& parameters, int threads) {
    for (const TensorView* view : {&output, &images, &gradients}) {
        view->require_device(-1);
    }
    Backward whole = whole_backward(output, images, gradients, parameters);
    whole.batch.images = 1;  // at a time
    const std::int64_t batch = images.shape[0];
    const std::int64_t needed = 2 * backward_scratch(whole);  // in floats
    const int workers = split_images(batch, whole.batch.pixels(), whole.batch.image.height, 16, threads).workers;
    const int side_by_side = batch >= workers ? workers : 1;  // images in parallel; with 1, rows in parallel

    const AlignedFloats memory = aligned_floats(needed, side_by_side);
    parallel_for(batch, side_by_side, [&](std::int64_t index, int worker) {
        Backward backward = whole;
        Batch& one = backward.batch;
        one.image.pixels += index * images.strides[0];
        backward.output += index * parameters.channels() * one.grid.blocks();
        backward.images += index * gradients.shape[1] * one.pixels();
        place_scratch(backward, reinterpret_cast<double*>(memory.get() + worker * needed));
        histograms(one.image, parameters, one.directions, one.cells, workers / side_by_side);
        one.planes == 1 ? run<1>(backward, workers / side_by_side) : run<3>(backward, workers / side_by_side);
    });
}

}  // namespace preimage::dalal_triggs
