"""Define images whose reading kills the process, in a module that worker processes can import."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from preimage.io import ImageSource


class DyingSource(ImageSource):
    """Image whose reading kills the process, as by ``kill -9``, a number of times."""

    __slots__ = ()
    deaths = 1

    def read(self) -> bytes:
        if deaths_of(self) < self.deaths:
            Path(f"{self.path}.death-{os.getpid()}").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().read()


class DeadlySource(DyingSource):
    """Image whose reading always kills the process."""

    __slots__ = ()
    deaths = 1000


def deaths_of(source: ImageSource) -> int:
    """Return how many processes an image has killed."""
    path = Path(source.path)
    return len(list(path.parent.glob(f"{path.name}.death-*")))
