"""Export inverters for runtimes without torch, as ONNX files."""

from __future__ import annotations

import dataclasses
import json
from os import PathLike
from pathlib import Path

from preimage import __version__
from preimage.inverters import Inverter, pretrained
from preimage.inverters.onnx_graph import OPSET
from preimage.inverters.onnx_model import inverter_model, shapes
from preimage.io.atomic import atomic_write
from preimage.pipelines.inverter_choice import NamedInverter


@dataclasses.dataclass(frozen=True)
class ExportSummary:
    """Summary of an export.

    Attributes:
        output: File written.
        inverter: Name of the inverter; that of its representation if it was given as an `Inverter`.
        shapes: Shape of the input, ``features``, and of the output, ``images``; a dimension with a name is dynamic.
        weights: Dtype of the weights in the file.
        opset: Version of ONNX's set of operators that a runtime needs.
        parameters: Number of parameters of the inverter.
        bytes: Size of the file.
    """

    output: Path
    inverter: str
    shapes: dict[str, tuple[int | str, ...]]
    weights: str
    opset: int
    parameters: int
    bytes: int


def export(inverter: NamedInverter, output: str | PathLike[str], *, weights: str = "float32") -> ExportSummary:
    """Write an inverter as an ONNX file, for onnxruntime and other runtimes without torch.

    The file's input is ``features``, (N, C, h, w) float32 as the representation computes them, or vectors (N, C); the
    output is ``images``, (N, 3, H, W) float32 in [0, 1], equal to ``inverter(features)`` up to rounding. N, h and w are
    dynamic. The normalization of features is part of the file. Its metadata are the spec of the features, the size of a
    cell in pixels, the range of the images, and the model card, which contains the terms of use.

    Args:
        inverter: Inverter, its name or folder. Its sampler is not exported.
        output: File to write, with suffix ``.onnx``; an earlier one is replaced.
        weights: Dtype in which the weights are stored: ``"float32"``, ``"float16"`` or ``"int8"`` with a scale for each
            output channel. Computations are float32 with each. The weights of pretrained inverters are 8-bit integers
            already, so ``"int8"`` does not change their images.

    Raises:
        ImportError: The package onnx is not installed.
        ValueError: Another suffix or dtype, no such inverter, an inverter of sparse SIFT with a splat, or a network
            with a function that cannot be exported.
        FileFormatError: A file of the inverter is missing or damaged.
        OSError: The file cannot be written.

    Example:
        >>> preimage.export("hog-compact", "hog.onnx")
    """
    path = Path(output)
    if path.suffix != ".onnx":
        raise ValueError(f"output must end with .onnx, got {path.name!r}")
    loaded, name, card = _loaded(inverter)
    metadata = _metadata(loaded, name) | ({"model_card": card} if card else {})
    model = inverter_model(loaded, weights, metadata, __version__)
    with atomic_write(path) as file:
        file.write(model.SerializeToString())
    parameters = sum(value.numel() for value in loaded.network.parameters())
    return ExportSummary(path, name, shapes(loaded), weights, OPSET, parameters, path.stat().st_size)


def _loaded(inverter: NamedInverter) -> tuple[Inverter, str, str]:
    """Return the inverter, its name, and its model card or an empty string."""
    if isinstance(inverter, Inverter):
        return inverter, inverter.spec.representation, ""
    named = pretrained.is_inverter_name(inverter)
    folder = pretrained.resolve(inverter)  # once: the branch of a repository can move
    name = str(inverter) if named else folder.resolve().name
    return Inverter.load(folder), name, pretrained.model_card(folder)


def _metadata(inverter: Inverter, name: str) -> dict[str, str]:
    """Return what a program must know that runs the file, each value as JSON or plain text."""
    region = inverter.output_region
    return {
        "preimage_version": __version__,
        "inverter": name,
        "spec": json.dumps(inverter.spec.to_dict()),
        "stride": json.dumps(inverter.spec.stride),
        "margin": json.dumps(inverter.network.margin),
        "output_region": json.dumps(None if region is None else dataclasses.asdict(region)),
        "color_order": "RGB",
        "value_range": json.dumps([0, 1]),
    }
