// CUDA devices and versions on this machine, for `preimage doctor`.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace preimage {

struct CudaDevice {
    std::string name;
    int major;  // compute capability
    int minor;
    std::uint64_t memory;  // bytes
};

struct CudaReport {
    bool built;           // this module contains CUDA code
    int driver_version;   // highest CUDA version of the driver, 1000 * major + 10 * minor; 0 without a driver
    int runtime_version;  // version of the CUDA runtime linked in; 0 when built without CUDA
    std::vector<CudaDevice> devices;
    std::string reason;  // reason why `devices` is empty; empty if it is not
};

/// Return what the CUDA runtime reports. Never throws; initializing the driver can take seconds.
#ifdef PREIMAGE_CUDA_KERNELS
CudaReport cuda_report();
#else
inline CudaReport cuda_report() {
    return {false, 0, 0, {}, "this build has no CUDA code (PREIMAGE_CUDA=OFF, or no nvcc)"};
}
#endif

}  // namespace preimage
