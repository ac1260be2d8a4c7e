"""HOGgles' paired dictionary: windows of HOG and image patches that have the same sparse codes."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F

from preimage.baselines import _files
from preimage.baselines import dictionary_learning as learning
from preimage.baselines.base import Baseline, Progress, check_features
from preimage.baselines.lasso import nonnegative_lasso
from preimage.baselines.sizes import check_size
from preimage.errors import FileFormatError
from preimage.inverters.device import resolve_device
from preimage.io.atomic import StrPath
from preimage.pipelines.image_loading import Images
from preimage.representations import Representation, create_representation
from preimage.spec import Spec

CELLS = learning.CELLS
PENALTY = 0.02
_TENSORS, _VALUES = ("hog_atoms", "image_atoms"), ("level", "contrast", "penalty")
_MARGIN = CELLS // 2  # cells before the first cell that its window contains
_WEIGHT_DEVIATION = 9 / 8  # of the Gaussian weight of a patch's pixels, in cells; iHOG has 9 pixels for cells of 8
_TOLERANCE = 1e-2  # relative duality gap of the codes
_WINDOWS = 4096  # maximum number of windows that are coded at once
_MAX_CONTRAST_IMAGES = 16


class PairedDictionary(Baseline):
    """Invert HOG with a paired dictionary (Vondrick et al., "HOGgles", ICCV 2013).

    A window of 5 × 5 cells is written as a sparse combination of atoms with non-negative coefficients, by lasso. Each
    atom has a HOG part and an image part, learned together; the same combination of image parts is the gray patch below
    the window. There is a window around every cell, and overlapping patches are averaged with Gaussian weights, as in
    the authors' program iHOG. The windows at the border repeat the outermost cells.

    Windows and patches are mean-free and of length one, so a patch has neither brightness nor contrast of its own. iHOG
    stretches the result to the range of the display; here its level is the mean gray value of the training images, and
    its contrast the one with the least squared error on training images. The same level and contrast are used for all
    images. The images are gray, because HOG contains no color.

    Args:
        spec: Spec of the HOG features.
        hog_atoms: (K, 31, 5, 5) float32.
        image_atoms: (K, P, P) float32, where P is 5 cells in pixels.
        level: Mean gray value of the images, in [0, 1].
        contrast: Factor between averaged patches and gray values.
        penalty: λ of the lasso ‖x − aD‖²/2 + λ‖a‖₁.
        device: Device of the inversion: ``"auto"``, ``"cpu"``, ``"cuda"``, ...

    Raises:
        ValueError: A spec that is not one of HOG, arrays of other shapes, or values out of range or not finite.
    """

    name = "dictionary"
    title = "paired dictionary"
    reference = "Vondrick, Khosla, Malisiewicz, Torralba: HOGgles: Visualizing Object Detection Features. ICCV 2013"

    def __init__(
        self,
        spec: Spec,
        hog_atoms: torch.Tensor,
        image_atoms: torch.Tensor,
        *,
        level: float = 0.5,
        contrast: float = 1.0,
        penalty: float = PENALTY,
        device: str | torch.device = "auto",
    ) -> None:
        check_is_hog(spec)
        assert spec.stride is not None
        side = CELLS * spec.stride
        atoms = len(hog_atoms)
        wanted = ((atoms, spec.channels, CELLS, CELLS), (atoms, side, side))
        given = (tuple(hog_atoms.shape), tuple(image_atoms.shape))
        if given != wanted or not atoms:
            raise ValueError(f"hog_atoms and image_atoms must have shapes {wanted[0]} and {wanted[1]}, got {given}")
        for name, part in (("hog_atoms", hog_atoms), ("image_atoms", image_atoms)):
            if not bool(part.isfinite().all()):
                raise ValueError(f"{name} must be finite, got {int((~part.isfinite()).sum())} non-finite values")
        if not (math.isfinite(level) and math.isfinite(contrast)):
            raise ValueError(f"level and contrast must be finite, got {level} and {contrast}")
        _check_penalty(penalty)
        self.device = resolve_device(device)
        self.spec, self.level, self.contrast, self.penalty = spec, level, contrast, penalty
        self.hog_atoms, self.image_atoms = (
            atoms.to(self.device, torch.float32).contiguous() for atoms in (hog_atoms, image_atoms)
        )

    @classmethod
    def learn(
        cls,
        images: Images,
        representation: Representation | str = "hog",
        *,
        atoms: int = 256,
        patches: int = 20_000,
        size: int = 256,
        penalty: float = PENALTY,
        seed: int = 0,
        device: str | torch.device = "auto",
        progress: Progress | None = None,
    ) -> PairedDictionary:
        """Learn a dictionary from photographs, by scikit-learn's ``MiniBatchDictionaryLearning`` on the CPU.

        Args:
            images: Paths (folders, files, tar shards) or sources of photographs. No more are used, in random
                order, than needed for 25 patches each.
            representation: HOG, with any parameters.
            atoms: Number of atoms K; 1,024 in the paper.
            patches: Number of windows and patches; about a million in the paper.
            size: Side in pixels to which photographs are resized and center-cropped.
            penalty: λ of the lasso, also of the inversion.
            seed: Seed of the windows and of the order in which they are used.
            device: Device of the inversion.
            progress: Function called with (work done, total amount).

        Raises:
            ValueError: Another representation than HOG, an image that cannot be decoded, a number out of range, or
                fewer windows that are not flat than atoms.
            ImportError: scikit-learn is missing.
        """
        if isinstance(representation, str):
            representation = create_representation(representation)
        spec = representation.spec
        check_is_hog(spec)
        for name, value in (("atoms", atoms), ("patches", patches), ("size", size)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        _check_penalty(penalty)
        windows = learning.training_windows(images, representation, patches, size, seed, progress)
        learned = learning.learn_atoms(windows, atoms, penalty, seed, progress)
        hog_atoms = torch.from_numpy(learned[:, : windows.hog_length])
        image_atoms = torch.from_numpy(learned[:, windows.hog_length :])
        side = math.isqrt(image_atoms.shape[1])
        dictionary = cls(
            spec,
            hog_atoms.view(atoms, spec.channels, CELLS, CELLS),
            image_atoms.view(atoms, side, side),
            level=windows.level,
            penalty=penalty,
            device=device,
        )
        dictionary.contrast = dictionary._best_contrast(windows.images, representation)
        return dictionary

    def invert(
        self,
        features: torch.Tensor,
        spec: Spec,
        *,
        size: tuple[int, int] | None = None,
        progress: Progress | None = None,
    ) -> torch.Tensor:
        """Return gray images (B, 3, H, W) with equal channels, float32 in [0, 1], on the CPU.

        Args:
            features: (B, 31, h, w), floating point, on any device.
            spec: Spec of the features, that of the dictionary.
            size: (H, W) of the images, which differs by less than a cell from the size that the features cover, the
                default.
            progress: Function called with (windows done, number of windows).

        Raises:
            ValueError: Another spec than that of the dictionary, features of a wrong shape or with NaN or infinite
                values, or another size.
        """
        if differences := self.spec.differences(spec):
            raise ValueError(
                f"features must have the spec of the dictionary (dictionary != features): {'; '.join(differences)}"
            )
        check_features(features, spec)
        assert spec.stride is not None
        rows, columns = features.shape[2:]
        covered = rows * spec.stride, columns * spec.stride
        height, width = covered if size is None else check_size(size)
        if max(abs(height - covered[0]), abs(width - covered[1])) >= spec.stride:
            raise ValueError(
                f"size must differ from the {covered[0]}×{covered[1]} pixels that the features cover by less than "
                f"{spec.stride}, got {height}×{width}"
            )
        images: list[torch.Tensor] = []
        total = len(features) * rows * columns
        for part in features.split(max(1, _WINDOWS // (rows * columns))):
            done = len(images) * rows * columns
            report = None if progress is None else _shifted(progress, done, total)
            rendered = self._rendered(part, report)
            images += [*(self.level + self.contrast * rendered[:, :height, :width]).clamp(0, 1).cpu()]
        return torch.stack(images)[:, None].repeat(1, 3, 1, 1)

    def save(self, path: StrPath) -> Path:
        """Write the dictionary to a ``.safetensors`` file, atomically, and return its path. The folder must exist."""
        tensors = {name: getattr(self, name) for name in _TENSORS}
        values = {name: repr(float(getattr(self, name))) for name in _VALUES}
        return _files.write(path, _files.DICTIONARY, self.spec, tensors, values)

    @classmethod
    def load(cls, path: StrPath, *, device: str | torch.device = "auto") -> PairedDictionary:
        """Read a dictionary that `save` wrote.

        Args:
            path: The file.
            device: Device of the inversion.

        Raises:
            FileFormatError: The file is damaged, of another format or version.
            FileNotFoundError: The file does not exist.
            ValueError: No such device.
        """
        device = resolve_device(device)
        header, tensors = _files.read(path, _files.DICTIONARY, _TENSORS)
        try:
            level, contrast, penalty = (float(header.values[name]) for name in _VALUES)
            return cls(header.spec, **tensors, level=level, contrast=contrast, penalty=penalty, device=device)
        except KeyError as error:
            raise FileFormatError(path, f"lacks {error.args[0]}") from error
        except ValueError as error:
            raise FileFormatError(path, str(error)) from error

    def _best_contrast(self, images: torch.Tensor, representation: Representation) -> float:
        """Return the factor with the least squared error on images (N, 3, H, W) uint8."""
        product, square = 0.0, 0.0
        for image in images[:_MAX_CONTRAST_IMAGES].split(1):
            rendered = self._rendered(representation(image), None).cpu().double()
            gray = learning.gray(image).double()[:, : rendered.shape[1], : rendered.shape[2]] - self.level
            rendered = rendered[:, : gray.shape[1], : gray.shape[2]]
            product += (rendered * gray).sum().item()
            square += rendered.square().sum().item()
        return max(product / square, 0.0) if square else 0.0

    @torch.no_grad()
    def _rendered(self, features: torch.Tensor, report: Callable[[int], None] | None) -> torch.Tensor:
        """Return averaged patches (B, H', W') from the top left corner of the first cell, with a margin at its end."""
        assert self.spec.stride is not None
        cell, (count, _, rows, columns) = self.spec.stride, features.shape
        padded = F.pad(features.to(self.device, torch.float32), (_MARGIN,) * 4, mode="replicate")
        side = CELLS * cell
        position = torch.arange(side, device=self.device) - (side - 1) / 2
        weight = torch.exp(-0.5 * (position / (_WEIGHT_DEVIATION * cell)) ** 2)
        atoms = self.hog_atoms.flatten(1)
        patches = (self.image_atoms * weight * weight[:, None]).flatten(1)
        canvas = torch.zeros(count, (rows + 2 * _MARGIN) * cell, (columns + 2 * _MARGIN) * cell, device=self.device)
        band = max(1, _WINDOWS // (count * columns))
        for first in range(0, rows, band):
            end = min(rows, first + band)
            windows = F.unfold(padded[:, :, first : end + 2 * _MARGIN], CELLS).transpose(1, 2)  # [B, n, D]
            codes = nonnegative_lasso(
                atoms, learning.normalized(windows.flatten(0, 1)), self.penalty, tolerance=_TOLERANCE
            )
            drawn = (codes @ patches).view(count, -1, side * side).transpose(1, 2)
            area = (end - first + 2 * _MARGIN) * cell, canvas.shape[2]
            canvas[:, first * cell : first * cell + area[0]] += F.fold(drawn, area, side, stride=cell)[:, 0]
            if report is not None:
                report(count * end * columns)
        canvas /= _total_weight(weight, rows, cell)[:, None] * _total_weight(weight, columns, cell)
        return canvas[:, _MARGIN * cell :, _MARGIN * cell :]


def _shifted(progress: Progress, done: int, total: int) -> Callable[[int], None]:
    """Return a function that reports `done` and a count of further work."""
    return lambda count: progress(done + count, total)


def _total_weight(weight: torch.Tensor, cells: int, cell: int) -> torch.Tensor:
    """Return the sum of the weights of all patches along an axis, (pixels,)."""
    ones = torch.ones(1, 1, cells, device=weight.device)
    return F.conv_transpose1d(ones, weight[None, None], stride=cell)[0, 0]


def check_is_hog(spec: Spec) -> None:
    """Raise ``ValueError`` unless these are the features of cells that a paired dictionary inverts."""
    if spec.representation != "hog" or spec.variant != "vlfeat-uoctti" or spec.stride is None:
        raise ValueError(f"a paired dictionary inverts hog vlfeat-uoctti, got {spec.representation} {spec.variant}")


def _check_penalty(penalty: float) -> None:
    if not 0 < penalty < math.inf:
        raise ValueError(f"penalty must be a number above 0, got {penalty}")
