"""Use OpenCV from several threads: one thread of its own for each call, and no messages; resize images."""

from __future__ import annotations

import contextlib
import os
import threading
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

_log: Any = getattr(cv2.utils, "logging", cv2)  # module with getLogLevel and setLogLevel in OpenCV 5 and 4
_SILENT = 0


class _QuietOpenCV(contextlib.ContextDecorator):
    """Context, or decorator, in which OpenCV uses one thread and prints nothing to stderr.

    Both are settings of the process; they are restored when the last thread leaves the context. One thread, because
    callers process many images in parallel; no messages, because every failure becomes an exception.

    All calls of OpenCV belong inside: one that is running while the number of threads changes can divide by zero, which
    ends the process.
    """

    def __init__(self) -> None:
        self._found = (0, 0)
        self._forget_threads()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._forget_threads)

    def _forget_threads(self) -> None:
        """Start anew in a forked process, in which the threads that were inside, or held the lock, do not exist."""
        self._lock = threading.Lock()
        self._inside = 0

    def __enter__(self) -> None:
        with self._lock:
            if self._inside == 0:
                self._found = cv2.getNumThreads(), _log.getLogLevel()
                # 1 would end OpenCV's threads and wait for them, in a forked process forever; 0 leaves them idle.
                cv2.setNumThreads(0)
                _log.setLogLevel(_SILENT)
            self._inside += 1

    def __exit__(self, *exception: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                cv2.setNumThreads(self._found[0] if self._found[0] > 1 else 0)
                _log.setLogLevel(self._found[1])


quiet_opencv = _QuietOpenCV()


@quiet_opencv
def resize(image: npt.NDArray[np.uint8], height: int, width: int) -> npt.NDArray[np.uint8]:
    """Resize an image (H, W, C) or (H, W), with area averaging to shrink and bicubic interpolation to enlarge."""
    method = cv2.INTER_AREA if height * width < image.shape[0] * image.shape[1] else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(image, (width, height), interpolation=method), np.uint8)
