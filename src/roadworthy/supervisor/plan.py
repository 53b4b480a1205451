"""The supervisor's configuration: its children, when they restart after an exit, and the limits of a worker."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from roadworthy.foundation.backoff import Backoff

MEBI = 1 << 20


@dataclass(frozen=True, slots=True)
class Orders:
    """What a child may order the supervisor to start, in addition to the plans.

    Attributes:
        commands: the whole command lines that may be ordered; no other is ever started.
        stage: the stage in which ordered children stop.
        most: the largest number of ordered children at a time.
    """

    commands: tuple[tuple[str, ...], ...]
    stage: int
    most: int = 512


@dataclass(frozen=True, slots=True)
class ChildPlan:
    """One child.

    Attributes:
        name: for the log; unique.
        argv: command and arguments; no secrets, because other users of the machine can see them.
        document: the start document, JSON-ready. A worker's has "slot"; a replacement gets the spare slot instead.
        fds: inherited descriptors, under the same numbers.
        stage: children of the lowest stage stop first; the next stage stops when they are gone.
        grace_s: seconds from SIGTERM to SIGKILL.
        needed: whether its refusal to start stops everything; else it is tried again, with backoff.
        orders: what it may order (`channel.py`); its document then gets "children_fd". Only one child may order others.
        still_s: kill and restart the child when it has shown life and then shows none for this many seconds; None: never.
    """

    name: str
    argv: tuple[str, ...]
    document: dict[str, Any]
    fds: tuple[int, ...] = ()
    stage: int = 0
    grace_s: float = 30.0
    needed: bool = True
    orders: Orders | None = None
    still_s: float | None = None

    @property
    def slot(self) -> int | None:
        """The worker's slot in the slab; None when the child is not a worker."""
        slot = self.document.get("slot")
        return slot if isinstance(slot, int) else None


@dataclass(frozen=True, slots=True)
class Restarts:
    """When the supervisor restarts a child that has exited, and how long a replacement may take.

    Attributes:
        backoff: delays from the second quick exit in a row on; after the first one the child restarts at once.
        healthy_s: a child that ran for this many seconds restarts at once, and its quick exits are forgotten.
        killed_s: the same for a child that was killed from outside (by a person, or because memory ran out): such a kill says
            little about the child.
        ready_s: a replacement that is not READY after this many seconds is given up.
    """

    backoff: Backoff = field(default_factory=lambda: Backoff(0.2, 10.0))
    healthy_s: float = 10.0
    killed_s: float = 1.0
    ready_s: float = 120.0


@dataclass(frozen=True, slots=True)
class WorkerLimits:
    """The limits of a worker.

    Attributes:
        hang_s: a worker whose last heartbeat is older is killed and restarted.
        memory_bytes: a worker that holds more is replaced warm; None for no bound.
        growth_bytes: a worker whose private memory grew by more since it was warm is replaced warm; None for no bound.
        warm_up_s: how long after READY a worker counts as warm.
        recycle_every_s: the least time between two replacements for memory.
        look_s: time between two checks of these limits.
        members: number of processes with embedded endpoints that may join the workers.
    """

    hang_s: float
    memory_bytes: int | None = None
    growth_bytes: int | None = None
    warm_up_s: float = 60.0
    recycle_every_s: float = 10.0
    look_s: float = 1.0
    members: int = 0
