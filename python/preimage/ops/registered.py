"""Import this to have every descriptor's op registered: `torch.ops.preimage.hog`, …"""

from preimage.ops import dense_sift_torch, hog_torch, lbp_torch, sift_grid_torch

__all__ = ["dense_sift_torch", "hog_torch", "lbp_torch", "sift_grid_torch"]
