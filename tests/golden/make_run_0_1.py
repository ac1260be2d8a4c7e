"""Write run_0_1/, photographs and a run on them that an error ended, with version 0.1 of preimage."""

import contextlib
import os
from pathlib import Path

import numpy as np
from PIL import Image

from preimage.inverters import UShapedConfig, presets
from preimage.training import Display, TrainConfig, train

FOLDER = Path(__file__).parent / "run_0_1"


class Ends(Display):
    def update(self, progress, loss):
        if progress.step == 4:
            raise OSError


if __name__ == "__main__":
    (FOLDER / "photos").mkdir(parents=True)
    os.chdir(FOLDER)
    random = np.random.default_rng(0)
    for index in range(6):
        pixels = random.integers(0, 256, (4, 4, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((36, 36), Image.Resampling.BICUBIC).save(f"photos/{index}.png")
    presets._PRESETS["hog"]["tiny"] = UShapedConfig(widths=(4,), blocks_down=(1,), blocks_up=(), head=(8, 4))
    config = TrainConfig(
        representation="hog",
        parameters={"colour": "luma"},
        images=("photos",),
        output="run",
        preset="tiny",
        validation_count=2,
        image_size=32,
        steps=6,
        batch_size=2,
        warmup_steps=2,
        optimiser="muon",
        precision="float32",
        log_every=1,
        validate_every=2,
        checkpoint_every=2,
        cache="on",
        cache_views=2,
    )
    with contextlib.suppress(OSError):
        train(config, display=Ends())
