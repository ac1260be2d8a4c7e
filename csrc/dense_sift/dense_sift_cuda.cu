// Dense SIFT on a CUDA device: launches the programs of dense_sift_blocks.h and the steps of dense_sift_backward.h.
#include <algorithm>
#include <vector>

#include "common/cuda_launch.h"
#include "dense_sift/dense_sift.h"
#include "dense_sift/dense_sift_backward.h"
#include "dense_sift/dense_sift_backward_blocks.h"
#include "dense_sift/dense_sift_blocks.h"
#include "dense_sift/dense_sift_flat_blocks.h"

namespace preimage::dense_sift {
namespace {

constexpr std::int64_t kPartFloats = 1 << 26;  // working memory for a part of the batch: 256 MiB
constexpr std::int64_t kPartPixels = 1 << 22;  // pixels per part, forward: 32 MiB of votes, for the L2 cache
constexpr std::int64_t kPieceWeights = 960;    // weights passed by value to one launch

/// Layout of the working memory: tables, then buffers for each image of a part of the batch.
struct Layout {
    std::int64_t weights;                      // size of the first table
    std::int64_t contributions[2], counts[2];  // offsets of the other ones, along y, then along x; backward only
    std::int64_t tables;                       // size of all
    std::int64_t votes, sums, rows;            // sizes per image
    std::int64_t part;                         // images per part
    std::int64_t total;

    Layout(const Grid& grid, const Parameters& parameters, std::int64_t batch, bool backward) {
        const std::int64_t pixels = std::int64_t{grid.y.pixels} * grid.x.pixels;
        weights = std::int64_t{taps_of(grid)} * kSpatial;
        tables = weights;
        for (int axis = 0; axis < 2; ++axis) {
            const std::int64_t along = axis == 0 ? grid.y.pixels : grid.x.pixels;
            contributions[axis] = tables;
            counts[axis] = contributions[axis] + 2 * along * max_contributions(grid);
            tables = backward ? counts[axis] + (along + 1) / 2 * 2 : weights;
        }
        votes = vote_floats(grid);
        const std::int64_t centers = can_share_bins(grid, parameters) ? center_floats(flat_plan(grid, parameters)) : 0;
        sums = backward ? std::int64_t{kChannels} * grid.y.frames * grid.x.frames : centers;
        rows = backward ? std::int64_t{kSpatial * kOrientations} * grid.y.pixels * grid.x.frames : 0;
        const std::int64_t image = votes + sums + rows;
        const std::int64_t most = backward ? kPartFloats / image : kPartPixels / pixels;
        part = std::max<std::int64_t>(1, std::min(batch, most));
        total = tables + part * image;
    }
};

/// Tensors and plan of a call on the device; the batch is processed in parts.
struct Call {
    Grid grid;
    Image image;                 // the first of the batch
    std::int64_t image_stride;   // bytes
    std::int64_t feature_bytes;  // of an image's descriptors
    BlockPlan plan;
    ContributionTable down, across;
    float* votes;  // votes of the part's images, vote_floats apart
    float* sums;
    float* rows;

    __device__ Image at(std::int64_t index) const {
        Image one = image;
        one.pixels += index * image_stride;
        return one;
    }
    __device__ Output at(const Output& output, std::int64_t index) const {
        return {output.features + index * feature_bytes, output.type,
                output.norms + index * grid.y.frames * grid.x.frames};
    }
    __device__ float* votes_of(std::int64_t index) const { return votes + index * vote_floats(grid); }
    __device__ float* sums_of(std::int64_t index) const {
        return sums + index * kChannels * grid.y.frames * grid.x.frames;
    }
    __device__ float* row_of(std::int64_t index, std::int64_t y) const {
        return rows + (index * grid.y.pixels + y) * kSpatial * kOrientations * grid.x.frames;
    }
};

struct Piece {
    float values[kPieceWeights];
};

/// The weights are passed by value, because memory that they were copied from would have to outlive the call.
__global__ void write_weights(Piece piece, std::int64_t count, float* out) {
    for (std::int64_t position = threadIdx.x; position < count; position += kElementThreads) {
        out[position] = piece.values[position];
    }
}

__global__ void __launch_bounds__(kBlockThreads) votes_kernel(Call call, std::int64_t first) {
    __shared__ float tile[kTilePitch * kTilePitch];
    DeviceBlock<kBlockThreads> block;
    const std::uint32_t tiles = tiles_along(call.grid.y.pixels) * tiles_along(call.grid.x.pixels);
    const std::uint32_t index = blockIdx.x / tiles;
    vote_program(block, call.at(first + index), call.grid, blockIdx.x % tiles, Votes(call.votes_of(index)), tile);
}

// Three blocks per multiprocessor: as many as any has shared memory for with two rows of descriptors of the default
// grid.
template <class Shape>
__global__ void __launch_bounds__(kBlockThreads, 3) descriptors_kernel(Call call, Output output) {
    extern __shared__ float4 memory[];
    DeviceBlock<kBlockThreads> block;
    const std::uint32_t blocks = call.plan.division.blocks();
    const std::uint32_t index = blockIdx.x / blocks;
    descriptor_program<Shape>(block, call.plan, blockIdx.x % blocks, Votes(call.votes_of(index)),
                              call.at(output, index), reinterpret_cast<float*>(memory));
}

__global__ void __launch_bounds__(kBlockThreads) centers_kernel(Call call, FlatPlan plan) {
    extern __shared__ float4 memory[];
    DeviceBlock<kBlockThreads> block;
    const std::uint32_t blocks = plan.center_blocks.blocks();
    const std::uint32_t index = blockIdx.x / blocks;
    center_program(block, plan, blockIdx.x % blocks, Votes(call.votes_of(index)),
                   call.sums + index * center_floats(plan), reinterpret_cast<float*>(memory));
}

__global__ void __launch_bounds__(kBlockThreads) flat_kernel(Call call, FlatPlan plan, Output output) {
    __shared__ float partials[kPartials * kBlockThreads];
    DeviceBlock<kBlockThreads> block;
    const std::uint32_t blocks = plan.blocks.blocks();
    const std::uint32_t index = blockIdx.x / blocks;
    flat_program(block, plan, blockIdx.x % blocks, call.sums + index * center_floats(plan), call.at(output, index),
                 partials);
}

// At least two blocks per multiprocessor. Without this bound ptxas 13.0 uses so few registers that it spills.
template <class Shape>
__global__ void __launch_bounds__(kBlockThreads, 2) backward_kernel(Call call, BackwardInput input) {
    extern __shared__ float4 memory[];
    DeviceBlock<kBlockThreads> block;
    const std::int64_t blocks = call.plan.division.blocks();
    const std::int64_t frames = std::int64_t{call.grid.y.frames} * call.grid.x.frames;
    const std::int64_t index = blockIdx.x / blocks;
    input.features += index * kChannels * frames;
    input.norms += index * frames;
    input.sums = call.sums_of(index);
    backward_program<Shape>(block, call.plan, blockIdx.x % blocks, Votes(call.votes_of(index)), input,
                            reinterpret_cast<float*>(memory));
}

struct ListContributions {
    Grid grid;
    Axis axis;
    const float* weights;
    ContributionTable table;
    __device__ void operator()(std::int64_t, std::int64_t, std::int64_t position) const {
        list_contributions(grid, axis, weights, static_cast<std::int32_t>(position), table);
    }
};
struct GatherDown {
    Call call;
    __device__ void operator()(std::int64_t index, std::int64_t y, std::int64_t element) const {
        gather_down<1>(call.grid, call.down, call.sums_of(index), static_cast<std::int32_t>(y), element,
                       call.row_of(index, y) + element);
    }
};
struct PixelGradients {
    Call call;
    std::int64_t first;
    __device__ void operator()(std::int64_t index, std::int64_t y, std::int64_t x) const {
        const Grid& grid = call.grid;
        const DifferenceGradient difference_gradients =
            difference_gradient(call.at(first + index), grid, call.across, call.row_of(index, y),
                                static_cast<std::int32_t>(y), static_cast<std::int32_t>(x));
        float* out = call.votes_of(index) + y * grid.x.pixels + x;
        out[0] = difference_gradients.x;
        out[std::int64_t{grid.y.pixels} * grid.x.pixels] = difference_gradients.y;
    }
};
struct GatherImage {
    Call call;
    float* gradient;
    __device__ void operator()(std::int64_t index, std::int64_t y, std::int64_t x) const {
        float* out = gradient + index * call.image.channels * call.grid.y.pixels * call.grid.x.pixels;
        gather_image(call.grid, call.image.channels, call.votes_of(index), static_cast<std::int32_t>(y),
                     static_cast<std::int32_t>(x), out);
    }
};

void send_weights(const Parameters& parameters, const Grid& grid, float* out, cudaStream_t stream) {
    std::vector<float> weights(static_cast<std::size_t>(taps_of(grid)) * kSpatial);
    fill_weights(parameters, weights.data());
    const auto all = static_cast<std::int64_t>(weights.size());
    for (std::int64_t done = 0; done < all; done += kPieceWeights) {
        const std::int64_t count = std::min(kPieceWeights, all - done);
        Piece piece{};
        std::copy_n(weights.begin() + done, count, piece.values);
        launch(write_weights, 1, kElementThreads, 0, stream, piece, count, out + done);
    }
}

Call prepare(const TensorView& images, const TensorView& scratch, const Parameters& parameters, const Grid& grid,
             const Layout& layout, cudaStream_t stream) {
    scratch.require_device(images.device);
    require(scratch.type == ScalarType::float32 && scratch.is_contiguous() && scratch.shape[3] >= layout.total,
            "the scratch memory is too small");
    require(images.shape[3] < kMaxWidth, "on a CUDA device an image's width must be below 2^29");
    int available = 0;
    check_cuda(cudaDeviceGetAttribute(&available, cudaDevAttrMaxSharedMemoryPerMultiprocessor, images.device),
               "cannot get the size of the CUDA device's shared memory");
    auto* memory = reinterpret_cast<float*>(scratch.data);
    const auto table = [&](int axis, const Axis& along) {
        return ContributionTable{reinterpret_cast<Contribution*>(memory + layout.contributions[axis]),
                                 reinterpret_cast<std::int32_t*>(memory + layout.counts[axis]), along.pixels};
    };
    Call call{};
    call.grid = grid;
    call.image = first_image(images);
    call.image_stride = images.strides[0];
    call.plan = block_plan(grid, parameters, memory, available);
    call.down = table(0, grid.y);
    call.across = table(1, grid.x);
    call.votes = memory + layout.tables;
    call.sums = call.votes + layout.part * layout.votes;
    call.rows = call.sums + layout.part * layout.sums;
    send_weights(parameters, grid, memory, stream);
    return call;
}

void launch_votes(const Call& call, std::int64_t first, std::int64_t images, cudaStream_t stream) {
    const std::int64_t tiles = std::int64_t{tiles_along(call.grid.y.pixels)} * tiles_along(call.grid.x.pixels);
    launch(votes_kernel, images * tiles, kBlockThreads, 0, stream, call, first);
}

/// Launch one block for each block of the plan and each image.
template <class Kernel, class Last>
void launch_blocks(Kernel kernel, const Call& call, std::int64_t images, cudaStream_t stream, const Last& last) {
    launch(kernel, images * std::int64_t{call.plan.division.blocks()}, kBlockThreads, shared_floats(call.plan) * 4,
           stream, call, last);
}

void launch_flat(const Call& call, const FlatPlan& plan, std::int64_t images, cudaStream_t stream,
                 const Output& output) {
    launch(centers_kernel, images * plan.center_blocks.blocks(), kBlockThreads, center_shared_floats(plan) * 4, stream,
           call, plan);
    launch(flat_kernel, images * plan.blocks.blocks(), kBlockThreads, 0, stream, call, plan, output);
}

}  // namespace

std::int64_t cuda_scratch(const TensorView& images, const Parameters& parameters, bool backward) {
    return Layout(checked_grid(first_image(images), parameters), parameters, images.shape[0], backward).total;
}

void compute_cuda(const TensorView& images, const TensorView& scratch, const TensorView& features,
                  const TensorView& norms, const Parameters& parameters, std::uintptr_t stream) {
    const Grid grid = checked_grid(first_image(images), parameters);
    const std::int64_t batch = images.shape[0];
    features.require_device(images.device);
    norms.require_device(images.device);
    require_descriptors(features, batch, kChannels, grid, "the features must be contiguous of shape (B, 128, h, w)");
    require_descriptors(norms, batch, 1, grid, "the norms must be contiguous of shape (B, 1, h, w)");
    require(norms.type == ScalarType::float32, "the norms must be float32");
    const Layout layout(grid, parameters, batch, false);
    const DeviceGuard guard(images.device);
    Call call = prepare(images, scratch, parameters, grid, layout, stream_of(stream));
    const std::int64_t frames = std::int64_t{grid.y.frames} * grid.x.frames;
    call.feature_bytes = kChannels * frames * size_of(features.type);
    for (std::int64_t first = 0; first < batch; first += layout.part) {
        const std::int64_t count = std::min(layout.part, batch - first);
        const Output output{features.data + first * call.feature_bytes, features.type,
                            reinterpret_cast<float*>(norms.data) + first * frames};
        launch_votes(call, first, count, stream_of(stream));
        if (can_share_bins(grid, parameters)) {
            launch_flat(call, flat_plan(grid, parameters), count, stream_of(stream), output);
        } else {
            with_block_shape(call.plan, [&](auto shape) {
                launch_blocks(descriptors_kernel<decltype(shape)>, call, count, stream_of(stream), output);
            });
        }
    }
}

void compute_backward_cuda(const TensorView& grad_features, const TensorView& grad_norms, const TensorView& images,
                           const TensorView& scratch, const TensorView& grad_images, const Parameters& parameters,
                           std::uintptr_t stream_address) {
    const Grid grid = checked_backward(grad_features, grad_norms, images, grad_images, parameters);
    for (const TensorView* tensor : {&grad_features, &grad_norms, &grad_images}) {
        tensor->require_device(images.device);
    }
    const std::int64_t batch = images.shape[0];
    const Layout layout(grid, parameters, batch, true);
    const DeviceGuard guard(images.device);
    const cudaStream_t stream = stream_of(stream_address);
    const Call call = prepare(images, scratch, parameters, grid, layout, stream);
    const float* weights = call.plan.weights;
    for_each_element(1, 1, grid.y.pixels, stream, ListContributions{grid, grid.y, weights, call.down});
    for_each_element(1, 1, grid.x.pixels, stream, ListContributions{grid, grid.x, weights, call.across});
    const std::int64_t frames = std::int64_t{grid.y.frames} * grid.x.frames;
    const std::int64_t pixels = std::int64_t{grid.y.pixels} * grid.x.pixels;
    for (std::int64_t first = 0; first < batch; first += layout.part) {
        const std::int64_t count = std::min(layout.part, batch - first);
        const BackwardInput input{reinterpret_cast<const float*>(grad_features.data) + first * kChannels * frames,
                                  reinterpret_cast<const float*>(grad_norms.data) + first * frames, nullptr};
        launch_votes(call, first, count, stream);
        with_block_shape(call.plan, [&](auto shape) {
            launch_blocks(backward_kernel<decltype(shape)>, call, count, stream, input);
        });
        const std::int64_t slots = std::int64_t{kSpatial * kOrientations} * grid.x.frames;
        float* gradient = reinterpret_cast<float*>(grad_images.data) + first * call.image.channels * pixels;
        for_each_element(count, grid.y.pixels, slots, stream, GatherDown{call});
        for_each_element(count, grid.y.pixels, grid.x.pixels, stream, PixelGradients{call, first});
        for_each_element(count, grid.y.pixels, grid.x.pixels, stream, GatherImage{call, gradient});
    }
}

}  // namespace preimage::dense_sift
