// HOG on a CUDA device: launches the program of hog_blocks.h and the steps of hog_backward.h.
#include "common/cuda_launch.h"
#include "hog/hog_backward.h"

namespace preimage::hog {
namespace {

// Blocks per multiprocessor: 8 have space in shared memory and leave 128 registers to a thread. Fewer where that is not
// enough for the rows that a thread keeps, 6 (168 registers) or 4 (255), on every architecture.
template <class Votes>
constexpr int kBlocksAtOnce = 6;  // PixelVotes
template <class Format, int kPlanes>
constexpr int kBlocksAtOnce<RowVotes<Format, kPlanes>> =
    Format::kChannels == 1                          ? 8
    : Format::kLayout == Layout::strided            ? 4
    : std::is_same_v<typename Format::Pixel, float> ? (kPlanes == 1 ? 6 : 4)
                                                    : (kPlanes == 1 ? 8 : 6);

template <class Votes>
void launch_strips(const Batch& batch, int multiprocessors, cudaStream_t stream) {
    using Program = StripProgram<Votes>;
    const Strips strips = Program::strips(batch, multiprocessors);
    launch_program<Program, kBlocksAtOnce<Votes>>(strips.across * strips.down, stream, batch, strips);
}

/// Compute the batch's output, or its cells and energies.
void launch_forward(const Batch& batch, int planes, int device, cudaStream_t stream) {
    int multiprocessors = 0;
    check_cuda(cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device),
               "cannot get the number of multiprocessors");
    if (batch.cell_size != kRowPixels) {
        planes == 1 ? launch_strips<PixelVotes<1>>(batch, multiprocessors, stream)
                    : launch_strips<PixelVotes<3>>(batch, multiprocessors, stream);
        return;
    }
    with_pixel_format(batch.image, batch.images > 1 ? batch.image_stride : 0, [&](auto format) {
        using Format = decltype(format);
        if (planes == 1) {
            launch_strips<RowVotes<Format, 1>>(batch, multiprocessors, stream);
        } else if constexpr (Format::kChannels == 3) {
            launch_strips<RowVotes<Format, 3>>(batch, multiprocessors, stream);
        }
    });
}

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

void compute_cuda(const TensorView& images, const TensorView& output, const Parameters& parameters,
                  std::uintptr_t stream) {
    output.require_device(images.device);
    Batch batch = whole_batch(images, parameters);
    check_float_features(output, batch.images, batch.cell_rows, batch.cell_columns,
                         "the output must be contiguous float32 of shape (B, 31, Hc, Wc)");
    batch.output = reinterpret_cast<float*>(output.data);
    const DeviceGuard guard(images.device);
    launch_forward(batch, planes_of(batch.image, parameters.color), images.device, stream_of(stream));
}

std::int64_t backward_cuda_scratch(const TensorView& images, const Parameters& parameters) {
    Backward backward{};
    backward.batch = whole_batch(images, parameters);
    backward.planes = planes_of(backward.batch.image, parameters.color);
    return backward_scratch(backward);
}

void compute_backward_cuda(const TensorView& output, const TensorView& images, const TensorView& scratch,
                           const TensorView& gradients, const Parameters& parameters, std::uintptr_t address) {
    for (const TensorView* view : {&output, &scratch, &gradients}) {
        view->require_device(images.device);
    }
    Backward backward = whole_backward(output, images, gradients, parameters);
    require(scratch.type == ScalarType::float32 && scratch.is_contiguous() &&
                scratch.shape[3] >= backward_scratch(backward),
            "the working memory must be contiguous float32 of at least the size that backward_cuda_scratch returns");
    place_scratch(backward, reinterpret_cast<float*>(scratch.data));
    const Batch& batch = backward.batch;
    const DeviceGuard guard(images.device);
    const cudaStream_t stream = stream_of(address);
    launch_forward(batch, backward.planes, images.device, stream);
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
