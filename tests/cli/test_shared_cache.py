"""The shared cache in the command line: workers get its address, no output shows it, and `status` says whether it answers."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import msgspec
import pytest

from roadworthy.cli import plans
from roadworthy.cli.commands.endpoints import _sharing
from roadworthy.cli.plans import GatewayPlan, gateway_children
from roadworthy.contract.telemetry import WorkerReport
from roadworthy.foundation.errors import SettingsError
from roadworthy.settings import load_settings
from roadworthy.supervisor.plan import ChildPlan

SECRET = "hunter2"


def children(home: Path, url: str | None) -> list[ChildPlan]:
    """Processes that `serve`, `up` and `gateway` start."""
    environment = {"ROADWORTHY_HOME": str(home), **({} if url is None else {"ROADWORTHY_GATEWAY_CACHE_URL": url})}
    settings = load_settings(environment=environment, folder=home)
    with socket.socket() as listener, socket.socket() as metrics:
        return gateway_children(GatewayPlan("g", home / "gateway", listener, metrics), settings, "info")


def test_workers_get_it_and_nobody_else(tmp_path: Path) -> None:
    """In the document on their standard input; never as an argument, which every user of the machine can see."""
    url = f"redis://:{SECRET}@cache:6379/0"
    *workers, agent = children(tmp_path, url)
    assert {plan.document["cache_url"] for plan in workers} == {url}
    assert {plan.document["cache_wait_ms"] for plan in workers} == {20}
    assert SECRET not in json.dumps(agent.document)
    assert not any(SECRET in word for plan in (*workers, agent) for word in plan.argv)


def test_a_missing_client_is_told_before_anything_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the command that installs it; without the setting it is not needed."""
    monkeypatch.setattr(plans, "find_spec", lambda name: None)
    with pytest.raises(SettingsError) as caught:
        children(tmp_path, "redis://cache")
    assert (caught.value.code, caught.value.hint) == ("requirement-missing", 'pip install "roadworthy[redis]"')
    assert {plan.document.get("cache_url") for plan in children(tmp_path, None)} == {None}


def test_config_show_tells_only_that_it_is_set(run: Any) -> None:
    """As JSON, too."""
    for more in ([], ["--json"]):
        result = run("config", "show", *more, ROADWORTHY_GATEWAY_CACHE_URL=f"redis://:{SECRET}@cache")
        assert result.returncode == 0
        assert SECRET not in result.stdout + result.stderr
        assert "gateway.cache_url" in result.stdout
        assert "(set)" in result.stdout


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ([], None),
        ([None, None], None),
        (["connected", "connected"], "connected (2 of 2)"),
        (["unreachable", "connected", None], "connected (1 of 3), unreachable (1 of 3)"),
    ],
)
def test_status_tells_on_how_many_workers_it_answers(said: list[str | None], told: str | None) -> None:
    """And nothing without a configured cache, or for a worker of a release without the shared cache."""
    report = WorkerReport(slot=0, pid=1, boot="b", epoch=None, revision=0, offered=0)
    assert _sharing([msgspec.structs.replace(report, shared_cache=state) for state in said]) == told
    assert _sharing([report]) is None
