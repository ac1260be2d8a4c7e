"""Create colmap_l1_root.db and colmap_l2.db with COLMAP.

Run it as `PYTHONPATH=helpers python -m golden.make_colmap` in tests/.

Needs pycolmap and scikit-image (`pip install pycolmap scikit-image`). Three small images, one of them flat; SIFT on
the CPU from the first octave, at most about 60 features each.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import cv2
import numpy as np
import pycolmap

from keypoint_files import pictures


def main() -> None:
    """Write the databases next to this file."""
    for name, normalisation in (("l1_root", pycolmap.Normalization.L1_ROOT), ("l2", pycolmap.Normalization.L2)):
        database = Path(__file__).with_name(f"colmap_{name}.db")
        database.unlink(missing_ok=True)
        options = pycolmap.FeatureExtractionOptions()
        options.num_threads = 1
        options.use_gpu = False
        options.sift.first_octave = 0
        options.sift.max_num_features = 60
        options.sift.normalization = normalisation
        with tempfile.TemporaryDirectory() as folder:
            for key, picture in pictures().items():
                path = Path(folder, key)
                path.parent.mkdir(exist_ok=True)
                cv2.imwrite(str(path), np.ascontiguousarray(picture))
            pycolmap.extract_features(
                database,
                folder,
                extraction_options=options,
                device=pycolmap.Device.cpu,
                camera_mode=pycolmap.CameraMode.PER_IMAGE,
            )
        print(database.name, pycolmap.__version__, database.stat().st_size, "bytes")


if __name__ == "__main__":
    main()
