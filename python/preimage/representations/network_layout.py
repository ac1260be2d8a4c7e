"""Features from the output of a layer: maps, vectors, and tokens arranged on their grid."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Sequence
from typing import Any

import torch

from preimage.representations.network_layers import describe_output

_POOLED = ("class-token", "mean", "grid")  # a part of the tokens, or their mean
LAYOUTS = ("auto", "nchw", "nhwc", "vector", "tokens-middle", "tokens-last", *_POOLED)
_TOKENS_AT = re.compile(r"tokens-at-(0|[1-9][0-9]{0,8})")
MOST_PREFIX_TOKENS = 8


@dataclasses.dataclass(frozen=True)
class LayerShape:
    """The shape of a layer's features.

    Attributes:
        features: (C, h, w), or (C,) for a vector.
        prefix_tokens: Number of class and register tokens, each of which is C / (1 + prefix_tokens) of the channels.
    """

    features: tuple[int, ...]
    prefix_tokens: int


def check_output_layout(output_layout: str) -> None:
    """Raise ``ValueError`` for an unknown output layout."""
    if output_layout not in LAYOUTS and not _TOKENS_AT.fullmatch(output_layout):
        known = ", ".join((*LAYOUTS, "tokens-at-N"))
        raise ValueError(f"output_layout must be one of {known}, got {output_layout!r}")


def as_features(output: Any, output_layout: str, count: int, layer: str) -> tuple[torch.Tensor, LayerShape]:
    """Return features (B, C, h, w) or (B, C), float32, from the output of a layer, and their shape.

    Args:
        output: (B, C, h, w), with `output_layout` ``"nhwc"`` (B, h, w, C): a map, or a vector if h = w = 1.
            (B, C): a vector. (B, N, C): N = n² + k tokens, see `grid_of_tokens`. With ``"vector"`` any output of B
            entries, flattened in C order. With ``"class-token"`` the first token alone, (B, C); with ``"grid"`` the n²
            tokens of the grid without the k others; with ``"mean"`` the mean over the positions of a map, or over the
            tokens of the grid, (B, C). float16, bfloat16 and float64 become float32.
        output_layout: One of `LAYOUTS`, or ``"tokens-at-N"``. ``"auto"`` refuses a map that is square only as
            (B, h, w, C); ``"nchw"`` takes it as (B, C, h, w). The k tokens that are not part of the grid come
            first; with ``"tokens-last"`` they come last, with ``"tokens-middle"`` after the first half of the grid,
            with ``"tokens-at-N"`` after N tokens of it.
        count: B, the number of images.
        layer: Name of the layer, for messages.

    Raises:
        TypeError: Not a tensor, or a tensor of integers or complex numbers.
        ValueError: The first axis is not the images, or the output is not a map, a vector or a square of tokens.
    """
    called = f"layer {layer!r}" if layer else "the network itself (layer '')"
    if not isinstance(output, torch.Tensor):
        raise TypeError(
            f"{called} returns {describe_output(output)}, not one tensor: choose a layer inside or after it"
        )
    if not output.is_floating_point():
        raise TypeError(f"{called} returns {describe_output(output)}; choose a layer with floating-point output")
    if output.dim() < 2 or output.shape[0] != count or 0 in output.shape[1:]:
        raise ValueError(
            f"{called} returns {describe_output(output)}: its first axis must have an entry for each of "
            f"{count} image(s)"
        )
    features, prefix_tokens = _arranged(output.float(), output_layout, called)
    if features.dim() == 4 and features.shape[2:] == (1, 1):
        features = features.flatten(1)
    return features.contiguous(), LayerShape(tuple(features.shape[1:]), prefix_tokens)


def _arranged(output: torch.Tensor, output_layout: str, called: str) -> tuple[torch.Tensor, int]:
    if output_layout == "vector":
        return output.flatten(1), 0
    if output_layout in _POOLED:
        return _pooled(output, output_layout, called), 0
    match output.dim():
        case 2:
            return output, 0
        case 3:
            return _on_their_grid(output, output_layout, called)
        case 4 if not output_layout.startswith("tokens"):
            if output_layout == "auto" and looks_channels_last(output.shape):
                raise ValueError(
                    f"{called} returns {describe_output(output)}, whose channels seem to be last: only (B, h, w, C) is "
                    "square, like the images: output_layout='nhwc' takes it as (B, h, w, C), 'nchw' as (B, C, h, w)"
                )
            return (output.permute(0, 3, 1, 2) if output_layout == "nhwc" else output), 0
    if output_layout.startswith("tokens"):
        raise ValueError(
            f"{called} returns {describe_output(output)}; output_layout={output_layout!r} is for tokens (B, N, C)"
        )
    raise ValueError(
        f"{called} returns {describe_output(output)}: neither a map (B, C, h, w), nor tokens (B, N, C), nor a vector "
        "(B, C); output_layout='vector' flattens it"
    )


def _pooled(output: torch.Tensor, output_layout: str, called: str) -> torch.Tensor:
    """Return the class token, the tokens of the grid without the others, or the mean over the positions."""
    if output_layout == "mean" and output.dim() == 4:
        return output.mean(dim=(1, 2) if looks_channels_last(output.shape) else (2, 3))
    if output.dim() != 3:
        kinds = "a map (B, C, h, w) or tokens (B, N, C)" if output_layout == "mean" else "tokens (B, N, C)"
        raise ValueError(f"{called} returns {describe_output(output)}; output_layout={output_layout!r} is for {kinds}")
    features, prefix = _on_their_grid(output, "auto", called)
    if output_layout == "class-token":
        if not prefix:
            raise ValueError(
                f"{called} returns {describe_output(output)}, a grid without a class token: output_layout='mean' is "
                "the mean of its tokens"
            )
        return output[:, 0]
    grid = features[:, : output.shape[2]]
    return grid.mean(dim=(2, 3)) if output_layout == "mean" else grid


def looks_channels_last(shape: Sequence[int]) -> bool:
    """Return whether a map of square images is square as (B, h, w, C), but not as (B, C, h, w)."""
    return len(shape) == 4 and shape[1] == shape[2] != shape[3]


def grid_of_tokens(count: int) -> tuple[int, int]:
    """Return (n, k) with count = n² + k: the largest square, and at most 8 further tokens.

    Raises:
        ValueError: More than 8 further tokens.
    """
    side = math.isqrt(count)
    if side < 1 or count - side**2 > MOST_PREFIX_TOKENS:
        raise ValueError(
            f"{count} tokens are no square grid with up to {MOST_PREFIX_TOKENS} tokens more "
            f"({side}² = {side**2}); output_layout='vector' flattens them"
        )
    return side, count - side**2


def _on_their_grid(tokens: torch.Tensor, output_layout: str, called: str) -> tuple[torch.Tensor, int]:
    """Arrange (B, n² + k, C) as (B, (1 + k)·C, n, n): the tokens of the grid, then each other token at every cell."""
    try:
        side, prefix = grid_of_tokens(tokens.shape[1])
    except ValueError as error:
        raise ValueError(f"{called} returns {describe_output(tokens)}: {error}") from error
    cells = side**2
    at = _TOKENS_AT.fullmatch(output_layout)
    before = int(at[1]) if at else {"tokens-middle": cells // 2, "tokens-last": cells}.get(output_layout, 0)
    if before > cells:
        raise ValueError(
            f"{called} returns {describe_output(tokens)}, {cells} of a grid, fewer than "
            f"output_layout={output_layout!r} needs"
        )
    grid = torch.cat([tokens[:, :before], tokens[:, before + prefix :]], 1).transpose(1, 2).unflatten(2, (side, side))
    beside = tokens[:, before : before + prefix].flatten(1)[:, :, None, None].expand(-1, -1, side, side)
    return torch.cat([grid, beside], dim=1), prefix
