"""`roadworthy rollout …` and `client.rollouts` against a real control plane and a fake data plane."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from msgspec import convert, structs

from roadworthy.cli.commands.registry import endpoint_table
from roadworthy.cli.commands.rollout_texts import details, history_table, line
from roadworthy.client import Client
from roadworthy.contract.api.endpoints import Endpoint
from roadworthy.contract.api.rollouts import Rollout, WatchedSignal
from roadworthy.foundation.errors import Conflict, InvalidRequest
from tests.cli.conftest import read
from tests.contract.filled import filled
from tests.control.fleet import FAST, Fleet, follow_until
from tests.control_plane import ControlProcess

PLAN = """
endpoint: line
version: line:2
steps: [5, 100]
hold: 0
evidence: 10
criteria: [errors]
"""


def test_from_a_plan_to_its_history(rollout: Callable[..., Any], fleet: Fleet, admin: httpx.Client, tmp_path: Path) -> None:
    """Started from a file, watched as JSON lines until its rollback, printed by history and show, with its exit status."""
    (tmp_path / "plan.yaml").write_text(PLAN)
    begun = read(rollout("start", "-f", "plan.yaml", "--json"))
    assert (begun["strategy"], begun["version"], begun["steps"]) == ("canary", "line:2", 2)
    assert "line:2" in rollout("list").stdout
    seen: list[Any] = []
    watching = threading.Thread(target=lambda: seen.append(rollout("watch", "line", "--json", "--exit-status")))
    watching.start()
    follow_until(fleet, admin, lambda found: found["share"] == 5)
    fleet.serve(200, canary_bad=10)
    follow_until(fleet, admin, lambda found: found["phase"] == "finished")
    watching.join()
    assert seen[0].returncode == 1
    last = json.loads(seen[0].stdout.splitlines()[-1])
    assert (last["outcome"], last["verdict"]["code"]) == ("rolled-back", "worse")
    told = rollout("history", "line").stdout
    assert "rolled-back" in told
    assert "controller" in told
    shown = rollout("show", "line").stdout
    assert "10 of 10" in shown
    assert rollout("watch", "line").stdout[9:].startswith("rolled-back, step 1 of 2, 0 % | errors 10/10 against 0/190")


def test_what_people_decide(rollout: Callable[..., Any], fleet: Fleet, admin: httpx.Client) -> None:
    """Flags make the plan; pause, resume, promote and abort print their effect, and abort says if it had none."""
    nothing = read(rollout("abort", "line", "--json"))
    assert (nothing["done"], nothing["refused"]) == (False, "nothing is in progress")
    assert "nothing was done" in rollout("abort", "line").stdout
    flags = ("--steps", "5,50.5", "--hold", "10m", "--criteria", "errors", "--evidence", "7")
    begun = read(rollout("start", "line", "line:3", *flags, "--json"))
    assert [step["weight"] for step in begun["plan"]["steps"]] == [500, 5_050]
    follow_until(fleet, admin, lambda found: found["share"] == 5)
    again = rollout("start", "line", "line:2", "--criteria", "errors")
    assert again.returncode == 4
    assert "step 1 of 2, 5 % of the traffic" in again.stderr
    assert read(rollout("pause", "line", "--json"))["paused"] is True
    listed = endpoint_table([convert(admin.get("/api/v1/endpoints/line").json(), Endpoint)])
    assert "line:3 stepping: step 1, 5 %, paused" in listed
    assert read(rollout("resume", "line", "--json"))["paused"] is False
    assert read(rollout("promote", "line", "--json"))["share"] == 100
    follow_until(fleet, admin, lambda found: found["outcome"] == "promoted")


def test_bad_input_is_one_clear_error(rollout: Callable[..., Any], fleet: Fleet, tmp_path: Path) -> None:
    """No version, a broken file, a plan with faults, no baseline: a stable code and no traceback."""
    (tmp_path / "broken.yaml").write_text("steps: [5")
    for arguments, code in (
        (("start", "line"), "invalid-plan"),
        (("start", "line", "line:2", "-f", "broken.yaml"), "invalid-plan"),
        (("start", "line", "line:2", "--steps", "5,x"), "invalid-plan"),
        (("start", "line", "line:2"), "rollout-refused"),
        (("start", "line", "line:9", "--criteria", "errors"), "unknown-version"),
        (("show", "line"), "unknown-rollout"),
        (("pause", "line"), "no-rollout-running"),
    ):
        result = rollout(*arguments)
        assert result.returncode != 0
        assert f"code: {code}" in result.stderr, arguments
        assert "Traceback" not in result.stderr
    refused = rollout("start", "line", "line:1").stderr
    assert refused.startswith("error: the rollout of line:1 cannot begin:\n  - line:1 already serves (same-version)\n")
    assert "\n  - the stable's run time is not measured yet" in refused
    wrong = rollout("start", "line", "line:2", "--criteria", "eror", "--hold", "10x", "--steps", "200").stderr
    assert "error: the plan is not valid:\n  - hold: expected a time" in wrong
    assert "\n  - criteria.eror: unknown signal; did you mean errors?" in wrong
    assert rollout("history", "lime").returncode == 3
    assert rollout("history", "line").stdout == "endpoint line never had a rollout\n"
    assert rollout("list").stdout == "no rollout is in progress\n"


def test_what_does_not_stop_a_rollout_is_told_when_it_begins(
    rollout: Callable[..., Any], fleet: Fleet, admin: httpx.Client
) -> None:
    """On standard error; with --json in the document, and with --watch in its first line."""
    admin.put("/api/v1/endpoints/line", json={"version": "line:1", "policy": {"cache": {"ttl_s": 30}}})
    fleet.follow()
    begun = rollout("start", "line", "line:2", "--criteria", "errors")
    assert "warning: the endpoint's cache is off during a rollout" in begun.stderr
    assert "(no-traffic)" in begun.stderr
    assert "warning" not in begun.stdout
    rollout("abort", "line")
    follow_until(fleet, admin, lambda found: found["phase"] == "finished")
    told = read(rollout("start", "line", "line:2", "--criteria", "errors", "--json"))["warnings"]
    assert [each["code"] for each in told] == ["cache-is-off", "no-traffic"]
    assert "warnings" not in admin.get("/api/v1/endpoints/line/rollouts/current").json()
    rollout("abort", "line")
    follow_until(fleet, admin, lambda found: found["phase"] == "finished")
    flags = ("--strategy", "all-at-once", "--criteria", "errors", "--watch", "--exit-status", "--json")
    seen: list[Any] = []
    watching = threading.Thread(target=lambda: seen.append(rollout("start", "line", "line:2", *flags)))
    watching.start()
    follow_until(fleet, admin, lambda found: found["outcome"] == "promoted")
    watching.join()
    lines = [json.loads(text) for text in seen[0].stdout.splitlines()]
    assert [each["code"] for each in lines[0]["warnings"]] == ["cache-is-off"]
    assert (lines[-1]["outcome"], seen[0].returncode) == ("promoted", 0)


def test_the_typed_client_and_the_events(control: ControlProcess, fleet: Fleet, admin: httpx.Client) -> None:
    """Errors are typed; the limit of `slow` is fixed from run times; a long poll returns an event."""
    fleet.measured(fleet.entry().split[0].digest)
    fleet.follow()
    with Client(control_url=control.url, key=control.admin_key) as client:
        with pytest.raises(InvalidRequest) as wrong:
            client.rollouts.start("line", "line:2", {"strategy": "canery"})
        assert wrong.value.code == "invalid-plan"
        begun = client.rollouts.start("line", "line:2", {**FAST, "criteria": ["errors", "slow"], "sticky": {"header": "X-User"}})
        with pytest.raises(Conflict) as second:
            client.rollouts.start("line", "line:3", FAST)
        assert second.value.facts["rollout"] == begun.id
        follow_until(fleet, admin, lambda found: found["share"] == 5)
        entry = fleet.entry().rollout
        assert (entry.id, entry.sticky_header, entry.signals) == (begun.id, "X-User", ("errors", "slow"))
        assert 1_000 <= entry.slow_us <= 1_100
        page = client.events()
        assert [event.kind for event in page.items] == ["rollout-started", "rollout-split"]
        heard: list[Any] = []
        waiting = threading.Thread(target=lambda: heard.append(client.events(page.next, wait_s=20)))
        waiting.start()
        assert client.rollouts.abort("line").done is True
        waiting.join()
        assert heard[0].items[0].detail["share"] == 0
        follow_until(fleet, admin, lambda found: found["phase"] == "finished")
        assert [found.outcome for found in client.rollouts.history("line")] == ["aborted"]
        assert client.rollouts.in_progress() == []
        assert next(client.rollouts.watch("line")).decided_by == control.admin_id


@pytest.fixture
def shown() -> Rollout:
    """A rollout that is held, with one watched signal."""
    watched = structs.replace(
        filled(WatchedSignal), signal="drift", outcome="no-evidence", samples=0, stable_samples=1_204, text="no answer yet"
    )
    changes = {
        **dict.fromkeys(("step_left_s", "deadline_left_s", "ended_at", "outcome", "verdict", "withdrawn")),
        "endpoint": "line",
        "phase": "stepping",
        "step": 1,
        "steps": 2,
        "share": 5.0,
        "shadow": 0.0,
        "paused": False,
        "text": "held",
        "left_out": {},
        "plan": {"steps": []},
        "metrics": [],
        "watched": [watched],
        "started_at": "2026-11-21T14:00:00.000000+00:00",
    }
    return structs.replace(filled(Rollout), **changes)


def test_watched_signals_are_shown_with_their_samples(shown: Rollout) -> None:
    """In the line of a log and in the details; a plan without watched signals prints none."""
    assert line(shown) == "stepping, step 1 of 2, 5 % | drift no-evidence (0 samples) | held"
    row, why = (row for row in details(shown).splitlines() if row.startswith("drift"))
    assert row.split() == ["drift", "no-evidence", "0", "1,204"]
    assert why == "drift: no answer yet"
    assert "WATCHED" not in details(structs.replace(shown, watched=[]))
    assert line(structs.replace(shown, watched=[])) == "stepping, step 1 of 2, 5 % | held"


def test_an_inconclusive_rollout_says_so_and_what_a_person_can_do(shown: Rollout) -> None:
    """A rollout held at its deadline waits for an operator; a rolled-back one has that as its outcome."""
    text = "no decision before the deadline; missing in step 1: errors: …"
    held = structs.replace(shown, code="inconclusive", text=text)
    told = details(held)
    assert "no decision before the deadline; missing in step 1: errors: … (inconclusive)" in told
    assert "`roadworthy rollout promote line` or `roadworthy rollout abort line`" in told
    ended = {"outcome": "inconclusive", "ended_at": shown.started_at, "decided_by": "controller"}
    back = structs.replace(held, phase="finished", **ended)
    assert details(back).count("inconclusive, step 1 of 2, 5 %") == 1
    assert "rollout promote" not in details(back)
    assert {"inconclusive", text} <= {cell.strip() for cell in history_table([back]).splitlines()[1].split("  ")}
