// The kernel for this instruction set; CMakeLists.txt gives the compiler options that go with it.
#define PREIMAGE_BAND band_avx2
#define PREIMAGE_CODE_BAND code_band_avx2
#include "lbp/lbp_cpu_kernel.h"
