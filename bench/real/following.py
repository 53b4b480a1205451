"""Starts a rollout and waits for its events, while traffic runs on the same event loop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import Any, cast

from roadworthy.client import Client
from roadworthy.contract.api.rollouts import Rollout
from roadworthy.foundation.errors import Conflict

TIMEOUT_S = 90.0
_LOOK_S = 0.1
_BASELINE = "no-baseline"


async def begin(client: Client, endpoint: str, version: str, plan: Mapping[str, Any]) -> Rollout:
    """Start a rollout, as soon as the stable's latency is known.

    Raises:
        Conflict: for another reason, or because the latency is not known after TIMEOUT_S.
    """
    deadline = time.monotonic() + TIMEOUT_S
    while True:
        try:
            return await asyncio.to_thread(client.rollouts.start, endpoint, version, plan)
        except Conflict as error:
            problems = cast("list[dict[str, str]]", error.facts.get("problems", []))
            if {each["code"] for each in problems} != {_BASELINE} or time.monotonic() > deadline:
                raise
        await asyncio.sleep(_LOOK_S)


async def until(client: Client, begun: Rollout, true: Callable[[Rollout], bool], what: str) -> Rollout:
    """The rollout, once `true` holds for it.

    Raises:
        TimeoutError: it did not hold within TIMEOUT_S, or before the rollout ended.
    """
    deadline = time.monotonic() + TIMEOUT_S
    while True:
        found = await asyncio.to_thread(client.rollouts.get, begun.endpoint, begun.id)
        if true(found):
            return found
        if found.outcome is not None or time.monotonic() > deadline:
            raise TimeoutError(f"{what}: never happened to {found.version}; {found.code}, {found.text}")
        await asyncio.sleep(_LOOK_S)


def is_over(rollout: Rollout) -> bool:
    """Whether a rollout has an outcome."""
    return rollout.outcome is not None
