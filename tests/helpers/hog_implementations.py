"""The tellings of HOG under test."""

from __future__ import annotations

import implementations
from implementations import Implementation
from preimage import reference
from preimage.ops.hog import hog

KERNELS: dict[str, Implementation] = implementations.kernels(hog)
CUDA: dict[str, Implementation] = implementations.cuda(hog)
IMPLEMENTATIONS: dict[str, Implementation] = {
    "reference": implementations.with_one_thread(reference.hog),
    **KERNELS,
    **CUDA,
}
