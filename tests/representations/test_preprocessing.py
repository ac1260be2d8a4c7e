"""Test preprocessing of networks: arithmetic, parameters of a spec, and rejected arguments."""

from __future__ import annotations

import math

import pytest
import torch

from preimage.representations.preprocessing import Preprocessing, caffe_bgr, imagenet_rgb


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.float64])
def test_pixels_by_hand(dtype: torch.dtype) -> None:
    """The channels of a red pixel are normalized with their mean, in the network's order."""
    red = torch.tensor([255, 51, 0], dtype=torch.uint8)[None, :, None, None]
    images = red if dtype == torch.uint8 else red.to(dtype) / 255
    rgb, bgr = imagenet_rgb(1)(images), caffe_bgr(1)(images)
    assert rgb.dtype == bgr.dtype == torch.float32
    expected = [(1 - 0.485) / 0.229, (0.2 - 0.456) / 0.224, (0 - 0.406) / 0.225]
    assert rgb.flatten().tolist() == pytest.approx(expected, rel=1e-6)
    assert bgr.flatten().tolist() == pytest.approx([0 - 104.007, 51 - 116.669, 255 - 122.679], rel=1e-6)


def test_specs_tell_apart_what_differs() -> None:
    """CLIP's mean has eight decimals."""
    mean = (0.48145466, 0.4578275, 0.40821073)
    one, other = Preprocessing(224, mean=mean), Preprocessing(224, mean=(0.48145467, *mean[1:]))
    assert one.parameters()["mean"] == "0.48145466,0.4578275,0.40821073"
    assert one.parameters() != other.parameters()


def test_the_text_in_specs_stays_as_it_is() -> None:
    """It is part of every spec and of every digest over one."""
    assert imagenet_rgb(224).parameters() == {
        "image_size": 224,
        "order": "rgb",
        "scale": 1.0,
        "mean": "0.485,0.456,0.406",
        "std": "0.229,0.224,0.225",
    }
    caffe = caffe_bgr(227).parameters()
    assert (caffe["mean"], caffe["std"], caffe["scale"]) == ("104.007,116.669,122.679", "1,1,1", 255.0)
    assert Preprocessing(227, "bgr", 255, (104, 117, 123), (1, 1, 1)).parameters()["mean"] == "104,117,123"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"image_size": 0}, "image_size"),
        ({"order": "gbr"}, r"'rgb'.*'bgr'.*'gbr'"),
        ({"scale": math.inf}, r"scale.*above 0.*inf"),
        ({"scale": math.nan}, "scale"),
        ({"mean": (0.5, 0.5)}, r"mean.*three"),
        ({"mean": (math.nan, 0.5, 0.5)}, r"mean.*finite"),
        ({"std": (math.nan, 1, 1)}, r"std.*finite"),
        ({"std": (1, 1, 0)}, r"std.*above 0"),
    ],
)
def test_what_is_no_preprocessing(options: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Preprocessing(**{"image_size": 8} | options)  # type: ignore[arg-type]


def test_what_are_no_images() -> None:
    pixels = imagenet_rgb(2)
    with pytest.raises(ValueError, match=r"2×2.*2×3"):
        pixels(torch.zeros(1, 3, 2, 3))
    with pytest.raises(ValueError, match=r"images.*\(B, 3, H, W\).*\(3, 2, 2\)"):
        pixels(torch.zeros(3, 2, 2))
    with pytest.raises(TypeError, match=r"uint8.*\[0, 1\].*torch\.int64"):
        pixels(torch.zeros(1, 3, 2, 2, dtype=torch.int64))
