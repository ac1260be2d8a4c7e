// Stands in for cuda_device.cu in a build without CUDA.
#include "common/cuda_device.h"

namespace preimage {

CudaReport cuda_report() { return {false, 0, 0, {}, "this build has no CUDA code (PREIMAGE_CUDA=OFF, or no nvcc)"}; }

}  // namespace preimage
