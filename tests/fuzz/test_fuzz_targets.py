"""Test every target of the fuzzer on its seeds and some damaged ones; ``make fuzz`` guides the damage by coverage."""

from __future__ import annotations

import pytest

from fuzz.target import Target
from fuzz.targets import TARGETS
from mutations import MUTATIONS, mutated

INPUTS = max(60, MUTATIONS // 5)


@pytest.mark.parametrize("name", TARGETS)
def test_target(name: str) -> None:
    target: Target = TARGETS[name]
    seeds = list(target.seeds())
    assert seeds and all(target(seed) for seed in seeds)
    for number in range(INPUTS):
        target(bytes(mutated(seeds[number % len(seeds)], number)))
