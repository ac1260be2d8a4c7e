// Dense SIFT on a CUDA device: kernels that run the block programs of dense_sift_blocks.h and the steps of
// dense_sift_backward.h, one thread an element.
#pragma once

#include <cstdint>

#include "dense_sift/dense_sift.h"

namespace preimage::dense_sift {

/// Floats of working memory on the device that a call needs. It grows with the batch only up to some hundred megabytes
/// (or one image, if that needs more): larger batches are worked on in parts.
std::int64_t cuda_scratch(const TensorView& images, const Parameters& parameters, bool backward);

/// As `compute` (sift.h), on the images' device: the same definition, summed in another order. `scratch` is
/// contiguous float32 of cuda_scratch(...) elements, anything in it. Only launches kernels on `stream`: nothing waits
/// for the device. Throws std::invalid_argument also where a descriptor does not fit into shared memory.
void compute_cuda(const TensorView& images, const TensorView& scratch, const TensorView& features,
                  const TensorView& norms, const Parameters& parameters, std::uintptr_t stream);

/// As `compute_backward` (dense_sift_backward.h), likewise.
void compute_backward_cuda(const TensorView& grad_features, const TensorView& grad_norms, const TensorView& images,
                           const TensorView& scratch, const TensorView& grad_images, const Parameters& parameters,
                           std::uintptr_t stream);

}  // namespace preimage::dense_sift
