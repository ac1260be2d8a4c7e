"""Register the torch ops of all descriptors, `torch.ops.preimage.hog` and others, by importing their modules."""

from preimage.ops import dense_sift_torch, hog_dalal_triggs_torch, hog_torch, lbp_torch, sift_grid_torch

__all__ = ["dense_sift_torch", "hog_dalal_triggs_torch", "hog_torch", "lbp_torch", "sift_grid_torch"]
