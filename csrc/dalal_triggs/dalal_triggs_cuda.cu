// Dalal and Triggs's HOG on a CUDA device: launches the program of dalal_triggs_blocks.h and the steps of
// dalal_triggs_batch.h and dalal_triggs_backward.h.
#include "common/cuda_launch.h"
#include "dalal_triggs/dalal_triggs_backward.h"
#include "dalal_triggs/dalal_triggs_blocks.h"

namespace preimage::dalal_triggs {
namespace {

struct NormStep {
    Batch batch;
    __device__ void operator()(std::int64_t number, std::int64_t row, std::int64_t column) const {
        norm_step(batch, number, row, column);
    }
};
struct BlockStep {
    Batch batch;
    __device__ void operator()(std::int64_t number, std::int64_t row, std::int64_t column) const {
        block_step(batch, number, row, column);
    }
};
struct OfBlocks {
    Backward backward;
    __device__ void operator()(std::int64_t number, std::int64_t row, std::int64_t column) const {
        block_gradient(backward, number, row, column);
    }
};
struct OfCells {
    Backward backward;
    __device__ void operator()(std::int64_t number, std::int64_t row, std::int64_t column) const {
        cell_gradient(backward, number, row, column);
    }
};
template <int kPlanes>
struct OfVotes {
    Backward backward;
    __device__ void operator()(std::int64_t number, std::int64_t row, std::int64_t column) const {
        vote_gradient<kPlanes>(backward, number, row, column);
    }
};
template <int kPlanes>
struct OfImages {
    Backward backward;
    __device__ void operator()(std::int64_t number, std::int64_t row, std::int64_t column) const {
        image_gradient<kPlanes>(backward, number, row, column);
    }
};

// Blocks per multiprocessor. Left to itself, ptxas 13.0 gives a thread so few registers that it spills.
constexpr int kMinCellBlocks = 4;

template <int kPlanes>
void launch_cells(const Batch& batch, cudaStream_t stream) {
    using Program = CellProgram<kPlanes>;
    launch_program<Program, kMinCellBlocks>(Program::blocks(batch), stream, batch, Program::across(batch));
}

/// Compute histograms and norms.
void launch_histograms(const Batch& batch, cudaStream_t stream) {
    batch.planes == 1 ? launch_cells<1>(batch, stream) : launch_cells<3>(batch, stream);
    for_each_element(batch.images, batch.grid.cell_rows, batch.grid.cell_columns, stream, NormStep{batch});
}

template <int kPlanes>
void launch_image_gradient(const Backward& backward, cudaStream_t stream) {
    const Batch& batch = backward.batch;
    for_each_element(batch.images, batch.image.height, batch.image.width, stream, OfVotes<kPlanes>{backward});
    for_each_element(batch.images, batch.image.height, batch.image.width, stream, OfImages<kPlanes>{backward});
}

double* checked_scratch(const TensorView& scratch, std::int64_t needed) {
    require(scratch.type == ScalarType::float64 && scratch.is_contiguous() && scratch.shape[3] >= needed,
            "the working memory must be contiguous float64 of at least the size that hog_dalal_triggs_cuda_scratch "
            "returns");
    return reinterpret_cast<double*>(scratch.data);
}

std::int64_t scratch_of(const Batch& batch) {
    return batch.images * (batch.parameters.orientations + 1) * batch.grid.cells();
}

}  // namespace

std::int64_t cuda_scratch(const TensorView& images, const Parameters& parameters) {
    return scratch_of(whole_batch(images, parameters));
}

std::int64_t backward_cuda_scratch(const TensorView& images, const Parameters& parameters) {
    Backward backward{};
    backward.batch = whole_batch(images, parameters);
    return backward_scratch(backward);
}

void compute_cuda(const TensorView& images, const TensorView& scratch, const TensorView& output,
                  const Parameters& parameters, std::uintptr_t address) {
    scratch.require_device(images.device);
    output.require_device(images.device);
    Batch batch = whole_batch(images, parameters);
    constexpr const char* kOutput =
        "the output must be contiguous float32 of shape (B, block_height * block_width * N, Hb, Wb)";
    require(output.type == ScalarType::float32, kOutput);
    check_features(output, batch.images, parameters, batch.grid, kOutput);
    batch.output = reinterpret_cast<float*>(output.data);
    batch.cells = checked_scratch(scratch, scratch_of(batch));
    batch.norms = batch.cells + batch.images * parameters.orientations * batch.grid.cells();
    const DeviceGuard guard(images.device);
    const cudaStream_t stream = stream_of(address);
    launch_histograms(batch, stream);
    for_each_element(batch.images, batch.grid.block_rows, batch.grid.block_columns, stream, BlockStep{batch});
}

void compute_backward_cuda(const TensorView& output, const TensorView& images, const TensorView& scratch,
                           const TensorView& gradients, const Parameters& parameters, std::uintptr_t address) {
    for (const TensorView* view : {&output, &scratch, &gradients}) {
        view->require_device(images.device);
    }
    Backward backward = whole_backward(output, images, gradients, parameters);
    place_scratch(backward, checked_scratch(scratch, backward_scratch(backward)));
    const Batch& batch = backward.batch;
    const DeviceGuard guard(images.device);
    const cudaStream_t stream = stream_of(address);
    launch_histograms(batch, stream);
    for_each_element(batch.images, batch.grid.block_rows, batch.grid.block_columns, stream, OfBlocks{backward});
    for_each_element(batch.images, batch.grid.cell_rows, batch.grid.cell_columns, stream, OfCells{backward});
    batch.planes == 1 ? launch_image_gradient<1>(backward, stream) : launch_image_gradient<3>(backward, stream);
}

}  // namespace preimage::dalal_triggs
