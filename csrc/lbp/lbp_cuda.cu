// LBP on a CUDA device: launches the programs of lbp_blocks.h and lbp_generic_blocks.h.
#include "common/cuda_launch.h"
#include "lbp/lbp.h"
#include "lbp/lbp_blocks.h"
#include "lbp/lbp_generic_blocks.h"

namespace preimage::lbp {
namespace {

// Blocks per multiprocessor: as many as get their registers without spilling, on every architecture.
template <class Format>
constexpr int kMinStripBlocks = Format::kLayout == Layout::strided ? 2 : 3;

template <class Format>
void launch_strips(Format, const Batch& batch, cudaStream_t stream) {
    using Program = StripProgram<Format>;
    const Strips strips = Program::strips(batch);
    const std::int64_t blocks = batch.images * strips.across * strips.down;
    launch_program<Program, kMinStripBlocks<Format>>(blocks, stream, batch, strips);
}

template <class Format>
void launch_codes(Format, const Batch& batch, cudaStream_t stream) {
    using Program = CodeProgram<Format>;
    const std::int64_t across = Program::across(batch);
    const std::int64_t down = Program::down(batch);
    launch_program<Program>(batch.images * across * down, stream, batch, across, down);
}

}  // namespace

void compute_cuda(const TensorView& images, const TensorView& output, std::int64_t cell_size, std::uintptr_t stream) {
    output.require_device(images.device);
    const Band whole = whole_image(images, output, cell_size);
    require(output.type == ScalarType::float32, "on a CUDA device the output must be float32");
    const Batch batch{whole.image,
                      images.strides[0],
                      images.shape[0],
                      cell_size,
                      whole.cell_rows,
                      whole.cell_columns,
                      reinterpret_cast<float*>(output.data),
                      nullptr};
    const DeviceGuard guard(images.device);
    if (cell_size == kFastCell) {
        with_pixel_format(batch.image, batch.image_stride,
                          [&](auto format) { launch_strips(format, batch, stream_of(stream)); });
    } else {
        launch_program<CellProgram>(batch.images * batch.cell_rows * batch.cell_columns, stream_of(stream), batch);
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
    with_pixel_format(batch.image, batch.image_stride,
                      [&](auto format) { launch_codes(format, batch, stream_of(stream)); });
}

}  // namespace preimage::lbp
