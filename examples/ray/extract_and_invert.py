"""Extract features and invert them on a Ray cluster; all paths are on a file system that its nodes share.

ray job submit -- python /shared/extract_and_invert.py /shared/photos /shared/photos.hog /shared/reconstructions
"""

import sys

import ray

import preimage


def main() -> None:
    images, features, output = sys.argv[1:]
    ray.init(log_to_driver=False)  # one connection for both steps
    store = preimage.extract("hog", images, features, size=256, engine="ray")
    print(f"extracted {len(store)} images")
    summary = preimage.invert(features, output, engine="ray")
    print(f"inverted {summary.images} images")


if __name__ == "__main__":
    main()
