"""How long to wait before each retry: the one formula behind every retry, restart and poll. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count


@dataclass(frozen=True, slots=True)
class Backoff:
    """Exponentially growing delays.

    Attributes:
        initial_s: the first delay, in seconds.
        cap_s: the longest delay, in seconds; infinity for no cap.
        factor: how many times longer each delay is than the previous one, until the cap; at least 1.
        jitter: the share of each delay that chance may take away, from 0 (exact delays) to 1. It spreads retries that
            would otherwise come together.
    """

    initial_s: float
    cap_s: float = math.inf
    factor: float = 2.0
    jitter: float = 0.0

    def delay(self, retry: int, chance: float = 1.0) -> float:
        """Seconds to wait before a retry.

        Args:
            retry: number of the retry, from 0.
            chance: drawn evenly from 0 to 1; 1 gives the whole delay. Without jitter it has no effect.
        """
        try:
            grown_s = self.initial_s * self.factor**retry
        except OverflowError:
            grown_s = math.inf
        return min(grown_s, self.cap_s) * (1.0 - self.jitter + self.jitter * chance)

    def delays(self, draw: Callable[[], float] = lambda: 1.0) -> Iterator[float]:
        """Endless: the delay before retry 0, 1, 2, …. To start again from the shortest, take a new iterator.

        Args:
            draw: returns the chance of each delay, such as `random.random`.
        """
        return (self.delay(retry, draw()) for retry in count())
