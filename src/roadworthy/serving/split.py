"""Which version answers: a pure choice by weight. One caller key always gets the same arm of the same split, and while only the
share of one arm grows, a key that has that arm keeps it."""

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
        return self.arms[bisect_right(self._bounds, point_of(key))]


def point_of(key: str) -> int:
    """Where a key lies from 0 to FULL_SHARE (exclusive), as good as at random."""
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "little") % FULL_SHARE


def sticky_key(rollout: str, unit: str) -> str:
    """What a user (session, ...) is drawn by: users with bad luck in one rollout have it not in the next."""
    return f"{rollout}\x1f{unit}"


def unit_hash(rollout: str, unit: str) -> int:
    """What telemetry has of a user: 1 to 2^63 - 1, and nobody can tell who it is without knowing the user already."""
    digest = hashlib.blake2b(f"unit\x1f{rollout}\x1f{unit}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1 or 1
