"""Published normalized errors of the representations in the paper."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from preimage.spec import Spec

GRADIENT_DESCENT = "gradient descent (Mahendran & Vedaldi, CVPR 2015)"


@dataclasses.dataclass(frozen=True)
class Published:
    """Errors of one representation in Dosovitskiy & Brox, CVPR 2016.

    Attributes:
        error: Normalized error of the paper's inverter.
        others: Normalized error of other methods there, by name.
    """

    error: float
    others: Mapping[str, float] = dataclasses.field(default_factory=dict)


PUBLISHED = {
    "hog": Published(0.24, {"HOGgles": 0.61, "HOG⁻¹": 0.63}),
    "sift": Published(0.28),
    "lbp": Published(0.38),
    "alexnet-conv5": Published(0.35, {GRADIENT_DESCENT: 0.71}),
    "alexnet-fc6": Published(0.51, {GRADIENT_DESCENT: 0.80}),
    "alexnet-fc7": Published(0.56, {GRADIENT_DESCENT: 0.82}),
    "alexnet-fc8": Published(0.58, {GRADIENT_DESCENT: 0.84}),
}
PUBLISHED_NOTE = (
    "The published figures are of ImageNet's validation set, quoted from memory: Dosovitskiy & Brox (CVPR 2016). The "
    "images here are others, the paper's networks are larger, and they were trained on 1.3 million images."
)
# Variants that are other networks than the paper's CaffeNet, or other features of the same name.
_OTHER_VARIANTS = ("torchvision", "dalal-triggs")


def published(spec: Spec) -> Published | None:
    """Return the published errors of these features; ``None`` for features that are not in the paper."""
    return None if spec.variant in _OTHER_VARIANTS else PUBLISHED.get(spec.representation)
