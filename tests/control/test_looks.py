"""Verbs and frames store facts; only a look of the controllers moves traffic."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from roadworthy.access.principal import Principal
from roadworthy.contract.api.endpoints import Deployment
from roadworthy.contract.api.rollouts import NewRollout
from roadworthy.contract.telemetry import READY, Telemetry, VersionState, WorkerReport
from roadworthy.control.context import ControlContext
from roadworthy.control.controllers.loop import Controllers, look
from roadworthy.control.resources import endpoints, rollouts, telemetry
from roadworthy.control.wiring import build_context
from roadworthy.foundation.references import VersionReference
from roadworthy.registry import versions
from roadworthy.registry.versions import Version
from roadworthy.schema.dtypes import DType
from roadworthy.schema.signature import Field, Signature
from tests.conftest import eventually
from tests.defaults import control_document

ME = Principal("me", "me", "admin", frozenset())
DIGESTS = tuple(f"sha256:{number:064x}" for number in (1, 2))


@pytest.fixture
def context(tmp_path: Path) -> Iterator[ControlContext]:
    """A control plane without its controllers, with two versions."""
    built = build_context(control_document(tmp_path))
    signature = Signature((Field("x", DType.FLOAT64),), (Field("y", DType.FLOAT64),)).to_document()
    with built.database.begin() as connection:
        for digest in DIGESTS:
            versions.register(connection, Version(VersionReference("line", 0), digest, 1, signature, (), None, 1, "me"))
    yield built
    built.database.close()


@pytest.fixture
def report(context: ControlContext) -> Callable[[], None]:
    """Sends a frame of a worker that has taken the newest snapshot and has both versions ready."""
    numbers = itertools.count(1)

    def send() -> None:
        snapshot = context.publisher.edition.snapshot
        states = tuple(VersionState(digest, READY) for digest in DIGESTS)
        worker = WorkerReport(0, 1, "w", snapshot.epoch, snapshot.revision, snapshot.revision, states)
        telemetry.take_frame(context, Telemetry("gw-1", "b", next(numbers), 1, (worker,)))

    send()
    return send


def deploy(context: ControlContext, version: str) -> str:
    """Deploy; the state in the reply."""
    return endpoints.deploy(context, "line", Deployment(version=version), ME).state


def test_neither_a_verb_nor_a_frame_moves_traffic(context: ControlContext, report: Callable[[], None]) -> None:
    """They wake the controllers, whose look moves it."""
    assert deploy(context, "line:1") == "loading"
    report()
    assert endpoints.get(context, "line").version is None
    assert context.wake.wait(0.0) == 3
    look(context)
    assert endpoints.get(context, "line").version == "line:1"


def test_a_rollback_is_in_force_with_its_reply(context: ControlContext, report: Callable[[], None]) -> None:
    """Where controllers run, its reply follows their look; a second rollback goes forward again."""
    controllers = Controllers(context)
    controllers.start()
    eventually(lambda: context.wake.followed() or deploy(context, "line:1"), "the controllers run")
    for version in ("line:1", "line:2"):
        deploy(context, version)
        report()
        eventually(lambda version=version: endpoints.get(context, "line").version == version, "it serves")
    assert [endpoints.rollback(context, "line", ME).version for _ in range(2)] == ["line:1", "line:2"]
    controllers.stop()


def test_a_control_plane_that_does_not_lead_looks_at_deployments_only(
    context: ControlContext, report: Callable[[], None]
) -> None:
    """A deployment has no clock, so a rollback acts at once wherever it was asked for; a step's time is the leader's."""
    deploy(context, "line:1")
    report()
    context.database.lead.held = False
    look(context)
    assert endpoints.get(context, "line").version == "line:1"
    plan = {"strategy": "canary", "steps": [50, 100], "criteria": ["errors"]}
    rollouts.start(context, "line", NewRollout(version="line:2", plan=plan), ME)
    report()
    look(context)
    assert rollouts.get(context, "line", "current").phase == "preparing"
    context.database.lead.held = True
    look(context)
    assert rollouts.get(context, "line", "current").phase == "stepping"


def test_a_deployment_replaces_one_that_is_on_its_way(context: ControlContext, report: Callable[[], None]) -> None:
    """Only the last one takes over; rolling back has the previous version again, and lists of rollouts show none of them."""
    deploy(context, "line:1")
    assert deploy(context, "line:2") == "loading"
    report()
    look(context)
    assert endpoints.get(context, "line").version == "line:2"
    assert endpoints.get(context, "line").previous is None
    assert rollouts.in_progress(context, None).items == []
    assert rollouts.history(context, "line", 5, None).items == []
