// Kernels of an up-convolution turned around: from the orientation of conv2d to that of a transposed convolution.
#pragma once

#include "tensor_view.h"

namespace preimage::upconv {

/// output[i, o, y, x] = weight[o, i, H - 1 - y, W - 1 - x], a copy of any 2- or 4-byte type.
///
/// weight (Co, Ci, H, W) and output (Ci, Co, H, W), on the CPU, of one dtype, any strides, without overlap. It runs
/// at the speed of memory where weight is contiguous over (i, o, y, x) and output over (i, y, x, o).
/// One thread: two are no faster, and torch's own wait for their next task spinning, on the core that one would take.
/// Throws std::invalid_argument where the shapes, dtypes or devices do not fit.
void turn(const TensorView& weight, const TensorView& output);

}  // namespace preimage::upconv
