// Macros and functions that let one source be compiled for the host and, by nvcc, for the GPU.
#pragma once

#include <type_traits>

// PREIMAGE_INLINE functions leave no symbol. Some files are compiled for several instruction sets, and a linker that
// merged copies of one function could put AVX-512 code where every x86-64 processor must run it.
#ifdef __CUDACC__
#define PREIMAGE_HOST_DEVICE __host__ __device__
#define PREIMAGE_INLINE static __host__ __device__ __forceinline__
#else
#define PREIMAGE_HOST_DEVICE
#define PREIMAGE_INLINE static inline __attribute__((always_inline))
#endif

// Before a loop: the device compiler unrolls it by `count`; 1 prevents unrolling.
#ifdef __CUDA_ARCH__
#define PREIMAGE_UNROLL(count) _Pragma(PREIMAGE_TEXT(unroll(count)))
#define PREIMAGE_TEXT(...) #__VA_ARGS__
#else
#define PREIMAGE_UNROLL(count)
#endif

namespace preimage {

// Not std::min and std::max, which leave symbols and take two arguments of one type only.
template <class A, class B>
PREIMAGE_INLINE constexpr std::common_type_t<A, B> minimum(A a, B b) {
    return a < b ? a : b;
}
template <class A, class B>
PREIMAGE_INLINE constexpr std::common_type_t<A, B> maximum(A a, B b) {
    return a > b ? a : b;
}

#ifdef __CUDA_ARCH__
PREIMAGE_INLINE float absolute(float value) { return fabsf(value); }
/// Correctly rounded, on every device.
PREIMAGE_INLINE float square_root(float value) { return __fsqrt_rn(value); }
/// Return a * b + c, rounded once. For block programs; kernels of the CPU round the product, too.
PREIMAGE_INLINE float multiply_add(float a, float b, float c) { return __fmaf_rn(a, b, c); }
/// Return the value clamped to [0, 1].
PREIMAGE_INLINE float saturate(float value) { return __saturatef(value); }
#else
PREIMAGE_INLINE float absolute(float value) { return __builtin_fabsf(value); }
/// Correctly rounded, on every device.
PREIMAGE_INLINE float square_root(float value) { return __builtin_sqrtf(value); }
/// Return a * b + c, rounded once. For block programs; kernels of the CPU round the product, too.
PREIMAGE_INLINE float multiply_add(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
/// Return the value clamped to [0, 1].
PREIMAGE_INLINE float saturate(float value) { return value > 0.0f ? minimum(value, 1.0f) : 0.0f; }
#endif

}  // namespace preimage
