"""The page on the management API names every operation, with its route and permission."""

from __future__ import annotations

import re
from pathlib import Path

from roadworthy.contract.api import endpoints, feedback, keys, registry, rollouts, system, webhooks
from roadworthy.contract.api.operation import Operation

PAGE = (Path(__file__).parents[2] / "docs" / "api.md").read_text()


def test_every_operation_is_told() -> None:
    """No more and no fewer."""
    told = re.findall(r"^\| `(\w+)` \| `(\w+) (\S+)` \| (.+) \| (\w+) \|$", PAGE, flags=re.MULTILINE)
    known = [
        (each.name, each.method, each.path, each.summary, each.permission or "none")
        for resource in (registry, endpoints, rollouts, feedback, webhooks, keys, system)
        for each in vars(resource).values()
        if isinstance(each, Operation)
    ]
    assert told == known
