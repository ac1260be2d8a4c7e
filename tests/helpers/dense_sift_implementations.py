"""The tellings of dense SIFT under test."""

from __future__ import annotations

import implementations
from implementations import Implementation
from preimage import reference
from preimage.ops.dense_sift import dense_sift

KERNELS: dict[str, Implementation] = implementations.kernels(dense_sift)
CUDA: dict[str, Implementation] = implementations.cuda(dense_sift)
IMPLEMENTATIONS: dict[str, Implementation] = {
    "reference": implementations.with_one_thread(reference.dense_sift),
    **KERNELS,
    **CUDA,
}
