"""Explore representations in a browser (optional extra ``app``)."""

from preimage.app.explorer import Explorer
from preimage.app.server import explore
from preimage.app.settings import Settings

__all__ = ["Explorer", "Settings", "explore"]
