// The kernels for this instruction set; CMakeLists.txt gives the compiler options that go with it.
#define PREIMAGE_KERNELS kernels_avx512
#include "sift/sift_cpu_kernel.h"
