"""Versions are loaded while requests go on, and unloaded when no request holds them."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from roadworthy.contract.snapshot import PackageEntry
from roadworthy.foundation.errors import PackageRefused
from roadworthy.runtime.manager import Manager
from roadworthy.runtime.pending import PendingRequest
from tests.waiting import DEADLINE_S, HandClock, soon


def entries(*digests: str) -> list[PackageEntry]:
    """Snapshot entries."""
    return [PackageEntry(digest, "m", number, 1) for number, digest in enumerate(digests, 1)]


async def until(condition: Callable[[], object]) -> None:
    """Wait for a condition."""
    await soon(condition, "the versions are as wanted")


class Scene:
    """A manager over planted packages; "bad" ones refuse to load until `mended`."""

    def __init__(self, doubler: Any) -> None:
        self.models: dict[str, list[Any]] = {}
        self.mended = False
        self.failures: list[str] = []
        self._doubler = doubler
        self.manager = Manager(self.load, lambda: None, lambda digest, error: self.failures.append(digest))

    def load(self, entry: PackageEntry) -> Any:
        if entry.digest == "bad" and not self.mended:
            raise PackageRefused("not today", code="planted-refusal")
        if entry.digest == "broken":
            raise ZeroDivisionError("secret")
        self.models.setdefault(entry.digest, []).append(self._doubler())
        return self.models[entry.digest][-1]

    def states(self) -> dict[str, str]:
        return {state.digest: state.state for state in self.manager.states()}


def play(doubler: Any, scene: Callable[[Scene], Awaitable[None]]) -> None:
    """Run a scene and close its manager."""

    async def run() -> None:
        stage = Scene(doubler)
        await scene(stage)
        await stage.manager.close()

    asyncio.run(run())


def test_loads_what_is_wanted_and_unloads_the_rest(doubler: Any) -> None:
    """States go from LOADING to READY; versions that are no longer wanted are closed."""

    async def scene(stage: Scene) -> None:
        stage.manager.want(entries("a", "b"), ())
        await until(lambda: stage.states() == {"a": "READY", "b": "READY"})
        assert stage.manager.states()[0].runtime == "planted"
        stage.manager.want(entries("b"), ())
        assert stage.manager.version("a") is None
        await until(lambda: stage.states() == {"b": "READY"})
        assert stage.models["a"][0].closed == 1

    play(doubler, scene)


def test_unloading_waits_for_leases(doubler: Any) -> None:
    """A held version takes no new requests, and is closed when its lease is given back."""

    async def scene(stage: Scene) -> None:
        stage.manager.want(entries("a"), ())
        await until(lambda: stage.manager.version("a"))
        version = stage.manager.version("a")
        assert version is not None
        version.leases.take()
        stage.manager.want((), ())
        await asyncio.sleep(0)
        assert stage.manager.version("a") is None
        assert stage.states() == {"a": "UNLOADED"}
        assert stage.models["a"][0].closed == 0
        version.leases.give_back()
        await until(lambda: stage.models["a"][0].closed == 1)

    play(doubler, scene)


def test_failures_have_a_reason_and_are_retried_when_asked(doubler: Any) -> None:
    """A refusal has its code, any other error a safe sentence. The next package is loaded anyway."""

    async def scene(stage: Scene) -> None:
        stage.manager.want(entries("bad", "broken", "a"), ())
        await until(lambda: stage.states() == {"bad": "FAILED", "broken": "FAILED", "a": "READY"})
        faults = {state.digest: (state.code, state.reason) for state in stage.manager.states()}
        assert faults["bad"] == ("planted-refusal", "not today")
        assert faults["broken"] == ("load-failed", "the package could not be loaded here")
        assert stage.failures == ["bad", "broken"]
        stage.mended = True
        stage.manager.want(entries("bad", "broken", "a"), (), retry=True)
        await until(lambda: stage.states()["bad"] == "READY" and stage.states()["broken"] == "FAILED")
        stage.manager.want(entries("a"), ())
        await until(lambda: stage.states() == {"a": "READY"})

    play(doubler, scene)


def test_c14_many_changes_end_with_the_last_command(doubler: Any) -> None:
    """Loads and unloads in any order: the end is the last wanted set, and every model is closed as often as it was loaded."""

    async def scene(stage: Scene) -> None:
        rng = random.Random(7)
        for _ in range(100):
            stage.manager.want(entries(*rng.sample("abc", rng.randint(0, 3))), ())
            if rng.random() < 0.5:
                for _ in range(rng.choice((1, 20))):
                    await asyncio.sleep(0)
        stage.manager.want(entries("a", "c"), ())
        await until(lambda: stage.states() == {"a": "READY", "c": "READY"})
        for digest, models in stage.models.items():
            open_models = [model for model in models if not model.closed]
            assert len(open_models) == (digest in "ac")
            assert all(model.closed <= 1 for model in models)

    play(doubler, scene)


def test_a_long_run_hangs_when_it_outlasts_its_placement(doubler: Any, rows: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A version is named until its run ends. Without isolation a run may take 120 seconds."""
    clock, gate = HandClock(), threading.Event()
    monkeypatch.setattr("roadworthy.runtime.manager.time", clock)

    async def scene(stage: Scene) -> None:
        stage.manager.want(entries("a", "b"), ())
        await until(lambda: stage.manager.version("a") and stage.manager.version("b"))
        stage.models["a"][0].hook = lambda _: gate.wait(DEADLINE_S) and None
        version = stage.manager.version("a")
        assert version is not None
        request = PendingRequest(clock.monotonic() + 3_600.0)
        version.submit(rows(*range(2_000)), request)
        await until(lambda: stage.models["a"][0].runs)
        clock.step(119.0)
        assert stage.manager.hanging() == frozenset()
        clock.step(11.0)
        assert stage.manager.hanging() == {"a"}
        request.drop()
        gate.set()
        await until(lambda: not stage.manager.hanging())

    play(doubler, scene)
