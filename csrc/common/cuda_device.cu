#include <cuda_runtime_api.h>

#include "common/cuda_device.h"

namespace preimage {

CudaReport cuda_report() {
    CudaReport report{true, 0, 0, {}, ""};
    cudaRuntimeGetVersion(&report.runtime_version);
    cudaDriverGetVersion(&report.driver_version);  // stays 0 without a driver
    int count = 0;
    const cudaError_t status = cudaGetDeviceCount(&count);
    if (status != cudaSuccess) {
        cudaGetLastError();  // clear the error, which the next caller would otherwise see
        // Without a driver the runtime reports one that is too old.
        report.reason = report.driver_version == 0 ? "no NVIDIA driver is installed" : cudaGetErrorString(status);
        return report;
    }
    for (int index = 0; index < count; ++index) {
        cudaDeviceProp properties{};
        if (cudaGetDeviceProperties(&properties, index) != cudaSuccess) {
            report.reason = cudaGetErrorString(cudaGetLastError());
            continue;
        }
        report.devices.push_back({properties.name, properties.major, properties.minor, properties.totalGlobalMem});
    }
    if (count == 0) {
        report.reason = "the driver shows no device";
    }
    return report;
}

}  // namespace preimage
