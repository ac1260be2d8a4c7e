"""Cut square patches at keypoints out of photographs, and stitch such patches together to an image."""

from __future__ import annotations

import math
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from preimage.opencv import quiet_opencv

Pixels = npt.NDArray[np.uint8]
Array = npt.NDArray[Any]

# VLFeat's descriptor (vl/sift.c) has 4 × 4 bins of 3 scales, each of which overlaps half of its neighbors: it extends
# over 5 bins, and its Gaussian window has a standard deviation of 2 bins.
SUPPORT = 15.0  # side of a patch, in scales
_RADIUS = 6.0  # radius of the disc that is pasted, in scales: the disc in the square of 4 bins
_ERODED = 3  # pixels by which OpenCV erodes the mask of a clone
_MARGIN = 8  # pixels around the image, so that clones do not end at its border
_SMOOTHING = 40  # iterations on each level of the harmonic interpolation


@quiet_opencv
def cut_patches(image: Pixels, x: Array, y: Array, scale: Array, angle: Array, side: int) -> Pixels:
    """Return the surroundings of keypoints, rotated upright and resized.

    Args:
        image: (H, W, 3) uint8.
        x: (N,) positions, scales and angles as in `preimage.Keypoints`.
        y: (N,).
        scale: (N,).
        angle: (N,).
        side: Side of the patches in pixels.

    Returns:
        (N, side, side, 3) uint8: squares of 15 scales, whose columns run along the angle. Outside the image the pixels
        of its border are repeated.
    """
    patches = np.empty((len(x), side, side, 3), np.uint8)
    pyramid = [image]  # patches of large keypoints are cut out of smaller images, so that they have no aliasing
    for index, pose in enumerate(zip(x.tolist(), y.tolist(), scale.tolist(), angle.tolist(), strict=True)):
        shrinking = SUPPORT * pose[2] / side
        level = max(0, round(np.log2(shrinking)))
        while len(pyramid) <= level and min(pyramid[-1].shape[:2]) > 1:
            height, width = pyramid[-1].shape[:2]
            half = (max(1, width // 2), max(1, height // 2))
            pyramid.append(np.asarray(cv2.resize(pyramid[-1], half, interpolation=cv2.INTER_AREA), np.uint8))
        source = pyramid[min(level, len(pyramid) - 1)]
        to_image = _patch_to_image(*pose, side)
        factors = np.array([source.shape[1] / image.shape[1], source.shape[0] / image.shape[0]])
        to_image = to_image * factors[:, None]
        to_image[:, 2] += (factors - 1) / 2  # pixel centers are integers
        cv2.warpAffine(
            source,
            to_image,
            (side, side),
            dst=patches[index],
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_REPLICATE,
        )
    return patches


def _patch_to_image(x: float, y: float, scale: float, angle: float, side: int) -> npt.NDArray[np.float64]:
    """Return the affine map (2, 3) from the pixels of a patch to those of the image; centers of pixels are integers."""
    step = SUPPORT * scale / side
    cosine, sine = step * np.cos(angle), step * np.sin(angle)
    rotation = np.array([[cosine, -sine], [sine, cosine]])
    center = np.full(2, (side - 1) / 2)
    return np.column_stack((rotation, np.array([x, y]) - rotation @ center))


class Canvas:
    """An image that is stitched together from patches.

    Args:
        size: (H, W) in pixels.
    """

    def __init__(self, size: tuple[int, int]) -> None:
        self._size = size
        shape = (size[0] + 2 * _MARGIN, size[1] + 2 * _MARGIN)
        self._image = np.zeros((*shape, 3), np.uint8)
        self._covered = np.zeros(shape, bool)

    @property
    def covered(self) -> npt.NDArray[np.bool_]:
        """Pixels that patches cover, (H, W)."""
        return self._inside(self._covered)

    @quiet_opencv
    def paste(self, patch: Pixels, x: float, y: float, scale: float, angle: float) -> None:
        """Paste the disc of six scales around the center of a patch.

        Where it overlaps with earlier patches, their colors at the edge of the disc are kept, by OpenCV's seamless
        cloning; elsewhere the colors are those of the patch, shifted by the mean difference on the overlap.

        Args:
            patch: (side, side, 3) uint8 of `cut_patches`.
            x: Pose of the keypoint as in `preimage.Keypoints`.
            y: Pose of the keypoint.
            scale: Pose of the keypoint.
            angle: Pose of the keypoint.
        """
        x, y = x + _MARGIN, y + _MARGIN
        radius = _RADIUS * scale
        reach = radius + _ERODED + 1
        rows, columns = (
            slice(math.floor(max(0, center - reach)), math.ceil(max(0, min(side, center + reach + 1))))
            for center, side in zip((y, x), self._covered.shape, strict=True)
        )
        image, covered = self._image[rows, columns], self._covered[rows, columns]
        if not covered.size:
            return
        down = np.arange(covered.shape[0])[:, None] + rows.start - y
        right = np.arange(covered.shape[1])[None, :] + columns.start - x
        distances = down**2 + right**2
        disc = distances <= radius**2
        if not disc.any():
            return
        source = self._warped(patch, x - columns.start, y - rows.start, scale, angle, covered.shape)
        overlap = disc & covered
        if overlap.any():
            present, pasted = (np.array(cv2.mean(part, overlap.view(np.uint8))[:3]) for part in (image, source))
            target = np.clip(np.rint(source + (present - pasted)), 0, 255).astype(np.uint8)
            np.copyto(target, image, where=covered[:, :, None])
            # Outside the disc OpenCV may change the colors of earlier patches, so that there is no edge.
            source = _cloned(source, target, distances <= (radius + _ERODED) ** 2)
            np.copyto(image, source, where=(disc | covered)[:, :, None])
        else:
            np.copyto(image, source, where=disc[:, :, None])
        covered |= disc

    def finished(self) -> Pixels:
        """Return the image (H, W, 3), with harmonic interpolation where there are no patches.

        Raises:
            ValueError: There is no patch on the image.
        """
        covered = self.covered
        if not covered.any():
            raise ValueError("no patch covers a part of the image")
        return np.rint(_harmonic(self._inside(self._image).astype(np.float32), covered)).astype(np.uint8)

    def _inside(self, plane: Array) -> Array:
        return plane[_MARGIN : _MARGIN + self._size[0], _MARGIN : _MARGIN + self._size[1]]

    @staticmethod
    @quiet_opencv
    def _warped(patch: Pixels, x: float, y: float, scale: float, angle: float, shape: tuple[int, ...]) -> Pixels:
        """Return the patch in an image of a shape, in which the keypoint is at (x, y)."""
        to_patch = cv2.invertAffineTransform(_patch_to_image(x, y, scale, angle, len(patch)))
        return np.asarray(
            cv2.warpAffine(
                patch,
                to_patch,
                (shape[1], shape[0]),
                flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
                borderMode=cv2.BORDER_REPLICATE,
            ),
            np.uint8,
        )


@quiet_opencv
def _cloned(source: Pixels, target: Pixels, mask: npt.NDArray[np.bool_]) -> Pixels:
    """Return the target, with the gradients of the source where the mask, eroded by three pixels, is true."""
    inner = mask.astype(np.uint8) * 255
    inner[[0, -1]] = 0  # OpenCV does the same
    inner[:, [0, -1]] = 0
    left, top, width, height = cv2.boundingRect(inner)
    if min(width, height) <= 2 * _ERODED:
        return target
    center = (left + width // 2, top + height // 2)  # of the mask's bounding box, so that nothing moves
    return np.asarray(cv2.seamlessClone(source, target, inner, center, cv2.NORMAL_CLONE), np.uint8)


@quiet_opencv
def _harmonic(image: Array, known: npt.NDArray[np.bool_]) -> Array:
    """Return the image (H, W, 3), float32, with the solution of Laplace's equation where its pixels are not known.

    The solution on an image of half the size is the start of relaxations, so that few are needed.
    """
    if known.all():
        return image
    height, width = known.shape
    half = ((width + 1) // 2, (height + 1) // 2)
    weight = np.asarray(cv2.resize(known.astype(np.float32), half, interpolation=cv2.INTER_AREA), np.float32)
    total = np.asarray(cv2.resize(image * known[:, :, None], half, interpolation=cv2.INTER_AREA), np.float32)
    small = total / np.maximum(weight, 1e-6)[:, :, None]
    if half != (width, height):
        small = _harmonic(small, weight > 1e-6)
    guess = cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR)
    kernel = np.array([[0, 1, 0], [1, 0, 1], [0, 1, 0]], np.float32) / 4
    filled = np.where(known[:, :, None], image, guess)
    for _ in range(_SMOOTHING):
        around = cv2.filter2D(filled, -1, kernel, borderType=cv2.BORDER_REPLICATE)
        filled = np.where(known[:, :, None], image, around)
    return filled
