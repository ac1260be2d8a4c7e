"""Images per second of `preimage extract` by the engines `local` and `ray`, and how long Ray takes to start.

One row per engine and number of workers, appended to cluster-cpu.csv; all on one machine, so that the rows show what
Ray costs, not what more machines gain. The CPUs of the machine are distributed over the workers, and the local engine
has as many threads as all workers together. `cluster_seconds` is the start of the local Ray cluster, `start_seconds` an
extraction of one image on it (workers start, import and end), `seconds` the one of all images, which includes the
start of the workers, and `images_per_second` the number of images by `seconds`.
"""

from __future__ import annotations

import logging
import os
import tempfile
import time
from pathlib import Path

from _harness import Run, parser, write_crops
from preimage.io import list_images
from preimage.optional import import_optional
from preimage.pipelines.extract import extract_with_summary

COLUMNS = (
    *("representation", "engine", "workers", "threads", "images", "size", "gigabytes"),
    *("cluster_seconds", "start_seconds", "seconds", "images_per_second"),
)


def main(arguments: list[str] | None = None) -> int:
    """Extract the features of all images once by each engine."""
    made = parser(__doc__, "python benchmarks/bench_cluster.py photographs/ --disk /dev/shm")
    made.add_argument("images", nargs="*", metavar="PATH", help="images, folders or tars (default: scikit-image's)")
    made.add_argument("--size", type=int, default=256, help="side of the images in pixels (default: %(default)s)")
    made.add_argument("--representation", default="hog", help="(default: %(default)s)")
    made.add_argument("--workers", default="1,2", help="numbers of workers on Ray (default: %(default)s)")
    made.add_argument("--disk", default=tempfile.gettempdir(), metavar="DIR", help="folder for the stores")
    options = made.parse_args(arguments)
    run = Run(options)
    ray = import_optional("ray")
    table = run.table("cluster", COLUMNS)
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
    cpus = len(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory(prefix="preimage-cluster-", dir=options.disk) as temporary:
        images = options.images or [write_crops(Path(temporary) / "images", links=1 if run.quick else 40)]
        sources = list_images(images)

        def seconds(name: str, count: int, engine: str, workers: int | None) -> tuple[float, int]:
            begin = time.perf_counter()
            summary = extract_with_summary(
                *(options.representation, sources[:count], Path(temporary) / name),
                size=options.size,
                engine=engine,
                workers=workers,
            )
            return time.perf_counter() - begin, summary.bytes

        os.environ["OMP_NUM_THREADS"] = str(cpus)  # of the local engine; Ray's workers set their own
        cluster = None
        for workers in (None, *map(int, options.workers.split(","))):
            engine = "ray" if workers else "local"
            if workers and cluster is None:
                begin = time.perf_counter()
                ray.init(address="local", num_cpus=cpus, include_dashboard=False, **quiet)
                cluster = time.perf_counter() - begin
            start, _ = seconds(f"first-{workers}", 1, engine, workers)
            whole, size = seconds(f"all-{workers}", len(sources), engine, workers)
            rate = len(sources) / whole
            table.add(
                representation=options.representation,
                engine=engine,
                workers=workers,
                threads=cpus // (workers or 1),
                images=len(sources),
                size=options.size,
                gigabytes=size / 1e9,
                cluster_seconds=cluster,
                start_seconds=start,
                seconds=whole,
                images_per_second=rate,
            )
            run.highlights.append(f"{engine} {workers or ''} {rate:.0f} images/s")
        ray.shutdown()
    return run.finish()


if __name__ == "__main__":
    raise SystemExit(main())
