"""Decides what to load or unload next: a pure function of the wanted packages and the states of versions."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum


class State(Enum):
    """The state of a version here. One-way: LOADING, then READY or FAILED; READY, then UNLOADING, then it is forgotten."""

    LOADING = "LOADING"
    READY = "READY"
    FAILED = "FAILED"
    UNLOADING = "UNLOADING"


@dataclass(frozen=True, slots=True)
class Load:
    """Construct and prove this package."""

    digest: str


@dataclass(frozen=True, slots=True)
class Unload:
    """Take this version out of service and close it once no request holds it."""

    digest: str


@dataclass(frozen=True, slots=True)
class Forget:
    """Forget a failed version that is no longer wanted."""

    digest: str


Action = Load | Unload | Forget


def next_action(wanted: Sequence[str], pinned: Collection[str], states: Mapping[str, State]) -> Action | None:
    """The next action, or None.

    Unwanted versions are unloaded before others are loaded, to free memory first. Versions load one at a time, in the order of
    `wanted`, so that two large models never peak together. A `pinned` version (it answers requests now) is never unloaded.

    Args:
        wanted: digests to hold, most urgent first.
        pinned: digests that the split in service uses.
        states: every digest that this process knows.
    """
    for digest, state in states.items():
        if digest in wanted or digest in pinned:
            continue
        if state is State.READY:
            return Unload(digest)
        if state is State.FAILED:
            return Forget(digest)
    if State.LOADING in states.values():
        return None
    for digest in wanted:
        if digest not in states:
            return Load(digest)
    return None
