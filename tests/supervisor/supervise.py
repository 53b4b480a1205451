"""A supervisor as a process of its own. Arguments: plans as JSON, the slab's path ("" for none), how long a replacement may take,
the limits of workers as JSON."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from roadworthy.foundation.backoff import Backoff
from roadworthy.supervisor.plan import ChildPlan, Orders, Restarts, WorkerLimits
from roadworthy.supervisor.supervise import Supervisor


def plan(document: dict[str, Any]) -> ChildPlan:
    """One plan out of its JSON."""
    orders = document.pop("orders", None)
    allowed = None if orders is None else Orders(tuple(map(tuple, orders["commands"])), orders["stage"])
    return ChildPlan(**{**document, "argv": tuple(document["argv"]), "fds": tuple(document["fds"])}, orders=allowed)


supervisor = Supervisor(
    [plan(document) for document in json.loads(sys.argv[1])],
    slab=Path(sys.argv[2]) if sys.argv[2] else None,
    restarts=Restarts(Backoff(0.1, 0.4), healthy_s=3_600.0, ready_s=float(sys.argv[3])),
    limits=WorkerLimits(**{"hang_s": 15.0, **json.loads(sys.argv[4])}),
)
sys.exit(supervisor.run())
