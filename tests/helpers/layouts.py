"""List memory layouts of images (B, C, H, W) in torch tensors and NumPy arrays."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

LAYOUTS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "contiguous": lambda images: images,
    "channels last": lambda images: images.to(memory_format=torch.channels_last),
    "transposed": lambda images: images.mT,
    "sliced": lambda images: images[:, :, 1:, ::2],
    "expanded": lambda images: images[:1].expand(3, -1, -1, -1),
    "bytes": lambda images: images if images.dtype == torch.uint8 else (images * 255).to(torch.uint8),
    "half": lambda images: images.half(),
    "double": lambda images: images.double(),
    "empty batch": lambda images: images[:0],
    "one image": lambda images: images[0],
    "one plane": lambda images: images[0, 0],
}


def field_of_a_record(batch: np.ndarray) -> np.ndarray:
    """Return equal values seven or four bytes apart: floats at addresses that are not multiples of four."""
    records = np.zeros(batch.shape, dtype=np.dtype([("flag", "u1"), ("value", batch.dtype), ("rest", "u1", 2)]))
    records["value"] = batch
    return records["value"]


# Functions of a contiguous array (B, C, H, W) that return equal values in another layout.
ARRAY_LAYOUTS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "contiguous": lambda batch: batch,
    "channels last": lambda batch: np.ascontiguousarray(batch.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2),
    "rows and columns swapped": lambda batch: np.ascontiguousarray(batch.swapaxes(2, 3)).swapaxes(2, 3),
    "all axes reversed": lambda batch: np.ascontiguousarray(batch[::-1, ::-1, ::-1, ::-1])[::-1, ::-1, ::-1, ::-1],
    "columns reversed": lambda batch: np.ascontiguousarray(batch[..., ::-1])[..., ::-1],
    "every other column": lambda batch: np.repeat(batch, 2, axis=3)[..., ::2],
    "cut out of a larger one": lambda batch: np.pad(batch, ((1, 1), (1, 2), (3, 5), (1, 7)))[1:-1, 1:-2, 3:-5, 1:-7],
    "read-only": lambda batch: np.frombuffer(batch.tobytes(), batch.dtype).reshape(batch.shape),
    "other byte order": lambda batch: batch.astype(batch.dtype.newbyteorder()),
    "unaligned": field_of_a_record,
}
