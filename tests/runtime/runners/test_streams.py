"""Streams as a worker asks for them, from real runners: places come free, a rule answers at once, an exit ends one stream."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import roadworthy as rw
from roadworthy.package.archive import unpack
from roadworthy.package.package import Package
from roadworthy.runtime.pending import Answer
from roadworthy.runtime.runners.isolated.client import ProcessBatcher
from roadworthy.runtime.runners.isolated.frames import MOST_STREAMS
from roadworthy.runtime.runners.isolated.launch import runner_address, runner_command
from roadworthy.schema.batch import Batch, Layout
from tests.runtime.runners.isolated.runners import Caller, StartRunner, Waiting, play


def speaker(place: str) -> Callable[..., AsyncIterator[str]]:
    """A model that does what its prompt says, and notes how many generators wait, and were closed."""

    def note(what: str) -> None:
        with open(f"{place}/{what}", "a") as notes:  # noqa: PTH123 - keeps the packed function short
            notes.write("x")

    async def speaking(rows: pd.DataFrame) -> AsyncIterator[str]:
        import asyncio
        import sys

        kind = rows["prompt"].iloc[0]
        if kind == "exit":
            sys.exit(3)
        try:
            if kind == "wait":
                note("begun")
                await asyncio.Event().wait()
            yield kind
        finally:
            if kind == "wait":
                note("closed")

    return speaking


def sorry(rows: pd.DataFrame) -> list[str]:
    """The rule."""
    return ["sorry"] * len(rows)


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Package:
    """The model and its rule."""
    out = tmp_path_factory.mktemp("dist")
    inputs = pd.DataFrame({"prompt": ["a", "b"]})
    return rw.pack(speaker(str(out)), name="speaking", inputs=inputs, rules={"sorry": sorry}, out=out)


@pytest.fixture
def start(package: Package, start_runner: StartRunner, tmp_path: Path) -> Callable[..., Any]:
    """Starts a runner of the package."""

    def start(**options: Any) -> Any:
        unpack(package.path, tmp_path / "packages" / package.digest.removeprefix("sha256:"))
        return start_runner(digest=package.digest, allowed_by="me", command=runner_command()[1:], **options)

    return start


def prompt(package: Package, text: str) -> Batch:
    """One row."""
    return Batch.from_columns(Layout(package.signature.inputs), [(np.array([text], dtype=object), None)], 1)


def said(outcome: Any) -> Any:
    """The answer's first word, or the error's code."""
    return outcome.batch().blocks[0].values[0, 0] if isinstance(outcome, Answer) else outcome.code


@pytest.mark.parametrize("why", ["deadline", "caller"])
def test_streams_that_are_given_up_before_their_first_part_leave_their_places(
    start: Callable[..., Any], package: Package, tmp_path: Path, why: str
) -> None:
    """As many as a connection has places; while all wait, a further one is refused. Those that have begun are closed, and the
    next request is answered."""
    start()
    place = package.path.parent

    def noted(what: str) -> int:
        return len((place / what).read_text()) if (place / what).exists() else 0

    for what in ("begun", "closed"):
        (place / what).unlink(missing_ok=True)

    async def scene(caller: Caller) -> None:
        await caller.ready()
        seconds = 1.0 if why == "deadline" else 3_600.0
        waiting = [caller.submit(prompt(package, "wait"), seconds) for _ in range(MOST_STREAMS)]
        if why == "deadline":
            assert {said(await request.outcome) for request in waiting} == {"deadline-exceeded"}
        else:
            await caller.until(lambda: noted("begun") == MOST_STREAMS)
            refused = await caller.submit(prompt(package, "a"), seconds).outcome
            assert (said(refused), refused.retry_after_s) == ("overloaded", 1)
            for request in waiting:
                request.drop()
        assert said(await caller.submit(prompt(package, "a")).outcome) == "a"
        await caller.until(lambda: noted("closed") == noted("begun"))
        await caller.until(lambda: caller.batcher.busy_since is None)

    play(tmp_path, scene, digest=package.digest)


def test_an_exit_in_a_step_fails_that_stream_alone(start: Callable[..., Any], package: Package, tmp_path: Path) -> None:
    """The runner goes on, with the streams of others."""
    runner = start()

    async def scene(caller: Caller) -> None:
        await caller.ready()
        for text in ("a", "exit", "b"):
            expected = "model-failed" if text == "exit" else text
            assert said(await caller.submit(prompt(package, text), 60.0).outcome) == expected

    play(tmp_path, scene, digest=package.digest)
    assert runner.process.poll() is None


def test_a_rule_of_a_model_that_answers_in_parts_answers_at_once(
    start: Callable[..., Any], package: Package, tmp_path: Path
) -> None:
    """Its runner says so in its greeting."""
    start(rule="sorry")

    async def scene(caller: Caller) -> None:
        caller.batcher.close()
        address = runner_address(tmp_path, package.digest, rule="sorry")
        batcher = caller.batcher = ProcessBatcher(package.digest, [address], caller.batcher._loop, lambda: None)
        batcher.connect()
        await caller.ready()
        request = Waiting()
        batcher.submit(prompt(package, "a"), request)
        outcome = await request.outcome
        assert said(outcome) == "sorry"
        assert isinstance(outcome, Answer)
        assert outcome.rest is None

    play(tmp_path, scene, digest=package.digest)
