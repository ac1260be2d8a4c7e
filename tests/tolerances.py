"""List the numerical tolerances of all tests, as largest absolute differences. Prefer better data to larger numbers."""

import torch

# HOG features lie in [0, 0.43]. Against VLFeat, which sums in float32 in another order: 2.4e-7 measured.
HOG = 1e-6

# Features of an image turned around its axes: the same sums in another order.
HOG_SYMMETRY = 1e-6

# float32 against float64 throughout, on images without near-ties between directions.
HOG_PRECISION = 2e-6

# The variant dalal-triggs lies in [0, 1]. Against scikit-image, which sums the lengths of a cell in float32, one by
# one: 2.3e-7 measured with cells of 8 pixels, 7.6e-7 with 32, but 2.5e-6 with 64 and 5.5e-6 with 128. Against the
# definition in float64: lengths are rounded to float32.
HOG_DALAL_TRIGGS = 1e-6
HOG_DALAL_TRIGGS_PRECISION = 2e-7

# Values computed by torch.compile against eager ones, relative.
COMPILED = 1e-5

# AlexNet's layers against another way to compute them, in float32, relative to the largest value.
ALEXNET = 1e-5

# HOG's gradient in float32 against the reference's autograd, relative to its Euclidean length.
HOG_GRADIENT = 1e-4

# The block programs' gradient of the variant dalal-triggs against the CPU's, relative to its Euclidean length: the same
# steps, but histograms summed in another order.
HOG_BLOCKS_GRADIENT = 1e-6

# Autograd of the references in float64 against finite differences, absolute, by op; relative for all.
FINITE_DIFFERENCES = {"hog": 1e-4, "dense_sift": 1e-5}
FINITE_DIFFERENCES_RELATIVE = 1e-4

# Descriptors on a CUDA device against the CPU: the same arithmetic, summed in another order.
CUDA = 1e-5

# LBP features lie in [0, 1], and are VLFeat's to the bit where the cell size is a power of two up to 32. With others
# VLFeat's own float32 weights or sums are inexact, the more so the larger the image (8e-7 at 150 pixels a side).
LBP = 1e-6

# Descriptors of dense SIFT lie in [0, 1]. Against VLFeat, which sums in float32 in another order, and whose roots are
# 5e-6 off; where the norm is at least DENSE_SIFT_NORM: near-flat patches are noise in VLFeat. 3.5e-6 measured.
DENSE_SIFT = 5e-6
DENSE_SIFT_NORM = 1e-4

# The flat window: VLFeat's own running sums are up to 3.4e-4 off.
DENSE_SIFT_FLAT = 1e-3
DENSE_SIFT_FLAT_NORM = 1e-3

# Norms, themselves at most 0.5 or so. VLFeat's running sums make 5e-7 of it.
DENSE_SIFT_NORMS = 1e-6

# The kernels in float32 against the definition in float64, both windows; measured 2.6e-6.
DENSE_SIFT_PRECISION = 5e-6

# Descriptors of an image turned around its axes: the same sums in another order.
DENSE_SIFT_SYMMETRY = 5e-6

# Euclidean lengths of descriptors, summed in float32.
DENSE_SIFT_LENGTH = 1e-5

# Descriptors and norms (relative) after a change of contrast: gradients are rounded, and FLT_EPSILON is added to |gy|.
DENSE_SIFT_CONTRAST = 5e-4
DENSE_SIFT_CONTRAST_NORMS = 1e-3

# Dense SIFT's block programs against the CPU: the same sums in another order.
DENSE_SIFT_BLOCKS = 1e-6

# The same where they are stored in fewer bits: one unit in the last place of values up to 1, one level of uint8.
DENSE_SIFT_BLOCKS_STORED = {"float16": 2**-11, "bfloat16": 2**-8, "uint8": 1}

# Dense SIFT's gradient in float32 against the reference's autograd in float64, relative to its Euclidean length.
DENSE_SIFT_GRADIENT = 1e-4

# The block programs' gradient against the CPU's, relative to its Euclidean length: the same steps, but sums of products
# that are rounded once. 4.6e-7 measured.
DENSE_SIFT_BLOCKS_GRADIENT = 1e-6

# The gradient of dense SIFT along a direction against finite differences of the reference, relative.
DENSE_SIFT_DIRECTION = 1e-3

# Sparse SIFT against VLFeat: pixels, and the share of the scale; the scale space is VLFeat's to the bit. Angles come
# from a histogram summed in float32 instead of double: 4e-4 measured where three bins are nearly equal. Descriptors lie
# in [0, 1]; they follow the angle (2e-4 measured; 2e-5 nearly everywhere).
SIFT_PLACE = 1e-5
SIFT_ANGLE = 1e-3
SIFT = 1e-3
SIFT_MEDIAN = 1e-5

# cyvlfeat's scale: descriptors are 512 times those with unit norm, and at most 255. VLFeat's roots and running sums of
# three spatial bins differ like those of four.
CYVLFEAT = {"dsift": 512 * 1e-5, "fast": 512 * DENSE_SIFT_FLAT, "sift": 512 * SIFT}

# Norms on the scale of images in [0, 255].
CYVLFEAT_NORMS = 255 * 1e-5

# Euclidean lengths of descriptors, by variant.
SIFT_LENGTH = {"vlfeat": 1e-4, "opencv": 1e-5}

# Descriptors of a mirrored image, whose keypoints lie a little elsewhere: the sums are in another order.
SIFT_SYMMETRY = 1e-2

# The kernel against the definition in double precision, which smooths otherwise in the last bits: places and angles of
# those found by both, and the share that is. Descriptors as above.
SIFT_PRECISION = 1e-2
SIFT_FOUND = 0.99
SIFT_RESPONSE = 1e-6

# The grid's sines, cosines and logarithms against torch's: an ulp or two of 5.
SIFT_GRID = 1e-6

# The up-convolution's passes against the plain ones in float64, relative to the largest value, at least 1. float64: the
# same products in another order. bfloat16 has 7 bits of mantissa, float16 10; up to nine partial sums are rounded.
UPCONV = {torch.float64: 1e-12, torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1e-2}

# A chain of up-convolutions: the distance of its image in float32 and the gradient of that, relative to the largest
# value; outputs under autocast, (absolute, relative); gradients of compiled layers.
UPCONV_DISTANCE = 1e-6
UPCONV_DISTANCE_GRADIENT = 1e-5
UPCONV_AUTOCAST = {torch.float16: (8e-3, 2e-2), torch.bfloat16: (4e-2, 2e-2)}
UPCONV_COMPILED = 1e-4

# The up-convolution's kernels against the plain passes in float64, relative to the largest value. tf32 has 10 bits of
# mantissa, bfloat16 7: its results are rounded to that.
UPCONV_KERNELS = {"ieee": 1e-5, "tf32": 5e-3, "bf16": 1e-2}

# Adam in float32 over many steps against torch's in float64, weights of about 1: absolute and relative.
ADAM = 2e-6

# The training step in flat memory against the eager one. Both keep weights and moments in float32 and round features,
# activations and gradients to the precision of training, each value by up to half an epsilon and independently, whether
# the processor has instructions for bfloat16 or emulates them; which way a value falls depends on the order of sums,
# and that on the kernels that oneDNN has for a processor and a memory layout.


def training_loss(precision: torch.dtype, steps: int) -> torch.Tensor:
    """The relative difference of the loss at each of the steps, the first with equal weights: (steps,).

    A loss is a mean over more than 10⁴ pixels, in which roundings to 8 bits mostly cancel; the sum itself is float32.
    After that the weights differ, too. In float32 differences stay proportional to the number of steps. In bfloat16
    they grow until the runs are as far apart as bfloat16 takes a run from float32's: 1.1e-3 of the loss, where 20 steps
    learn 0.21. Measured on AVX2, AVX and SSE4.1: 0.13 of this in both.
    """
    epsilon = torch.finfo(precision).eps
    if precision == torch.float32:
        return 4 * epsilon * torch.arange(1, steps + 1)
    return torch.full((steps,), epsilon).index_fill(0, torch.tensor(0), epsilon / 8)


def trained_weights(optimizer: str, precision: torch.dtype, steps: int) -> float:
    """The distance of two runs' weights as a share of the way that they went.

    Adam divides every gradient by its size and Muon by its singular values, so that the small ones, which are sums that
    nearly cancel, lose up to ten bits in float32. In bfloat16 every step adds an epsilon; with Muon three, because
    the directions of its small singular values are noise. Measured on AVX2, AVX and SSE4.1: 0.07 of this in float32;
    in bfloat16 0.26 with Adam, 0.4 with Muon.
    """
    epsilon = torch.finfo(precision).eps
    return 2**10 * epsilon if precision == torch.float32 else {"adam": 1, "muon": 3}[optimizer] * steps * epsilon


# In bfloat16 on a GPU, whose HOG and convolutions sum in another order: relative difference of a loss over 50 steps.
TRAINING_LOSS_GPU = 5e-2

# A network's layer in one pass against another pass, values of about 1: the same sums, but BLAS and oneDNN choose their
# kernels by batch, by alignment and by whether gradients are recorded. Measured: 4e-7.
NETWORK = 2e-6

# PSNR in dB and SSIM against torchmetrics, which sums in another order.
PSNR = 1e-4
SSIM = 1e-5

# Features in the axis order of another toolbox, converted to the package's and back, by the dtype they are stored in:
# uint8 is truncated; the toolbox computes float32 on the transposed image, in another order of additions.
CONVENTIONS = {"float32": 1e-5, "uint8": 1 / 512}
CONVENTIONS_BACK = 2e-5

# Arrays of float32 in [0, 1] written and read in another convention.
STORED_ARRAYS = 1e-7

# Keypoints written and read: pixels and radians in binary files; (pixels, radians) in text files; unit descriptors by
# the dtype they are stored in.
STORED_KEYPOINTS = 1e-6
STORED_KEYPOINTS_TEXT = {"vlfeat": (1e-3, 1e-5), "lowe": (6e-3, 6e-4)}
STORED_DESCRIPTORS = {"float32": 1e-7, "float16": 3e-4, "uint8": 2e-3}

# Images of an ONNX file in onnxruntime against torch's: the same products in another order, 7e-7 measured. Weights that
# are 8-bit integers times a scale change when they are rounded to float16.
ONNX = 1e-5
ONNX_FLOAT16 = 2e-3
