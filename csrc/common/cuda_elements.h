// Kernels with one thread an element of (images, rows, columns). Only .cu files include this.
#pragma once

#include "common/cuda_launch.h"

namespace preimage {

constexpr int kElementThreads = 128;
// On a multiprocessor. Left to itself ptxas 13.0 takes so few registers for some kernels that it spills.
constexpr int kBlocksAtLeast = 4;

/// A block works on a piece of one row: what the row is, is divided out once a block.
template <class Step>
__global__ void __launch_bounds__(kElementThreads, kBlocksAtLeast)
    elements_kernel(std::int64_t rows, std::int64_t columns, std::int64_t pieces, Step step) {
    const std::int64_t line = blockIdx.x / pieces;
    const std::int64_t column = (blockIdx.x % pieces) * kElementThreads + threadIdx.x;
    if (column < columns) {
        step(line / rows, line % rows, column);
    }
}

/// Calls step(image, row, column) for every element.
template <class Step>
void over_elements(std::int64_t images, std::int64_t rows, std::int64_t columns, cudaStream_t stream,
                   const Step& step) {
    const std::int64_t pieces = (columns + kElementThreads - 1) / kElementThreads;
    launch(elements_kernel<Step>, images * rows * pieces, kElementThreads, 0, stream, rows, columns, pieces, step);
}

}  // namespace preimage
