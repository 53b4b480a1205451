"""`rw.AsyncClient` against a real control plane: the calls of `rw.Client`, awaited."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

import roadworthy as rw
from roadworthy.client.rollouts import AsyncRollouts, Rollouts
from roadworthy.client.webhooks import AsyncWebhooks, Webhooks
from tests.control.fleet import FAST, Fleet, three_versions
from tests.control_plane import ControlProcess


def test_both_clients_have_the_same_calls() -> None:
    """None is written twice, and each has its docstring."""
    for blocking, awaiting in ((rw.Client, rw.AsyncClient), (Rollouts, AsyncRollouts), (Webhooks, AsyncWebhooks)):
        names = [{name for name in dir(each) if not name.startswith("_")} for each in (blocking, awaiting)]
        assert names[0] - names[1] <= {"from_settings"}
        assert names[1] <= names[0]
        for name in names[1] - {"close", "rollouts", "webhooks", "transport"}:
            assert getattr(blocking, name) is getattr(awaiting, name)
            assert inspect.getdoc(getattr(blocking, name))


def test_a_journey(control: ControlProcess, make_package: Callable[..., Path], tmp_path: Path) -> None:
    """Keys, versions, endpoints, audit and errors; a file goes up and comes back the same; pages are followed."""
    packed = make_package()

    async def walk() -> None:
        async with rw.AsyncClient(control_url=control.url, key=control.admin_key) as client:
            seen: list[tuple[int, int]] = []
            pushed = await client.push(packed, progress=lambda sent, total: seen.append((sent, total)))
            assert (pushed.name, pushed.version, seen[-1][0]) == ("line", 1, packed.stat().st_size)
            await client.download("line:1", tmp_path / "again.rw")
            assert (tmp_path / "again.rw").read_bytes() == packed.read_bytes()
            asked = await client.deploy("line:1", "line")
            assert asked.pending is not None
            with pytest.raises(rw.RoadworthyError) as slow:
                await client.wait(asked, timeout_s=0)
            assert slow.value.code == "deploy-timeout"
            made = await asyncio.gather(*(client.create_key("predictor") for _ in range(3)))
            assert {each.id for each in made} < {each.id for each in await client.keys()}
            with pytest.raises(rw.NotFound):
                await client.rollouts.get("nothing")
            assert (await client.rollouts.abort("line")).done is False
            assert [each.verb for each in await client.audit(2, "line")] == ["deploy"]

    asyncio.run(walk())


def test_a_rollout_is_watched(
    control: ControlProcess, admin: httpx.Client, gateway: Any, make_package: Callable[..., Path]
) -> None:
    """The feed yields until the rollout is finished."""
    fleet = Fleet(gateway.client)
    three_versions(admin, fleet, make_package)
    begun = admin.post("/api/v1/endpoints/line/rollouts", json={"version": "line:2", "plan": FAST}).json()
    admin.post(f"/api/v1/endpoints/line/rollouts/{begun['id']}:abort")

    async def walk() -> list[str]:
        async with rw.AsyncClient(control_url=control.url, key=control.admin_key) as client:
            return [each.phase async for each in client.rollouts.watch("line", begun["id"]) if fleet.follow()]

    assert asyncio.run(walk())[-1] == "finished"
