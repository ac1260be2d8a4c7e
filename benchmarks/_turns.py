"""Contenders in turns, every round in a fresh order, and what is said of their times."""

from __future__ import annotations

import dataclasses
import random
import statistics
import time
from collections.abc import Callable, Mapping

from _timing import Runner

Measure = Callable[[Runner], float]  # milliseconds of one call


@dataclasses.dataclass(frozen=True)
class Times:
    """Milliseconds of each round. Round i of all contenders of one measurement lies in the same stretch of time."""

    milliseconds: tuple[float, ...]

    @property
    def median(self) -> float:
        """Milliseconds."""
        return statistics.median(self.milliseconds)

    @property
    def least(self) -> float:
        """Milliseconds."""
        return min(self.milliseconds)

    @property
    def spread(self) -> float:
        """The noise: half the distance between the quartiles, as a share of the median."""
        if len(self.milliseconds) < 4:
            return (max(self.milliseconds) - min(self.milliseconds)) / 2 / self.median
        low, _, high = statistics.quantiles(self.milliseconds, n=4)
        return (high - low) / 2 / self.median

    def ratio(self, other: Times) -> float:
        """How many times the other's time: the median of the rounds' own ratios, which a drift of the machine's
        speed does not move; that of the medians where they had not the same number of rounds."""
        if len(self.milliseconds) != len(other.milliseconds):
            return self.median / other.median
        pairs = zip(self.milliseconds, other.milliseconds, strict=True)
        return statistics.median(mine / theirs for mine, theirs in pairs)


def wall(run: Runner) -> float:
    """Milliseconds of one call by the wall's clock."""
    begin = time.perf_counter()
    run()
    return 1e3 * (time.perf_counter() - begin)


def in_turns(
    runners: Mapping[str, Runner],
    seconds: float,
    *,
    least: int = 5,
    most: int = 41,
    before: Callable[[], None] | None = None,
    measure: Measure = wall,
    seed: int = 0,
) -> dict[str, Times]:
    """About so many seconds of rounds, but at least and at most so many rounds; a first round warms up.

    `before` is called before each call, and not timed.
    """
    order = list(runners)
    shuffle = random.Random(seed).shuffle
    times: dict[str, list[float]] = {name: [] for name in order}
    rounds = 0
    begin = time.perf_counter()
    while rounds <= least or (rounds <= most and time.perf_counter() - begin < seconds):
        shuffle(order)
        for name in order:
            if before is not None:
                before()
            times[name].append(measure(runners[name]))
        if rounds == 0:
            begin = time.perf_counter()
        rounds += 1
    return {name: Times(tuple(times[name][1:])) for name in runners}
