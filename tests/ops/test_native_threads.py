"""Test all native functions, called by several Python threads at once. CALLS=100000 tests more calls."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from native_functions import FUNCTIONS, photographs

CALLS = int(os.environ.get("CALLS", "2000"))
THREADS = 8
# Sizes that are and are not multiples of vectors and cells; the last is large enough for threads of its own.
IMAGES = [
    photographs(height, width, batch, seed)
    for seed, (height, width, batch) in enumerate([(24, 24, 1), (33, 47, 2), (40, 64, 1), (25, 80, 3), (290, 300, 1)])
]


@pytest.mark.usefixtures("one_thread")  # restores the number of threads
def test_calls_of_eight_threads() -> None:
    """Every thread goes through all calls in an order of its own, and compares the results with those of one thread."""
    work = [(name, index) for index in range(len(IMAGES)) for name in FUNCTIONS]
    expected = {(name, index): FUNCTIONS[name](IMAGES[index]) for name, index in work}
    assert sum(len(expected["sift", index][0]) for index in range(len(IMAGES))) > 50
    torch.set_num_threads(2)
    together = threading.Barrier(THREADS)
    small = [one for one in work if one[1] < len(IMAGES) - 1]

    def run(thread: int) -> int:
        order = torch.randperm(CALLS, generator=torch.Generator().manual_seed(thread)).tolist()
        together.wait()
        for call in order[thread::THREADS]:
            # The large images take as long as twenty others.
            name, index = work[call % len(work)] if call % 20 == 0 else small[call % len(small)]
            found = FUNCTIONS[name](IMAGES[index])
            assert all(map(torch.equal, found, expected[name, index])), (name, index)
        return len(order[thread::THREADS])

    with ThreadPoolExecutor(THREADS) as pool:
        assert sum(pool.map(run, range(THREADS))) == CALLS
