// Kernel launches: on the right device and the caller's stream, with errors as exceptions. Only for .cu files.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <stdexcept>
#include <string>

#include "common/block_program.h"

namespace preimage {

inline void check_cuda(cudaError_t status, const char* what) {
    if (status != cudaSuccess) {
        cudaGetLastError();  // clears the error, which the next launch would otherwise report as its own
        throw std::runtime_error(std::string(what) + ": " + cudaGetErrorString(status));
    }
}

/// Makes a device the current one during its lifetime.
class DeviceGuard {
public:
    explicit DeviceGuard(int device) {
        check_cuda(cudaGetDevice(&before_), "cannot get the current CUDA device");
        // Also if they are equal: this module's runtime may not have seen that torch's runtime changed the device.
        check_cuda(cudaSetDevice(device), "cannot select the CUDA device");
    }
    ~DeviceGuard() { cudaSetDevice(before_); }
    DeviceGuard(const DeviceGuard&) = delete;
    DeviceGuard& operator=(const DeviceGuard&) = delete;

private:
    int before_ = 0;
};

inline cudaStream_t stream_of(std::uintptr_t address) { return reinterpret_cast<cudaStream_t>(address); }

/// Launch `blocks` blocks with `shared` bytes of shared memory, which may exceed 48 KiB. Does nothing if `blocks` is 0.
/// Never synchronizes with the device, so it may run while a CUDA graph is captured.
template <class... Parameters, class... Arguments>
void launch(void (*kernel)(Parameters...), std::int64_t blocks, int threads, std::int64_t shared, cudaStream_t stream,
            const Arguments&... arguments) {
    if (blocks == 0) {
        return;
    }
    if (blocks > INT32_MAX) {
        throw std::invalid_argument("a batch this large needs more blocks than CUDA has: split it");
    }
    if (shared > (48 << 10)) {
        check_cuda(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared)),
                   "cannot reserve shared memory for a kernel");
    }
    kernel<<<static_cast<unsigned>(blocks), static_cast<unsigned>(threads), static_cast<std::size_t>(shared), stream>>>(
        arguments...);
    check_cuda(cudaGetLastError(), "cannot launch a kernel");
}

// ---- Kernels of block programs (block_program.h) ----

template <class Program, int kMinBlocks, class... Parameters>
__global__ void __launch_bounds__(Program::kThreads, kMinBlocks) program_kernel(Parameters... parameters) {
    __shared__ typename Program::Shared shared;
    DeviceBlock<Program::kThreads> block;
    Program::run(block, parameters..., blockIdx.x, shared);
}

/// Call Program::run(block, parameters..., index, shared) for every index below `blocks`, with registers for at least
/// kMinBlocks blocks per multiprocessor; 0 leaves their number to the compiler.
template <class Program, int kMinBlocks = 0, class... Parameters>
void launch_program(std::int64_t blocks, cudaStream_t stream, const Parameters&... parameters) {
    launch(program_kernel<Program, kMinBlocks, Parameters...>, blocks, Program::kThreads, 0, stream, parameters...);
}

// ---- Kernels with one thread per element of (images, rows, columns) ----

constexpr int kElementThreads = 128;
// Blocks per multiprocessor. Without this bound ptxas 13.0 gives some kernels so few registers that they spill.
constexpr int kMinElementBlocks = 4;

/// Each block computes a piece of one row, so that the divisions that locate the row are the same for all its threads.
/// They take 32 bits, because a launch has fewer than 2^31 blocks.
template <class Step>
__global__ void __launch_bounds__(kElementThreads, kMinElementBlocks)
    elements_kernel(std::uint32_t rows, std::int64_t columns, std::uint32_t pieces, Step step) {
    const std::uint32_t line = blockIdx.x / pieces;
    const std::int64_t column = std::int64_t{blockIdx.x % pieces} * kElementThreads + threadIdx.x;
    if (column < columns) {
        step(line / rows, line % rows, column);
    }
}

/// Call step(image, row, column) for every element.
template <class Step>
void for_each_element(std::int64_t images, std::int64_t rows, std::int64_t columns, cudaStream_t stream,
                      const Step& step) {
    const std::int64_t pieces = (columns + kElementThreads - 1) / kElementThreads;
    launch(elements_kernel<Step>, images * rows * pieces, kElementThreads, 0, stream, static_cast<std::uint32_t>(rows),
           columns, static_cast<std::uint32_t>(pieces), step);
}

}  // namespace preimage
