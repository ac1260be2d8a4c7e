"""Describe a network's weights, by a digest, and its preprocessing as parameters of a spec."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import suppress

import torch
from torch import nn

from preimage.representations.preprocessing import Preprocessing
from preimage.spec import Scalar

Preprocess = Preprocessing | Callable[[torch.Tensor], torch.Tensor]


def digest(module: nn.Module) -> str:
    """Return 16 hexadecimal digits of the SHA-256 of names, dtypes, shapes and bytes of all tensors of the state.

    Tensors in tuples (packed weights of quantized layers) and the constants of frozen TorchScript are included.
    """
    total = hashlib.sha256()
    state = sorted(module.state_dict().items())
    scripts = [(name, part) for name, part in module.named_modules() if isinstance(part, torch.jit.ScriptModule)]
    for name, part in scripts:
        with suppress(RuntimeError):  # without a forward method there are no constants
            state += sorted((f"{name}.{key}", one) for key, one in part.code_with_constants[1].const_mapping.items())
            packed = [node for node in part.inlined_graph.nodes() if node.kind() == "prim::ConstantMKLDNNTensor"]
            state += [(f"{name}.packed.{index}", node.t("value")) for index, node in enumerate(packed)]
    for name, value in (found for entry in state for found in _tensors(*entry)):
        values = value.detach().cpu().contiguous()
        total.update(f"{name} {values.dtype} {tuple(values.shape)}\n".encode())
        total.update(values.reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()[:16]


def versions(module: nn.Module) -> tuple[tuple[int, int], ...]:
    """Return the address of each tensor and the number of in-place writes to it, which change when the weights change.

    torch does not count writes through ``parameter.data``, nor those in inference mode.
    """
    return tuple(
        (
            tensor.data_ptr() if tensor.layout == torch.strided else id(tensor),
            0 if tensor.is_inference() else tensor._version,
        )
        for part in module.modules()  # many times faster than parameters() and buffers()
        for tensor in (*part._parameters.values(), *part._buffers.values())
        if tensor is not None
    )


def tensors_of(module: nn.Module) -> Iterator[torch.Tensor]:
    """Return the parameters, then the buffers."""
    yield from module.parameters()
    yield from module.buffers()


def _tensors(name: str, value: object) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the plain dense tensors of an entry of the state."""
    if isinstance(value, tuple | list):
        for index, one in enumerate(value):
            yield from _tensors(f"{name}.{index}", one)
    elif isinstance(value, torch.Tensor) and value.is_quantized:
        yield f"{name}.int", value.int_repr()
        if value.qscheme() in (torch.per_tensor_affine, torch.per_tensor_symmetric):
            yield f"{name}.scale", torch.tensor([value.q_scale(), value.q_zero_point()], dtype=torch.float64)
        else:
            yield f"{name}.scale", torch.stack([value.q_per_channel_scales(), value.q_per_channel_zero_points()])
    elif isinstance(value, torch.Tensor):
        dense = value if value.layout == torch.strided else value.to_dense()
        yield name, dense.resolve_conj().resolve_neg()


def described(preprocess: Preprocess, image_size: int | None) -> tuple[dict[str, Scalar], int]:
    """Return the preprocessing as parameters of a spec, and the side of the images; errors as in `preimage.Network`."""
    if isinstance(preprocess, Preprocessing):
        if image_size not in (None, preprocess.image_size):
            raise ValueError(f"image_size must be that of preprocess, {preprocess.image_size}, got {image_size}")
        return preprocess.parameters(), preprocess.image_size
    if not callable(preprocess):
        raise TypeError(f"preprocess must be a preimage.Preprocessing or a function of images, got {preprocess!r}")
    if image_size is None:
        raise ValueError(
            "image_size, the side of the images in pixels, must be given for a preprocess that is a function"
        )
    side = Preprocessing(image_size).image_size  # checks the value
    named = preprocess if hasattr(preprocess, "__qualname__") else type(preprocess)
    return {"image_size": side, "preprocess": f"custom:{named.__module__}.{named.__qualname__}"}, side
