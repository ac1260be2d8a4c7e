// The CPU kernels of sparse SIFT, compiled once per instruction set (CMakeLists.txt).
//
// Everything here has internal linkage and uses no templates of the standard library: host_device.h explains why. Sums
// have the same order on every instruction set.
#include "common/image_rows.h"
#include "sift/sift.h"
#include "sift/sift_cpu_patch.h"
#include "sift/sift_cpu_scale.h"

namespace preimage::sift::PREIMAGE_ISA {
namespace {

void read_row(const Image& image, std::int64_t y, float* row) {
    if (image.type == ScalarType::uint8) {
        convert_row<std::uint8_t>(image, 1, y, 0, row);
    } else {
        convert_row<float>(image, 1, y, 0, row);
    }
}

}  // namespace

Kernels kernels() { return {read_row, smooth, gradients, extrema, orientations, describe}; }

}  // namespace preimage::sift::PREIMAGE_ISA
