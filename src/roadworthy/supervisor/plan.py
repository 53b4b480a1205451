"""What the supervisor is told: which children there are, when dead ones are started again, what is too much for a worker."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from roadworthy.foundation.backoff import Backoff

MEBI = 1 << 20


@dataclass(frozen=True, slots=True)
class Orders:
    """What a child may have the supervisor start beside the plans.

    Attributes:
        commands: whole command lines that may be ordered; no other is ever started.
        stage: in which ordered children stop.
        most: how many there may be at a time.
    """

    commands: tuple[tuple[str, ...], ...]
    stage: int
    most: int = 512


@dataclass(frozen=True, slots=True)
class ChildPlan:
    """One child.

    Attributes:
        name: for the log; unique.
        argv: command and arguments; no secrets, they are visible to other users of the machine.
        document: the start document, JSON-ready. A worker's has "slot"; a replacement gets the spare one in its place.
        fds: inherited descriptors, under the same numbers.
        stage: children of the lowest stage stop first, and the next stage when they are gone.
        grace_s: seconds from SIGTERM to SIGKILL.
        needed: whether nothing is started when it refuses to start; else it is tried again, with pauses.
        orders: what it may order (`channel.py`); its document then gets "children_fd". One child may.
        still_s: a child that has shown life and then shows none for this long is killed and started again; None never.
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
        """The worker's slot in the slab, or None when the child is no worker."""
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
    """What is too much for a worker.

    Attributes:
        hang_s: a worker whose last sign of life is older is killed and started again.
        memory_bytes: a worker that holds more is replaced warm; None for no bound.
        growth_bytes: as well one whose own memory has grown by more than that since it was warm; None for no bound.
        warm_up_s: how long after READY it counts as warm.
        recycle_every_s: workers are not replaced for their memory more often than that.
        look_s: how often all this is looked at.
    """

    hang_s: float = 15.0
    memory_bytes: int | None = None
    growth_bytes: int | None = 1024 * MEBI
    warm_up_s: float = 60.0
    recycle_every_s: float = 10.0
    look_s: float = 1.0
