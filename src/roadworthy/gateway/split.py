"""Which version answers: a pure choice by weight. One caller key always gets the same arm of the same split."""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import Generic, TypeVar

from roadworthy.contract.snapshot import FULL_SHARE

T = TypeVar("T")


class Split(Generic[T]):
    """Arms with weights that add up to FULL_SHARE.

    Raises:
        ValueError: they do not, or there is no arm.
    """

    __slots__ = ("_bounds", "_only", "arms")

    def __init__(self, arms: Sequence[T], weights: Sequence[int]) -> None:
        if not arms or sum(weights) != FULL_SHARE or any(weight < 0 for weight in weights):
            raise ValueError("the weights of a split add up to the full share")
        self.arms = tuple(arms)
        self._bounds = tuple(accumulate(weights))
        self._only = self.arms[0] if len(self.arms) == 1 else None

    def choose(self, key: str) -> T:
        """The arm for a key: a user, a session, or the prediction's own id."""
        if self._only is not None:
            return self._only
        point = int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "little") % FULL_SHARE
        return self.arms[bisect_right(self._bounds, point)]
