// The kernel for this instruction set; CMakeLists.txt gives the compiler options that go with it.
#define PREIMAGE_BAND band_avx2
#include "hog/hog_cpu_kernel.h"
