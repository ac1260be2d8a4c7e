"""Split images into luminance and chroma, and these into octaves of wavelength, so that squared errors add up."""

from __future__ import annotations

import functools
import math

import torch

# Orthonormal axes of RGB: gray, and two of the plane of chroma, in which red is at 0°, green at 120°, blue at 240°.
_AXES = (
    (1 / math.sqrt(3), 1 / math.sqrt(3), 1 / math.sqrt(3)),
    (2 / math.sqrt(6), -1 / math.sqrt(6), -1 / math.sqrt(6)),
    (0.0, 1 / math.sqrt(2), -1 / math.sqrt(2)),
)
_SHORTEST = 2  # exponent of the shortest octave's upper limit: wavelengths below 4 pixels
GRAY_CHROMA = 0.01  # root mean square chroma of an image, below which it has no color


def to_opponent(images: torch.Tensor) -> torch.Tensor:
    """Return images (..., 3, H, W) in RGB as (..., 3, H, W): luminance and two axes of chroma, of the same dtype.

    Luminance is (R + G + B) / √3, not Rec. 601 luma. The axes are orthonormal: squared distances are those in RGB.
    """
    return _rotated(images, _axes(images))


def from_opponent(planes: torch.Tensor) -> torch.Tensor:
    """Return the RGB images of `to_opponent`."""
    return _rotated(planes, _axes(planes).T)


def hue(chroma: torch.Tensor) -> torch.Tensor:
    """Return the hue in degrees, in [0, 360), of chroma (..., 2, H, W); red is 0°, green 120°, blue 240°."""
    return torch.rad2deg(torch.atan2(chroma[..., 1, :, :], chroma[..., 0, :, :])) % 360


def rotate_hue(images: torch.Tensor, degrees: float) -> torch.Tensor:
    """Rotate the colors of images about the gray axis.

    Luminance is kept exactly. Where the rotated color is outside of [0, 1], its chroma is reduced to the largest one
    inside, with the same hue and luminance.

    Args:
        images: (..., 3, H, W) RGB, uint8 or floating in [0, 1].
        degrees: Angle from red to green.

    Returns:
        (..., 3, H, W), floating in [0, 1].
    """
    pixels = images.float() / 255 if images.dtype == torch.uint8 else images
    angle = math.radians(degrees)
    planes = to_opponent(pixels)
    first, second = planes[..., 1, :, :], planes[..., 2, :, :]
    rotated = torch.stack(
        [
            torch.zeros_like(first),
            math.cos(angle) * first - math.sin(angle) * second,
            math.sin(angle) * first + math.cos(angle) * second,
        ],
        dim=-3,
    )
    gray = pixels.mean(dim=-3, keepdim=True)
    color = from_opponent(rotated)  # offset of each channel from gray
    room = torch.where(color > 0, 1 - gray, gray)
    scale = (room / color.abs().clamp_min(1e-12)).amin(dim=-3, keepdim=True).clamp(0, 1)
    return (gray + scale * color).clamp(0, 1)  # only rounding is left to clamp


def dct(planes: torch.Tensor) -> torch.Tensor:
    """Return the orthonormal discrete cosine transform (DCT-II) of planes (..., H, W), float64."""
    planes = planes.double()
    return _basis(planes.shape[-2], planes.device) @ planes @ _basis(planes.shape[-1], planes.device).T


def inverse_dct(coefficients: torch.Tensor) -> torch.Tensor:
    """Return the planes of `dct`."""
    height, width = coefficients.shape[-2:]
    return _basis(height, coefficients.device).T @ coefficients @ _basis(width, coefficients.device)


class OctaveBands:
    """Bands of the coefficients of `dct`: the mean, then octaves of wavelength from long to short.

    The wavelength of the coefficient (u, v) of an image of H × W pixels is 2 / √((u / H)² + (v / W)²) pixels. The first
    octave also has all longer wavelengths, and the last one, below 4 pixels, all shorter ones.

    Args:
        height: Height of the image in pixels, at least 4.
        width: Width of the image in pixels, at least 4.

    Attributes:
        names: Name of each band: ``"mean"``, ``"256 px and more"``, ``"128-256 px"``, …, ``"below 4 px"``.
        shortest: Limit of each band: its wavelengths are at least this many pixels; infinite for the mean.

    Raises:
        ValueError: An image that is too small.
    """

    def __init__(self, height: int, width: int) -> None:
        if min(height, width) < 2**_SHORTEST:
            raise ValueError(f"images must have at least {2**_SHORTEST} pixels a side, got {height}×{width}")
        top = int(math.log2(max(height, width)))
        octaves = range(top, _SHORTEST - 2, -1)
        self.names = (
            "mean",
            f"{2**top} px and more",
            *(f"{2**octave}-{2 ** (octave + 1)} px" for octave in octaves[1:-1]),
            f"below {2**_SHORTEST} px",
        )
        self.shortest = (math.inf, *(float(2**octave) for octave in octaves[:-1]), 0.0)
        rows, columns = torch.arange(height).double() / height, torch.arange(width).double() / width
        wavelength = 2 / torch.hypot(rows[:, None], columns[None]).clamp_min(1e-12)
        octave = wavelength.log2().add(1e-9).floor().long().clamp(_SHORTEST - 1, top)  # 2^k exactly is in octave k
        self._index = top - octave + 1
        self._index[0, 0] = 0

    def __len__(self) -> int:
        return len(self.names)

    def sums(self, values: torch.Tensor) -> torch.Tensor:
        """Return the sums (..., bands) of values (..., H, W) in each band, float64."""
        flat = values.double().flatten(-2)
        index = self._index.to(values.device).flatten().expand(flat.shape)
        return torch.zeros(*flat.shape[:-1], len(self), dtype=torch.float64, device=values.device).scatter_add_(
            -1, index, flat
        )

    def mask(self, bands: range) -> torch.Tensor:
        """Return which coefficients (H, W) are in any of the bands."""
        return (self._index >= bands.start) & (self._index < bands.stop)


def _axes(images: torch.Tensor) -> torch.Tensor:
    return torch.tensor(_AXES, dtype=images.dtype, device=images.device)


def _rotated(images: torch.Tensor, axes: torch.Tensor) -> torch.Tensor:
    return torch.einsum("ij,...jhw->...ihw", axes, images)


@functools.lru_cache(maxsize=8)
def _basis(length: int, device: torch.device) -> torch.Tensor:
    """Return the basis of the DCT (length, length), a row for each frequency."""
    place = torch.arange(length, dtype=torch.float64, device=device)
    basis = torch.cos(math.pi / length * (place[None] + 0.5) * place[:, None]) * math.sqrt(2 / length)
    basis[0] /= math.sqrt(2)
    return basis
