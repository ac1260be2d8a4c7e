// What lets one source be compiled for the host and, by nvcc, for the GPU.
#pragma once

#include <cstdint>

// PREIMAGE_INLINE functions leave no symbol: some files are compiled for several instruction sets, and a linker
// that merged the copies could put AVX-512 code where any x86-64 must run.
#ifdef __CUDACC__
#define PREIMAGE_HOST_DEVICE __host__ __device__
#define PREIMAGE_INLINE static __host__ __device__ __forceinline__
#else
#define PREIMAGE_HOST_DEVICE
#define PREIMAGE_INLINE static inline __attribute__((always_inline))
#endif

namespace preimage {

PREIMAGE_INLINE std::int64_t smaller(std::int64_t a, std::int64_t b) { return a < b ? a : b; }
PREIMAGE_INLINE std::int64_t larger(std::int64_t a, std::int64_t b) { return a > b ? a : b; }

#ifdef __CUDA_ARCH__
PREIMAGE_INLINE float absolute(float value) { return fabsf(value); }
/// Correctly rounded, on every device.
PREIMAGE_INLINE float square_root(float value) { return __fsqrt_rn(value); }
#else
PREIMAGE_INLINE float absolute(float value) { return __builtin_fabsf(value); }
/// Correctly rounded, on every device.
PREIMAGE_INLINE float square_root(float value) { return __builtin_sqrtf(value); }
#endif

}  // namespace preimage
