"""Every numerical tolerance of the tests: largest absolute difference. Prefer better test data to a larger number."""

import torch

# HOG features lie in [0, 0.43]. Against VLFeat, which sums in float32 in another order: 2.4e-7 measured.
HOG = 1e-6

# Features of an image turned around its axes: the same sums in another order.
HOG_SYMMETRY = 1e-6

# float32 against float64 throughout, on images without near-ties between directions.
HOG_PRECISION = 2e-6

# Dense SIFT's block programs against the CPU: the same sums in another order.
DENSE_SIFT_BLOCKS = 1e-6

# Dense SIFT's gradient in float32 against the reference's autograd in float64, relative to its Euclidean length.
DENSE_SIFT_GRADIENT = 1e-4

# The up-convolution's fast form against the plain one: the same products, summed in another order.
UPCONV = {torch.float64: 1e-12}
