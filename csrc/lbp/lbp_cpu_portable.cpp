// The kernel for this instruction set; CMakeLists.txt gives the compiler options that go with it.
#define PREIMAGE_BAND band_portable
#define PREIMAGE_CODE_BAND code_band_portable
#include "lbp/lbp_cpu_kernel.h"
