"""A picture sheet: originals, what their features look like, and what comes back from them."""

from __future__ import annotations

import dataclasses
from os import PathLike
from pathlib import Path

import torch

from preimage import representations
from preimage.inverters import Inverter, checked_device
from preimage.jobs.choosing import InverterChoice, fitting_inverter, name_of
from preimage.jobs.loading import Images, as_batch, as_pixels, as_sources, load
from preimage.report.glyphs import draw_features, has_drawing
from preimage.report.sheet import picture_sheet
from preimage.representations import Representation
from preimage.spec import Spec
from preimage.storage import write_png


@dataclasses.dataclass(frozen=True)
class SheetSummary:
    """What a sheet shows.

    Attributes:
        output: the PNG written.
        inverter: name or folder of the inverter used; ``None`` if there are no reconstructions.
        missing: why there are none, one line; else empty.
        images: rows of the sheet.
        width: of the PNG, pixels.
        height: of the PNG, pixels.
    """

    output: Path
    inverter: str | None
    missing: str
    images: int
    width: int
    height: int


def sheet(
    images: Images,
    output: str | PathLike[str],
    *,
    inverter: InverterChoice = None,
    representation: Representation | None = None,
    size: int = 256,
    tile: int = 320,
    device: str = "cpu",
) -> SheetSummary:
    """Original · features · reconstruction side by side, one row an image, as PNG.

    Features that no shipped inverter fits are drawn without the reconstruction; the summary says why.

    Args:
        images: a path or paths (folders, files, tar shards), or sources.
        output: the PNG to write; an earlier one is replaced.
        inverter: a shipped name or a folder; ``None`` takes the shipped inverter that fits `representation`.
        representation: what to invert; ``None`` takes the inverter's own, or HOG if there is neither.
        size: short side resized to this many pixels and the centre square cut out.
        tile: side of a picture on the sheet, pixels.
        device: where the inverter runs.

    Raises:
        ValueError: a bad image (named), an inverter for another representation, no such device.
        LookupError: no shipped inverter fits, and there is no drawing of such features either.
    """
    place = checked_device(device)
    name, network, spec, missing = _network(inverter, representation)
    known = representations.from_spec(spec)
    network = None if network is None else network.to(place)
    rows, captions = [], []
    for item in load(as_sources(images), size):
        if item.pixels is None:
            raise ValueError(item.problem)
        with torch.inference_mode():
            features = known(as_batch([item.pixels]))
            again = None if network is None else network(features.to(place), image_size=item.pixels.shape[:2])[0]
        drawn = draw_features(spec, features[0].numpy(), tile)
        row = [item.pixels, drawn, None if again is None else as_pixels(again)]
        rows.append([picture for picture in row if picture is not None])
        captions.append(item.source.key)
    titles = column_titles(spec) if network is not None else column_titles(spec)[:-1]
    page = picture_sheet(rows, titles, captions, tile=tile)
    path = Path(output)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_png(path, page)
    return SheetSummary(path, name, missing, len(rows), page.shape[1], page.shape[0])


def column_titles(spec: Spec) -> list[str]:
    """Over the columns of a sheet."""
    name = {"dense-sift": "dense SIFT"}.get(spec.representation, spec.representation.upper())
    middle = [f"Its {name} features"] if has_drawing(spec) else []
    return ["Photograph", *middle, "From the features alone"]


def _network(
    choice: InverterChoice, representation: Representation | None
) -> tuple[str | None, Inverter | None, Spec, str]:
    """Name and inverter, or neither and why; and the spec of the features."""
    if representation is None and choice is not None:
        network = choice if isinstance(choice, Inverter) else Inverter.load(choice)
        return name_of(choice, network.spec), network, network.spec, ""
    spec = (representation or representations.create("hog")).spec
    try:
        network = fitting_inverter(choice, spec, f"{spec.representation} features")
        return name_of(choice, spec), network, spec, ""
    except LookupError as error:
        if choice is not None or not has_drawing(spec):
            raise
        return None, None, spec, str(error)
