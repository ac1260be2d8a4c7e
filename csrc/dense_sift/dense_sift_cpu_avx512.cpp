// The kernel for this instruction set; CMakeLists.txt gives the compiler options that go with it.
#define PREIMAGE_BAND band_avx512
#include "dense_sift/dense_sift_cpu_kernel.h"
