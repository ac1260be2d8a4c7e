// LBP on a CUDA device: launches of what lbp_blocks.h defines.
#include "common/cuda_launch.h"
#include "lbp/lbp_blocks.h"
#include "lbp/lbp_checks.h"

namespace preimage::lbp {
namespace {

__global__ void __launch_bounds__(StripProgram::kThreads) strip_kernel(Batch batch, Strips strips) {
    __shared__ StripProgram::Shared shared;
    DeviceBlock<StripProgram::kThreads> block;
    StripProgram::run(block, batch, strips, blockIdx.x, shared);
}

__global__ void __launch_bounds__(CellProgram::kThreads) cell_kernel(Batch batch) {
    __shared__ CellProgram::Shared shared;
    DeviceBlock<CellProgram::kThreads> block;
    CellProgram::run(block, batch, blockIdx.x, shared);
}

__global__ void __launch_bounds__(CodeProgram::kThreads)
    code_kernel(Batch batch, std::int64_t across, std::int64_t down) {
    __shared__ CodeProgram::Shared shared;
    DeviceBlock<CodeProgram::kThreads> block;
    CodeProgram::run(block, batch, across, down, blockIdx.x, shared);
}

}  // namespace

void compute_cuda(const TensorView& images, const TensorView& output, std::int64_t cell_size, std::uintptr_t stream) {
    output.require_device(images.device);
    const Band whole = whole_image(images, output, cell_size);
    const Batch batch{whole.image,     images.strides[0],  images.shape[0], cell_size,
                      whole.cell_rows, whole.cell_columns, whole.output,    nullptr};
    const DeviceGuard guard(images.device);
    if (cell_size == kFastCell) {
        const Strips strips = StripProgram::strips(batch);
        launch(strip_kernel, batch.images * strips.across * strips.down, StripProgram::kThreads, 0, stream_of(stream),
               batch, strips);
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
    const std::int64_t across = CodeProgram::across(batch);
    const std::int64_t down = CodeProgram::down(batch);
    launch(code_kernel, batch.images * across * down, CodeProgram::kThreads, 0, stream_of(stream), batch, across, down);
}

}  // namespace preimage::lbp
