// HOG on a CUDA device: launches the programs of hog_blocks.h and the steps of hog_backward.h.
#include "common/cuda_launch.h"
#include "hog/hog_backward.h"

namespace preimage::hog {
namespace {

template <int kPlanes>
__global__ void __launch_bounds__(StripProgram<kPlanes>::kThreads) cells_kernel(Batch batch, Strips strips) {
    __shared__ typename StripProgram<kPlanes>::Shared shared;
    DeviceBlock<StripProgram<kPlanes>::kThreads> block;
    StripProgram<kPlanes>::run(block, batch, strips, blockIdx.x, shared);
}

template <int kPlanes>
void launch_cells(const Batch& batch, cudaStream_t stream) {
    const Strips strips = StripProgram<kPlanes>::strips(batch);
    launch(cells_kernel<kPlanes>, batch.images * strips.across * strips.down, StripProgram<kPlanes>::kThreads, 0,
           stream, batch, strips);
}

void cells_and_energies(const Batch& batch, int planes, cudaStream_t stream) {
    if (planes == 1) {
        launch_cells<1>(batch, stream);
    } else {
        launch_cells<3>(batch, stream);
    }
}

void check_scratch(const TensorView& scratch, std::int64_t needed) {
    require(scratch.type == ScalarType::float32 && scratch.is_contiguous() && scratch.shape[3] >= needed,
            "the working memory must be contiguous float32 of at least the size that cuda_scratch returns");
}

struct NormalizeCell {
    Batch batch;
    __device__ void operator()(std::int64_t number, std::int64_t row, std::int64_t column) const {
        normalize_cell(batch, number, row, column);
    }
};
struct SquareGradient {
    Backward backward;
    __device__ void operator()(std::int64_t number, std::int64_t row, std::int64_t column) const {
        square_gradient(backward, number, row, column);
    }
};
struct CellGradient {
    Backward backward;
    __device__ void operator()(std::int64_t number, std::int64_t row, std::int64_t column) const {
        cell_gradient(backward, number, row, column);
    }
};
template <int kPlanes>
struct VoteGradient {
    Backward backward;
    __device__ void operator()(std::int64_t number, std::int64_t row, std::int64_t column) const {
        vote_gradient<kPlanes>(backward, number, row, column);
    }
};
template <int kPlanes>
struct ImageGradient {
    Backward backward;
    __device__ void operator()(std::int64_t number, std::int64_t row, std::int64_t column) const {
        image_gradient<kPlanes>(backward, number, row, column);
    }
};

}  // namespace

std::int64_t cuda_scratch(const TensorView& images, const Parameters& parameters, bool backward) {
    Backward whole{};
    whole.batch = whole_batch(images, parameters);
    whole.planes = planes_of(whole.batch.image, parameters);
    return backward ? backward_scratch(whole) : whole.batch.images * (kBins + 1) * whole.plane();
}

void compute_cuda(const TensorView& images, const TensorView& scratch, const TensorView& output,
                  const Parameters& parameters, std::uintptr_t stream) {
    scratch.require_device(images.device);
    output.require_device(images.device);
    Batch batch = whole_batch(images, parameters);
    check_float_features(output, batch.images, batch.cell_rows, batch.cell_columns,
                         "the output must be contiguous float32 of shape (B, 31, Hc, Wc)");
    check_scratch(scratch, cuda_scratch(images, parameters, false));
    const std::int64_t cells = batch.images * batch.cell_rows * batch.cell_columns;
    batch.cells = reinterpret_cast<float*>(scratch.data);
    batch.energies = batch.cells + kBins * cells;
    batch.output = reinterpret_cast<float*>(output.data);
    const DeviceGuard guard(images.device);
    cells_and_energies(batch, planes_of(batch.image, parameters), stream_of(stream));
    for_each_element(batch.images, batch.cell_rows, batch.cell_columns, stream_of(stream), NormalizeCell{batch});
}

void compute_backward_cuda(const TensorView& output, const TensorView& images, const TensorView& scratch,
                           const TensorView& gradients, const Parameters& parameters, std::uintptr_t address) {
    for (const TensorView* view : {&output, &scratch, &gradients}) {
        view->require_device(images.device);
    }
    Backward backward = whole_backward(output, images, gradients, parameters);
    check_scratch(scratch, backward_scratch(backward));
    place_scratch(backward, reinterpret_cast<float*>(scratch.data));
    const Batch& batch = backward.batch;
    const DeviceGuard guard(images.device);
    const cudaStream_t stream = stream_of(address);
    cells_and_energies(batch, backward.planes, stream);
    const std::int64_t height = batch.image.height;
    const std::int64_t width = batch.image.width;
    for_each_element(batch.images, batch.cell_rows + 1, batch.cell_columns + 1, stream, SquareGradient{backward});
    for_each_element(batch.images, batch.cell_rows, batch.cell_columns, stream, CellGradient{backward});
    if (backward.planes == 1) {
        for_each_element(batch.images, height, width, stream, VoteGradient<1>{backward});
        for_each_element(batch.images, height, width, stream, ImageGradient<1>{backward});
    } else {
        for_each_element(batch.images, height, width, stream, VoteGradient<3>{backward});
        for_each_element(batch.images, height, width, stream, ImageGradient<3>{backward});
    }
}

}  // namespace preimage::hog
