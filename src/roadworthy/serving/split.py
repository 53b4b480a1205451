"""Chooses a variant by weight; pure. One key always gets the same variant of the same split, and while the share of a variant
grows, the keys that have it keep it."""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import Generic, TypeVar

from roadworthy.contract.snapshot import FULL_SHARE

T = TypeVar("T")


class Split(Generic[T]):
    """Variants with weights that add up to FULL_SHARE.

    Attributes:
        only: the variant of every key, where there is but one; else None.

    Raises:
        ValueError: there is no variant, a weight is negative, or the weights do not add up.
    """

    __slots__ = ("_bounds", "only", "variants")

    def __init__(self, variants: Sequence[T], weights: Sequence[int]) -> None:
        if not variants or sum(weights) != FULL_SHARE or any(weight < 0 for weight in weights):
            raise ValueError(f"the weights of a split must add up to {FULL_SHARE}; they are {list(weights)}")
        self.variants = tuple(variants)
        self._bounds = tuple(accumulate(weights))
        self.only = self.variants[0] if len(self.variants) == 1 else None

    def choose(self, key: str) -> T:
        """The variant for a key: a user, a session, or the prediction's own id."""
        if self.only is not None:
            return self.only
        return self.variants[bisect_right(self._bounds, point_of(key))]


def point_of(key: str) -> int:
    """A pseudo-random position of the key, from 0 to FULL_SHARE (exclusive)."""
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "little") % FULL_SHARE


def sticky_key(rollout: str, unit: str) -> str:
    """The key that assigns a user (or session) in one rollout. It differs between rollouts, so that the same users are not the
    canary's every time."""
    return f"{rollout}\x1f{unit}"


def unit_hash(rollout: str, unit: str) -> int:
    """A user's hash for telemetry, 1 to 2^63 - 1. It identifies a user only to someone with the user's name."""
    digest = hashlib.blake2b(f"unit\x1f{rollout}\x1f{unit}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1 or 1
