"""The tellings of LBP, and of its map of labels, under test."""

from __future__ import annotations

import implementations
from implementations import Implementation
from preimage import reference
from preimage.ops.lbp import lbp, lbp_codes

KERNELS: dict[str, Implementation] = implementations.kernels(lbp)
IMPLEMENTATIONS: dict[str, Implementation] = {
    "reference": implementations.with_one_thread(reference.lbp),
    **KERNELS,
    **implementations.cuda(lbp),
}
CODES: dict[str, Implementation] = {
    "reference": implementations.with_one_thread(reference.lbp_codes),
    **implementations.kernels(lbp_codes),
    **implementations.cuda(lbp_codes),
}
