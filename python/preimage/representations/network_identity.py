"""What a spec tells of a network besides its layer: a digest of its weights, and how it wants its pixels."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import torch
from torch import nn

from preimage.representations.preprocessing import Preprocessing
from preimage.spec import Scalar

Preprocess = Preprocessing | Callable[[torch.Tensor], torch.Tensor]


def digest(module: nn.Module) -> str:
    """16 hexadecimal digits of SHA-256 over the names, types, shapes and bytes of all tensors of the state."""
    total = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        if isinstance(value, torch.Tensor):
            values = value.detach().cpu().contiguous()
            total.update(f"{name} {values.dtype} {tuple(values.shape)}\n".encode())
            total.update(values.reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()[:16]


def described(preprocess: Preprocess, image_size: int | None) -> tuple[dict[str, Scalar], int]:
    """How images are prepared, as a spec holds it, and their side; errors as in `preimage.Network`."""
    if isinstance(preprocess, Preprocessing):
        if image_size not in (None, preprocess.image_size):
            raise ValueError(f"image_size is {image_size} but preprocess has {preprocess.image_size}: give the latter")
        return preprocess.parameters(), preprocess.image_size
    if not callable(preprocess):
        raise TypeError(f"preprocess is a preimage.Preprocessing or a function of images, got {preprocess!r}")
    if image_size is None:
        raise ValueError("image_size, the side of the images in pixels, must be given with a preprocess of your own")
    side = Preprocessing(image_size).image_size  # checked there
    named = preprocess if hasattr(preprocess, "__qualname__") else type(preprocess)
    return {"image_size": side, "preprocess": f"custom:{named.__module__}.{named.__qualname__}"}, side
