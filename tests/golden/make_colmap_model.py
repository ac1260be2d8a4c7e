"""Create colmap_model/ with COLMAP: a model of colmap_l1_root.db whose colors COLMAP extracted from color photographs.

Run it as `PYTHONPATH=helpers python -m golden.make_colmap_model` in tests/.

Needs pycolmap and scikit-image (`pip install pycolmap scikit-image`). Every second keypoint is a point with one
observation, so that its color is that of the image at the keypoint.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import cv2
import numpy as np
import pycolmap

from keypoint_files import colmap_arrays, color_pictures

DATABASE = "colmap_l1_root.db"


def main() -> None:
    """Write the model in both formats next to this file."""
    model = pycolmap.Reconstruction()
    with tempfile.TemporaryDirectory() as folder:
        for number, (key, picture) in enumerate(color_pictures().items(), 1):
            height, width = picture.shape[:2]
            path = Path(folder, key)
            path.parent.mkdir(exist_ok=True)
            cv2.imwrite(str(path), cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
            size = {"width": width, "height": height}
            camera = pycolmap.Camera(camera_id=number, model="SIMPLE_PINHOLE", params=[200, 0, 0], **size)
            model.add_camera_with_trivial_rig(camera)
            positions = colmap_arrays(DATABASE, key)[0][:, :2].astype(np.float64)
            image = pycolmap.Image(name=key, keypoints=positions, camera_id=number, image_id=number)
            model.add_image_with_trivial_frame(image, pycolmap.Rigid3d())
            for index in range(1, len(positions), 2):
                track = pycolmap.Track()
                track.add_element(number, index)
                model.add_point3D(np.array([*positions[index], 1.0]), track)
        model.extract_colors_for_all_images(folder)
    target = Path(__file__).with_name("colmap_model")
    target.mkdir(exist_ok=True)
    model.write_binary(target)
    model.write_text(target)
    for path in target.iterdir():
        if path.stem not in ("images", "points3D"):
            path.unlink()  # cameras, rigs and frames are not read
    print(pycolmap.__version__, *(f"{path.name}: {path.stat().st_size} bytes" for path in sorted(target.iterdir())))


if __name__ == "__main__":
    main()
