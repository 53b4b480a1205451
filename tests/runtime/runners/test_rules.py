"""Rules as a worker asks them: real runner processes with planted functions, behind the layer that falls back on them."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import uvloop

from roadworthy.contract.local import part_of
from roadworthy.contract.snapshot import PackageEntry
from roadworthy.foundation.errors import ModelFault, RoadworthyError
from roadworthy.runtime.layers.fallback import Fallbacks, OtherSubmitter, Static, Step
from roadworthy.runtime.layers.rules import Rules
from roadworthy.runtime.pending import Answer, PendingRequest
from roadworthy.runtime.queue.request_queue import too_late
from roadworthy.schema.batch import Batch, Layout
from tests.runtime.runners.isolated.planted_runner import UNLUCKY
from tests.runtime.runners.isolated.runners import DIGEST, SUM, StartRunner, Waiting, rows
from tests.waiting import DEADLINE_S, soon

MEAN = part_of(DIGEST, "mean")
ALLOWED = PackageEntry(DIGEST, "m", 2, 1, allowed_by="me")
STATIC = [-1.0]


class Failing:
    """A version that has no answer."""

    def __init__(self, error: RoadworthyError) -> None:
        self.error = error

    def submit(self, batch: Batch, request: PendingRequest) -> None:
        """Settle."""
        request.settle(self.error)


class Scene:
    """A version that fails, before the rule "mean" and a fixed answer."""

    def __init__(self, folder: Path) -> None:
        self.rules = Rules(folder)
        self.version = Failing(ModelFault("no", code="model-failed"))
        rule = self.rules.get(ALLOWED, "mean")
        assert rule is not None
        assert self.rules.get(ALLOWED, "mean") is rule
        steps: list[Step] = [OtherSubmitter("rule", "mean", rule), Static(Layout(SUM.outputs), STATIC[0])]
        self.top = Fallbacks(self.version, steps, lambda _kind, _reason: None)

    def ask(self, value: float, seconds: float = 3_600.0, wait_s: float = 0.0) -> Waiting:
        """One row."""
        request = Waiting(seconds)
        self.top.submit(rows(value, wait_s=wait_s), request)
        return request

    async def answer(self, *arguments: float, **more: float) -> tuple[str, list[float]]:
        """What gave the answer, and the answer."""
        outcome = await self.ask(*arguments, **more).outcome
        assert isinstance(outcome, Answer)
        return outcome.source, outcome.batch().blocks[0].values[:, 0].tolist()


@pytest.fixture
def play(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Runs a scene, at whose end nothing is under way."""
    monkeypatch.setattr("roadworthy.runtime.layers.rules._LOOK_AGAIN_S", 0.01)

    def run(scene: Callable[[Scene], Awaitable[None]]) -> None:
        async def whole() -> None:
            stage = Scene(tmp_path)
            try:
                await scene(stage)
            finally:
                stage.rules.keep(())
                await soon(lambda: not stage.rules._leaving, "the connection is closed")
                await asyncio.sleep(0)

        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(whole())

    return run


def test_a_rule_answers_from_its_process(play: Any, start_runner: StartRunner) -> None:
    """Requests that come before its process is ready wait for it."""

    async def scene(stage: Scene) -> None:
        early = stage.ask(4.0)
        start_runner(rule="mean")
        outcome = await early.outcome
        assert isinstance(outcome, Answer)
        assert outcome.notes == ((b"roadworthy-fallback", b'rule; rule="mean"; reason="model-failed"'),)
        assert await stage.answer(5.0) == ("rule", [5.0])

    play(scene)


@pytest.mark.parametrize("kind", ["poison", "wrong-count", "wrong-type", "not-finite", "abort"])
def test_a_rule_that_has_no_answer_is_passed_over(play: Any, start_runner: StartRunner, kind: str) -> None:
    """As with a model that fails this way, or ends its process."""

    async def scene(stage: Scene) -> None:
        start_runner(kind, rule="mean")
        assert await stage.answer(4.0) == ("rule", [4.0])
        assert await stage.answer(UNLUCKY) == ("static", STATIC)

    play(scene)


def test_a_rule_that_takes_long_is_passed_over(play: Any, start_runner: StartRunner) -> None:
    """It has the rest of the deadline, then the next step answers. So it is with a rule without a process."""

    async def scene(stage: Scene) -> None:
        assert await stage.answer(4.0, seconds=0.2) == ("static", STATIC)
        runner = start_runner("gated", rule="mean")
        assert await stage.answer(4.0) == ("rule", [4.0])
        assert await stage.answer(4.0, seconds=0.2, wait_s=1.0) == ("static", STATIC)
        runner.open_gate()

    play(scene)


def test_a_rule_answers_after_the_deadline_too(play: Any, start_runner: StartRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    """A version that used up all the time still leaves the rule a little."""
    monkeypatch.setattr("roadworthy.runtime.layers.fallback.LEAST_RULE_S", DEADLINE_S)

    async def scene(stage: Scene) -> None:
        start_runner(rule="mean")
        stage.version.error = too_late()
        assert await stage.answer(4.0, seconds=0.0) == ("rule", [4.0])

    play(scene)


def test_a_rule_that_cannot_be_loaded_is_passed_over_at_once(play: Any, start_runner: StartRunner) -> None:
    """No request waits for it; a retry loads it."""

    async def scene(stage: Scene) -> None:
        runner = start_runner("refused", rule="mean").wait_shown()
        assert await stage.answer(4.0) == ("static", STATIC)
        stage.rules.try_again()
        await soon(lambda: runner.process.poll() is not None, "it leaves to be started again")
        start_runner(rule="mean")
        await soon(lambda: stage.rules._rules[MEAN].ready, "it is loaded")
        assert await stage.answer(4.0) == ("rule", [4.0])

    play(scene)


def test_c2_a_rule_that_is_kept_out_is_passed_over_at_once(play: Any, start_runner: StartRunner) -> None:
    """The agent does not run it for a while. Other rules and the version are not affected."""

    async def scene(stage: Scene) -> None:
        early = stage.ask(4.0)
        stage.rules.keep_out({MEAN: "it crashed"})
        outcome = await early.outcome
        assert isinstance(outcome, Answer)
        assert outcome.source == "static"
        assert await stage.answer(4.0) == ("static", STATIC)
        stage.rules.keep_out({DIGEST: "it crashed", part_of(DIGEST, "median"): "it crashed"})
        start_runner(rule="mean")
        assert await stage.answer(4.0) == ("rule", [4.0])

    play(scene)


def test_a_rule_whose_process_dies_answers_from_the_next_one(play: Any, start_runner: StartRunner) -> None:
    """The requests that it had begun with go to the next step."""

    async def scene(stage: Scene) -> None:
        first = start_runner("gated", rule="mean")
        assert await stage.answer(4.0) == ("rule", [4.0])
        begun = stage.ask(4.0, wait_s=1.0)
        await soon(lambda: first.runs, "it runs")
        os.kill(first.process.pid, signal.SIGKILL)
        outcome = await begun.outcome
        assert isinstance(outcome, Answer)
        assert outcome.source == "static"
        start_runner(rule="mean")
        assert await stage.answer(4.0) == ("rule", [4.0])

    play(scene)


def test_who_waits_for_a_rule_that_is_let_go_is_answered(play: Any, start_runner: StartRunner) -> None:
    """Then the connection is closed, so that the stopping runner has no worker to wait for."""

    async def scene(stage: Scene) -> None:
        runner = start_runner("gated", rule="mean")
        asked = stage.ask(4.0, wait_s=1.0)
        await soon(lambda: runner.runs, "it runs")
        stage.rules.keep(())
        runner.open_gate()
        outcome = await asked.outcome
        assert isinstance(outcome, Answer)
        assert outcome.source == "rule"
        await soon(lambda: not stage.rules._leaving, "the connection is closed")
        assert await asyncio.to_thread(runner.stop) == 0

    play(scene)


def test_a_rule_of_a_package_that_may_run_no_code_is_not_there(tmp_path: Path) -> None:
    """Its digest is not allowed to run code."""
    assert Rules(tmp_path).get(PackageEntry(DIGEST, "m", 2, 1), "mean") is None
