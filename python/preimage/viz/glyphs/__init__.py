"""Drawings of features and keypoints."""

from preimage.viz.glyphs.dense_sift import sift_glyphs
from preimage.viz.glyphs.hog import hog_block_glyphs, hog_glyphs
from preimage.viz.glyphs.keypoints import keypoint_grid, sift_keypoints
from preimage.viz.glyphs.lbp import lbp_map

__all__ = ["hog_block_glyphs", "hog_glyphs", "keypoint_grid", "lbp_map", "sift_glyphs", "sift_keypoints"]
