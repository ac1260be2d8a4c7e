// Dense SIFT on a CUDA device.
#pragma once

#include <cstdint>

#include "dense_sift/dense_sift.h"

namespace preimage::dense_sift {

/// Return the working memory on the device that a call needs, in floats. For larger batches it stops growing at some
/// hundred megabytes (or one image, if that needs more), and the batch is processed in parts.
std::int64_t cuda_scratch(const TensorView& images, const Parameters& parameters, bool backward);

/// As `compute` (dense_sift.h), on the images' device; sums have another order. `scratch` is contiguous float32 of
/// cuda_scratch(...) elements, uninitialized. Only launches kernels on `stream`, and never synchronizes. Throws
/// std::invalid_argument also if a descriptor does not fit into shared memory.
void compute_cuda(const TensorView& images, const TensorView& scratch, const TensorView& features,
                  const TensorView& norms, const Parameters& parameters, std::uintptr_t stream);

/// As `compute_backward` (dense_sift_backward.h), likewise.
void compute_backward_cuda(const TensorView& grad_features, const TensorView& grad_norms, const TensorView& images,
                           const TensorView& scratch, const TensorView& grad_images, const Parameters& parameters,
                           std::uintptr_t stream);

}  // namespace preimage::dense_sift
