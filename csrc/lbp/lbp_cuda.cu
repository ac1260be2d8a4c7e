// LBP on a CUDA device: launches of what lbp_blocks.h defines.
#include "common/cuda_launch.h"
#include "lbp/lbp_any_blocks.h"
#include "lbp/lbp_blocks.h"
#include "lbp/lbp_checks.h"

namespace preimage::lbp {
namespace {

// On a multiprocessor: as many as get their registers without spilling, on every architecture.
constexpr int kStripsAtLeast = 4;

template <class Kind>
__global__ void __launch_bounds__(StripProgram<Kind>::kThreads, kStripsAtLeast)
    strip_kernel(Batch batch, Strips strips) {
    __shared__ typename StripProgram<Kind>::Shared shared;
    DeviceBlock<StripProgram<Kind>::kThreads> block;
    StripProgram<Kind>::run(block, batch, strips, blockIdx.x, shared);
}

template <class Kind>
__global__ void __launch_bounds__(CodeProgram<Kind>::kThreads)
    code_kernel(Batch batch, std::int64_t across, std::int64_t down) {
    __shared__ typename CodeProgram<Kind>::Shared shared;
    DeviceBlock<CodeProgram<Kind>::kThreads> block;
    CodeProgram<Kind>::run(block, batch, across, down, blockIdx.x, shared);
}

__global__ void __launch_bounds__(CellProgram::kThreads) cell_kernel(Batch batch) {
    __shared__ CellProgram::Shared shared;
    DeviceBlock<CellProgram::kThreads> block;
    CellProgram::run(block, batch, blockIdx.x, shared);
}

template <class Kind>
void launch_strips(Kind, const Batch& batch, cudaStream_t stream) {
    using Program = StripProgram<Kind>;
    const Strips strips = Program::strips(batch);
    launch(strip_kernel<Kind>, batch.images * strips.across * strips.down, Program::kThreads, 0, stream, batch, strips);
}

template <class Kind>
void launch_codes(Kind, const Batch& batch, cudaStream_t stream) {
    using Program = CodeProgram<Kind>;
    const std::int64_t across = Program::across(batch);
    const std::int64_t down = Program::down(batch);
    launch(code_kernel<Kind>, batch.images * across * down, Program::kThreads, 0, stream, batch, across, down);
}

}  // namespace

void compute_cuda(const TensorView& images, const TensorView& output, std::int64_t cell_size, std::uintptr_t stream) {
    output.require_device(images.device);
    const Band whole = whole_image(images, output, cell_size);
    require(output.type == ScalarType::float32, "on a CUDA device the output must be float32");
    const Batch batch{whole.image,     images.strides[0],  images.shape[0],
                      cell_size,       whole.cell_rows,    whole.cell_columns,
                      reinterpret_cast<float*>(output.data), nullptr};
    const DeviceGuard guard(images.device);
    if (cell_size == kFastCell) {
        with_kind(batch.image, [&](auto kind) { launch_strips(kind, batch, stream_of(stream)); });
    } else {
        launch(cell_kernel, batch.images * batch.cell_rows * batch.cell_columns, CellProgram::kThreads, 0,
               stream_of(stream), batch);
    }
}

void compute_codes_cuda(const TensorView& images, const TensorView& output, std::uintptr_t stream) {
    output.require_device(images.device);
    Batch batch{};
    batch.image = checked_image(images, output);
    batch.image_stride = images.strides[0];
    batch.images = images.shape[0];
    batch.labels = reinterpret_cast<std::uint8_t*>(output.data);
    const DeviceGuard guard(images.device);
    with_kind(batch.image, [&](auto kind) { launch_codes(kind, batch, stream_of(stream)); });
}

}  // namespace preimage::lbp
