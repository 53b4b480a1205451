"""A supervisor as a process of its own: plans as JSON in the first argument, the slab's path in the second ("" for none)."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from roadworthy.supervisor import ChildPlan, Pauses, Supervisor

plans = [
    ChildPlan(**{**plan, "argv": tuple(plan["argv"]), "fds": tuple(plan["fds"])}) for plan in json.loads(sys.argv[1])
]
supervisor = Supervisor(
    plans,
    slab=Path(sys.argv[2]) if sys.argv[2] else None,
    pauses=Pauses(first_s=0.1, longest_s=0.4, healthy_s=5.0, ready_s=float(sys.argv[3])),
)
sys.exit(supervisor.run())
