// Launching kernels: the right device, the caller's stream, errors as exceptions. Only .cu files include this.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <stdexcept>
#include <string>

namespace preimage {

inline void check_cuda(cudaError_t status, const char* what) {
    if (status != cudaSuccess) {
        throw std::runtime_error(std::string(what) + ": " + cudaGetErrorString(status));
    }
}

/// Makes a device the current one for as long as it lives.
class DeviceGuard {
public:
    explicit DeviceGuard(int device) {
        check_cuda(cudaGetDevice(&before_), "cannot ask for the current CUDA device");
        if (device != before_) {
            check_cuda(cudaSetDevice(device), "cannot select the CUDA device");
            changed_ = true;
        }
    }
    ~DeviceGuard() {
        if (changed_) {
            cudaSetDevice(before_);
        }
    }
    DeviceGuard(const DeviceGuard&) = delete;
    DeviceGuard& operator=(const DeviceGuard&) = delete;

private:
    int before_ = 0;
    bool changed_ = false;
};

inline cudaStream_t stream_of(std::uintptr_t address) { return reinterpret_cast<cudaStream_t>(address); }

/// Launches `blocks` blocks; `shared` bytes of shared memory, more than 48 KiB too. Does nothing for no blocks.
/// Nothing here waits for the device, so it may run while a CUDA graph is captured.
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

}  // namespace preimage
